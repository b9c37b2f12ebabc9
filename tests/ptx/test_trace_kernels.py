"""The CUDA extension's kernels: the PTX that nvcc makes of csrc/cuda, run here as the host code launches it.

Values against the native CPU backend: the directions bit for bit, sums to rounding.
"""

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore.kernels.ptx.on_cuda import MANGLED, compile_all, dot, fill, slope_dot, slope_dot_gradient
from fastscore.ops.mlp_divergence import ACTIVATIONS, reference

from ..ops.probe_cases import FORMS, PROBES, probes, tensor

SHAPES = [(3, 7), (2, 3, 8, 8), (5, 129), (2, 2051), (1, 33000)]
CASES = [
    pytest.param(shape, dtype, id=f"{'x'.join(map(str, shape))}-{str(dtype)[6:]}")
    for dtype in MANGLED
    for shape in (SHAPES if dtype == torch.float32 else SHAPES[:2])
]
pytestmark = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")


@pytest.fixture(scope="module")
def kernels(nvcc, tmp_path_factory):
    return compile_all(tmp_path_factory.mktemp("nvcc"))


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


@pytest.mark.parametrize("form", [form for form in FORMS if form != "sphere"])
def test_the_probes_ignore_how_large_the_device_is(kernels, form):
    """Warps with several calls each, and blocks with several colours, where few multiprocessors share the work."""
    handle = probes(torch.zeros(3, 650), form)
    expected = fs.fill_probes(handle, first=1, count=PROBES - 1)
    few, many = (fill(kernels, handle, 1, PROBES - 1, multiprocessors=count) for count in (1, 100))
    assert torch.equal(few[0], expected) and torch.equal(many[0], expected)
    assert few[1].warps < many[1].warps or form == "gaussian"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape, dtype", CASES)
def test_the_dots_are_the_cpus(kernels, shape, dtype, form):
    handle, product = probes(torch.zeros(shape, dtype=dtype), form), tensor((PROBES, *shape), dtype, 1)
    for first, count in ((0, PROBES), (2, 3)):
        part = product[first : first + count].contiguous()
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
    out, _ = fill(kernels, probes(x, form, seed=7), 0, 6, state=state, index=index)  # whose own numbers are not used
    for row, sample in enumerate(index):
        alone = probes(x[:1], form, seed=2**63 + 1, sample_offset=int(sample))
        torch.testing.assert_close(out[:, row : row + 1], fs.fill_probes(alone), rtol=2e-7, atol=0)


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
            out, _ = slope_dot(kernels, a, w, kind)
            to_a, to_w = slope_dot_gradient(kernels, a, w, upstream, kind)
            exact, wide = a.double().requires_grad_(), w.double().expand(rows, width).contiguous().requires_grad_()
            value = reference(exact, wide, kind)
            gradients = torch.autograd.grad(value, (exact, wide), upstream.double())
            for got, want in ((out, value), (to_a, gradients[0]), (to_w, gradients[1])):
                torch.testing.assert_close(got.double(), want.detach(), rtol=0, atol=error * width**0.5 * 8)
