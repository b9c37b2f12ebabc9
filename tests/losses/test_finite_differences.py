"""fd_ssm: the sliced losses by differences, an error of eps^2 and no Jacobian product."""

from itertools import pairwise

import pytest
import torch

import fastscore as fs
from fastscore import losses

from .cases import PROJECTIONS, A, X, net

FORMS = {False: losses.ssm, True: losses.ssm_vr}


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("reduced", FORMS)
def test_exact_for_scores_linear_in_x(reduced, n, projection):
    b = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    options = dict(projection=projection, n_particles=n, reduction="none")
    for eps in (0.1, 3.0):
        got = losses.fd_ssm(lambda y: y @ A.T + b, X, eps=eps, variance_reduced=reduced, rng=fs.Philox(5), **options)
        expected = FORMS[reduced](lambda y: y @ A.T + b, X, rng=fs.Philox(5), **options)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduced", FORMS)
def test_the_error_of_value_and_gradient_is_of_second_order(reduced):
    w = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def score(y):
        return net(torch.sin(w * y))

    def both(loss):
        return torch.stack([loss, torch.autograd.grad(loss, w)[0]]).detach()

    exact = both(FORMS[reduced](score, X, rng=fs.Philox(5)))
    errors = [
        both(losses.fd_ssm(score, X, eps=eps, variance_reduced=reduced, rng=fs.Philox(5))) - exact
        for eps in (0.08, 0.04, 0.02)
    ]
    assert errors[2].abs().max() < 1e-2
    for coarse, fine in pairwise(errors):
        torch.testing.assert_close(coarse / fine, torch.full((2,), 4.0, dtype=torch.float64), rtol=0.05, atol=0)


def test_the_coefficients_of_the_error():
    """s = x^3 in one dimension: 1/2 (x^3 + 3 x h^2)^2 + 3 x^2 + h^2, h = eps."""
    x = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)
    for eps in (0.1, 1.0):
        got = losses.fd_ssm(lambda y: y**3, x, eps=eps, rng=fs.Philox(0), reduction="none")
        exact = (x**3 + 3 * x * eps**2) ** 2 / 2 + 3 * x**2 + eps**2
        torch.testing.assert_close(got, exact[:, 0])


@pytest.mark.parametrize("projection", ["rademacher", "sphere"])
def test_the_step_has_length_eps(projection):
    """And the network is evaluated twice a particle, on a batch of x's shape, once on either side."""
    x, seen = X.reshape(5, 2, 2), []

    def score(y):
        seen.append(y)
        return y

    losses.fd_ssm(score, x, eps=0.3, rng=fs.Philox(0), n_particles=2, projection=projection)
    assert [y.shape for y in seen] == [x.shape] * 4
    for plus, minus in (seen[:2], seen[2:]):
        torch.testing.assert_close((plus - x).flatten(1).norm(dim=1), torch.full((5,), 0.3, dtype=torch.float64))
        torch.testing.assert_close(plus - x, x - minus)
    assert not torch.allclose(seen[0], seen[2])


def test_no_forward_or_double_backward_is_needed():
    """A network that torch cannot differentiate twice, nor in forward mode."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return w * x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            x, w = ctx.saved_tensors
            return grad * w * x.cos(), (grad * x.sin()).sum()

    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    losses.fd_ssm(lambda y: Once.apply(y, w), X, eps=1e-3, rng=fs.Philox(5)).backward()
    u = torch.ones((), dtype=torch.float64, requires_grad=True)
    losses.ssm(lambda y: u * y.sin(), X, rng=fs.Philox(5)).backward()
    torch.testing.assert_close(w.grad, u.grad, rtol=1e-5, atol=1e-5)


def test_float32_at_the_default_eps():
    got = losses.fd_ssm(lambda y: -2 * y, X.float(), rng=fs.Philox(5))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, losses.ssm(lambda y: -2 * y, X.float(), rng=fs.Philox(5)), rtol=1e-4, atol=1e-4)


def test_split_batches_draw_what_the_whole_draws():
    options = dict(n_particles=2, reduction="none")
    whole = losses.fd_ssm(torch.sin, X, rng=fs.Philox(4), **options)
    parts = [losses.fd_ssm(torch.sin, X[k : k + 3], rng=fs.Philox(4, sample_offset=k), **options) for k in (0, 3)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
