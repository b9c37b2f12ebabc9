"""mean_pool: the window, its edges and the order of its sum, beyond what the tests of every operator ask."""

import pytest
import torch
import torch.nn.functional as F

from fastscore._core import backends
from fastscore.ops import mean_pool

from .cases import BACKENDS, DTYPES, tensor

SIDES = [(1, 1), (1, 5), (2, 3), (4, 4), (3, 17), (8, 8), (67, 9)]  # smaller than the window, and more than a band
FORMATS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "turned": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.fixture(params=BACKENDS)
def backend(request, on_backend):
    on_backend(request.param)
    return request.param


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_equals_the_mean_written_out(backend, sides):
    """In each dtype, memory format and window, for channels that fill vectors and that do not."""
    for channels in (3, 80):
        exact = tensor((2, channels, *sides), torch.float64, 0)
        for size in (1, 3, 5, 9):
            around = F.pad(exact, (size // 2,) * 4).unfold(2, size, 1).unfold(3, size, 1)
            for dtype in DTYPES:
                mean = around.to(dtype).double().mean((4, 5))
                for name, laid in FORMATS.items():
                    x = laid(exact.to(dtype))
                    got = mean_pool(x, size)
                    assert got.dtype == dtype, name
                    if backend == "native" or name in ("contiguous", "channels_last"):
                        assert got.stride() == torch.empty_like(x).stride(), name
                    torch.testing.assert_close(got.double(), mean, rtol=DTYPES[dtype], atol=DTYPES[dtype] / 2)
    assert backends.last["mean_pool"] == backend


def test_a_window_wider_than_the_image(backend):
    x = tensor((2, 3, 4, 6), torch.float64, 0)
    for size in (11, 13, 10**9 + 1):
        expected = x.sum((2, 3), keepdim=True).expand(x.shape) / size**2
        if backend == "native" or size < 100:  # torch pads the whole window
            torch.testing.assert_close(mean_pool(x, size), expected, rtol=1e-13, atol=0)


def test_it_is_its_own_adjoint_and_keeps_nothing(on_backend):
    on_backend("native")
    x, g = (tensor((2, 5, 7, 6), torch.float32, seed).requires_grad_() for seed in (0, 1))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = mean_pool(x)
    assert kept == []
    (to_x,) = torch.autograd.grad(y, x, g, create_graph=True)
    assert torch.equal(to_x, mean_pool(g))
    (to_g,) = torch.autograd.grad(to_x, g, x.detach())
    assert torch.equal(to_g, mean_pool(x))


def test_a_large_number_leaves_no_trace_beyond_its_window(backend):
    """No running difference: what has left the window is out of the sum."""
    x = torch.full((1, 2, 40, 40), 1e-3)
    x[:, :, 5, 5] = 1e8
    for laid in (x, x.contiguous(memory_format=torch.channels_last)):
        y = mean_pool(laid)
        torch.testing.assert_close(y[:, :, 10:38, 10:38], x[:, :, 10:38, 10:38], rtol=1e-6, atol=0)
    x[:, :, 5, 5] = torch.nan
    assert int(mean_pool(x).isnan().sum()) == 2 * 25


def test_the_bits_depend_on_neither_layout_nor_instruction_set_nor_threads(on_backend):
    on_backend("native")
    threads = torch.get_num_threads()
    for dtype in DTYPES:
        x = tensor((3, 100, 70, 9), dtype, 0)
        expected = mean_pool(x)
        try:
            for isa in backends.ISAS[: backends.ISAS.index(backends.isa()) + 1]:
                for count in (1, 3):
                    torch.set_num_threads(count)
                    with backends.native_isa(isa):
                        for laid in (x, x.contiguous(memory_format=torch.channels_last)):
                            assert torch.equal(mean_pool(laid), expected), (isa, count)
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((torch.ones(2, 3, 4),), ValueError, r"x must be \[B, C, H, W\], got a float32 tensor of shape \(2, 3, 4\)"),
        ((torch.ones(1, 1, 4, 4, dtype=torch.int32),), TypeError, "x must be float16, bfloat16, float32 or float64"),
        ((torch.ones(1, 1, 4, 4), 4), ValueError, "size must be odd, so that the window has a middle, got 4"),
        ((torch.ones(1, 1, 4, 4), 0), ValueError, "size must be at least 1, got 0"),
        ((torch.ones(1, 1, 4, 4), 2.5), TypeError, "size must be an integer at least 1, got float 2.5"),
    ],
)
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        mean_pool(*arguments)
