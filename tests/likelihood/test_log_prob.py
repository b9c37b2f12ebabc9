"""log p by the probability-flow ODE, against densities that are known exactly, and its error bar against its errors."""

import math

import pytest
import torch
from torch import nn

import fastscore as fs
from fastscore import guidance, likelihood, paths
from fastscore.data import GaussianMixture
from fastscore.likelihood._flow import Told
from fastscore.models import NCSN
from fastscore.trace import modules

PATHS = {"ve": paths.ve(0.05, 50.0), "vp": paths.vp_linear(t_min=0.01)}
MIXTURE = GaussianMixture(weights=(0.8, 0.2), means=((1.0, 2.0) * 4, (-1.0, -1.0) * 4), stds=(0.5, 0.8))


class Gaussian:
    """N(0, C) in 16 dimensions, of a rotated C, so that no trace is exact by signs; on ``path``."""

    def __init__(self, path):
        torch.manual_seed(0)
        self.path = path
        self.axes = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]
        self.std = torch.linspace(0.2, 2, 16, dtype=torch.float64)

    def variance(self, t):
        alpha, sigma = self.path.alpha(t).double(), self.path.sigma(t).double()
        return alpha[..., None] ** 2 * self.std**2 + sigma[..., None] ** 2

    def score(self, x, t):
        return -((x.double() @ self.axes) / self.variance(t) @ self.axes.T).to(x.dtype)

    def samples(self, n):
        v = self.variance(torch.tensor(self.path.t_min, dtype=torch.float64))
        x = fs.Philox(1).randn(n, 16, dtype=torch.float64) * v.sqrt() @ self.axes.T
        return x, -((x @ self.axes) ** 2 / v + (2 * math.pi * v).log()).sum(1) / 2


def mixture(path):
    """Its score on ``path``, 200 samples at t_min, their log p, and the data's mean and spread."""

    def score(x, t):
        alpha, sigma = path.alpha(t).to(x), path.sigma(t).to(x)
        return MIXTURE.score(x / alpha[:, None], sigma / alpha) / alpha[:, None]

    alpha, sigma = float(path.alpha(path.t_min)), float(path.sigma(path.t_min))
    x = alpha * MIXTURE.sample(200, fs.Philox(3)).double() + sigma * fs.Philox(4).randn(200, 8, dtype=torch.float64)
    exact = MIXTURE.log_prob(x / alpha, sigma / alpha) - 8 * math.log(alpha)
    mean = (MIXTURE.weights[:, None] * MIXTURE.means).sum(0)
    spread = MIXTURE.weights[:, None] * (MIXTURE.stds[:, None] ** 2 + (MIXTURE.means - mean) ** 2)
    return score, x, exact, {"mean": mean, "std": spread.sum(0).sqrt()}


@pytest.mark.parametrize("name", PATHS)
def test_a_gaussian_within_its_error_bar(name):
    gaussian = Gaussian(PATHS[name])
    x, exact = gaussian.samples(200)
    std = float(gaussian.std.square().mean().sqrt())
    found = likelihood.log_prob(gaussian.score, x, gaussian.path, std=std, method="rademacher", rng=fs.Philox(1))
    error = found.value - exact
    assert float((error.abs() <= found.bar).double().mean()) >= 0.95
    assert 0.9 < float((error / found.probes).std()) < 1.2  # the probes' part is 4 to 10 times the solver's
    assert float(found.probes.mean()) < 0.25 and found.evaluations == 4 * 30 * 10 + 4 * 15 * 2


@pytest.mark.parametrize("name", PATHS)
def test_a_mixture_within_its_error_bar(name):
    path = PATHS[name]
    score, x, exact, data = mixture(path)
    found = likelihood.log_prob(score, x, path, method="rademacher", rng=fs.Philox(2), **data)
    error = found.value - exact
    assert float((error.abs() <= found.bar).double().mean()) >= 0.95
    assert 0.9 < float((error / found.probes).std()) < 1.2
    sure = likelihood.log_prob(score, x, path, **data)  # of 8 dimensions, 8 products are exact
    assert bool((sure.probes == 0).all()) and float((sure.value - exact).abs().max()) < 0.05
    assert float(((sure.value - exact).abs() <= sure.solver + 1e-3).double().mean()) >= 0.95


def test_noise_levels_of_labels_are_within_their_error_bar():
    """As NCSN has them, every second level the middle of a step: the Gaussian and the mixture, at 200 points each."""
    sigmas = fs.schedules.geometric_sigmas(50.0, 0.05, 61)
    path = paths.ve(0.05, 50.0)
    gaussian, (of_mixture, points, exact, data) = Gaussian(path), mixture(path)
    cases = (
        (gaussian.score, *gaussian.samples(200), {"std": float(gaussian.std.square().mean().sqrt())}),
        (of_mixture, points, exact, data),
    )
    for score, x, known, how in cases:
        by_label = lambda x, labels, score=score: score(x, path.t_of_sigma(sigmas[labels].double()))  # noqa: E731
        found = likelihood.log_prob(by_label, x, sigmas, method="rademacher", rng=fs.Philox(6), **how)
        error = found.value - known
        assert float((error.abs() <= found.bar).double().mean()) >= 0.95
        assert 0.9 < float((error / found.probes).std()) < 1.2


def test_the_order_of_the_solver_is_four():
    path, x = PATHS["ve"], fs.Philox(0).randn(20, 3, dtype=torch.float64)
    v = 1 + 0.05**2
    exact = -1.5 * math.log(2 * math.pi * v) - x.square().sum(1) / (2 * v)

    def error(steps):
        score = lambda x, t: -x / (1 + path.sigma(t)[:, None].double() ** 2)  # noqa: E731
        return float((likelihood.log_prob(score, x, path, steps=steps, std=1.0).value - exact).abs().max())

    assert 3.5 < math.log2(error(20) / error(40)) < 4.5 and error(40) < 1e-3


def test_the_prior_of_a_covariance():
    """With the data's own, a path that ends at little noise is as exact; with their mean variance alone it is not."""
    path = paths.ve(0.05, 1.0)
    gaussian = Gaussian(path)
    x, exact = gaussian.samples(10)
    covariance = gaussian.axes @ gaussian.std.square().diag() @ gaussian.axes.T
    how = {"method": "exact", "steps": 20}
    found = likelihood.log_prob(gaussian.score, x, path, covariance=covariance, **how)
    assert float((found.value - exact).abs().max()) < 1e-3
    assert float((likelihood.log_prob(gaussian.score, x, path, std=1.2, **how).value - exact).abs().max()) > 0.5
    with pytest.raises(ValueError, match=r"covariance must be \[D, D\] with D = 16"):
        likelihood.log_prob(gaussian.score, x, path, covariance=covariance[:3])


def test_fixed_probes_have_a_wider_and_honest_bar():
    gaussian = Gaussian(PATHS["ve"])
    x, exact = gaussian.samples(200)
    how = {"method": "rademacher", "num_probes": 16, "steps": 16, "rng": fs.Philox(5)}
    fixed = likelihood.log_prob(gaussian.score, x, gaussian.path, probes="fixed", **how)
    renewed = likelihood.log_prob(gaussian.score, x, gaussian.path, **how)
    assert 0.9 < float(((fixed.value - exact) / fixed.probes).std()) < 1.2
    assert float(fixed.probes.mean()) > 4 * float(renewed.probes.mean())


#: Of the mixture's first four samples, by torchode 1.0.1 (torch 2.14) at its default tolerances, the traces exact.
BY_TORCHODE = {
    "ve": (-9.977623767561, -6.469818364273, -9.854356080057, -8.498666157685),
    "vp": (-9.956751965452, -6.439256885080, -9.881206303731, -8.590764676592),
}


@pytest.mark.parametrize("name", PATHS)
def test_adaptive_steps_are_within_their_error_bar(name, torchode):
    """Of exact traces, where the bar is the solver's alone: most of 200 points, and no bar far too wide."""
    path, gaussian = PATHS[name], Gaussian(PATHS[name])
    score, x, exact, data = mixture(path)
    points, known = gaussian.samples(200)
    std = float(gaussian.std.square().mean().sqrt())
    how = {"solver": "adaptive", "method": "exact"}
    of_mixture = likelihood.log_prob(score, x, path, **how, **data)
    of_gaussian = likelihood.log_prob(gaussian.score, points, path, std=std, **how)
    for found, true in ((of_mixture, exact), (of_gaussian, known)):
        assert float(((found.value - true).abs() <= found.bar).double().mean()) >= 0.95
        assert float((found.value - true).abs().mean()) < 0.01 and float(found.bar.mean()) < 0.1
        assert bool((found.probes == 0).all())
    by_torchode = torch.tensor(BY_TORCHODE[name], dtype=torch.float64)
    assert float((of_mixture.value[:4] - by_torchode).abs().max()) < 0.02
    one = likelihood.log_prob(score, x[7:8], path, **how, **data)
    assert float((one.value - of_mixture.value[7]).abs()) < 1e-6


@pytest.mark.parametrize("name", PATHS)
def test_adaptive_steps_of_random_probes_are_within_their_error_bar(name, torchode):
    """Probes that are fixed along each solve: their z-scores spread as those of a normal number do."""
    path, gaussian = PATHS[name], Gaussian(PATHS[name])
    score, x, exact, data = mixture(path)
    points, known = gaussian.samples(200)
    how = {"solver": "adaptive", "method": "gaussian", "num_probes": 32, "rtol": 1e-3, "atol": 1e-3}
    of_mixture = likelihood.log_prob(score, x, path, rng=fs.Philox(2), **how, **data)
    of_gaussian = likelihood.log_prob(
        gaussian.score, points, path, std=float(gaussian.std.square().mean().sqrt()), rng=fs.Philox(1), **how
    )
    for found, true in ((of_mixture, exact), (of_gaussian, known)):
        error = found.value - true
        assert float((error.abs() <= found.bar).double().mean()) >= 0.95
        assert 0.9 < float((error / found.probes).std()) < 1.2


def test_adaptive_needs_torchode_and_a_continuous_network(monkeypatch):
    x = torch.zeros(1, 2)
    monkeypatch.setitem(__import__("sys").modules, "torchode", None)
    with pytest.raises(fs.MissingDependency, match=r"fastscore-torch\[ode\]"):
        likelihood.log_prob(lambda x, t: -x, x, PATHS["ve"], solver="adaptive")


def test_a_sample_alone_is_that_of_a_batch():
    gaussian = Gaussian(PATHS["vp"])
    x, _ = gaussian.samples(6)
    how = {"method": "rademacher", "steps": 4}
    batch = likelihood.log_prob(gaussian.score, x, gaussian.path, rng=fs.Philox(3), **how)
    alone = likelihood.log_prob(gaussian.score, x[4:5], gaussian.path, rng=fs.Philox(3, sample_offset=4), **how)
    for name in ("value", "probes", "solver"):
        assert torch.allclose(getattr(batch, name)[4:5], getattr(alone, name), rtol=0, atol=1e-9)


def test_the_exact_divergence_of_an_mlp():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 12)).double()
    path, x = paths.edm(0.1, 10.0), fs.Philox(0).randn(5, 12, dtype=torch.float64)

    def score(x, sigma):  # -x / tau + F(x / sqrt(tau)) / tau
        tau = 1 + sigma[:, None].square()
        return (network(x / tau.sqrt()) - x) / tau

    def divergence(x, sigma):
        tau = 1 + sigma.square()
        out, trace = fs.mlp_divergence(x / tau.sqrt()[:, None], network)
        return (out - x) / tau[:, None], (trace / tau.sqrt() - 12) / tau

    how = {"std": 1.0, "conditioning": "sigma", "steps": 10}
    closed = likelihood.log_prob(score, x, path, divergence=divergence, **how)
    assert torch.allclose(closed.value, likelihood.log_prob(score, x, path, method="exact", **how).value, atol=1e-9)
    assert closed.evaluations == 4 * 15 and bool((closed.probes == 0).all())


def test_noise_levels_that_labels_name():
    """At levels alone every second is a middle; of a network of any sigma, and of blended embeddings, all are points."""
    sigmas = fs.schedules.geometric_sigmas(20.0, 0.1, 41)
    x = fs.Philox(0).randn(10, 3, dtype=torch.float64)
    by_label = likelihood.log_prob(lambda x, y: -x / (1 + sigmas[y].double()[:, None] ** 2), x, sigmas, std=1.0)
    by_sigma = likelihood.log_prob(
        lambda x, s: -x / (1 + s[:, None] ** 2), x, sigmas, std=1.0, conditioning="sigma", steps=20
    )
    exact = -1.5 * math.log(2 * math.pi * 1.01) - x.square().sum(1) / 2.02
    assert torch.allclose(by_label.value, by_sigma.value, atol=1e-5)
    assert float((by_label.value - exact).abs().max()) < 1e-3 and by_label.evaluations == 4 * 30 * 4
    with pytest.raises(ValueError, match=r"odd number of noise levels.* got 40"):
        likelihood.log_prob(lambda x, y: -x, x, sigmas[:40])
    torch.manual_seed(0)
    network = NCSN(channels=1, image_size=8, ngf=8, num_levels=4).eval()
    levels = fs.schedules.geometric_sigmas(1.0, 0.1, 4)
    found = likelihood.log_prob(network, torch.rand(2, 1, 8, 8), levels, interpolate=True, rng=fs.Philox(0))
    assert bool(torch.isfinite(found.value).all()) and bool((found.probes > 0).all())


def test_the_networks_of_what_is_differentiated_are_seen():
    """Without them a recurrent, compiled or parallel one would be differentiated as a plain function is."""
    levels, x = fs.schedules.geometric_sigmas(1.0, 0.1, 4), torch.rand(2, 1, 8, 8)
    network = NCSN(channels=1, image_size=8, ngf=8, num_levels=4).eval()
    told = Told(network, levels, None, True, None, x)
    level, between = told.where.points(6, None, False)[:2]
    assert level.label == 0 and 0 < between.label < 1
    for f in (told.told(torch.tensor([0, 1])), told.at(level)[0], told.at(between)[0]):
        assert any(found is network for found in modules.networks(f))


@pytest.mark.parametrize("method", ["exact", "rademacher"])
def test_the_networks_are_looked_at_once(monkeypatch, method):
    """Not at each of some hundred evaluations: a network of 300 layers takes a millisecond."""
    looks, check = [], modules.check
    monkeypatch.setattr(modules, "check", lambda f, mode, name: looks.append(mode) or check(f, mode, name))
    likelihood.log_prob(lambda x, t: -x, torch.rand(2, 3), PATHS["vp"], steps=4, method=method)
    assert looks == ["jvp", "vjp"]  # before it is called, and for the traces


def test_a_class_between_the_levels_is_that_of_a_network_that_says_so():
    """By with_label, and as a keyword; what blends nothing, as a classifier does not, is refused."""
    levels, x = fs.schedules.geometric_sigmas(1.0, 0.1, 4), torch.rand(2, 1, 8, 8)
    torch.manual_seed(0)
    network = NCSN(channels=1, image_size=8, ngf=4, num_levels=4, num_classes=3).eval()
    with torch.no_grad():
        for part in network.modules():
            if getattr(part, "classes", None) is not None:
                part.classes.normal_(std=0.3)
    labelled, told = guidance.with_label(network, 1), {"class_labels": torch.ones(2, dtype=torch.int64)}

    def log_prob(score, **how):
        few = {"steps": 2, "method": "rademacher", "num_probes": 2}
        return likelihood.log_prob(score, x, levels, interpolate=True, rng=fs.Philox(0), **few, **how).value

    def drawn(score, **how):
        return fs.samplers.flow_ode(score, x.shape, levels, interpolate=True, steps=2, rng=fs.Philox(0), **how)

    by_classifier = guidance.classifier(network, lambda x, c: x.flatten(1).sum(1))
    for ask in (log_prob, drawn):
        torch.testing.assert_close(ask(labelled), ask(network, model_kwargs=told))
        assert not torch.allclose(ask(labelled), ask(network))
        with pytest.raises(ValueError, match=r"^interpolate must be False for a score_fn without at_level"):
            ask(by_classifier)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"x must be \[B, ...\]"),
        ({"x": torch.zeros(3, 2, dtype=torch.bfloat16)}, TypeError, "x must be float32 or float64"),
        ({"x": torch.full((3, 2), math.nan)}, ValueError, "x must be finite"),
        ({"solver": "euler"}, ValueError, "solver must be one of 'rk4', 'adaptive'"),
        ({"steps": 1}, ValueError, "steps must be at least 2"),
        ({"solver": "adaptive", "steps": 3}, ValueError, "steps and rule must be None"),
        ({"probes": "none"}, ValueError, "probes must be one of"),
        ({"method": "hutchpp"}, ValueError, "method must be one of"),
        ({"method": "gaussian", "num_probes": 1}, ValueError, "num_probes must be at least 2"),
        ({"x": torch.zeros(3, 1, 4, 4), "num_probes": 6, "blocks": 4}, ValueError, "multiple of blocks"),
        ({"std": torch.ones(3)}, ValueError, "std must be a number or have a sample's shape"),
        ({"divergence": 3}, TypeError, "divergence must be None or a function"),
        ({"divergence": lambda x, c: (x, c[:1])}, ValueError, r"divergence\(x, c\)\[1\] must have shape \(3,\)"),
        ({"score_fn": lambda x, t: x / 0}, fs.NonFiniteSamples, "NaN or infinite for 3 of 3 samples at sigma 0.05"),
    ],
)
def test_bad_input_is_named(change, error, words):
    given = {"score_fn": lambda x, t: -x, "x": torch.ones(3, 2), "path": PATHS["ve"]} | change
    with pytest.raises(error, match=words):
        likelihood.log_prob(**given)


@pytest.mark.parametrize("method", ["exact", "rademacher"])
def test_slices_of_vmap_are_rows_of_one_batch(method):
    path, x = PATHS["vp"], fs.Philox(0).randn(6, 8)

    def found(x):
        return likelihood.log_prob(mixture(path)[0], x, path, steps=3, method=method, rng=fs.Philox(1)).value

    slices = torch.func.vmap(found, randomness="different")(x.view(3, 2, 8))
    torch.testing.assert_close(slices.flatten(), found(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "rademacher"])
def test_a_score_that_is_cut_off_is_told_what_log_prob_takes(method):
    with pytest.raises(ValueError, match=r"score_fn must depend on x .* cut off") as caught:
        likelihood.log_prob(lambda x, t: -x.detach(), torch.ones(2, 8), PATHS["vp"], method=method)
    assert str(caught.value).endswith("or pass divergence=, a function that gives score and trace itself")
