"""Solvers that choose their steps, each sample for itself."""

import math
import sys
import warnings

import pytest
import torch

import fastscore as fs
from fastscore import paths
from fastscore._core import checks
from fastscore._core.errors import MissingDependency, NonFiniteSamples, NotConverged
from fastscore.guidance import with_label
from fastscore.samplers import Trajectory, adaptive_ode, gotta_go_fast

C, M = 0.5, 2.0
VP, EDM = paths.vp_linear(), paths.edm(0.1, 10.0)


def on(path):
    def score(x, t):
        alpha, sigma = (v.to(x).reshape(-1, 1) for v in (path.alpha(t.double()), path.sigma(t.double())))
        return -(x - alpha * M) / (alpha**2 * C**2 + sigma**2)

    return score


@pytest.fixture(autouse=True)
def _steps(torchode):
    """Of adaptive_ode, whether torchode is installed or not."""


ode = adaptive_ode


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
    assert len(seen) == 3  # the next takes all that is left, and then the clean sample is told


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
    rngs = fs.Philox(1), fs.Philox(1, sample_offset=3)
    gotta_go_fast(score, (3, 64), path, rng=rngs[0], **told)
    alone = gotta_go_fast(score, (2, 64), path, rng=rngs[1], **told)
    assert torch.equal(alone, whole[3:])
    assert rngs[0].step == rngs[1].step == 1001  # whatever each took, so that what is drawn next does not depend on it


def test_gotta_go_fast_keeps_what_is_of_each_sample_beside_it():
    """Data N(m_k, C^2), m_k given by ``model_kwargs`` and by a guided class: each sample is the one of its own m_k."""
    means, drawn = torch.linspace(-3, 3, 5)[:, None], []

    def score(x, t, *, mean=None, class_labels=None):
        alpha, sigma = (v.to(x).reshape(-1, 1) for v in (VP.alpha(t.double()), VP.sigma(t.double())))
        mean = means[class_labels] if mean is None else mean
        drawn.append(len(x))
        return -(x - alpha * mean) / (alpha**2 * C**2 + sigma**2)

    ways = {
        "model_kwargs": (score, {"model_kwargs": {"mean": means}}),
        "label": (with_label(score, torch.arange(5)), {}),
    }
    start = 3 * fs.Philox(2).randn(5, 64)
    found = [
        gotta_go_fast(f, (5, 64), VP, **({"rng": fs.Philox(1), "start": start} | more)) for f, more in ways.values()
    ]
    assert torch.equal(*found) and set(drawn) == {5}
    for k in range(5):
        told = {"rng": fs.Philox(1, sample_offset=k), "start": start[k : k + 1]}
        alone = gotta_go_fast(with_label(score, k), (1, 64), VP, **told)
        assert torch.equal(alone[0], found[0][k])


def test_where_values_cannot_be_read_a_score_of_nan_stops_gotta_go_fast(monkeypatch):
    monkeypatch.setattr(checks, "readable", lambda value: False)  # as on a GPU
    seen = []
    with pytest.raises(NonFiniteSamples, match="for some samples in update 1, at t from 1 to 1"):
        gotta_go_fast(lambda x, t: x * math.nan, (3, 64), VP, callback=lambda k, x: seen.append(k))
    assert not seen
    with pytest.raises(
        NonFiniteSamples, match="3 of 3 samples took a step to NaN or infinity in update 1, of finite sc"
    ):
        gotta_go_fast(lambda x, t: torch.full_like(x, 3e38), (3, 64), VP, first_step=1.0)


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
    with pytest.raises(MissingDependency, match=r"torchode.*\[ode\].*--no-deps torchode torchtyping"):
        adaptive_ode(on(VP), (2, 2), VP, rng=rng)
    assert rng.step == 0


@pytest.mark.parametrize("solver", [gotta_go_fast, ode], ids=["ggf", "ode"])
def test_what_does_not_converge_says_so(solver):
    with pytest.raises(
        NotConverged,
        match=r"3 of 3 samples were not there after max_steps=2 steps.*, the last at t = 0\.\d+ on the way to 0\.001: raise",
    ):
        solver(on(VP), (3, 64), VP, rng=fs.Philox(1), max_steps=2)
    with pytest.raises(NonFiniteSamples, match="in update 1, at t from 1 to 1"):
        solver(lambda x, t: x * math.nan, (3, 64), VP, rng=fs.Philox(1))

    def late(x, t):
        return on(VP)(x, t) + torch.where(t.view(-1, 1) < 0.4, math.nan, 0.0)

    steps = {"steps": 9} if solver is ode else {}
    with pytest.raises(NonFiniteSamples, match=r"for [123] of 3 samples in update ([3-9]|\d\d), at t from 0\.3"):
        solver(late, (3, 64), VP, rng=fs.Philox(1), **steps)


@pytest.mark.parametrize("solver", [gotta_go_fast, ode], ids=["ggf", "ode"])
def test_what_is_known_stays(solver):
    """At each point, or each sample's own time, it has that noise, and at the end it is the image; sample k alone too."""
    image, mask = torch.full((300, 64), 1.5), torch.arange(64) % 2 == 0
    frames, kept = [], Trajectory(every=4)

    def run(first=0, **how):
        part = image[first:]
        return solver(
            on(EDM), part.shape, EDM, known=(part, mask), rng=fs.Philox(1, sample_offset=first), mean=M, **how
        )

    x = run(callback=lambda k, x: frames.append(x), trajectory=kept)
    assert torch.equal(x[:, mask], image[:, mask])
    n = x[:, ~mask].numel()
    assert abs(float(x[:, ~mask].mean()) - M) < 4 * C / math.sqrt(n) + 0.02
    assert abs(float(x[:, ~mask].std()) / C - 1) < 4 / math.sqrt(2 * n) + 0.04
    assert kept.steps[-1] == len(frames) and torch.equal(kept.frames[-1], frames[-1])  # also where 4 does not divide it
    if solver is ode:  # 20 points, and the noise of each
        grid = EDM.grid(20)
        for frame, sigma in zip(frames, grid.sigma[1:-1].tolist(), strict=False):
            noise = frame[:, mask] - 1.5
            assert abs(float(noise.std()) / sigma - 1) < 4 / math.sqrt(2 * noise.numel())
        assert len(frames) == 20
        torch.testing.assert_close(run(298), x[298:], rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(run(298), x[298:])
        left = (frames[-2] - 1.5)[:, mask]  # all are at the least noise
        assert abs(float(left.std()) / 0.1 - 1) < 4 / math.sqrt(2 * left.numel())


def test_the_adaptive_ode_goes_by_the_points_of_a_grid():
    """To the same end, and the callback sees the flow at each: one, and the clean sample, unless more are asked for."""
    start, rho = 10 * fs.Philox(3).randn(3, 2, dtype=torch.float64), EDM.grid(6).sigma
    options = {"start": start, "rtol": 1e-7, "atol": 1e-7}
    frames, few = [], []
    by_grid = ode(on(EDM), start.shape, EDM, steps=6, callback=lambda k, x: frames.append(x), **options)
    torch.testing.assert_close(
        ode(on(EDM), start.shape, EDM, callback=lambda k, x: few.append(k), **options), by_grid, rtol=1e-5, atol=1e-5
    )
    assert few == [1, 2] and len(frames) == 6
    for frame, sigma in zip(frames, rho[1:-1].tolist(), strict=False):
        want = M + (start - M) * math.sqrt((C**2 + sigma**2) / (C**2 + 10.0**2))
        torch.testing.assert_close(frame, want, rtol=1e-5, atol=1e-5)


WRONG = {
    "rtol": [{"rtol": -1.0}],
    "atol": [{"atol": 0.0}],
    "max_steps": [{"max_steps": 0}],
    "conditioning": [{"path": [1.0, 0.1]}],
    "path": [{"path": [1.0], "conditioning": "sigma"}],
}


@pytest.mark.parametrize("name, changes", [("steps", {"steps": 5}), ("rule", {"rule": "time"})])
def test_gotta_go_fast_has_no_grid(name, changes):
    with pytest.raises(ValueError, match=f"^{name} must be None for a solver that chooses its own steps"):
        gotta_go_fast(on(VP), (2, 64), VP, **changes)


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
