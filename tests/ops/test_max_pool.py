"""max_pool: the window, its edges, which of equal pixels is taken and the sum of its gradients, beyond what the tests of
every operator ask."""

import pytest
import torch
import torch.nn.functional as F

import fastscore as fs
from fastscore._core import backends
from fastscore._core.registration import raw
from fastscore.ops import max_pool
from fastscore.ops.max_pool import pick, reference, reference_gradient

from .cases import BACKENDS, DTYPES, tensor

SIDES = [(1, 1), (1, 5), (2, 3), (4, 4), (3, 17), (8, 9)]  # smaller than the window, and larger
SIZES = (1, 3, 5, 9, 15)
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


def rough(shape, dtype):
    """Whole numbers, many of them alike, zeros of both signs, -infinity and NaN among them."""
    x = tensor(shape, torch.float64, 0).mul(2).round()
    kind = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    x[kind < 0.4], x[kind > 0.97] = -torch.inf, torch.nan
    return x.to(dtype)


def torchs(x, upstream, size):
    """The output and the gradient of torch."""
    leaf = x.clone().requires_grad_()
    out = F.max_pool2d(leaf, size, stride=1, padding=size // 2)
    return out.detach(), torch.autograd.grad(out, leaf, upstream)[0]


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_equals_torchs(backend, sides):
    """Bit for bit, the gradient in float32 and float64 too; in half precision torch rounds at each addition, we once."""
    for channels in (3, 40):
        shape = (2, channels, *sides)
        for size in SIZES:
            for dtype in DTYPES:
                for name, laid in FORMATS.items():
                    x = laid(rough(shape, dtype)).requires_grad_()
                    upstream = laid(tensor(shape, dtype, 2))
                    y = max_pool(x, size)
                    (got,) = torch.autograd.grad(y, x, upstream)
                    expected, gradient = torchs(x.detach(), upstream, size)
                    assert y.dtype == got.dtype == dtype
                    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
                    assert torch.equal(y.signbit() & ~y.isnan(), expected.signbit() & ~y.isnan())
                    if dtype in (torch.float32, torch.float64):
                        assert torch.equal(got, gradient)
                    elif backend == "native":
                        exact = torchs(x.detach().double(), upstream.double(), size)[1]
                        torch.testing.assert_close(got.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
                    if backend == "native" or name in ("contiguous", "channels_last"):
                        assert y.stride() == torch.empty_like(x).stride(), name
    assert backends.last["max_pool"] == backend


def test_the_place_in_the_window():
    """Row by row, also where the window reaches beyond the image; of several NaN the last."""
    x = torch.tensor([[1.0, 2.0, 2.0], [2.0, 0.0, 1.0]])[None, None]
    expected = torch.tensor(
        [[5, 4, 3], [2, 1, 0]], dtype=torch.uint8
    )  # of row 0 and column 1; at (0, 2) it is the pixel left
    for function in (reference, raw("max_pool", "native")):
        assert torch.equal(function(x, 3)[1][0, 0], expected)
        assert function(torch.full_like(x, torch.nan), 3)[1][0, 0].tolist() == [[8, 8, 7], [5, 5, 4]]
        assert function(torch.full_like(x, -torch.inf), 3)[1][0, 0].tolist() == [[4, 3, 3], [1, 0, 0]]


def test_a_byte_an_element_is_kept(on_backend):
    on_backend("native")
    x = tensor((2, 5, 7, 6), torch.float32, 0).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = max_pool(x)
    assert [(t.dtype, t.shape) for t in kept] == [(torch.uint8, x.shape)] and not kept[0].requires_grad
    (to_x,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    assert to_x.requires_grad is False and float(to_x.sum()) == y.numel()


def test_the_gradient_is_the_adjoint_of_the_tangent(on_backend):
    """<g, dmax(t)> = <grad(g), t>, and both are their own derivatives."""
    on_backend("native")
    x, g, t = (tensor((2, 4, 6, 5), torch.float64, seed) for seed in (0, 1, 2))
    out, tangent = torch.func.jvp(max_pool, (x,), (t,))
    index = raw("max_pool", "native")(x, 5)[1]
    assert torch.equal(out, max_pool(x)) and torch.equal(tangent, pick(t, index, 5))
    gradient = torch.func.vjp(max_pool, x)[1](g)[0]
    torch.testing.assert_close((g * tangent).sum(), (gradient * t).sum(), rtol=1e-13, atol=0)
    assert torch.equal(gradient, reference_gradient(g, index, 5))
    leaf, upstream = x.clone().requires_grad_(), g.clone().requires_grad_()
    (to_x,) = torch.autograd.grad(max_pool(leaf), leaf, upstream, create_graph=True)
    (to_g,) = torch.autograd.grad(to_x, upstream, t)
    assert torch.equal(to_g, tangent)


def test_the_bits_depend_on_neither_layout_nor_instruction_set_nor_threads(on_backend):
    on_backend("native")
    threads = torch.get_num_threads()
    for dtype in DTYPES:
        x, g = tensor((3, 40, 20, 9), dtype, 0), tensor((3, 40, 20, 9), dtype, 1)
        index = raw("max_pool", "native")(x, 5)[1]
        expected = max_pool(x), raw("max_pool_gradient", "native")(g, index, 5)
        try:
            for isa in backends.ISAS[: backends.ISAS.index(backends.isa()) + 1]:
                for count in (1, 3):
                    torch.set_num_threads(count)
                    with backends.native_isa(isa):
                        for laid in (x, x.contiguous(memory_format=torch.channels_last)):
                            got = max_pool(laid), raw("max_pool_gradient", "native")(g, index, 5)
                            assert all(map(torch.equal, got, expected)), (isa, count)
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((torch.ones(2, 3, 4),), ValueError, r"x must be \[B, C, H, W\], got a float32 tensor of shape \(2, 3, 4\)"),
        ((torch.ones(1, 1, 4, 4, dtype=torch.int32),), TypeError, "x must be float16, bfloat16, float32 or float64"),
        ((torch.ones(1, 1, 4, 4), 4), ValueError, "size must be odd, so that the window has a middle, got 4"),
        ((torch.ones(1, 1, 4, 4), 0), ValueError, "size must be at least 1, got 0"),
        (
            (torch.ones(1, 1, 4, 4), 17),
            ValueError,
            "size must be at most 15, so that a byte counts the window's pixels",
        ),
        ((torch.ones(1, 1, 4, 4), 2.5), TypeError, "size must be an integer at least 1, got float 2.5"),
    ],
)
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        max_pool(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True])
def test_a_device_equals_torchs(last):
    for dtype in DTYPES:
        for size in SIZES:
            order = torch.channels_last if last else torch.contiguous_format
            shape = (4, 36, 13, 9)
            x, upstream = (
                t.cuda().contiguous(memory_format=order) for t in (rough(shape, dtype), tensor(shape, dtype, 2))
            )
            leaf = x.clone().requires_grad_()
            with fs.use_backend("triton"):
                y = max_pool(leaf, size)
            (got,) = torch.autograd.grad(y, leaf, upstream)
            expected, gradient = torchs(x.cpu().double(), upstream.cpu().double(), size)
            torch.testing.assert_close(y.cpu().double(), expected, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(got.cpu().double(), gradient, rtol=DTYPES[dtype], atol=DTYPES[dtype])
            assert y.stride() == got.stride() == x.stride()
