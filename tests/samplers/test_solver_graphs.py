"""Solvers of a grid whose updates are CUDA graphs, one of each kind: the loop's samples, bit for bit."""

import pytest
import torch

import fastscore as fs
from fastscore import paths
from fastscore._core.errors import NonFiniteSamples
from fastscore.models import build_model
from fastscore.samplers import SAMPLERS, Trajectory, adaptive_ode, ddim, dpm_solver, gotta_go_fast, heun

from ..recorded import graphs_on_the_cpu
from .test_solvers import SOLVERS, each

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LEVELS = fs.schedules.geometric_sigmas(8.0, 0.05, 9)
PATHS = {"labels": LEVELS, "sigma": LEVELS, "t": paths.vp_linear()}
BETWEEN = ("ode", "churn")  # which ask between the levels, where there are no labels


def network(device):
    """A score of [B, 4] that depends on what it is told."""
    weight = -fs.Philox(3).rand(4, 4, device=device)

    def score(x, level, shift=0.0):
        return x @ weight / (1 + level.view(-1, 1)) + shift

    return score


@pytest.fixture
def graphs(monkeypatch):
    return graphs_on_the_cpu(monkeypatch)


@pytest.mark.parametrize("known", [False, True], ids=["all", "known"])
@pytest.mark.parametrize("conditioning", PATHS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SOLVERS)
def test_the_samples_of_the_loop(name, device, conditioning, known, graphs):
    if conditioning == "labels" and name in BETWEEN:
        pytest.skip("there are no labels between levels")
    solver, options = SOLVERS[name]
    part = (torch.linspace(-1, 1, 12, device=device).view(3, 4), torch.arange(4, device=device) < 2)
    results = []
    for cuda_graph in (False, True):
        rng, frames, kept = fs.Philox(2**63 + 5, step=7, sample_offset=2), [], Trajectory(2)
        last = solver(
            network(device),
            (3, 4),
            PATHS[conditioning],
            steps=9,
            device=device,
            conditioning=conditioning,
            known=part if known else None,
            rng=rng,
            callback=lambda step, x, frames=frames: frames.append(x),
            trajectory=kept,
            model_kwargs={"shift": 0.25},
            cuda_graph=cuda_graph,
            **options,
        )
        assert rng.state is None
        results.append([last, *frames, *kept.frames, torch.tensor(rng.step)])
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert len(frames) >= 9 and graphs


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind, names", [("ncsn", ("dpm_sde", "pc")), ("ncsnv2", ("dpm_sde", "heun", "ode"))])
def test_a_network_by_the_registry(kind, names, device, graphs):
    """Whatever a network keeps of a level is not the first level's."""
    torch.manual_seed(0)
    levels = {"num_levels": 9} if kind == "ncsn" else {"sigmas": LEVELS}
    net = build_model(kind, channels=1, image_size=8, ngf=4, **levels).eval().to(device)
    for name in names:
        entry = SAMPLERS[name]
        ours, loop = (
            entry.run(
                net,
                (2, 1, 8, 8),
                LEVELS.to(device),
                entry.complete({}),
                rng=fs.Philox(0),
                device=torch.device(device),
                callback=None,
                trajectory=None,
                cuda_graph=graph,
            )
            for graph in (True, False)
        )
        assert torch.equal(ours, loop) and graphs, name


@each
@pytest.mark.filterwarnings("ignore:3 of 3 samples are not finite")
def test_nan_stops_at_its_update(solver, options, graphs):
    """Which the device counts: the update of a score that is NaN at one noise level alone."""

    def score(x, sigma):
        return -x / (1 + sigma.view(-1, 1)) + torch.where(sigma.view(-1, 1) < LEVELS[6], torch.nan, 0.0)

    def run(graph):
        return solver(score, (3, 2), LEVELS, conditioning="sigma", rng=fs.Philox(1), cuda_graph=graph, **options)

    with pytest.raises(NonFiniteSamples, match=r"for \d of 3 samples in update (\d+), at sigma") as loop:
        run(False)
    update = str(loop.value).split("in update ")[1].split(",")[0]
    with pytest.raises(NonFiniteSamples, match=rf"for some samples in update {update}, from sigma [\d.]+: sampling"):
        run(True)


def test_what_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"cuda_graph must be False on cpu, got True: only CUDA devices have graphs"):
        ddim(network("cpu"), (3, 4), LEVELS, cuda_graph=True)
    graphs_on_the_cpu(monkeypatch)
    for solver in (adaptive_ode, gotta_go_fast):
        with pytest.raises(ValueError, match=r"^cuda_graph must be False for a solver that chooses its own steps, got"):
            solver(network("cpu"), (3, 64), PATHS["t"], cuda_graph=True)
    with pytest.raises(ValueError, match=r"rng must have \d+ of its 2\^32 steps left"):
        dpm_solver(network("cpu"), (3, 4), LEVELS, eta=1.0, cuda_graph=True, rng=fs.Philox(0, step=2**32 - 4))
    with pytest.raises(ValueError, match=r"^cuda_graph must be False where a network of labels is asked between"):
        heun(network("cpu"), (3, 4), LEVELS, churn=9.0, interpolate=True, cuda_graph=True)

    def reads(x, level):
        return -x * float(x.abs().max() < 1e9)

    with pytest.raises(RuntimeError, match=r"score_fn, or .* \(cuda_graph=False does without\), cannot be recorded"):
        ddim(reads, (3, 4), LEVELS, cuda_graph=True)


def test_coefficients_beyond_float32_are_refused(graphs):
    for graph, name in ((False, "b"), (True, "path")):
        with pytest.raises(ValueError, match=rf"^{name}.* must .*finite"):
            ddim(
                network("cpu"),
                (3, 4),
                [1e25, 1e24, 1.0],
                conditioning="sigma",
                start=torch.zeros(3, 4),
                cuda_graph=graph,
            )
