"""ssm, ssm_vr and annealed_ssm_vr: their formulas term by term, and implicit score matching in expectation."""

import pytest
import torch

import fastscore as fs
from fastscore import losses
from fastscore._core import backends
from fastscore.trace.products import AUTOMATIC

from ..conftest import z_mean
from .cases import PROJECTIONS, A, X, directions, form_variance, gaussian_data, jacobians, net

SIGMAS = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_both_are_their_formulas(projection, n, mode):
    s, jacobian, v = net(X), jacobians(net, X), directions(X, n, projection)
    traces = torch.einsum("kbi,bij,kbj->kb", v, jacobian, v)
    sliced = ((v * s).sum(2).square() / 2 + traces).mean(0)
    reduced = s.square().sum(1) / 2 + traces.mean(0)
    for loss, exact in ((losses.ssm, sliced), (losses.ssm_vr, reduced)):
        for reduction, expected in (("none", exact), ("sum", exact.sum()), ("mean", exact.mean())):
            got = loss(net, X, rng=fs.Philox(5), projection=projection, n_particles=n, mode=mode, reduction=reduction)
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_directions_are_the_probes_of_the_contract():
    """Particle k is of step k, stream PROBE; the rng ends n_particles steps on."""
    x, rng = torch.zeros(3, 2, 5), fs.Philox(7, step=4, sample_offset=6)
    seen = []
    losses.ssm(lambda y: y, x, rng=rng, n_particles=2, projection="gaussian", reduction="none")
    assert rng.step == 6
    for projection, kind in (("gaussian", "randn"), ("rademacher", "rademacher")):
        got = losses.ssm_vr(
            lambda y: y * torch.arange(1.0, 6),
            x,
            rng=fs.Philox(7, step=4, sample_offset=6),
            n_particles=2,
            projection=projection,
            reduction="none",
        )
        v = [getattr(fs.Philox(7, step=4 + k, sample_offset=6), kind)(3, 2, 5, stream=fs.Stream.PROBE) for k in (0, 1)]
        seen.append((torch.stack(v).square() * torch.arange(1.0, 6)).sum((2, 3)).mean(0))
        torch.testing.assert_close(got, seen[-1])
    assert not torch.allclose(*seen)


def variance_for_gaussian_data(loss, projection, a, c, d):
    """Of one sample's loss for s = -a x, x ~ N(0, c^2 I_d): with g normal and r = ||v||^2, ssm is
    r (a^2 c^2 g^2 / 2 - a) and ssm_vr a^2 ||x||^2 / 2 - a r."""
    normal = projection == "gaussian"  # else r = d
    if loss is losses.ssm_vr:
        return a**4 * c**4 * d / 2 + (2 * d * a**2 if normal else 0)
    square = d * (d + 2) if normal else d * d
    return square * (3 * a**4 * c**4 / 4 - a**3 * c**2 + a**2) - (d * (a**2 * c**2 / 2 - a)) ** 2


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("loss", [losses.ssm, losses.ssm_vr])
def test_expectation_for_gaussian_data(loss, projection):
    """Implicit score matching of s = -a x on N(0, c^2 I_d): d (a^2 c^2 / 2 - a)."""
    a, c, d, n = 0.7, 1.5, 6, 40_000
    each = loss(lambda y: -a * y, gaussian_data(c, n, d), rng=fs.Philox(2), projection=projection, reduction="none")
    exact = d * (a * a * c * c / 2 - a)
    variance = variance_for_gaussian_data(loss, projection, a, c, d)
    assert abs(z_mean(each, exact, variance)) < 4
    spread = float((each - exact).square().mean()) / variance  # the variance is the one that is known, too
    assert abs(spread - 1) < 0.1


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_value_and_gradient_are_implicit_score_matchings_in_expectation(projection):
    """A network that is not linear, one sample many times over: only the directions vary, by a known variance."""
    n, x = 40_000, X[:1]
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    implicit = losses.ism(lambda y: net(y, w), x)
    (slope,) = torch.autograd.grad(implicit, w)
    got = losses.ssm_vr(lambda y: net(y, w), x.expand(n, -1), rng=fs.Philox(3), projection=projection, reduction="none")
    variance = form_variance(jacobians(net, x)[0], projection)
    assert abs(z_mean(got.detach(), float(implicit), variance)) < 4
    # d/dw (w^2/2 ||s||^2 + w v^T J v) at w = 1 has the variance of v^T J v
    (mean_slope,) = torch.autograd.grad(got.mean(), w)
    assert abs(float(mean_slope - slope)) < 4 * (variance / n) ** 0.5


@pytest.mark.parametrize("loss", [losses.ssm, losses.ssm_vr])
def test_no_slope_at_the_true_score(loss):
    """d loss / da of s = -a x at a = 1/c^2: d (g^2 - 1) for ssm, chi^2_d - d for ssm_vr: variances 2 d^2 and 2 d."""
    c, d, n = 0.7, 3, 100_000
    a = torch.tensor(1 / c**2, dtype=torch.float64, requires_grad=True)
    loss(lambda y: -a * y, gaussian_data(c, n, d), rng=fs.Philox(2)).backward()
    assert abs(float(a.grad)) < 4 * ((2 * d * d if loss is losses.ssm else 2 * d) / n) ** 0.5


def test_the_sphere_has_length_sqrt_d():
    """s = x: v^T J v = ||v||^2 = D for every sample; and E v v^T = I."""
    x = torch.zeros(7, 3, 4, dtype=torch.float64)
    each = losses.ssm_vr(lambda y: y, x, rng=fs.Philox(0), projection="sphere", reduction="none")
    torch.testing.assert_close(each, torch.full((7,), 12.0, dtype=torch.float64))


@pytest.mark.parametrize("conditioning", ["labels", "sigma"])
@pytest.mark.parametrize("parametrization", losses.PARAMETRIZATIONS)
@pytest.mark.parametrize("weight, n, mode", [(2.0, 1, "vjp"), (0.5, 2, "jvp")])
def test_annealed_is_its_formula(weight, n, mode, parametrization, conditioning):
    labels = losses.draw_labels(3, 5, fs.Philox(9))
    sigma = SIGMAS[labels]
    x_tilde = X + sigma[:, None] * fs.Philox(9, step=1).randn(5, 4, stream=fs.Stream.PERTURB, dtype=torch.float64)
    condition = {"labels": labels.double(), "sigma": sigma}[conditioning]
    factor = 1.0 if parametrization == "score" else -1 / sigma
    each = [
        lambda y, b=b: (
            factor[b] * (net(y) * (1 + condition[b])) if parametrization == "epsilon" else net(y) * (1 + condition[b])
        )
        for b in range(5)
    ]
    s = torch.cat([f(x_tilde[b : b + 1]) for b, f in enumerate(each)])
    jacobian = torch.cat([jacobians(f, x_tilde[b : b + 1]) for b, f in enumerate(each)])
    v = fs.fill_probes(fs.Probes(X, n, fs.Philox(9, step=2)))
    exact = sigma**weight * (s.square().sum(1) / 2 + torch.einsum("kbi,bij,kbj->kb", v, jacobian, v).mean(0))
    seen = []

    def score_fn(y, c):
        seen.append(c)
        return net(y) * (1 + c.double())[:, None]

    options = dict(weight=weight, n_particles=n, mode=mode, parametrization=parametrization, conditioning=conditioning)
    rng = fs.Philox(9)
    got = losses.annealed_ssm_vr(score_fn, X, SIGMAS, rng=rng, reduction="none", **options)
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)
    assert len(seen) == 1 and torch.equal(seen[0], labels if conditioning == "labels" else sigma)
    assert rng.step == 2 + n
    given = losses.annealed_ssm_vr(score_fn, X, SIGMAS, rng=fs.Philox(9, step=1), labels=labels, **options)
    torch.testing.assert_close(given, exact.mean(), rtol=1e-9, atol=1e-9)


def test_annealed_at_the_true_score():
    """s = -x / tau at x_tilde ~ N(0, tau I): sigma^2 (chi^2_d / 2 - d) / tau, mean -sigma^2 d / (2 tau)."""
    c, d, n = 0.8, 5, 60_000
    labels = torch.arange(n) % 3
    each = losses.annealed_ssm_vr(
        lambda y, i: -y / (c * c + SIGMAS[i] ** 2)[:, None],
        gaussian_data(c, n, d),
        SIGMAS,
        labels=labels,
        rng=fs.Philox(4),
        reduction="none",
    )
    for level, sigma in enumerate(SIGMAS.tolist()):
        ratio = sigma**2 / (c * c + sigma**2)
        assert abs(z_mean(each[labels == level], -ratio * d / 2, ratio**2 * d / 2)) < 4


def test_annealed_is_the_denoising_objective_less_a_constant():
    """The gap does not depend on the score: two of them, the same noise; d/2 at every level for weight 2."""
    n, d, sigmas = 50_000, 4, torch.tensor([0.5], dtype=torch.float64)
    x = gaussian_data(1.0, n, d)
    for a in (0.3, 0.8):
        gap = losses.ncsn(
            lambda y, i, a=a: -a * y, x, sigmas, rng=fs.Philox(6), reduction="none"
        ) - losses.annealed_ssm_vr(lambda y, i, a=a: -a * y, x, sigmas, rng=fs.Philox(6), reduction="none")
        # sigma^2 (-a x_tilde.z / sigma + a d) + z^2/2: variance of -a sigma x.z + (1/2 - a sigma^2) z^2, summed over d
        variance = d * (a * a * 0.25 + 2 * (0.5 - a * 0.25) ** 2)
        assert abs(z_mean(gap, d / 2, variance)) < 4


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("loss", [losses.ssm, losses.ssm_vr])
def test_split_batches_and_particles_draw_what_the_whole_draws(loss, mode):
    def score(y):
        return torch.sin(y) - y * y.flip(1)

    options = dict(mode=mode, reduction="none")
    whole = loss(score, X, rng=fs.Philox(4), n_particles=3, **options)
    parts = [loss(score, X[k : k + 2], rng=fs.Philox(4, sample_offset=k), n_particles=3, **options) for k in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-13, atol=1e-13)
    one_by_one = [loss(score, X, rng=fs.Philox(4, step=k), n_particles=1, **options) for k in range(3)]
    torch.testing.assert_close(torch.stack(one_by_one).mean(0), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_both_backends_serve(backend, on_backend):
    expected = losses.ssm(net, X, rng=fs.Philox(5), n_particles=2, projection="sphere")
    on_backend(backend)
    got = losses.ssm(net, X, rng=fs.Philox(5), n_particles=2, projection="sphere")
    assert backends.last["probe_dot"] == backends.last["fill_probes"] == backend
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_score_matching_of_a_quadratic_form():
    """s = A x at one x: ssm's two terms have the exact means ||A x||^2 / 2 and tr A."""
    n, x = 20_000, X[:1]
    each = losses.ssm(lambda y: y @ A.T, x.expand(n, -1), rng=fs.Philox(1), projection="gaussian", reduction="none")
    s = (x @ A.T)[0]
    # 1/2 (v.s)^2 + v^T A v = v^T M v with M = s s^T / 2 + A
    matrix = torch.outer(s, s) / 2 + A
    assert abs(z_mean(each, float(matrix.trace()), form_variance(matrix, "gaussian"))) < 4
