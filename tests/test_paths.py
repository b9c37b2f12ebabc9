"""Gaussian paths: their formulas, that all of them obey one another's laws, their grids, and what is refused."""

import math
import pickle
import re

import pytest
import torch

import fastscore as fs
from fastscore import paths

from .conftest import z_mean, z_variance

SIGMAS = torch.tensor([2.0, 1.0, 0.5, 0.1])
PATHS = {
    "ve": paths.ve(0.02, 8.0),
    "edm": paths.edm(),
    "vp_linear": paths.vp_linear(),
    "vp_cosine": paths.vp_cosine(),
    "vp_discrete": paths.vp_discrete(),
    "sub_vp": paths.sub_vp(),
    "rectified": paths.rectified(),
    "custom": paths.Path(alpha=lambda t: (-t).exp(), sigma=lambda t: t.sqrt(), t_min=0.1, t_max=2.0),
}
ALL = PATHS | {"levels": paths.levels(SIGMAS)}


def inside(path, n=9):
    return torch.linspace(path.t_min, path.t_max, n + 2, dtype=torch.float64)[1:-1]


def close(a, b, rtol=1e-9, atol=0.0):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", PATHS)
def test_drift_and_diffusion_are_the_derivatives(name):
    """By central differences; and together they keep the variance: d sigma^2/dt = 2 f sigma^2 + g^2."""
    path, t = PATHS[name], inside(PATHS[name]) + (0.25 if name == "vp_discrete" else 0.0)  # not at a knot
    h = 1e-5 * (path.t_max - path.t_min)
    up, down = t + h, t - h
    f = (path.alpha(up).log() - path.alpha(down).log()) / (2 * h)
    rise = (path.sigma(up).square() - path.sigma(down).square()) / (2 * h)
    close(path.drift(t), f, 1e-6, 1e-7)
    close(path.diffusion_squared(t), rise - 2 * f * path.sigma(t).square(), 1e-5, 1e-9)
    assert bool((path.diffusion_squared(t) > 0).all())
    close(path.log_snr(t), 2 * (path.alpha(t) / path.sigma(t)).log())


def test_formulas():
    t = torch.tensor([0.1, 0.6], dtype=torch.float64)
    ve, vp, sub = paths.ve(0.02, 8.0), paths.vp_linear(0.1, 20.0), paths.sub_vp(0.1, 20.0)
    close(ve.sigma(t), 0.02 * 400.0**t)
    close(ve.diffusion_squared(t), 2 * math.log(400) * ve.sigma(t).square())
    assert torch.equal(ve.alpha(t), torch.ones_like(t)) and torch.equal(ve.drift(t), torch.zeros_like(t))
    beta, total = 0.1 + t * 19.9, 0.1 * t + t**2 * 19.9 / 2
    close(vp.alpha(t), (-total / 2).exp())
    close(vp.alpha(t).square() + vp.sigma(t).square(), torch.ones_like(t))
    close(vp.drift(t), -beta / 2)
    close(vp.diffusion_squared(t), beta)
    close(sub.sigma(t), 1 - vp.alpha(t).square())
    close(sub.diffusion_squared(t), beta * (1 - (-2 * total).exp()))  # score_sde's
    cosine = paths.vp_cosine()
    bar = (((t + 0.008) / 1.008 * math.pi / 2).cos() / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    close(cosine.alpha(t).square(), bar)
    close(cosine.sigma(t).square(), 1 - bar)
    flow = paths.rectified()
    close(flow.drift(t), -1 / (1 - t))
    close(flow.diffusion_squared(t), 2 * t / (1 - t))
    close(paths.edm().diffusion_squared(t), 2 * t)


def test_what_libraries_call_vp():
    """Sixty-fold apart at the end: no path here is called so, and each has its parameters."""
    linear, discrete = paths.vp_linear(beta_min=0.1, beta_max=20.0), paths.vp_discrete(1e-4, 0.02, 1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    close(discrete.alpha(torch.arange(1000.0, dtype=torch.float64)), (1 - betas).cumprod(0).sqrt())  # Ho et al. 2020
    assert float(linear.alpha(1.0)) == pytest.approx(math.exp(-5.025), rel=1e-12)  # 0.006572, score_sde
    assert float(discrete.alpha(999)) == pytest.approx(0.0063528, rel=1e-4)
    scaled = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert float(paths.vp_discrete(betas=scaled).alpha(999)) == pytest.approx(0.06826, rel=1e-3)  # latent diffusion
    assert not hasattr(paths, "vp")


@pytest.mark.parametrize("name", PATHS)
def test_inverses_and_dtypes(name):
    path, t = PATHS[name], inside(PATHS[name])
    close(path.t_of_sigma(path.sigma(t)), t, 1e-9)
    close(path.t_of_log_snr(path.log_snr(t)), t, 1e-9)
    close(path.t_of_sigma(path.sigma(path.t_max)), torch.tensor(path.t_max, dtype=torch.float64))
    single = path.sigma(t.float())
    assert single.dtype == torch.float32 and path.sigma(0.5 if name != "levels" else 1.0).dtype == torch.float64
    close(single.double(), path.sigma(t), 1e-4)
    for end in (path.t_min, path.t_max):  # as float32 has them
        assert float(path.sigma(torch.tensor([end]))) == pytest.approx(float(path.sigma(end)))


@pytest.mark.parametrize("name", ["ve", "vp_linear"])
def test_inverses_of_slices_of_vmap(name):
    """Those of a batch; NaN of what is not on the path, where no value can be read."""
    path = PATHS[name]
    sigma = path.sigma(inside(path))
    assert torch.equal(torch.func.vmap(path.t_of_sigma)(sigma), path.t_of_sigma(sigma))
    assert torch.func.vmap(path.t_of_sigma)(torch.tensor([0.0, 0.5, 1e3])).isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("name", [name for name in ALL if name != "custom"])
def test_a_path_is_kept_and_printed(name):
    path = ALL[name]
    again = pickle.loads(pickle.dumps(path))
    t = torch.tensor(path.t_max)
    assert torch.equal(again.log_snr(t), path.log_snr(t)) and repr(again) == repr(path) and name in repr(path)
    with pytest.raises(AttributeError, match="t_max of a Path cannot be changed"):
        path.t_max = 3.0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("clean", [True, False])
def test_grids(name, clean):
    path = ALL[name]
    for rule in ("levels",) if name == "levels" else ("time", "log_snr", "karras"):
        grid = path.grid(3, rule, clean=clean)
        assert grid.t[0] == path.t_max and grid.t[-1] == path.t_min and len(grid.t) == 4 - clean
        assert len(grid.alpha) == len(grid.sigma) == 4 and grid.sigma.dtype == torch.float64
        assert bool((grid.t.diff() < 0).all()) and bool((grid.sigma.diff() < 0).all())
        if clean:
            assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
        close(grid.sigma[: len(grid.t)], path.sigma(grid.t))
        steps = {"time": grid.t, "log_snr": path.log_snr(grid.t)}.get(rule)
        if rule == "karras":
            steps = (grid.sigma / grid.alpha)[: len(grid.t)] ** (1 / 7)
        if steps is not None:
            close(steps.diff(), steps.diff().mean().expand(len(steps) - 1), 1e-6)
    assert len(path.grid(1).t) == 1


def test_levels_are_the_only_times():
    path = ALL["levels"]
    assert path.grid(4).t.tolist() == path.grid_at(SIGMAS).t.tolist() == SIGMAS.tolist()
    assert path.grid(2).t.tolist() == pytest.approx([2.0, 0.1])
    assert path.labels(torch.tensor([0.1, 2.0])).tolist() == [3, 0]
    assert float(path.t_of_sigma(0.5)) == 0.5
    with pytest.raises(
        ValueError, match=r"sigma must be one of the 4 noise levels .* got 0.7 \(the nearest is 1\).*edm"
    ):
        path.sigma(0.7)
    with pytest.raises(ValueError, match="steps must be at most 4, with the 4 noise levels"):
        path.grid(5)
    with pytest.raises(ValueError, match="rule must be 'levels', whose network knows no others"):
        path.grid(2, "karras")
    with pytest.raises(ValueError, match="t has labels on a path of noise levels alone"):
        PATHS["ve"].labels(0.5)


@pytest.mark.parametrize("name", ["ve", "vp_linear", "rectified"])
def test_marginal_and_prior(name):
    """Data N(m, c^2) at the end of the path are N(alpha m, sigma^2 + alpha^2 c^2), and sample k alone is that sample."""
    path, mean, c, n = PATHS[name], torch.tensor([0.5, -1.0]), 0.8, 40_000
    x = path.prior((n, 2), mean=mean, std=c, rng=fs.Philox(1))
    alpha, sigma = float(path.alpha(path.t_max)), float(path.sigma(path.t_max))
    variance = sigma**2 + alpha**2 * c**2
    for d in range(2):
        assert abs(z_mean(x[:, d], alpha * float(mean[d]), variance)) < 4
        assert abs(z_variance(x[:, d].double() - alpha * float(mean[d]), variance)) < 4
    alone = path.prior((1, 2), mean=mean, std=c, rng=fs.Philox(1, sample_offset=7))
    assert torch.equal(alone, x[7:8])
    t = torch.full((3,), path.t_max)
    middle, std = path.marginal(mean.expand(3, 2), t)
    close(middle, path.alpha(t)[:, None] * mean, 1e-6)
    close(std, path.sigma(t), 1e-6)


def linear(**changes):
    return paths.Path(**{"alpha": lambda t: 1 - t, "sigma": lambda t: t, "t_max": 0.9} | changes)


BAD = {
    "t beyond": (lambda: PATHS["vp_linear"].sigma(1.5), ValueError, "t must be from 0.001 to 1, .*vp_linear.*got 1.5"),
    "t before": (
        lambda: PATHS["vp_linear"].sigma(torch.tensor([0.5, 0.0])),
        ValueError,
        "t must be from 0.001 .*got 0",
    ),
    "t nan": (lambda: PATHS["ve"].alpha(torch.tensor([math.nan])), ValueError, "t must be from 0 to 1.*got nan"),
    "t text": (lambda: PATHS["ve"].alpha("1"), TypeError, "t must be finite|t must be a number|got str '1'"),
    "t integers": (lambda: PATHS["ve"].alpha(torch.ones(2).int()), TypeError, "t must be float16.*int32"),
    "alpha no function": (lambda: linear(alpha=1.0), TypeError, "alpha must be a function of t, got float 1.0"),
    "alpha reaches 0": (
        lambda: linear(t_max=1.0),
        ValueError,
        "alpha must be .*greater than 0.*got 0.0 at t = 1: choose t_max",
    ),
    "sigma starts at 0": (lambda: linear(t_min=0.0), ValueError, "sigma must be .*got 0.0 at t = 0: choose t_min"),
    "alpha no tensor": (lambda: linear(alpha=lambda t: 1.0), ValueError, "alpha must be elementwise"),
    "not monotone": (
        lambda: linear(sigma=lambda t: 1 - t),
        ValueError,
        "alpha / sigma must be strictly decreasing in t",
    ),
    "ends": (lambda: linear(t_min=0.9), ValueError, "t_max must be greater than t_min, 0.9, got 0.9"),
    "sigmas turned": (lambda: paths.ve(2.0, 1.0), ValueError, "sigma_max must be greater than sigma_min, 2.0, got 1.0"),
    "betas turned": (lambda: paths.sub_vp(2.0, 1.0), ValueError, "beta_max must be at least beta_min"),
    "betas wrong": (lambda: paths.vp_discrete(betas=[0.1, 1.0]), ValueError, "betas must have shape"),
    "levels turned": (lambda: paths.levels(SIGMAS.flip(0)), ValueError, "sigmas must be strictly decreasing"),
    "steps": (lambda: PATHS["ve"].grid(0), ValueError, "steps must be at least 1, got 0"),
    "rule": (
        lambda: PATHS["ve"].grid(3, "cosine"),
        ValueError,
        "rule must be one of 'time', 'log_snr', 'karras', 'levels'",
    ),
    "rule levels": (
        lambda: PATHS["ve"].grid(3, "levels"),
        ValueError,
        "rule must be 'time', 'log_snr' or 'karras', for ve",
    ),
    "grid rises": (
        lambda: PATHS["ve"].grid_at([0.1, 0.5]),
        ValueError,
        "t must be strictly decreasing, the largest noise",
    ),
    "grid of one": (
        lambda: PATHS["ve"].grid_at([0.1], clean=False),
        ValueError,
        r"t must have shape \(n,\) with n at least 2",
    ),
    "sigma not there": (lambda: PATHS["ve"].t_of_sigma(9.0), ValueError, "sigma must be from 0.02 to 8 on ve.*got 9"),
    "sigma just below": (
        lambda: paths.ve(0.001, 1378.0).t_of_sigma(torch.tensor([0.001, 0.0005])),
        ValueError,
        "sigma must be from 0.001 to 1378 on ve.*got 0.0005",
    ),
    "sigma below 0": (
        lambda: paths.ve(0.001, 1378.0).t_of_sigma(-1e-4),
        ValueError,
        "sigma must be from .* got -0.0001",
    ),
    "mean of a batch": (
        lambda: PATHS["ve"].prior((4, 2), mean=torch.zeros(4, 1)),
        ValueError,
        r"mean must be a number or broadcast to a sample's shape, \(2,\), got a float32 tensor of shape \(4, 1\)",
    ),
    "std too long": (lambda: PATHS["ve"].prior((4, 1), std=torch.ones(3)), ValueError, r"std must .*\(1,\)"),
    "log_snr not there": (lambda: PATHS["ve"].t_of_log_snr(99.0), ValueError, "log_snr must be from .* got 99"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, message = BAD[name]
    with pytest.raises(error) as caught:
        call()
    assert re.search(message, str(caught.value)), caught.value
