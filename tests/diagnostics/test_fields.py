"""A score against another, the truth at each level, and being a gradient."""

import pytest
import torch

import fastscore as fs
from fastscore import diagnostics
from fastscore.data import GaussianMixture


def test_fisher_divergence_of_two_gaussians():
    """Of N(0, I) from N(m, I): ||m||^2, without spread; of N(0, I) from N(0, v I): d (1 - 1/v)^2."""
    x = fs.Philox(0).randn(5000, 3, dtype=torch.float64)
    m = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    found = diagnostics.fisher_divergence(lambda x: -x, lambda x: m - x, x)
    assert found.value == pytest.approx(5.25) and found.stderr < 1e-12
    found = diagnostics.fisher_divergence(lambda x: -x, lambda x: -x / 4, x)
    assert abs(found.value - 3 * 0.75**2) < 3 * found.stderr < 0.1


def test_score_error_at_each_level():
    """A score that is 1 + a times the truth has the relative error a^2, and sigma^2 a^2 E||s*||^2 / D."""
    sigmas, factor = torch.tensor([4.0, 1.0, 0.3]), torch.tensor([0.1, 0.0, 0.5])
    x = fs.Philox(1).randn(4000, 2)

    def exact(x, sigma):
        return -x / (1 + sigma**2)

    for conditioning in ("labels", "sigma"):

        def score(x, c, by=conditioning):
            label = c if by == "labels" else (c[:, None] - sigmas).abs().argmin(1)
            return exact(x, sigmas[label][:, None]) * (1 + factor[label][:, None])

        found = diagnostics.score_error(score, exact, x, sigmas, conditioning=conditioning, rng=fs.Philox(2))
        assert torch.allclose(found.relative, factor.double() ** 2, atol=1e-6)
        expected = (factor * sigmas).double() ** 2 / (1 + sigmas.double() ** 2)
        assert bool(((found.error - expected).abs() <= 3 * found.stderr + 1e-12).all())
    mixture = GaussianMixture()
    none = diagnostics.score_error(
        lambda x, y: torch.zeros_like(x), mixture.score, mixture.sample(50, fs.Philox(0)), sigmas
    )
    assert torch.allclose(none.relative, torch.ones(3, dtype=torch.float64))


def test_curl():
    """Of s = A x: ||A - A^T||_F^2 beside ||A||_F^2; of a gradient 0."""
    a = fs.Philox(3).randn(6, 6, dtype=torch.float64)
    x = fs.Philox(4).randn(300, 6, dtype=torch.float64)
    found = diagnostics.curl(lambda x: x @ a.T, x, num_probes=16, rng=fs.Philox(5))
    exact = float((a - a.T).square().sum())
    z = (found.squared - exact) / found.stderr
    assert 0.85 < float(z.std()) < 1.25 and abs(float(found.squared.mean()) - exact) < 4 * exact / 300**0.5
    assert float(found.jacobian.mean()) == pytest.approx(float(a.square().sum()), rel=0.1)
    gradient = fs.energy_score(lambda x: x.square().sum(1) + x[:, 0] ** 4 * x[:, 1] ** 2)
    assert float(diagnostics.curl(lambda x: -2 * x.sin(), x).squared.max()) < 1e-20
    with torch.enable_grad():
        assert float(diagnostics.curl(gradient, x[:20]).squared.max()) < 1e-12


def test_bad_input_is_named():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="the output of score_b must have the shape of x"):
        diagnostics.fisher_divergence(lambda x: x, lambda x: x[:1], x)
    with pytest.raises(fs.NonFiniteSamples, match="score_a is NaN or infinite for 3 of 3"):
        diagnostics.fisher_divergence(lambda x: x / 0, lambda x: x, x)
    with pytest.raises(TypeError, match="exact must be a function"):
        diagnostics.score_error(lambda x, y: x, None, x, [1.0])
    with pytest.raises(ValueError, match="num_probes must be at least 1"):
        diagnostics.curl(lambda x: x, x, num_probes=0)
