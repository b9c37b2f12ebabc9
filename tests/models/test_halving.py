"""The mean over 2x2 pixels as CUDA devices have it, on the CPU: torch's values and derivatives."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from fastscore.models import _halving

halved = _halving._halved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sides", [(8, 8), (5, 6), (3, 7)], ids=str)
def test_the_bits_of_torchs(dtype, sides):
    for order in (torch.contiguous_format, torch.channels_last):
        x = (
            torch.randn(3, 4, *sides, generator=torch.Generator().manual_seed(0))
            .to(dtype)
            .contiguous(memory_format=order)
        )
        x.requires_grad_()
        y, expected = halved(x), F.avg_pool2d(x, 2)
        assert torch.equal(y, expected) and y.stride() == expected.stride()
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        upstream = upstream.contiguous(memory_format=order)
        (got,), (wanted,) = (torch.autograd.grad(out, x, upstream) for out in (y, expected))
        assert torch.equal(got, wanted) and (sides != (8, 8) or got.stride() == x.stride())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_has_the_bits_of_torchs(dtype):
    for order in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(4, 8, 6, 10, device="cuda").to(dtype).contiguous(memory_format=order).requires_grad_()
        y, expected = _halving.halved(x), F.avg_pool2d(x, 2)
        upstream = torch.randn_like(y)
        (got,), (wanted,) = (torch.autograd.grad(out, x, upstream) for out in (y, expected))
        assert torch.equal(y, expected) and torch.equal(got, wanted) and got.stride() == x.stride()


def test_every_derivative():
    x = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    assert gradcheck(halved, leaf, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(halved, leaf, check_fwd_over_rev=True)
    assert torch.equal(jvp(halved, (x,), (x.flip(0),))[1], F.avg_pool2d(x.flip(0), 2))
    many = torch.stack([x, 2 * x])

    def slope(x):
        return grad(lambda x: halved(x).pow(3).sum())(x)

    assert torch.equal(vmap(slope)(many), torch.stack([slope(x) for x in many]))


def test_who_takes_it(monkeypatch):
    """The CPU has torch's own."""
    monkeypatch.setattr(_halving, "_halved", None)
    assert torch.equal(_halving.halved(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 2, 2))
