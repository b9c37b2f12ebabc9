"""The grids of solvers, what a network is told on them, and bad input."""

import math

import pytest
import torch

import fastscore as fs
from fastscore import paths
from fastscore.models import NCSN
from fastscore.samplers import ancestral, ddim, dpm_solver, heun, predictor_corrector, sample

from .test_solvers import SIGMAS, START, VP, by_sigma, on, run, same


def test_grids():
    """As many levels as there are updates to the clean sample, evenly; more only where sigma is told."""
    told = []

    def score(x, labels):
        told.append(labels[0].item())
        return -x

    for steps, denoise, want in [
        (None, True, [0, 1, 2, 3, 4, 5]),
        (None, False, [0, 1, 2, 3, 4]),
        (3, True, [0, 2, 5]),
        (2, False, [0, 2]),
        (1, True, [0]),
    ]:
        told.clear()
        ddim(score, (1, 1), SIGMAS, steps=steps, denoise=denoise)
        assert told == want
    told.clear()
    ddim(score, (1, 1), SIGMAS, steps=11, conditioning="sigma")
    assert told[::2] == pytest.approx(SIGMAS) and told[1] == pytest.approx(math.sqrt(40.0))
    told.clear()
    sample(score, paths.levels(SIGMAS), (1, 1))
    assert told == [0, 1, 2, 3, 4, 5]


def test_networks_that_as_score_wraps_are_told_t():
    """What predicts the noise of VP, and a network of sigma on another path, are the same score."""
    epsilon = fs.as_score(lambda x, t: -on_sigma(x, t) * on(VP)(x, t), kind="epsilon", path=VP)

    def on_sigma(x, t):
        return float(VP.sigma(t[0].double()))

    want = run(ddim, VP, steps=5)
    same(ddim(epsilon, START.shape, VP, steps=5, start=START), want)
    wide = fs.as_score(by_sigma, kind="score", path=VP, conditioning="sigma", rescale=True)
    same(ddim(wide, START.shape, VP, steps=5, start=START), want)
    on_levels = fs.as_score(by_sigma, kind="score", path=paths.levels(SIGMAS), conditioning="sigma")
    same(ddim(on_levels, START.shape, SIGMAS, start=START), run(ddim))


def test_a_network_of_labels_between_its_levels():
    torch.manual_seed(0)
    network = NCSN(channels=1, image_size=8, ngf=4, num_levels=3).eval()
    x, levels = torch.rand(2, 1, 8, 8), [1.0, 0.3, 0.1]
    norm = next(m for m in network.modules() if hasattr(m, "numbers"))
    with torch.no_grad():
        torch.nn.init.normal_(norm.embed.weight)
        for label in (0.0, 1.0, 2.0):
            assert torch.equal(network.at_level(label)(x), network.at_level(int(label))(x))
        near, half = network.at_level(1 + 1e-6)(x), network.at_level(0.5)(x)
        torch.testing.assert_close(near, network.at_level(1)(x), rtol=1e-3, atol=1e-4)
        weight = norm.embed.weight.clone()
        norm.embed.weight[0] = (weight[0] + weight[1]) / 2
        for other in (m for m in network.modules() if hasattr(m, "numbers") and m is not norm):
            other.embed.weight[0] = (other.embed.weight[0] + other.embed.weight[1]) / 2
        torch.testing.assert_close(network.at_level(0)(x), half)
    with pytest.raises(
        ValueError, match=r"^steps must keep to the 3 noise levels.*conditioning='sigma'.*interpolate=True"
    ):
        ddim(network, x.shape, levels, steps=5)
    assert torch.isfinite(ddim(network, x.shape, levels, steps=5, interpolate=True)).all()
    with pytest.raises(ValueError, match=r"^label must be from 0 to 2, got 2\.5"):
        network.at_level(2.5)
    with pytest.raises(ValueError, match=r"^interpolate must be False"):
        ddim(lambda x, labels: -x, x.shape, levels, steps=5, interpolate=True)


WRONG = {
    "steps": [{"steps": 0}, {"steps": 7}, {"steps": 2.0}],
    "rule": [{"rule": "even"}],
    "path": [{"path": [1.0, 2.0]}, {"path": [1.0, 0.0]}, {"path": 3}],
    "conditioning": [
        {"conditioning": "noise"},
        {"path": VP, "conditioning": "labels"},
        {"path": VP, "interpolate": True},
    ],
    "mean": [{"mean": torch.zeros(3)}, {"mean": "data"}],
    "denoise": [{"denoise": 1}],
    "known": [{"known": torch.zeros(2, 2)}],
    "start": [{"start": torch.zeros(3)}],
    "device": [{"device": "bogus"}, {"device": "cuda:99"}, {"device": 1.5}],
}


@pytest.mark.parametrize("name, changes", [(name, case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_argument_is_named_and_nothing_is_drawn(name, changes):
    rng = fs.Philox(1)
    arguments = {"path": SIGMAS, "rng": rng} | changes
    with pytest.raises((TypeError, ValueError), match=f"^{name}"):
        ddim(lambda x, i: -x, (2, 2), **arguments)
    assert rng.step == 0


@pytest.mark.parametrize(
    "solver, wrong",
    [
        (ddim, {"eta": 1.5}),
        (ddim, {"eta": 1e-320}),  # float32 does not hold what it multiplies: the text named one of its products
        (ancestral, {"variance": "small"}),
        (dpm_solver, {"order": 3}),
        (heun, {"churn": -1.0}),
        (heun, {"churn_max": -1.0}),
        (predictor_corrector, {"predictor": "euler"}),
        (predictor_corrector, {"corrections": -1}),
        (predictor_corrector, {"snr": 0.0}),
        (predictor_corrector, {"snr": 1e30}),
        (predictor_corrector, {"snr": 1e-320}),
        (predictor_corrector, {"norm": "batch"}),
    ],
)
def test_a_wrong_option_is_named(solver, wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
        solver(lambda x, i: -x, (2, 2), SIGMAS, **wrong)
