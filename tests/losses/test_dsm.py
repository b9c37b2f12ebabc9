"""dsm and ncsn against their formulas written out, and against exact expectations."""

import pytest
import torch

import fastscore as fs
from fastscore import losses

from ..conftest import z_mean

SIGMAS = torch.tensor([1.0, 0.5, 0.1])


def draw(seed, shape, step=0):
    return fs.Philox(seed, step=step).randn(shape, stream=fs.Stream.PERTURB, dtype=torch.float64)


@pytest.mark.parametrize("weight", [2.0, 0.0, 1.0])
@pytest.mark.parametrize("alpha", [None, 0.8])
def test_dsm_is_its_formula(weight, alpha):
    x = torch.randn(6, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, sigma = draw(5, x.shape), 0.3
    x_tilde = (alpha or 1.0) * x + sigma * z
    exact = 0.5 * sigma**weight * (torch.sin(x_tilde) + z / sigma).square().sum((1, 2))
    for reduction, expected in (("none", exact), ("sum", exact.sum()), ("mean", exact.mean())):
        got = losses.dsm(torch.sin, x, sigma, alpha=alpha, weight=weight, rng=fs.Philox(5), reduction=reduction)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_epsilon_form_is_ddpms_loss():
    """With weight 2: 1/2 || eps - z ||^2, and sigma^2 times conditional score matching, a sample at a time."""
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.1, 2.0, 6, dtype=torch.float64)
    z = draw(5, x.shape)
    epsilon = torch.cos(x + sigma[:, None] * z)
    got = losses.dsm(torch.cos, x, sigma, parametrization="epsilon", rng=fs.Philox(5), reduction="none")
    torch.testing.assert_close(got, 0.5 * (epsilon - z).square().sum(1), rtol=1e-12, atol=0)
    csm = losses.dsm(lambda y: -torch.cos(y) / sigma[:, None], x, sigma, weight=0.0, rng=fs.Philox(5), reduction="none")
    torch.testing.assert_close(got, sigma**2 * csm, rtol=1e-12, atol=0)


@pytest.mark.parametrize("conditioning", ["labels", "sigma"])
def test_ncsn_is_its_formula(conditioning):
    x = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0))
    seen = []

    def score_fn(y, condition):
        seen.append(condition)
        return y * 2

    got = losses.ncsn(score_fn, x, SIGMAS, rng=fs.Philox(9), conditioning=conditioning, reduction="none")
    labels = losses.draw_labels(3, 8, fs.Philox(9))
    sigma = SIGMAS[labels]
    z = draw(9, x.shape, step=1)
    shaped = sigma.double()[:, None, None]
    exact = 0.5 * sigma.double() ** 2 * (2 * (x + shaped * z) + z / shaped).square().sum((1, 2))
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(seen[0], labels if conditioning == "labels" else sigma)


def test_ncsn_takes_given_labels():
    x, labels = torch.ones(4, 2), torch.tensor([2, 0, 1, 2])
    got = losses.ncsn(lambda y, i: torch.zeros_like(y), x, SIGMAS, labels=labels, rng=fs.Philox(1), reduction="none")
    z = fs.Philox(1).randn(4, 2, stream=fs.Stream.PERTURB)
    torch.testing.assert_close(got, 0.5 * z.square().sum(1))


def test_zero_network_costs_half_the_dimension_at_every_level():
    n, d = 30_000, 20
    labels = torch.arange(n) % 3
    got = losses.ncsn(
        lambda y, i: torch.zeros_like(y), torch.zeros(n, d), SIGMAS, labels=labels, rng=fs.Philox(1), reduction="none"
    )
    for level in range(3):
        assert abs(z_mean(got[labels == level], d / 2, d / 2)) < 4


def test_minimum_is_at_the_true_score():
    """For x ~ N(0, c^2), s = -a x: the loss is least at a = 1 / (c^2 + sigma^2), to the slope's standard error."""
    c, sigma, n = 0.7, 0.5, 400_000
    a = torch.tensor(1 / (c * c + sigma * sigma), dtype=torch.float64, requires_grad=True)
    x = c * fs.Philox(1).randn(n, 1, dtype=torch.float64)
    loss = losses.dsm(lambda y: -a * y, x, sigma, weight=0.0, rng=fs.Philox(2), reduction="none")
    loss.mean().backward()
    # d loss / da = -x_tilde r with r the residual of the true score: independent Gaussians, variances tau and
    # c^2 / (sigma^2 tau)
    standard_error = (c * c / sigma**2 / n) ** 0.5
    assert abs(float(a.grad)) < 4 * standard_error


def test_split_batches_draw_what_the_whole_draws():
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    whole = losses.ncsn(lambda y, i: -y, x, SIGMAS, rng=fs.Philox(4), reduction="none")
    parts = [
        losses.ncsn(lambda y, i: -y, x[k : k + 4], SIGMAS, rng=fs.Philox(4, sample_offset=k), reduction="none")
        for k in (0, 4)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_gradient_reaches_the_network():
    weight = torch.full((), 0.5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda w: losses.ncsn(lambda y, i: w * y, x, SIGMAS.double(), rng=fs.Philox(4)), (weight,)
    )
