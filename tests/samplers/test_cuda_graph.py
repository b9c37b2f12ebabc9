"""A sampler's update as one CUDA graph: the samples of the loop, bit for bit; on a GPU, and as recorded on the CPU."""

import pytest
import torch

import fastscore as fs
from fastscore.models import build_model
from fastscore.samplers import Trajectory

from ..recorded import graphs_on_the_cpu
from .cases import BY_LEVELS, CASES, SIGMAS

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MORE = {"langevin": {"num_steps": 9}, "consistent": {"conditioning": "sigma", "steps_per_level": 4}}
NETWORKS = ("ncsn", "ncsnv2")


def network(device):
    """A score of [B, 3, 4] that depends on the level, and the same of sigma."""
    weight = fs.Philox(3).randn(4, 4, device=device)

    def score(x, level, shift=0.0):
        return x @ weight if level is None else x @ weight / (1 + level.view(-1, 1)) + shift

    return score


@pytest.fixture
def graphs(monkeypatch):
    return graphs_on_the_cpu(monkeypatch)


@pytest.mark.parametrize("conditioning", ["labels", "sigma"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_the_samples_of_the_loop(name, device, conditioning, graphs):
    case, options = CASES[name], MORE.get(name, {"steps_per_level": 3})
    options = options if name == "langevin" or "conditioning" in options else options | {"conditioning": conditioning}
    x, sigmas = torch.linspace(-1, 1, 12, device=device).view(3, 4), SIGMAS.to(device)
    results = []
    for cuda_graph in (False, True):
        rng, frames, kept = fs.Philox(2**63 + 5, step=7, sample_offset=2), [], Trajectory(2)
        last = case(
            network(device),
            x,
            sigmas,
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
    assert len(frames) >= 8 and len(graphs) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network(kind, device, graphs):
    """Whatever a network keeps of a level is not the first level's."""
    torch.manual_seed(0)
    levels = {"num_levels": 3} if kind == "ncsn" else {"sigmas": SIGMAS}
    net = build_model(kind, channels=1, image_size=8, ngf=4, **levels).eval().to(device)
    call = BY_LEVELS["annealed"]
    x = fs.Philox(1).rand(2, 1, 8, 8, device=device)
    ours, loop = (
        call(net, x, SIGMAS.to(device), rng=fs.Philox(0), steps_per_level=2, cuda_graph=graph)
        for graph in (True, False)
    )
    assert torch.equal(ours, loop) and len(graphs) == 1


def test_thinned_states(graphs):
    """Of which each is a tensor of its own, though the samples stay where they are."""
    x = torch.linspace(-1, 1, 12).view(3, 4)
    ours, loop = (
        fs.samplers.langevin(
            lambda x: -x,
            x,
            num_steps=9,
            step_size=lambda k: 0.1 / k,
            burn_in=2,
            thin=2,
            rng=fs.Philox(1),
            cuda_graph=graph,
        )
        for graph in (True, False)
    )
    assert torch.equal(ours, loop) and len(ours) == 3 and graphs


def test_a_source_on_the_device_moves_on_there(graphs):
    rng = fs.Philox(5, step=3, device="cpu")
    CASES["langevin"](network("cpu"), rng=rng, num_steps=6, cuda_graph=True)
    assert rng.step == 9 and rng.state is not None


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused(name, monkeypatch):
    case = CASES[name]
    with pytest.raises(ValueError, match=r"cuda_graph must be False on cpu, got True: only CUDA devices have graphs"):
        case(network("cpu"), cuda_graph=True)
    with pytest.raises(TypeError, match="cuda_graph must be True or False, got int 1"):
        case(network("cpu"), cuda_graph=1)
    graphs_on_the_cpu(monkeypatch)
    with pytest.raises(ValueError, match=r"rng must have \d+ of its 2\^32 steps left"):
        case(network("cpu"), cuda_graph=True, rng=fs.Philox(0, step=2**32 - 4))
    with pytest.raises(ValueError, match=r"cuda_graph must be False under torch\.func"):
        torch.func.vmap(lambda x: case(network("cpu"), x, cuda_graph=True), randomness="same")(torch.zeros(2, 3, 4))

    def reads(x, level):
        return -x * float(x.abs().max() < 1e9)

    many = MORE.get(name, {"steps_per_level": 5})
    with pytest.raises(RuntimeError, match=r"score_fn, or .* \(cuda_graph=False does without\), cannot be recorded"):
        case(reads, cuda_graph=True, **many)
