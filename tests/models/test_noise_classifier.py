"""The classifier of noisy samples: each sample by itself, smooth, told the noise, and scaled by it."""

import copy

import pytest
import torch

import fastscore as fs
from fastscore.models import NoiseClassifier

SHAPES = [(2,), (1, 8, 8), (3, 9, 5)]


def made(shape, **how):
    torch.manual_seed(0)
    return NoiseClassifier(shape, 3, width=4, **how)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_each_sample_by_itself_with_a_gradient(shape):
    net, x, sigma = made(shape), fs.Philox(0).randn(4, *shape), torch.tensor([0.1, 1.0, 3.0, 20.0])
    out = net(x, sigma)
    assert out.shape == (4, 3) and out.dtype == torch.float32
    torch.testing.assert_close(torch.cat([net(x[k : k + 1], sigma[k : k + 1]) for k in range(4)]), out)
    assert not torch.allclose(net(x, sigma.flip(0)), out)  # it is told the noise
    moved = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(moved, sigma).log_softmax(1)[:, 0].sum(), moved)
    direction, h = fs.Philox(1).randn(4, *shape), 1e-3
    net, x, sigma, direction = net.double(), x.double(), sigma.double(), direction.double()
    up, down = (net(x + s * h * direction, sigma).log_softmax(1)[:, 0] for s in (1, -1))
    expected = (slope.double() * direction).flatten(1).sum(1)
    torch.testing.assert_close((up - down) / (2 * h), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_it_sees_is_scaled_by_the_datas_moments_and_the_noise(shape):
    """x and data in other units, m + c x and c std, at the noise c sigma: what the layers see is the same but for log sigma."""
    x, sigma, c = fs.Philox(0).randn(2, *shape), torch.ones(2), 7.0
    plain, scaled = made(shape, data_std=0.5), made(shape, data_mean=3.0, data_std=0.5 * c)
    for net in (plain, scaled):
        torch.nn.init.zeros_(net.embed[0].weight)
    torch.testing.assert_close(scaled(3 + c * x, c * sigma), plain(x, sigma))
    assert not torch.allclose(scaled(3 + c * x, sigma), plain(x, sigma))


def test_in_half_precision_it_sees_x_at_any_noise():
    """Also where sigma squared is beyond float16."""
    net, sigma = made((1, 8, 8)), torch.full((2,), 400.0)
    x = 400 * fs.Philox(0).randn(2, 1, 8, 8)
    half = copy.deepcopy(net).half()(x.half(), sigma)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), net(x, sigma), rtol=0.01, atol=0.002)
    assert not torch.allclose(half, copy.deepcopy(net).half()(-x.half(), sigma), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: NoiseClassifier((2, 2), 3), r"shape must be \(D,\) of points or \(C, H, W\)"),
        (lambda: NoiseClassifier((2,), 1), "num_classes must be"),
        (lambda: NoiseClassifier((2,), 3, data_std=0), "data_std must be"),
        (lambda: made((2,))(torch.zeros(4, 3), torch.ones(4)), r"x must have shape \(B, 2\)"),
        (lambda: made((2,))(torch.zeros(4, 2), torch.ones(3)), r"sigma must have shape \(4,\)"),
        (lambda: made((2,))(torch.zeros(4, 2), torch.zeros(4)), "sigma"),
    ],
)
def test_bad_input_is_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()
