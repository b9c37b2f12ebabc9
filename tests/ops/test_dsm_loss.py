"""dsm_loss against its formula in float64, and against exact expectations."""

import pytest
import torch

import fastscore as fs

from ..conftest import z_mean
from .cases import LAYOUTS, every_case, every_contiguous_case, sigma_of, tensor
from .test_perturb import column


@every_case
def test_equals_the_formula(on_backend, backend, device, shape, dtype, layout):
    on_backend(backend, device)
    check(device, shape, dtype, layout, 2.0)


@every_contiguous_case
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_equals_the_formula_by_other_weights(on_backend, backend, device, shape, dtype, layout, weight):
    on_backend(backend, device)
    check(device, shape, dtype, layout, weight)


def check(device, shape, dtype, layout, weight):
    score = LAYOUTS[layout](tensor(shape, dtype, 0, device))
    noise = fs.Philox(3).noise(shape, dtype=dtype, device=device)
    for kind in ("number", "0-dim", "per sample"):
        sigma = column(sigma_of(kind, shape[0], device), score)
        z = noise.tensor(torch.float64)
        squares = (score.double() + z / sigma).square().reshape(shape[0], -1 if score.numel() else 0)
        exact = 0.5 * sigma.flatten() ** weight * squares.sum(1)
        for given in (noise, z.to(score.dtype)):
            got = fs.dsm_loss(score, given, sigma_of(kind, shape[0], device), weight)
            assert got.shape == (shape[0],)
            assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            rounded = isinstance(given, torch.Tensor) and dtype in (torch.bfloat16, torch.float16)
            tolerance = 0.1 if rounded else 1e-6 if dtype != torch.float64 or kind != "number" else 1e-13
            torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)


def test_gradients():
    score = tensor((3, 4), torch.float64, 0).requires_grad_()
    sigma = (torch.rand(3).double() + 0.2).requires_grad_()
    noise = fs.Philox(0).noise((3, 4), dtype=torch.float64)
    z = noise.tensor().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, o: fs.dsm_loss(s, noise, o), (score, sigma))
    assert torch.autograd.gradcheck(lambda s, z, o: fs.dsm_loss(s, z, o, 1.0), (score, z, sigma))
    assert torch.autograd.gradgradcheck(lambda s: fs.dsm_loss(s, noise, 0.5), (score,))


def test_the_gradient_is_the_residual():
    """d loss_b / d score = sigma^p (score + z / sigma)."""
    score = tensor((2, 5), torch.float64, 0).requires_grad_()
    noise = fs.Philox(0).noise((2, 5), dtype=torch.float64)
    fs.dsm_loss(score, noise, 0.3, 2.0).sum().backward()
    torch.testing.assert_close(score.grad, 0.09 * (score.detach() + noise.tensor() / 0.3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_zero_network_costs_half_the_dimension(sigma):
    """E 1/2 sigma^2 || z / sigma ||^2 = d/2 at every sigma."""
    d, n = 64, 20_000
    noise = fs.Philox(2).noise((n, d))
    loss = fs.dsm_loss(torch.zeros(n, d), noise, sigma)
    assert abs(z_mean(loss, d / 2, d / 2)) < 4  # 1/2 chi^2_d has mean d/2, variance d/2


@pytest.mark.parametrize("c, sigma", [(1.0, 0.5), (0.3, 2.0), (2.0, 0.1)])
def test_true_score_of_a_gaussian(c, sigma):
    """x ~ N(0, c^2 I), s = -x_tilde / tau: E 1/2 ||s + z / sigma||^2 = d c^2 / (2 sigma^2 tau), tau = c^2 + sigma^2."""
    d, n, tau = 16, 50_000, c * c + sigma * sigma
    x = c * fs.Philox(1).randn(n, d, dtype=torch.float64)
    x_tilde, noise = fs.perturb(x, sigma, fs.Philox(2))
    loss = fs.dsm_loss(-x_tilde / tau, noise, sigma, weight=0.0)
    exact = d * c * c / (2 * sigma**2 * tau)
    assert abs(z_mean(loss, exact, 2 * exact**2 / d)) < 4  # the residual is N(0, c^2/(sigma^2 tau)) in each dimension
