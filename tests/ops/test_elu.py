"""elu: what the tests of every operator do not ask: accuracy, special values, what is kept, memory formats, the PTX."""

import pytest
import torch
import torch.nn.functional as F

from fastscore._core import backends
from fastscore.ops import elu

from .cases import BACKENDS, DTYPES, tensor

isas = pytest.mark.parametrize("isa", backends.ISAS)


@pytest.fixture(params=BACKENDS)
def backend(request, on_backend):
    on_backend(request.param)
    return request.param


def native(isa, on_backend):
    on_backend("native")
    if backends.ISAS.index(isa) > backends.ISAS.index(backends.isa()):
        pytest.skip(f"this processor has no {isa}")
    return backends.native_isa(isa)


@isas
@pytest.mark.parametrize("dtype, ulps", [(torch.float32, 1.0), (torch.float64, 1.5)])
def test_near_zero_and_far_below_it_is_exact_to_its_last_bit(isa, dtype, ulps, on_backend):
    """No cancellation: of each power of two below 0 some numbers, against a wider exp(x) - 1."""
    exponents = torch.arange(-40.0, 7.0, 0.0625, dtype=torch.float64)
    x = -torch.exp2(exponents).to(dtype)
    exact = torch.expm1(x.double())
    with native(isa, on_backend):
        error = (elu(x).double() - exact).abs()
    spacing = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(exact.abs())))
    assert (error <= ulps * spacing).all()


def test_special_values(backend):
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e30, -1e30, -1e-40])
    for dtype in DTYPES:
        x = special.to(dtype).repeat(9)  # vectors, and what is left of them
        leaf = x.clone().requires_grad_()
        y = elu(leaf)
        torch.testing.assert_close(y.detach(), F.elu(x), equal_nan=True, rtol=0, atol=0)
        assert torch.equal(torch.signbit(y[:2]), torch.tensor([False, True]))
        (slope,) = torch.autograd.grad(y.sum(), leaf)
        expected = torch.tensor([1, 1, 1, 0, torch.nan, 1, 0, 1], dtype=dtype).repeat(9)
        torch.testing.assert_close(slope, expected, equal_nan=True, rtol=0, atol=0)


def test_gradients_are_torchs(backend):
    for dtype, error in DTYPES.items():
        x, g = (tensor((6, 5, 7), dtype, seed) * 2 for seed in (0, 1))
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        for function, leaf in zip((elu, F.elu), leaves):
            function(leaf).backward(g)
        slack = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}.get(dtype, 4 * error)  # of y + 1
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=slack, atol=slack * g.abs().max().item())


def test_only_the_output_is_kept(on_backend):
    on_backend("native")
    kept = []
    x = tensor((4, 6), torch.float32, 0).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = elu(x)
    (one,) = kept
    assert one.data_ptr() == y.data_ptr()
    y = elu(x)
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_every_memory_format_is_kept(backend):
    x = tensor((2, 5, 4, 3), torch.float32, 0)
    expected = F.elu(x)
    formats = {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 3).contiguous().transpose(0, 3),
        "strided": torch.stack([x, x], -1)[..., 0],
        "turned": x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    }
    for name, laid in formats.items():
        y = elu(laid)
        torch.testing.assert_close(y, expected, msg=name)
        assert y.stride() == torch.empty_like(laid).stride(), name
        leaf = laid.detach().requires_grad_()
        (slope,) = torch.autograd.grad(elu(leaf), leaf, torch.ones(()).expand(x.shape))
        torch.testing.assert_close(slope, torch.where(x > 0, 1.0, x.exp()), msg=name)
    assert elu(torch.tensor(-1.0)).shape == ()
    assert elu(torch.ones(3, 0, 2)).shape == (3, 0, 2)


def test_the_bits_depend_on_neither_instruction_set_nor_threads(on_backend):
    on_backend("native")
    threads = torch.get_num_threads()
    for dtype in DTYPES:
        x = tensor((3, 20_001), dtype, 0) * 3
        found = []
        try:
            for isa in backends.ISAS[: backends.ISAS.index(backends.isa()) + 1]:
                for count in (1, 3):
                    torch.set_num_threads(count)
                    with backends.native_isa(isa):
                        found.append(elu(x))
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(y, found[0]) for y in found)


def test_what_is_no_floating_tensor_is_refused():
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got float 1\.0"):
        elu(1.0)
    with pytest.raises(TypeError, match="x must be float16, bfloat16, float32 or float64, got a int64 tensor"):
        elu(torch.ones(3, dtype=torch.int64))
