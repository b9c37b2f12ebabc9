"""The CUDA extension's kernels: the PTX that nvcc makes of csrc/cuda, run here as the host code launches it.

Values against the native CPU backend: the directions bit for bit, sums to rounding.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore import backends
from fastscore.ops.mlp_divergence import ACTIVATIONS, reference

from ..ops.probe_cases import FORMS, PROBES, probes, tensor
from .machine import Unwritten, launch
from .on_ptx import ROOT, host_array
from .parser import parse

THREADS, SIGNS, CHUNK = 256, 128, 256 * 128  # kThreads, kSigns, kChunk
FLAGS = ["-O3", "--fmad=false", "--expt-relaxed-constexpr", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
SHAPES = [(3, 7), (2, 3, 8, 8), (5, 129), (2, 2051), (1, 33000)]
MANGLED = {torch.float32: "f", torch.float64: "d", torch.float16: "6__half", torch.bfloat16: "13__nv_bfloat16"}
CASES = [pytest.param(shape, dtype, id=f"{'x'.join(map(str, shape))}-{str(dtype)[6:]}") for dtype in MANGLED
         for shape in (SHAPES if dtype == torch.float32 else SHAPES[:2])]
pytestmark = [pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not there"),
              pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A function that gives an operator's PTX and the entry whose mangled name holds all the given parts."""
    folder, include = tmp_path_factory.mktemp("nvcc"), Path(torch.__file__).parent / "include"
    running = {name: subprocess.Popen(
        ["nvcc", "-ptx", "-arch=sm_90", "-std=c++20", *FLAGS, f"-I{include}", f"csrc/cuda/{name}.cu", "-o",
         str(folder / f"{name}.ptx")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for name in ("fill_probes", "probe_dot", "mlp_divergence")}
    modules = {}

    def find(operator, *parts):
        if operator not in modules:
            _, errors = running[operator].communicate()
            assert running[operator].returncode == 0, errors
            modules[operator] = parse((folder / f"{operator}.ptx").read_text())
        names = [name for name in modules[operator].entries if all(part in name for part in parts)]
        assert len(names) == 1, (parts, names)
        return modules[operator], names[0]

    return find


def form_of(handle: fs.Probes, tensor: torch.Tensor, first: int, state=None, index=None) -> tuple:
    """struct Form of csrc/cuda/probes.cuh, for a tensor [count, B, ...]."""
    seed, step, stream, offset = handle.noise.place()
    coloring = list(handle.coloring or (0, 1, 1, 0, 0, 0))
    width = tensor.shape[2:].numel()
    fours = width % 4 == 0 and tensor.data_ptr() % 16 == 0
    return ("<4q6I?7x5I4xQQ", first, tensor.shape[0], tensor.shape[1], width, *coloring, fours, seed & 0xFFFFFFFF,
            (seed >> 32) & 0xFFFFFFFF, step, stream, offset, state, index)


def draws(handle, first, count):
    colors = handle.coloring.colors if handle.coloring else 1
    return (first + count - 1) // colors + 1 - first // colors if count else 0


def fill(kernels, handle, first, count, **where):
    """As launch() in fill_probes.cu."""
    shape, dtype = handle.noise.shape, handle.noise.dtype
    out = torch.empty((count, *shape), dtype=dtype)
    given, width = Unwritten(host_array(out)), shape[1:].numel()
    rows, colored = draws(handle, first, count) * shape[0], f"Lb{int(handle.coloring is not None)}E"
    form = form_of(handle, out, first, **where)
    if handle.distribution == "rademacher":
        module, entry = kernels("fill_probes", "10fill_signs", f"I{MANGLED[dtype]}{colored}")
        grid = -(-rows * -(-width // SIGNS) // THREADS)
    else:
        sphere = f"Lb{int(handle.distribution == 'sphere')}E"
        module, entry = kernels("fill_probes", "12fill_normals", f"I{MANGLED[dtype]}{colored}{sphere}")
        grid = (rows, 1 if handle.distribution == "sphere" else -(-width // (4 * THREADS)))
    counters = launch(module, grid, THREADS, [form, given], entry=entry)
    assert given.written.all()
    return out, counters


def dot(kernels, product, handle, first, **where):
    """As launch() in probe_dot.cu: both stages."""
    count, batch, dtype, width = *product.shape[:2], product.dtype, product.shape[2:].numel()
    rows, chunks = count * batch, -(-width // CHUNK)
    result = torch.float64 if dtype == torch.float64 else torch.float32
    partial, squares, out = np.empty(rows * chunks), np.empty(rows * chunks), torch.empty(rows, dtype=result)
    sphere = handle.distribution == "sphere"
    name = "9dot_signs" if handle.distribution == "rademacher" else "11dot_normals"
    module, entry = kernels("probe_dot", name, f"I{MANGLED[dtype]}Lb{int(handle.coloring is not None)}E")
    arguments = [form_of(handle, product, first, **where), host_array(product), Unwritten(partial)]
    if handle.distribution != "rademacher":
        arguments.append(Unwritten(squares) if sphere else None)
    first_stage = launch(module, (rows, chunks), THREADS, arguments, entry=entry)
    module, entry = kernels("probe_dot", "10add_chunks", f"I{MANGLED[result]}E")
    launch(module, -(-rows // THREADS), THREADS, [partial, squares if sphere else None, rows, chunks, width,
                                                  Unwritten(host_array(out))], entry=entry)
    return out.view(count, batch), first_stage


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape, dtype", CASES)
def test_the_probes_are_the_cpus(kernels, shape, dtype, form):
    handle = probes(torch.zeros(shape, dtype=dtype), form, seed=2**64 - 5)
    for first, count in ((0, PROBES), (2, 3)):
        out, _ = fill(kernels, handle, first, count)
        expected = fs.fill_probes(handle, first=first, count=count)
        if form == "sphere":  # the length is summed in another order
            torch.testing.assert_close(out, expected, rtol=1e-2 if dtype.itemsize == 2 else 2e-7, atol=0)
        else:
            assert torch.equal(out, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape, dtype", CASES)
def test_the_dots_are_the_cpus(kernels, shape, dtype, form):
    handle, product = probes(torch.zeros(shape, dtype=dtype), form), tensor((PROBES, *shape), dtype, 1)
    for first, count in ((0, PROBES), (2, 3)):
        part = product[first:first + count].contiguous()
        got, _ = dot(kernels, part, handle, first)
        expected = fs.probe_dot(part, handle, first=first)
        error = 1e-13 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(got, expected, rtol=error, atol=error * product[0, 0].numel() ** 0.5)


@pytest.mark.parametrize("form", ["rademacher", "sphere"])
def test_seeds_and_samples_in_device_memory(kernels, form):
    """Philox(device=...) and vmap: seed and step, and the index of every sample, are read where they lie."""
    x, index = torch.zeros(3, 5), np.array([9, 5, 2**32 - 1])
    handle = probes(x, form, seed=2**63 + 1)
    state = np.array([2**63 + 1, handle.noise.step], dtype=np.uint64)
    handle.noise.seed, handle.noise.step = 7, 3  # not used
    out, _ = fill(kernels, handle, 0, 6, state=state, index=index)
    handle.noise.seed, handle.noise.step = 2**63 + 1, 2
    for row, sample in enumerate(index):
        alone = probes(x[:1], form, seed=2**63 + 1, sample_offset=int(sample))
        torch.testing.assert_close(out[:, row:row + 1], fs.fill_probes(alone), rtol=2e-7, atol=0)


def test_accesses_are_wide_and_coalesced(kernels):
    """Four floats an access where 4 divides the row: every sector is moved once; the dot reads its product alone."""
    x = torch.zeros(2, 3, 16, 16)
    out, counters = fill(kernels, probes(x, "rademacher"), 0, PROBES)
    assert counters.stored == out.nbytes and counters.store_sectors == out.nbytes // 32 and counters.loaded == 0
    _, counters = dot(kernels, torch.randn_like(out), probes(x, "rademacher"), 0)
    assert counters.loaded == out.nbytes and counters.load_sectors == out.nbytes // 32
    odd = torch.zeros(2, 3, 5, 17)
    out, counters = fill(kernels, probes(odd, "rademacher"), 0, PROBES)
    assert counters.stored == out.nbytes and counters.store_sectors < 1.5 * out.nbytes / 32


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mlp_divergence(kernels, name, dtype):
    kind, error = list(ACTIVATIONS).index(name), 1e-6 if dtype == torch.float32 else 1e-13
    for rows, width in ((3, 1), (2, 300), (5, 64)):
        a, upstream = 3 * tensor((rows, width), dtype, 0), tensor((rows,), dtype, 2)
        for w in (tensor((width,), dtype, 1), tensor((rows, width), dtype, 1)):
            parts = (f"I{MANGLED[dtype]}LNS_10ActivationE{kind}E",)
            out, to_a, to_w = torch.empty(rows, dtype=dtype), torch.empty_like(a), torch.empty_like(a)
            module, entry = kernels("mlp_divergence", "9slope_dotI", *parts)
            launch(module, rows, THREADS, [host_array(a), host_array(w), w.dim() == 2, width,
                                           Unwritten(host_array(out))], entry=entry)
            module, entry = kernels("mlp_divergence", "18slope_dot_gradientI", *parts)
            launch(module, rows, THREADS, [host_array(a), host_array(w), w.dim() == 2, host_array(upstream), width,
                                           Unwritten(host_array(to_a)), Unwritten(host_array(to_w))], entry=entry)
            exact, wide = a.double().requires_grad_(), w.double().expand(rows, width).contiguous().requires_grad_()
            value = reference(exact, wide, name)
            gradients = torch.autograd.grad(value, (exact, wide), upstream.double())
            for got, want in ((out, value), (to_a, gradients[0]), (to_w, gradients[1])):
                torch.testing.assert_close(got.double(), want.detach(), rtol=0, atol=error * width**0.5 * 8)
