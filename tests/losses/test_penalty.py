"""gradient_penalty: an unbiased estimate of ||J||_F^2."""

import pytest
import torch

import fastscore as fs
from fastscore import losses
from fastscore.trace.products import AUTOMATIC

from ..conftest import z_mean
from .cases import PROJECTIONS, A, X, directions, form_variance, jacobians, net


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_it_is_its_formula(projection, n, mode):
    v, jacobian = directions(X, n, projection), jacobians(net, X)
    rows = torch.einsum("kbi,bij->kbj" if mode == "vjp" else "kbj,bij->kbi", v, jacobian)
    exact = rows.square().sum(2).mean(0)
    for reduction, expected in (("none", exact), ("sum", exact.sum()), ("mean", exact.mean())):
        got = losses.gradient_penalty(
            net, X, rng=fs.Philox(5), projection=projection, n_particles=n, mode=mode, reduction=reduction
        )
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_its_mean_for_a_linear_score(projection, mode):
    """s = A x: ||A||_F^2, with the variance of v^T A A^T v (of v^T A^T A v for jvp)."""
    n = 40_000
    each = losses.gradient_penalty(
        lambda y: y @ A.T,
        torch.zeros(n, 4, dtype=torch.float64),
        rng=fs.Philox(1),
        projection=projection,
        mode=mode,
        reduction="none",
    )
    square = A @ A.T if mode == "vjp" else A.T @ A
    assert abs(z_mean(each, float(A.square().sum()), form_variance(square, projection))) < 4


@pytest.mark.parametrize("mode", AUTOMATIC)
def test_its_gradient(mode):
    """d/dW of the mean over many directions is 2 W; a scaled rotation has the same penalty in every direction."""
    rotation = torch.linalg.qr(A)[0]
    w = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    penalty = losses.gradient_penalty(lambda y: w * y @ rotation, X, rng=fs.Philox(1), mode=mode)
    assert penalty.item() == pytest.approx(4 * 1.5**2)
    assert torch.autograd.grad(penalty, w)[0].item() == pytest.approx(2 * 4 * 1.5)


def test_images_and_other_shapes():
    x = torch.randn(3, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = losses.gradient_penalty(lambda y: y**2 / 2, x, rng=fs.Philox(0), reduction="none")
    torch.testing.assert_close(got, x.square().sum((1, 2, 3)))  # signs, a diagonal Jacobian
