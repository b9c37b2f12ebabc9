"""Launches of the CUDA extension's kernels that run their PTX here, as csrc/cuda's host code launches them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

import fastscore as fs
from fastscore._core.operators import OPERATORS

from . import compile
from .counters import Counters
from .machine import Unwritten, launch
from .on_ptx import host_array

WARP, THREADS, SIGNS, CHUNK = 32, 256, 128, 256 * 128  # kWarp, kThreads, kSigns, kChunk
MULTIPROCESSORS = 132  # of the device for which the work is divided
ON_CUDA = [name for name, operator in OPERATORS.items() if "cuda" in operator.backends.get("native", ())]
FLAGS = [
    "-O3",
    "--expt-relaxed-constexpr",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    f"-I{Path(torch.__file__).parent / 'include'}",
]  # as setup.py's, beside compile.NVCC
MANGLED = {torch.float32: "f", torch.float64: "d", torch.float16: "6__half", torch.bfloat16: "13__nv_bfloat16"}
Find = Callable[..., tuple]


def compile_all(folder: Path) -> Find:
    """find(operator, *parts): an operator's PTX and its one entry whose mangled name holds all the parts."""
    with ThreadPoolExecutor() as pool:
        modules = dict(
            zip(
                ON_CUDA,
                pool.map(
                    lambda name: compile.cuda(compile.CSRC / "cuda" / f"{name}.cu", folder, options=FLAGS), ON_CUDA
                ),
            )
        )
    return lambda operator, *parts: (modules[operator], compile.named(modules[operator], *parts))


def form_of(
    handle: fs.Probes,
    tensor: torch.Tensor,
    first: int,
    state: np.ndarray | None = None,
    index: np.ndarray | None = None,
) -> tuple:
    """struct Form of csrc/cuda/probes.cuh, for a tensor [count, B, ...]."""
    seed, step, stream, offset, *_ = handle.noise.arguments()
    coloring = list(handle.coloring or (0, 1, 1, 0, 0, 0))
    width = tensor.shape[2:].numel()
    fours = width % 4 == 0 and tensor.data_ptr() % 16 == 0
    first_draw = first // max(coloring[0], 1)
    return (
        "<6q6I?7x5I4xQQ",
        first,
        tensor.shape[0],
        tensor.shape[1],
        width,
        first_draw,
        draws(handle, first, tensor.shape[0]),
        *coloring,
        fours,
        seed & 0xFFFFFFFF,
        (seed >> 32) & 0xFFFFFFFF,
        step,
        stream,
        offset,
        state,
        index,
    )


def draws(handle: fs.Probes, first: int, count: int) -> int:
    """How many draws, each of which all colours share, the probes ``first`` .. ``first + count - 1`` take."""
    colors = handle.coloring.colors if handle.coloring else 1
    return (first + count - 1) // colors + 1 - first // colors if count else 0


def fill(
    find: Find,
    handle: fs.Probes,
    first: int,
    count: int,
    *,
    multiprocessors: int = MULTIPROCESSORS,
    **position: np.ndarray,
) -> tuple[torch.Tensor, Counters]:
    """As launch() in fill_probes.cu: the directions, and what was counted."""
    shape, dtype = handle.noise.shape, handle.noise.dtype
    out = torch.empty((count, *shape), dtype=dtype)
    given, width = Unwritten(host_array(out)), shape[1:].numel()
    rows, colored = draws(handle, first, count) * shape[0], f"Lb{int(handle.coloring is not None)}E"
    form, warps = form_of(handle, out, first, **position), 32 * multiprocessors
    arguments, quads, grid = [form, given], ceil_div(width, 4), (rows, 1, 1)
    if handle.distribution == "rademacher":
        module, entry = find("fill_probes", "10fill_signs", f"I{MANGLED[dtype]}{colored}")
        calls = rows * ceil_div(width, SIGNS)
        parted = parts(handle, calls, warps)
        share = min(WARP, ceil_div(calls * parted, warps))
        arguments, grid = [form, given, share], (ceil_div(calls, THREADS // WARP * share), parted, 1)
    else:
        sphere = handle.distribution == "sphere"
        module, entry = find("fill_probes", "12fill_normals", f"I{MANGLED[dtype]}{colored}Lb{int(sphere)}E")
        if not sphere:
            parted = parts(handle, rows * ceil_div(quads, WARP), warps)
            few = rows * parted * ceil_div(quads, 4 * WARP) < warps
            grid = (rows, ceil_div(quads, THREADS if few else 4 * THREADS), parted)
    counters = launch(module, grid, THREADS, arguments, entry=entry)
    assert given.written.all()
    return out, counters


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def parts(handle: fs.Probes, of_draws: int, warps: int) -> int:
    """Among how many blocks the colours of a draw are divided."""
    return min(handle.coloring.colors if handle.coloring else 1, ceil_div(warps, of_draws))


def dot(
    find: Find, product: torch.Tensor, handle: fs.Probes, first: int, **position: np.ndarray
) -> tuple[torch.Tensor, Counters]:
    """As launch() in probe_dot.cu: the sums, and what was counted in the kernel that reads ``product``."""
    count, batch, dtype, width = *product.shape[:2], product.dtype, product.shape[2:].numel()
    rows, chunks = count * batch, ceil_div(width, CHUNK)
    out = torch.empty(rows, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    result, sphere = Unwritten(host_array(out)), handle.distribution == "sphere"
    partial, squares = (np.empty(0 if chunks == 1 else rows * chunks) for _ in range(2))
    name, given = "11dot_normals", [sphere, Unwritten(partial), Unwritten(squares) if sphere else None, result]
    if handle.distribution == "rademacher":
        name, given = "9dot_signs", [Unwritten(partial), result]
    module, entry = find("probe_dot", name, f"I{MANGLED[dtype]}Lb{int(handle.coloring is not None)}E")
    form = form_of(handle, product, first, **position)
    counters = launch(module, (rows, chunks), THREADS, [form, host_array(product), *given], entry=entry)
    if chunks > 1:
        module, entry = find("probe_dot", "10add_chunks", f"I{MANGLED[out.dtype]}E")
        arguments = [partial, squares if sphere else None, rows, chunks, width, result]
        launch(module, ceil_div(rows, THREADS), THREADS, arguments, entry=entry)
    assert result.written.all()
    return out.view(count, batch), counters


def slope_dot(find: Find, a: torch.Tensor, w: torch.Tensor, kind: int) -> tuple[torch.Tensor, Counters]:
    """As mlp_divergence() in mlp_divergence.cu."""
    out = torch.empty(len(a), dtype=a.dtype)
    module, entry = find("mlp_divergence", "9slope_dotI", f"I{MANGLED[a.dtype]}LNS_10ActivationE{kind}E")
    counters = launch(
        module,
        len(a),
        THREADS,
        [host_array(a), host_array(w), w.dim() == 2, a.shape[1], Unwritten(host_array(out))],
        entry=entry,
    )
    return out, counters


def slope_dot_gradient(
    find: Find, a: torch.Tensor, w: torch.Tensor, upstream: torch.Tensor, kind: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As mlp_divergence_gradient() in mlp_divergence.cu."""
    to_a, to_w = torch.empty_like(a), torch.empty_like(a)
    module, entry = find("mlp_divergence", "18slope_dot_gradientI", f"I{MANGLED[a.dtype]}LNS_10ActivationE{kind}E")
    launch(
        module,
        len(a),
        THREADS,
        [
            host_array(a),
            host_array(w),
            w.dim() == 2,
            host_array(upstream),
            a.shape[1],
            Unwritten(host_array(to_a)),
            Unwritten(host_array(to_w)),
        ],
        entry=entry,
    )
    return to_a, to_w
