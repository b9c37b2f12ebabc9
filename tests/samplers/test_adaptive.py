"""Solvers that choose their steps, each sample for itself."""

import math
import sys
import warnings

import pytest
import torch

import fastscore as fs
from fastscore import paths
from fastscore._core.errors import MissingDependency, NonFiniteSamples, NotConverged
from fastscore.samplers import adaptive_ode, gotta_go_fast

C, M = 0.5, 2.0
VP, EDM = paths.vp_linear(), paths.edm(0.1, 10.0)


def on(path):
    def score(x, t):
        alpha, sigma = (v.to(x).reshape(-1, 1) for v in (path.alpha(t.double()), path.sigma(t.double())))
        return -(x - alpha * M) / (alpha**2 * C**2 + sigma**2)

    return score


def ode(*arguments, **options):
    pytest.importorskip("torchode")
    return adaptive_ode(*arguments, **options)


@pytest.mark.parametrize("path", [VP, paths.ve(0.01, 20.0)], ids=["vp", "ve"])
def test_gotta_go_fast_on_gaussian_data(path):
    x = gotta_go_fast(on(path), (40, 256), path, mean=M, rng=fs.Philox(1)).double()
    n = x.numel()
    assert abs(float(x.mean()) - M) < 4 * C / math.sqrt(n) + 0.005  # and what the tolerance lets by
    assert abs(float(x.std()) / C - 1) < 4 / math.sqrt(2 * n) + 0.01


def test_one_step_is_the_papers():
    """Algorithm 1 with a tolerance that takes the whole path for a step, and the noise of the first draw."""
    start = fs.Philox(3).randn(4, 64, dtype=torch.float64)
    seen = []
    gotta_go_fast(
        on(VP),
        start.shape,
        VP,
        start=start,
        rng=fs.Philox(5),
        first_step=0.3,
        rtol=1e6,
        atol=1e6,
        callback=lambda k, x: seen.append(x),
    )
    z = fs.Philox(5).randn(4, 64, stream=fs.Stream.LANGEVIN, dtype=torch.float64)
    t, h = 1.0, 0.3 * (1 - 1e-3)

    def moved(x, at, t):
        t = torch.tensor([t], dtype=torch.float64)
        beta = 0.1 + 19.9 * t
        return x + h * (beta / 2 * at + beta * on(VP)(at, t)) + (h * beta).sqrt() * z

    first = moved(start, start, t)
    second = moved(start, first, t - h)
    torch.testing.assert_close(seen[0], (first + second) / 2, rtol=1e-9, atol=1e-9)
    assert len(seen) == 2  # the next takes all that is left


def test_a_tighter_tolerance_takes_more_steps():
    def steps(**how):
        seen = []
        gotta_go_fast(on(VP), (4, 64), VP, mean=M, rng=fs.Philox(1), callback=lambda k, x: seen.append(k), **how)
        assert seen == [*range(1, len(seen) + 1)]
        return len(seen)

    assert steps(rtol=0.01) > 1.2 * steps(rtol=0.05)


@pytest.mark.parametrize("levels", [False, True], ids=["path", "levels"])
def test_gotta_go_fast_draws_sample_k_alone(levels):
    path, told = (fs.schedules.geometric_sigmas(10.0, 0.1, 5), {"conditioning": "sigma"}) if levels else (VP, {})
    score = on(paths.edm(0.05, 20.0)) if levels else on(VP)
    whole = gotta_go_fast(score, (5, 64), path, rng=fs.Philox(1), **told)
    alone = gotta_go_fast(score, (2, 64), path, rng=fs.Philox(1, sample_offset=3), **told)
    assert torch.equal(alone, whole[3:])


@pytest.mark.parametrize("method, tight", [("dopri5", 1e-5), ("tsit5", 1e-5), ("heun", 1e-4)])
def test_the_adaptive_ode_is_as_exact_as_asked(method, tight):
    start = 10 * fs.Philox(3).randn(5, 2, dtype=torch.float64)
    want = M + (start - M) * math.sqrt((C**2 + 0.1**2) / (C**2 + 10.0**2))
    options = {"method": method, "start": start, "denoise": False}
    errors = [
        float((ode(on(EDM), start.shape, EDM, rtol=tol, atol=tol, **options) - want).abs().max())
        for tol in (1e-2, tight)
    ]
    assert errors[1] < 30 * tight and errors[1] < errors[0] / 10
    alone = ode(on(EDM), (2, 2), EDM, **(options | {"start": start[3:]}))
    torch.testing.assert_close(alone, ode(on(EDM), start.shape, EDM, **options)[3:], rtol=1e-6, atol=1e-6)


def test_the_adaptive_ode_without_torchode(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchode", None)
    rng = fs.Philox(1)
    with pytest.raises(MissingDependency, match=r"torchode.*\[ode\]"):
        adaptive_ode(on(VP), (2, 2), VP, rng=rng)
    assert rng.step == 0


@pytest.mark.parametrize("solver", [gotta_go_fast, ode], ids=["ggf", "ode"])
def test_what_does_not_converge_says_so(solver):
    with pytest.raises(NotConverged, match="samples were not there after max_steps=2 steps"):
        solver(on(VP), (3, 64), VP, rng=fs.Philox(1), max_steps=2)
    with pytest.raises(NonFiniteSamples, match="in update 1, at t from"):
        solver(lambda x, t: x * math.nan, (3, 64), VP, rng=fs.Philox(1))


WRONG = {
    "rtol": [{"rtol": -1.0}],
    "atol": [{"atol": 0.0}],
    "max_steps": [{"max_steps": 0}],
    "steps": [{"steps": 5}],
    "rule": [{"rule": "time"}],
    "known": [{"known": (torch.zeros(2, 64), torch.ones(64, dtype=torch.bool))}],
    "conditioning": [{"path": [1.0, 0.1]}],
    "path": [{"path": [1.0], "conditioning": "sigma"}],
}


@pytest.mark.parametrize("solver", [gotta_go_fast, adaptive_ode], ids=["ggf", "ode"])
@pytest.mark.parametrize("name, changes", [(name, case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_argument_is_named_and_nothing_is_drawn(solver, name, changes):
    rng = fs.Philox(1)
    with pytest.raises((TypeError, ValueError), match=f"^{name} must"):
        solver(lambda x, t: -x, (2, 64), **({"path": VP, "rng": rng} | changes))
    assert rng.step == 0


def test_a_few_elements_are_warned_of():
    with pytest.warns(UserWarning, match="samples of 2 elements, fewer than 64, are too wide"):
        gotta_go_fast(on(VP), (3, 2), VP, rng=fs.Philox(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gotta_go_fast(on(VP), (3, 64), VP, rng=fs.Philox(1))
