"""csm, ddpm, esm, stf and edm: their formulas, exact expectations for Gaussian data, and what is refused."""

import math
import re

import pytest
import torch

import fastscore as fs
from fastscore import losses, paths
from fastscore.conversions import KINDS
from fastscore.losses._times import draw_times, relative
from fastscore.models import Preconditioned, ScoreMLP

from ..conftest import z_mean

PATHS = {
    "ve": paths.ve(0.1, 4.0),
    "vp_linear": paths.vp_linear(t_min=0.05),
    "sub_vp": paths.sub_vp(t_min=0.2),
    "rectified": paths.rectified(t_min=0.05, t_max=0.95),
    "levels": paths.levels([2.0, 1.0, 0.5]),
}
X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
M, C = 0.7, 0.8  # of Gaussian data


def exact(path):
    """The score of x_t for x ~ N(M, C^2)."""

    def score(x, t):
        alpha, sigma = path.alpha(t)[:, None].to(x), path.sigma(t)[:, None].to(x)
        return -(x - alpha * M) / (alpha**2 * C**2 + sigma**2)

    return score


def gaussian(n, d, seed=3):
    return M + C * fs.Philox(seed).randn(n, d, dtype=torch.float64)


def wrong(x, t):
    return torch.sin(x) - t[:, None].to(x) * x


def noisy(path, x, t, seed):
    z = fs.Philox(seed).randn(x.shape, stream=fs.Stream.PERTURB, dtype=torch.float64)
    return path.alpha(t)[:, None] * x + path.sigma(t)[:, None] * z, z


WEIGHTS = {
    "1": lambda path, t: torch.ones_like(t),
    "sigma^2": lambda path, t: path.sigma(t) ** 2,
    "sigma^2/alpha^2": lambda path, t: path.sigma(t) ** 2 / path.alpha(t) ** 2,
    "g^2": lambda path, t: path.diffusion_squared(t),
}


@pytest.mark.parametrize("backend", ["reference", "native", "triton"])
@pytest.mark.parametrize("weighting", losses.WEIGHTINGS)
def test_csm_is_its_formula(weighting, backend, on_backend):
    on_backend(backend)
    path = PATHS["vp_linear"]
    x_t, z = noisy(path, X, T, 5)
    expected = 0.5 * WEIGHTS[weighting](path, T) * (wrong(x_t, T) + z / path.sigma(T)[:, None]).square().sum(1)
    given = {"t": T, "rng": fs.Philox(5), "reduction": "none"}
    torch.testing.assert_close(losses.csm(wrong, X, path, weighting=weighting, **given), expected, rtol=1e-9, atol=0)
    named = WEIGHTS[weighting]
    given["rng"] = fs.Philox(5)
    other = losses.csm(wrong, X, path, weighting=lambda t: named(path, t), **given)
    torch.testing.assert_close(other, expected, rtol=1e-9, atol=0)


def test_weights_of_noise_levels():
    """g^2 of geometric levels is 2 log(sigma_1 / sigma_L) sigma^2 in the limit, as of ve."""
    sigmas = fs.schedules.geometric_sigmas(1.0, 0.1, 400).double()
    got = relative(paths.levels(sigmas), "g^2", sigmas)[1:-1]
    torch.testing.assert_close(got, torch.full_like(got, 2 * math.log(10)), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="weighting must not be 'g\\^2' on a path of one noise level"):
        losses.csm(wrong, X, paths.levels([1.0]), weighting="g^2")


def test_epsilon_loss_is_sigma_squared_times_csm():
    path = PATHS["rectified"]
    epsilon = lambda x, t: torch.cos(x)  # noqa: E731
    got = losses.ddpm(epsilon, X, path, t=T, rng=fs.Philox(5), reduction="none")
    x_t, z = noisy(path, X, T, 5)
    torch.testing.assert_close(got, 0.5 * (torch.cos(x_t) - z).square().sum(1), rtol=1e-9, atol=0)
    given = {"t": T, "reduction": "none"}
    same = losses.csm(epsilon, X, path, rng=fs.Philox(5), parametrization="epsilon", **given)
    torch.testing.assert_close(got, same, rtol=1e-9, atol=0)
    score = lambda x, t: -torch.cos(x) / path.sigma(t)[:, None]  # noqa: E731
    plain = losses.csm(score, X, path, rng=fs.Philox(5), weighting="1", **given)
    torch.testing.assert_close(got, path.sigma(T) ** 2 * plain, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_parametrizations_of_one_score_cost_the_same(kind):
    path = PATHS["vp_linear"]
    predicts = fs.as_prediction(wrong, kind=kind, path=path)
    given = {"t": T, "reduction": "none"}
    got = losses.csm(predicts, X, path, rng=fs.Philox(5), parametrization=kind, **given)
    torch.testing.assert_close(got, losses.csm(wrong, X, path, rng=fs.Philox(5), **given), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name, backend", [*((name, "native") for name in PATHS), ("vp_linear", "reference"), ("vp_linear", "triton")]
)
def test_csm_exceeds_esm_by_the_constant(name, backend, on_backend):
    """Twice csm - esm is d alpha^2 c^2 / (sigma^2 (alpha^2 c^2 + sigma^2)), whatever the network, to the standard error."""
    on_backend(backend)
    path, n, d = PATHS[name], 60_000, 3
    t = torch.full((n,), 0.5 if name != "levels" else 1.0, dtype=torch.float64)
    x, given = gaussian(n, d), {"t": t, "weighting": "1", "reduction": "none"}
    more = losses.csm(wrong, x, path, rng=fs.Philox(1), **given)
    less = losses.esm(wrong, exact(path), x, path, rng=fs.Philox(1), **given)
    alpha, sigma = float(path.alpha(t[:1])), float(path.sigma(t[:1]))
    constant = d * alpha**2 * C**2 / (sigma**2 * (alpha**2 * C**2 + sigma**2))
    gap = 2 * (more - less)
    assert abs(z_mean(gap, constant, float(gap.var()))) < 4
    assert float(losses.esm(exact(path), exact(path), x[:99], path, rng=fs.Philox(1))) < 1e-20


def test_gradients_of_csm_and_esm_agree_in_expectation():
    path, n = PATHS["vp_linear"], 40_000
    x, t = gaussian(n, 1), fs.Philox(8).rand(n, dtype=torch.float64) * 0.9 + 0.05

    def slopes(loss, *more):
        a = torch.full((n, 1), -0.4, dtype=torch.float64, requires_grad=True)
        loss(lambda y, t: a * y, *more, x, path, t=t, rng=fs.Philox(2), reduction="sum").backward()
        return a.grad

    gap = slopes(losses.csm) - slopes(losses.esm, exact(path))
    assert abs(z_mean(gap, 0.0, float(gap.var()))) < 4


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("weighting", ["sigma^2", "g^2"])
def test_a_network_of_zero(name, weighting):
    """d/2 at every time by the weighting sigma^2; by any, the mean of w / sigma^2 times that, by importance too."""
    path, n, d = PATHS[name], 20_000, 5
    x, zero = torch.zeros(n, d), lambda x, *t: torch.zeros_like(x)
    fine = path.sigmas if path.sigmas is not None else torch.linspace(path.t_min, path.t_max, 200_001).double()
    mean = float(relative(path, weighting, fine).mean()) * d / 2
    spreads = {}
    for proposal in losses.PROPOSALS:
        got = losses.csm(
            zero,
            x,
            path,
            rng=fs.Philox(4),
            weighting=weighting,
            proposal=proposal,
            conditioning="none",
            reduction="none",
        )
        spreads[proposal] = float(got.var())
        assert abs(z_mean(got, mean, float(got.var()))) < 4
    assert spreads["importance"] <= 1.01 * (mean * mean * 2 / d) * 1.1  # chi-squared's alone: no spread from the times
    assert weighting == "sigma^2" or spreads["importance"] < spreads["uniform"] or name == "ve"


def test_importance_for_g_squared_is_uniform_in_log_snr():
    path = PATHS["vp_linear"]
    t, _ = draw_times(path, "g^2", "importance", torch.zeros(50_000, 1), fs.Philox(0))
    ends = path.log_snr(torch.tensor([path.t_max, path.t_min], dtype=torch.float64))
    u = (path.log_snr(t) - ends[0]) / (ends[1] - ends[0])
    assert abs(z_mean(u, 0.5, 1 / 12)) < 4 and abs(z_mean(u.square(), 1 / 3, 4 / 45)) < 4


@pytest.mark.parametrize("loss", [losses.csm, losses.stf])
def test_a_row_draws_the_same_in_any_batch(loss):
    path, x = PATHS["ve"], X.float()
    seen = []
    for rows, offset in ((slice(0, 6), 0), (slice(2, 4), 2)):
        loss(lambda y, t: seen.append((y, t)) or y, x[rows], path, rng=fs.Philox(3, sample_offset=offset))
    assert torch.equal(seen[0][0][2:4], seen[1][0]) and torch.equal(seen[0][1][2:4], seen[1][1])


def test_conditionings():
    path, seen = PATHS["levels"], {}
    for word in ("t", "sigma", "log_snr", "labels", "none"):
        score = lambda x, *c, word=word: seen.update({word: c}) or x  # noqa: E731
        losses.csm(score, X.float(), path, rng=fs.Philox(1), conditioning=word)
    assert seen["none"] == () and seen["labels"][0].dtype == torch.int64 and seen["sigma"][0].dtype == torch.float32
    assert torch.equal(seen["sigma"][0].double(), path.sigmas[seen["labels"][0]])
    torch.testing.assert_close(seen["log_snr"][0], -2 * seen["t"][0].log())


# Stable target field


def test_the_field_is_the_score_of_the_references():
    """That of the mixture of Gaussians around alpha r_k, by autograd."""
    path, r = PATHS["vp_linear"], torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x_t, _ = noisy(path, X, T, 5)
    x_t.requires_grad_()
    alpha, sigma = path.alpha(T), path.sigma(T)
    squared = (x_t[:, None] - alpha[:, None, None] * r).square().sum(-1)
    (expected,) = torch.autograd.grad((-squared / (2 * sigma[:, None] ** 2)).logsumexp(1).sum(), x_t)
    got = losses.target_field(x_t.detach(), r, alpha, sigma)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_stf_is_its_formula_and_with_one_reference_csm():
    path = PATHS["rectified"]
    x_t, _ = noisy(path, X, T, 5)
    more = X.flip(0) + 1
    target = losses.target_field(x_t, torch.cat([X, more]), path.alpha(T), path.sigma(T))
    expected = 0.5 * path.sigma(T) ** 2 * (wrong(x_t, T) - target).square().sum(1)
    given = {"rng": fs.Philox(5), "reduction": "none"}
    got = losses.stf(wrong, X, path, t=T, references=more, **given)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)
    given["rng"] = fs.Philox(5)
    alone = losses.stf(wrong, X[:1], path, t=T[:1], **given)
    csm = losses.csm(wrong, X[:1], path, t=T[:1], rng=fs.Philox(5), reduction="none")
    torch.testing.assert_close(alone, csm, rtol=1e-9, atol=0)


def test_the_stable_target_has_less_variance():
    """Around the exact score of Gaussian data, at large noise a fiftieth of csm's; less than a twentieth is asked."""
    path, x, t = PATHS["ve"], gaussian(2000, 2), torch.full((2000,), 0.9, dtype=torch.float64)
    given = {"t": t, "reduction": "none"}
    csm = losses.csm(exact(path), x, path, rng=fs.Philox(1), **given).mean()
    stf = losses.stf(exact(path), x, path, rng=fs.Philox(1), **given).mean()
    gap = 0.5 * path.sigma(t[:1]) ** 2 * 2 * C**2 / (path.sigma(t[:1]) ** 2 * (C**2 + path.sigma(t[:1]) ** 2))
    assert float(csm) == pytest.approx(float(gap), rel=0.1) and float(stf) < float(csm) / 20


# EDM


def test_edm_is_its_formula_and_preconditions():
    """lambda ||D - x||^2 / 2, with D = c_skip x + c_out F of the paper's table, and the target of F of unit variance."""
    sigma, c = torch.linspace(0.05, 3.0, 6, dtype=torch.float64), 0.6
    inner = lambda x, noise: torch.tanh(x) + noise[:, None]  # noqa: E731
    network = Preconditioned(inner, data_std=c)
    z = fs.Philox(5).randn(X.shape, stream=fs.Stream.PERTURB, dtype=torch.float64)
    s = sigma[:, None]
    y, tau = X + s * z, c**2 + s**2
    denoised = c**2 / tau * y + s * c / tau.sqrt() * inner(y / tau.sqrt(), sigma.log() / 4)
    torch.testing.assert_close(y + s**2 * network(y, sigma), denoised, rtol=1e-9, atol=1e-9)
    weight = (sigma**2 + c**2) / (sigma * c) ** 2
    expected = 0.5 * weight * (denoised - X).square().sum(1)
    got = losses.edm(network, X, sigma=sigma, data_std=c, rng=fs.Philox(5), reduction="none")
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=0)
    zero = Preconditioned(lambda x, noise: torch.zeros_like(x), data_std=C, sigmas=[2.0, 0.1])
    n = 40_000
    data = gaussian(n, 1) - M
    for given in ({"sigma": 0.3}, {"p_mean": 0.0, "p_std": 1.0}):  # F's target is N(0, 1) at every sigma
        cost = losses.edm(zero, data, data_std=C, rng=fs.Philox(6), reduction="none", **given)
        assert abs(z_mean(cost, 0.5, 0.5)) < 4
    labels = torch.tensor([1, 0])
    assert torch.equal(zero(X[:2], labels), zero(X[:2], torch.tensor([0.1, 2.0]).double()))


def test_edm_draws_a_log_normal():
    seen = []
    losses.edm(lambda x, s: seen.append(s) or x, torch.zeros(20_000, 1), rng=fs.Philox(0), p_mean=-0.5, p_std=0.7)
    assert abs(z_mean(seen[0].log() + 0.5, 0.0, 0.49)) < 4
    assert abs(z_mean((seen[0].log() + 0.5).square(), 0.49, 2 * 0.49**2)) < 4


def test_under_transforms():
    """The gradient is torch.func's, and under vmap each slice draws the rows of one batch of all slices."""
    path, x, a = PATHS["vp_linear"], X.float().reshape(2, 3, 4), torch.tensor([0.5, 1.0])

    def loss(a, x, **given):
        return losses.csm(lambda y, t: -a * y, x, path, rng=fs.Philox(1, **given), weighting="g^2")

    got = torch.func.vmap(torch.func.grad(loss), randomness="different")(a, x)
    leaves = [value.clone().requires_grad_() for value in a]
    for k, leaf in enumerate(leaves):
        loss(leaf, x[k], sample_offset=3 * k).backward()
    torch.testing.assert_close(got, torch.stack([leaf.grad for leaf in leaves]), rtol=1e-5, atol=1e-5)
    with torch.inference_mode():  # tables that are made here serve what is trained after it
        csm = losses.csm(wrong, x[0], path, rng=fs.Philox(1), proposal="importance", weighting="g^2")
    again = losses.csm(wrong, x[0], path, rng=fs.Philox(1), proposal="importance", weighting="g^2")
    assert float(csm) == float(again) and not again.is_inference()


# Learning


@pytest.mark.parametrize(
    "name, path",
    {
        "ve": paths.ve(0.3, 10.0),
        "vp_linear": paths.vp_linear(t_min=0.05),
        "rectified": paths.rectified(t_min=0.2),
    }.items(),
)
def test_an_mlp_learns_the_score_of_a_mixture(name, path):
    """By csm: the root mean square of sigma || s - s* || over uniform times is below 0.12; before, 0.45 to 0.59."""
    mixture = fs.data.GaussianMixture(weights=(0.3, 0.7), means=((2.0, 1.0), (-1.0, -1.0)), stds=0.5)

    def truth(x, t):  # x / alpha is the mixture with noise sigma / alpha
        alpha, sigma = path.alpha(t).to(x), path.sigma(t).to(x)
        return mixture.score(x / alpha[:, None], sigma / alpha) / alpha[:, None]

    torch.manual_seed(0)
    network = ScoreMLP(dim=2, hidden=48, depth=2, sigmas=[1.0, 0.5], data_std=1.5)
    score = fs.as_score(network, kind="score", path=path, conditioning="sigma", rescale=True)
    optimizer = torch.optim.Adam(score.parameters(), lr=4e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    rng = fs.Philox(0)

    def error():
        x = mixture.sample(4000, fs.Philox(99))
        with torch.no_grad():
            return float(2 * losses.esm(score, truth, x, path, rng=fs.Philox(98))) ** 0.5

    before = error()
    for _ in range(400):
        x = mixture.sample(256, rng)
        optimizer.zero_grad()
        losses.csm(score, x, path, rng=rng).backward()
        optimizer.step()
        schedule.step()
    assert error() < 0.12 and before > 0.4, (before, error())


# Bad input


def csm(**changes):
    given = {"score_fn": wrong, "x": X, "path": PATHS["ve"]} | changes
    return losses.csm(given.pop("score_fn"), given.pop("x"), given.pop("path"), **given)


BAD = {
    "path": (lambda: csm(path="vp"), TypeError, "path must be a fastscore.paths.Path.*got str 'vp'"),
    "t": (lambda: csm(t=2.0), ValueError, "t must be from 0 to 1, the ends of ve.*got 2"),
    "t shape": (lambda: csm(t=torch.ones(3)), ValueError, r"t must be a number or have shape \(6,\)"),
    "weighting": (lambda: csm(weighting="sigma"), ValueError, "weighting must be one of '1', 'sigma\\^2'"),
    "weighting negative": (
        lambda: csm(weighting=lambda t: -t - 1),
        ValueError,
        "weighting must be finite and at least 0",
    ),
    "weighting a number": (lambda: csm(weighting=lambda t: 1.0), ValueError, "weighting must give a number for each t"),
    "weighting 0": (
        lambda: csm(weighting=lambda t: t.clamp(min=0.5) - 0.5, proposal="importance"),
        ValueError,
        "weighting must be greater than 0 on the whole path",
    ),
    "proposal": (lambda: csm(proposal="log"), ValueError, "proposal must be one of 'uniform', 'importance'"),
    "conditioning": (
        lambda: csm(conditioning="time"),
        ValueError,
        "conditioning must be one of 't', 'sigma', 'log_snr'",
    ),
    "labels": (lambda: csm(conditioning="labels"), ValueError, "conditioning must not be 'labels' on ve"),
    "parametrization": (
        lambda: csm(parametrization="noise"),
        ValueError,
        "parametrization must be one of 'score', 'eps",
    ),
    "score_fn": (lambda: csm(score_fn=3), TypeError, "score_fn must be a function of .*got int 3"),
    "output": (
        lambda: csm(score_fn=lambda x, t: x[:, :2]),
        ValueError,
        "the output of score_fn must have the shape of x",
    ),
    "keywords": (lambda: csm(model_kwargs={"y": 1}), TypeError, "model_kwargs must be arguments that score_fn takes"),
    "truth": (lambda: losses.esm(wrong, 1.0, X, PATHS["ve"]), TypeError, "true_score must be a function of"),
    "references": (
        lambda: losses.stf(wrong, X, PATHS["ve"], references=X[:, :2]),
        ValueError,
        "references must be samples of the shape of x's",
    ),
    "edm sigma": (lambda: losses.edm(wrong, X, sigma=-1.0), ValueError, "sigma must be finite and greater than 0"),
    "edm p_std": (lambda: losses.edm(wrong, X, p_std=0.0), ValueError, "p_std must be finite and greater than 0"),
    "labels to edm": (
        lambda: Preconditioned(wrong)(X, torch.zeros(6, dtype=torch.int64)),
        ValueError,
        "labels must be floating, the noise levels themselves",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_draws_nothing(name):
    call, error, message = BAD[name]
    with pytest.raises(error) as caught:
        call()
    assert re.search(message, str(caught.value)), caught.value


def test_a_stable_target_of_samples_of_one_number():
    x = torch.linspace(-1, 1, 5)
    flat, column = (
        losses.stf(lambda x, t: -x, x, fs.paths.edm(), rng=fs.Philox(0), reduction="none") for x in (x, x[:, None])
    )
    assert torch.equal(flat, column)
