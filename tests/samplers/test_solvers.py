"""Solvers of a grid: each update is its paper's formula, the order of convergence is the theory's, and samples are right."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch._subclasses import FakeTensorMode

import fastscore as fs
from fastscore import paths
from fastscore._core.errors import NonFiniteSamples
from fastscore.data import GaussianMixture
from fastscore.samplers import (
    ancestral,
    annealed_langevin,
    ddim,
    dpm_solver,
    flow_ode,
    heun,
    predictor_corrector,
    reverse_sde,
    sample,
)
from fastscore.samplers._start import check_device

C, M = 0.5, 2.0  # of the data, N(M, C^2)
SIGMAS = [8.0, 5.0, 2.0, 1.0, 0.3, 0.1]
START = 8 * fs.Philox(3).randn(3, 2, dtype=torch.float64)
VP, FLOW = paths.vp_linear(), paths.rectified()
SOLVERS = {
    "ddim": (ddim, {}),
    "ddim, noise": (ddim, {"eta": 0.7}),
    "ancestral": (ancestral, {}),
    "1S": (dpm_solver, {"order": 1}),
    "2M": (dpm_solver, {}),
    "SDE-2M": (dpm_solver, {"eta": 1.0}),
    "reverse_sde": (reverse_sde, {}),
    "heun": (heun, {}),
    "churn": (heun, {"churn": 3.0, "noise_scale": 1.1}),
    "pc": (predictor_corrector, {"corrections": 2}),
    "pc, norms": (predictor_corrector, {"corrections": 1, "predictor": "ancestral", "norm": "sample"}),
    "pc, SDE-2M": (predictor_corrector, {"corrections": 1, "predictor": "dpm_sde"}),
    "ode": (flow_ode, {}),
}
each = pytest.mark.parametrize("solver, options", SOLVERS.values(), ids=SOLVERS)


def exact(x, alpha, sigma):
    return -(x - alpha * M) / (alpha**2 * C**2 + sigma**2)


def by_sigma(x, sigma):
    return exact(x, 1.0, sigma[0].item())


def on(path):
    return lambda x, t: exact(x, float(path.alpha(t[0].double())), float(path.sigma(t[0].double())))


def draws():
    """z of one update after the other."""
    rng = fs.Philox(5)
    return lambda: rng.randn(START.shape, stream=fs.Stream.LANGEVIN, dtype=torch.float64)


def run(solver, path=SIGMAS, **options):
    score = by_sigma if path is SIGMAS else on(path)
    if path is SIGMAS:
        options["conditioning"] = "sigma"
    return solver(score, START.shape, path, start=START, rng=fs.Philox(5), **options)


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # of levels in float32


def score_of_epsilon(x, alpha, sigma):
    return -sigma * exact(x, alpha, sigma)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_the_papers(eta):
    """Equations 12 and 16, in alpha-bar; and no noise at the end."""
    grid, x, z = VP.grid(5), START, draws()
    for k, (a, b) in enumerate(pairwise(grid.alpha.square().tolist())):
        e = score_of_epsilon(x, math.sqrt(a), math.sqrt(1 - a))
        noise = 0.0 if k == 4 else eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        clean = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        x = math.sqrt(b) * clean + math.sqrt(max(0.0, 1 - b - noise**2)) * e + (noise * z() if noise else 0.0)
    same(run(ddim, VP, steps=5, eta=eta), x)


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_ancestral_is_ddpms_and_of_levels_smlds(variance):
    """Ho et al. 2020, algorithm 2; Song et al. 2021, equation 47."""
    x, z = START, draws()
    for k, (a, b) in enumerate(pairwise(VP.grid(5).alpha.square().tolist())):
        beta = 1 - a / b
        noise = 0.0 if k == 4 else beta if variance == "forward" else (1 - b) / (1 - a) * beta
        x = (x - beta / math.sqrt(1 - a) * score_of_epsilon(x, math.sqrt(a), math.sqrt(1 - a))) / math.sqrt(1 - beta)
        x = x + math.sqrt(noise) * z() if noise else x
    same(run(ancestral, VP, steps=5, variance=variance), x)
    x, z = START, draws()
    for a, b in pairwise(SIGMAS):
        x = x + (a**2 - b**2) * exact(x, 1.0, a)
        x = x + math.sqrt((b**2 if variance == "posterior" else a**2) * (a**2 - b**2) / a**2) * z()
    same(run(ancestral, variance=variance, denoise=False), x)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("path", [SIGMAS, VP, FLOW], ids=["levels", "vp", "rectified"])
def test_dpm_solver_is_the_papers(path, order, eta):
    """In the data prediction D and t = lambda, as k-diffusion writes it; the last update gives D itself."""
    if path is SIGMAS:
        grid = [(1.0, sigma) for sigma in SIGMAS] + [(1.0, 0.0)]
    else:
        grid = list(zip(*(v.tolist() for v in path.grid(6)[1:])))
    x, z, before, h_before = START, draws(), None, None
    for (alpha, sigma), (alpha_to, sigma_to) in pairwise(grid):
        clean = (x + sigma**2 * exact(x, alpha, sigma)) / alpha
        if sigma_to == 0:
            x = alpha_to * clean
            break
        h = math.log(alpha_to / sigma_to) - math.log(alpha / sigma)
        x = sigma_to / sigma * math.exp(-eta * h) * x - alpha_to * math.expm1(-h - eta * h) * clean
        if order == 2 and before is not None:
            x = x - 0.5 * alpha_to * math.expm1(-h - eta * h) * h / h_before * (clean - before)
        if eta:
            x = x + sigma_to * math.sqrt(1 - math.exp(-2 * eta * h)) * z()
        before, h_before = clean, h
    same(run(dpm_solver, path, order=order, eta=eta, steps=6), x)


def test_the_reverse_sde_is_euler_maruyamas():
    x, z = START, draws()
    for a, b in pairwise(SIGMAS):
        x = x + (a**2 - b**2) * exact(x, 1.0, a) + math.sqrt(a**2 - b**2) * z()
    same(run(reverse_sde, denoise=False), x)
    x, z, times = START, draws(), torch.linspace(1.0, 1e-3, 6, dtype=torch.float64).tolist()
    for a, b in pairwise(times):
        beta, alpha, sigma = 0.1 + 19.9 * a, float(VP.alpha(a)), float(VP.sigma(a))
        x = x + (a - b) * (beta / 2 * x + beta * exact(x, alpha, sigma)) + math.sqrt(beta * (a - b)) * z()
    same(run(reverse_sde, VP, denoise=False, steps=5), x)


def test_the_reverse_sde_keeps_to_the_noise_that_is_left():
    """Where t is sigma itself, steps even in t would end with one of 80/19, and samples 20 times too wide."""
    edm, rng = fs.paths.edm(), fs.Philox(0)
    x = reverse_sde(lambda x, t: -x / (0.25 + t[:, None] ** 2), (4000, 2), edm, std=0.5, rng=rng)
    assert 0.5 < float(x.std()) < 0.6
    entry = fs.samplers.SAMPLERS["reverse_sde"]
    at = entry.sigma_after(edm, entry.complete({"steps": 20}), 10)
    assert at == pytest.approx(float(edm.grid(20, "log_snr").sigma[10]))
    assert entry.sigma_after(VP, entry.complete({"steps": 5}), 2) == pytest.approx(
        math.exp(-float(VP.log_snr(VP.grid(5, "time").t[2])) / 2)
    )


def test_heun_is_edms():
    """Karras et al. 2022, algorithm 2, but that nothing is added before the first step."""
    gamma, x, z = min(3.0 / 6, math.sqrt(2) - 1), START, draws()
    for i, (t, to) in enumerate(pairwise([*SIGMAS, 0.0])):
        hat = t if i == 0 or t > 4 else t * (1 + gamma)
        x = x + 1.1 * math.sqrt(hat**2 - t**2) * z() if hat > t else x
        slope = -hat * exact(x, 1.0, hat)
        after = x + (to - hat) * slope
        x = x + (to - hat) / 2 * (slope - to * exact(after, 1.0, to)) if to else after
    same(run(heun, churn=3.0, churn_max=4.0, noise_scale=1.1), x)


PREDICTED = {
    "reverse_sde": (reverse_sde, {}),
    "ancestral": (ancestral, {}),
    "ddim": (ddim, {}),
    "dpm": (dpm_solver, {}),
    "dpm_sde": (dpm_solver, {"eta": 1.0}),
}


@pytest.mark.parametrize("path", [SIGMAS, VP], ids=["levels", "vp"])
@pytest.mark.parametrize("predictor", PREDICTED)
def test_a_predictor_without_corrections_is_the_solver(predictor, path):
    solver, options = PREDICTED[predictor]
    how = {"steps": 6} | ({"rule": "log_snr"} if path is VP else {})
    got = run(predictor_corrector, path, predictor=predictor, corrections=0, **how)
    assert torch.equal(got, run(solver, path, **options, **how))


def test_a_multistep_predictor_takes_the_corrected_samples():
    """2M in the clean samples that the score predicts after the corrections at this point and at the one before."""
    x, z, before, e = START, draws(), None, 2 * 0.2**2
    for a, b in pairwise([*SIGMAS, 0.0]):
        x = x + e * a**2 * exact(x, 1.0, a) + math.sqrt(2 * e) * a * z()
        clean = x + a**2 * exact(x, 1.0, a)
        if b == 0:
            x = clean
            break
        h = math.log(a / b)
        d = clean if before is None else clean + h / (2 * before[1]) * (clean - before[0])
        x, before = b / a * x - math.expm1(-h) * d, (clean, h)
    same(run(predictor_corrector, predictor="dpm", corrections=1, snr=0.2), x)


@pytest.mark.parametrize("norm", ["noise", "sample"])
def test_the_corrector_is_langevin_dynamics_by_signal_to_noise(norm):
    x, z = START, draws()
    for a, b in pairwise(SIGMAS):
        for _ in range(2):
            s = exact(x, 1.0, a)
            norms = s.norm(dim=1, keepdim=True) if norm == "sample" else math.sqrt(2) / a
            size = 2 * (0.16 * math.sqrt(2) / norms) ** 2
            x = x + size * s + (2 * size) ** 0.5 * z()
        x = x + (a**2 - b**2) * exact(x, 1.0, a) + math.sqrt(a**2 - b**2) * z()
    same(run(predictor_corrector, corrections=2, norm=norm, denoise=False), x)


def test_runge_kuttas_steps_are_the_classical():
    def slope(u, y):
        return -(math.exp(u) ** 2) * exact(y, 1.0, math.exp(u))

    x = START
    for a, b in pairwise(SIGMAS):
        u, h = math.log(a), math.log(b / a)
        k1 = slope(u, x)
        k2 = slope(u + h / 2, x + h / 2 * k1)
        k3 = slope(u + h / 2, x + h / 2 * k2)
        k4 = slope(u + h, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    same(run(flow_ode, denoise=False), x)


ORDERS = [(ddim, {}, 1), (dpm_solver, {"order": 1}, 1), (dpm_solver, {}, 2), (heun, {}, 2), (flow_ode, {}, 4)]


@pytest.mark.parametrize("path", [paths.edm(0.1, 10.0), VP, FLOW], ids=["edm", "vp", "rectified"])
@pytest.mark.parametrize("solver, options, order", ORDERS, ids=["ddim", "1S", "2M", "heun", "rk4"])
def test_order_of_convergence_to_the_probability_flow(solver, options, order, path):
    """Where y = x / alpha ends is known: its distance from the mean shrinks as sqrt(C^2 + rho^2)."""
    first, last = (float(path.sigma(t) / path.alpha(t)) for t in (path.t_max, path.t_min))
    alphas = [float(path.alpha(t)) for t in (path.t_max, path.t_min)]
    want = alphas[1] * (M + (START / alphas[0] - M) * math.sqrt((C**2 + last**2) / (C**2 + first**2)))
    counts = (80, 160) if order == 4 else (160, 320)
    errors = [
        (run(solver, path, steps=n, denoise=False, rule="log_snr", **options) - want).abs().max().item() for n in counts
    ]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15, errors


MIXTURE = GaussianMixture()


def of_mixture(x, sigma):
    return MIXTURE.score(x, sigma)


LEVELS = fs.schedules.geometric_sigmas(20.0, 0.02, 60)
EXACT = {
    "reverse_sde": lambda **k: reverse_sde(of_mixture, path=fs.schedules.geometric_sigmas(20.0, 0.02, 300), **k),
    # nothing that it does is forgotten: where it begins is told from N(mean, sigma_1^2) by less than it is tested to
    "ode": lambda **k: flow_ode(
        of_mixture, path=fs.schedules.geometric_sigmas(100.0, 0.02, 40), mean=MIXTURE.means.T @ MIXTURE.weights, **k
    ),
    "pc": lambda **k: predictor_corrector(of_mixture, path=LEVELS, snr=0.3, corrections=2, **k),
    "SDE-2M": lambda **k: sample(of_mixture, LEVELS, steps=30, **k),
    "annealed": lambda **k: annealed_langevin(
        of_mixture, sigmas=LEVELS[:40], step_size=0.08 * float(LEVELS[39]) ** 2, steps_per_level=30, **k
    ),
}


@pytest.mark.parametrize("draw", EXACT.values(), ids=EXACT)
def test_samples_of_the_exact_score_are_the_mixtures(draw):
    """Kolmogorov and Smirnov's test of two samples along two directions, and the weight of a mode, z < 3."""
    n = 2000
    x = draw(shape=(n, 2), conditioning="sigma", rng=fs.Philox(11), start="normal").double()
    y = MIXTURE.sample(n, fs.Philox(12)).double()
    for direction in ([1.0, 1.0], [1.0, -1.0]):
        along = torch.tensor(direction, dtype=torch.float64)
        assert stats.ks_2samp((x @ along).numpy(), (y @ along).numpy()).pvalue > 0.003
    weight = float((x.sum(1) > 0).double().mean())
    true = float((y.sum(1) > 0).double().mean())
    assert abs(weight - true) < 3 * math.sqrt(2 * 0.16 / n)


@each
@pytest.mark.parametrize("path", [VP, SIGMAS], ids=["vp", "levels"])
def test_sample_k_is_the_same_in_any_batch_and_from_any_start(solver, options, path):
    how = {"steps": 5, **options}
    score = on(path) if path is VP else by_sigma
    how |= {} if path is VP else {"conditioning": "sigma"}
    whole = solver(score, (6, 3), path, rng=fs.Philox(1), **how)
    alone = solver(score, (2, 3), path, rng=fs.Philox(1, sample_offset=4), **how)
    assert torch.equal(alone, whole[4:]) and torch.isfinite(whole).all()
    moved = solver(score, (6, 3), path, rng=fs.Philox(1), mean=torch.tensor([1.0, 2.0, 3.0]), **how)
    assert not torch.equal(moved, whole)


@each
def test_what_is_known_stays(solver, options):
    """Before the end it has the noise of its point, and at the end it is the image."""
    image, mask = torch.full((400, 4), 1.5), torch.tensor([True, False, False, True])
    seen = []
    x = solver(
        by_sigma,
        (400, 4),
        SIGMAS,
        conditioning="sigma",
        known=(image, mask),
        rng=fs.Philox(1),
        callback=lambda k, x: seen.append(x[:, 0].std().item()),
        **options,
    )
    assert torch.equal(x[:, mask], image[:, mask]) and abs(x[:, 1].mean() - M) < 0.5
    if options.get("churn") is None and solver is not predictor_corrector:
        for std, sigma in zip(seen, SIGMAS[1:]):
            assert abs(std / sigma - 1) < 4 / math.sqrt(2 * 400)


@each
def test_nan_stops_where_it_is(solver, options):
    calls = []

    def score(x, sigma):
        calls.append(1)
        return torch.where(torch.arange(len(x))[:, None] == 1, math.nan, -x) if len(calls) == 2 else -x

    with pytest.raises(NonFiniteSamples, match=r"NaN or infinity for 1 of 3 samples in update [12], at sigma [\d.]+"):
        solver(score, (3, 2), SIGMAS, conditioning="sigma", rng=fs.Philox(1), **options)
    assert len(calls) == 2


def test_a_device_by_its_short_name_is_its_tensors():
    """As tensors name it, with its index: what is known lies there."""
    with FakeTensorMode():
        assert check_device("cuda", None) == torch.empty(0, device="cuda").device == torch.device("cuda:0")
    assert check_device("cpu", None) == check_device(None, torch.zeros(1)) == torch.device("cpu")
