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

THREADS, SIGNS, CHUNK = 256, 128, 256 * 128  # kThreads, kSigns, kChunk
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
    find: Find, handle: fs.Probes, first: int, count: int, **position: np.ndarray
) -> tuple[torch.Tensor, Counters]:
    """As launch() in fill_probes.cu: the directions, and what was counted."""
    shape, dtype = handle.noise.shape, handle.noise.dtype
    out = torch.empty((count, *shape), dtype=dtype)
    given, width = Unwritten(host_array(out)), shape[1:].numel()
    rows, colored = draws(handle, first, count) * shape[0], f"Lb{int(handle.coloring is not None)}E"
    form = form_of(handle, out, first, **position)
    if handle.distribution == "rademacher":
        module, entry = find("fill_probes", "10fill_signs", f"I{MANGLED[dtype]}{colored}")
        grid = -(-rows * -(-width // SIGNS) // THREADS)
    else:
        sphere = f"Lb{int(handle.distribution == 'sphere')}E"
        module, entry = find("fill_probes", "12fill_normals", f"I{MANGLED[dtype]}{colored}{sphere}")
        grid = (rows, 1 if handle.distribution == "sphere" else -(-width // (16 * THREADS)))
    counters = launch(module, grid, THREADS, [form, given], entry=entry)
    assert given.written.all()
    return out, counters


def dot(
    find: Find, product: torch.Tensor, handle: fs.Probes, first: int, **position: np.ndarray
) -> tuple[torch.Tensor, Counters]:
    """As launch() in probe_dot.cu, both stages: the sums, and what was counted in the first."""
    count, batch, dtype, width = *product.shape[:2], product.dtype, product.shape[2:].numel()
    rows, chunks = count * batch, -(-width // CHUNK)
    result = torch.float64 if dtype == torch.float64 else torch.float32
    partial, squares, out = np.empty(rows * chunks), np.empty(rows * chunks), torch.empty(rows, dtype=result)
    sphere = handle.distribution == "sphere"
    name = "9dot_signs" if handle.distribution == "rademacher" else "11dot_normals"
    module, entry = find("probe_dot", name, f"I{MANGLED[dtype]}Lb{int(handle.coloring is not None)}E")
    arguments = [form_of(handle, product, first, **position), host_array(product), Unwritten(partial)]
    if handle.distribution != "rademacher":
        arguments.append(Unwritten(squares) if sphere else None)
    first_stage = launch(module, (rows, chunks), THREADS, arguments, entry=entry)
    module, entry = find("probe_dot", "10add_chunks", f"I{MANGLED[result]}E")
    launch(
        module,
        -(-rows // THREADS),
        THREADS,
        [partial, squares if sphere else None, rows, chunks, width, Unwritten(host_array(out))],
        entry=entry,
    )
    return out.view(count, batch), first_stage


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
