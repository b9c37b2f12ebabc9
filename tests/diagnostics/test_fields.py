"""A score against another, the truth at each level, and being a gradient."""

import pytest
import torch
from torch import nn

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


def judged():
    """Each measure of a score, as a function of it and x."""
    return {
        "fisher_divergence a": lambda s, x: diagnostics.fisher_divergence(s, lambda x: -x, x).value,
        "fisher_divergence b": lambda s, x: diagnostics.fisher_divergence(lambda x: -x, s, x).value,
        "score_error": lambda s, x: diagnostics.score_error(lambda x, _: s(x), lambda x, _: x, x, [1.0]).error,
        "exact": lambda s, x: (
            diagnostics.score_error(lambda x, _: x, lambda x, _: s(x), x, [1.0], rng=fs.Philox(1)).error
        ),
        "stein_residual": lambda s, x: diagnostics.stein_residual(s, x).norm,
        "kernel_stein_discrepancy": lambda s, x: diagnostics.kernel_stein_discrepancy(s, x, rng=fs.Philox(1)).statistic,
    }


@pytest.mark.parametrize("name", judged())
def test_a_measure_looks_at_the_network_and_leaves_x_as_it_is(name, recwarn):
    """As samplers do: what mixes samples is refused, masks are warned of, and what a score does to its x stays there."""
    measure, x = judged()[name], fs.Philox(0).randn(12, 4)
    norm, drop = (nn.Sequential(nn.Identity(), layer) for layer in (nn.BatchNorm1d(4), nn.Dropout(0.5)))
    with pytest.raises(ValueError, match="normalises by statistics of the batch"):
        measure(norm, x)
    assert int(norm[1].num_batches_tracked) == 0
    measure(norm.eval(), x)
    measure(drop, x)
    assert len(recwarn) == 1 and "whose Dropout '1' is in training mode" in str(recwarn[0].message)
    if name != "score_error":  # whose noise is drawn anew
        before = x.clone()
        assert torch.equal(
            torch.as_tensor(measure(lambda x: x.mul_(2.0).neg(), x)), torch.as_tensor(measure(lambda x: -2 * x, x))
        )
        assert torch.equal(x, before)
    with pytest.raises(RuntimeError, match=r"takes a gradient with respect to x.*fastscore\.energy_score"):
        measure(lambda x: torch.autograd.grad(x.requires_grad_().square().sum(), x)[0], x)


def test_curl_asks_whether_there_is_one_jacobian():
    """v^T (J v) is v^T (J^T v): not of a network that draws masks, and not where the one mode sees what the other does not."""
    x = fs.Philox(0).randn(5, 8)

    def half(x):
        with torch.no_grad():
            unseen = -x
        return unseen - x

    for score in (half, nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))):
        with pytest.raises(ValueError, match=r"score_fn must have one Jacobian J, .* for sample \d"):
            diagnostics.curl(score, x)
    along, back = torch.ones(2, 3, 4), torch.ones(2, 3, 4)
    back[0, 2], back[1, 0] = 5.0, 7.0  # the numbers that are told are those of the sample that is named
    with pytest.raises(ValueError, match=r"= 4 by jvp and v\^T \(J\^T v\) = 20 by vjp for sample 2"):
        diagnostics.fields._check_same(torch.ones(2, 3, 4), along, back, 1e-3)
    with pytest.raises(ValueError, match=r"the derivative is cut off.*or pass a score that torch differentiates"):
        diagnostics.curl(lambda x: -x.detach(), x)
    slices = torch.func.vmap(lambda x: diagnostics.curl(nn.Tanh(), x).squared, randomness="same")(x.view(1, 5, 8))
    assert float(slices.max()) < 1e-12
    for dtype in (torch.float16, torch.bfloat16):
        assert float(diagnostics.curl(nn.Tanh(), x.to(dtype)).squared.max()) < 1e-2


def test_bad_input_is_named():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="the output of score_b must have the shape of x"):
        diagnostics.fisher_divergence(lambda x: x, lambda x: x[:1], x)
    with pytest.raises(fs.NonFiniteSamples, match="score_a is NaN or infinite for 3 of 3"):
        diagnostics.fisher_divergence(lambda x: x / 0, lambda x: x, x)
    for empty in (torch.zeros(3), torch.zeros(0, 2), torch.zeros(3, 0)):
        for measure in (diagnostics.curl, lambda s, x: diagnostics.fisher_divergence(s, s, x), judged()["score_error"]):
            with pytest.raises(ValueError, match=r"x must be \[B, ...\] with at least one sample of one element"):
                measure(torch.neg, empty)
    with pytest.raises(TypeError, match="exact must be a function"):
        diagnostics.score_error(lambda x, y: x, None, x, [1.0])
    with pytest.raises(ValueError, match="num_probes must be at least 1"):
        diagnostics.curl(lambda x: x, x, num_probes=0)
