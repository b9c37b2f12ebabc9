"""What makes a GPU fast: what combines with what, as docs/gpu.md says, and graphs that give the loop's weights and samples.

On the CPU graphs are recordings of the operations (tests/recorded.py), and torch.compile has the backend "eager".
"""

import dataclasses
import itertools
import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from fastscore._core import checks, graphs
from fastscore.experiment import acceleration, learner_state
from fastscore.experiment.build import make_data
from fastscore.experiment.learner import Learner
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import load_run, sample
from fastscore.experiment.train import Trainer
from fastscore.rng import Philox
from fastscore.samplers import SAMPLERS

from ..recorded import graphs_on_the_cpu

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ITERATIONS = 6
POINTS = preset(
    "toy",
    width=8,
    batch_size=7,
    num_levels=3,
    iterations=ITERATIONS,
    warmup=4,
    clip_norm=0.5,
    log_every=2,
    checkpoint_every=ITERATIONS,
    more_ema=(0.5,),
)
IMAGES = preset(
    "digits",
    width=4,
    batch_size=4,
    num_levels=3,
    iterations=5,
    steps_per_level=2,
    warmup=4,
    decay=False,  # so that a shorter run is the beginning of a longer one
    log_every=2,
    checkpoint_every=5,
    precision="fp32",
)
PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
VALUES = {
    "fp32": {"precision": "fp32"},
    "tf32": {"precision": "fp32", "tf32": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "dsm": {"objective": "dsm"},
    "ssm": {"objective": "ssm"},
    "accumulate": {"accumulate": 3},
    "compile": {"compile": True},
    "cuda_graph": {"cuda_graph": True},
}


def table():
    """The cells of "What combines": {(row, column): text}."""
    lines = PAGE.split("## What combines")[1].split("\n\n")[2].splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
    return {(row[0], column): cell for row in rows[1:] for column, cell in zip(rows[0][1:], row[1:]) if cell}


def combinations():
    """All of them: a precision, an objective, and each of the three options with and without."""
    for precision, objective in itertools.product(("fp32", "tf32", "bf16", "fp16"), ("dsm", "ssm")):
        for options in itertools.product(*((None, o) for o in ("accumulate", "compile", "cuda_graph"))):
            yield tuple(filter(None, (precision, objective, *options)))


@pytest.fixture
def fast(monkeypatch):
    """Graphs on the CPU too, and a compiler that takes no minute; the recordings that were made."""
    monkeypatch.setattr(acceleration.torch, "compile", lambda network: _compile(network, backend="eager"))
    torch.compiler.reset()
    return graphs_on_the_cpu(monkeypatch)


_compile = torch.compile


def trained(config, device):
    """What a learner of ``config`` has after its iterations, and the norms of its gradients."""
    device = torch.device(device)
    learner = Learner(config, make_data(config), device)
    with acceleration.tf32(config.tf32), patch.object(checks, "readable", lambda value: False):  # as on a device
        norms = [learner.iterate(it) for it in range(config.iterations)]
    assert [norm is None for norm in norms[1::2]] == [False] * (config.iterations // 2) and norms[0] is None
    assert {ema.num_updates for ema in learner.averages.values()} == {config.iterations}
    state = learner_state.state(learner, config.iterations)["optimizer"]
    moments = [value for of_one in state["state"].values() for value in of_one.values()]
    assert type(state["param_groups"][0]["lr"]) is float
    weights = [value for values in learner_state.weights(learner).values() for value in values.values()]
    scale = [] if learner.scaler is None else [torch.tensor(learner.scaler.get_scale())]
    values = [*weights, *moments, learner.sums, *scale]
    return [value.clone() for value in values] + [norms[k].float().cpu() for k in range(1, config.iterations, 2)][-1:]


def equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_the_table_has_every_pair():
    words = list(VALUES)
    alike = [{"fp32", "tf32", "bf16", "fp16"}, {"dsm", "ssm"}]
    pairs = {frozenset(p) for p in itertools.combinations(words, 2) if not any(set(p) <= group for group in alike)}
    assert {frozenset(pair) for pair in table()} == pairs and set(table().values()) == {"yes", "refused"}


@pytest.mark.parametrize("device", DEVICES)
def test_every_combination_is_refused_or_works(device, fast):
    """What works with a graph gives the weights of the loop without it, bit for bit."""
    refused = [set(pair) for pair, cell in table().items() if cell == "refused"]
    loops, graphed = {}, 0
    for names in combinations():
        changes = {key: value for name in names for key, value in VALUES[name].items()}
        if any(pair <= set(names) for pair in refused):
            with pytest.raises(ValueError, match=r"compile must be False for the objective 'ssm', whose gradient is"):
                dataclasses.replace(POINTS, **changes)
            continue
        result = trained(dataclasses.replace(POINTS, **changes), device)
        if "cuda_graph" in names:
            equal(result, loops[names[:-1]])
            graphed += 1
        else:
            loops[names] = result
            assert all(value.isfinite().all() for value in result)
    assert graphed == len(loops) == 24 and len(fast) == 24


def _between_levels(entry, model):
    """What lets a sampler ask a network of labels between its levels, as some must."""
    return {option.name: True for option in entry.options if option.name == "interpolate" and model == "ncsn"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "changes",
    [{"flip": True, "dequantize": True}, {"model": "ncsnv2", "ema_warmup": True, "decay": True}],
    ids=["ncsn", "ncsnv2"],
)
def test_a_run_of_images(changes, device, fast, tmp_path):
    """Weights, logs and samples of a run, and of one that stops and goes on, with graphs and without."""
    config = dataclasses.replace(IMAGES, device=device, deterministic=True, **changes)
    results = []
    for cuda_graph in (False, True):
        run = tmp_path / str(cuda_graph)
        own = dataclasses.replace(config, cuda_graph=cuda_graph, checkpoint_every=4)
        Trainer(dataclasses.replace(own, iterations=4) if not config.decay else own, run).train(progress=False)
        Trainer(own, run, resume=True).train(progress=False)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        logs = [torch.tensor([line["loss"], line["grad_norm"], line["lr"]], dtype=torch.float64) for line in lines]
        run = load_run(run, device=device)
        drawn = [
            sample(run, 3, sampler=name, progress=False, seed=1, batch_size=2, **_between_levels(entry, config.model))
            for name, entry in SAMPLERS.items()
            if not any(option.name == "rtol" for option in entry.options)  # these choose their steps
        ]
        results.append([*run.network.state_dict().values(), *logs, *drawn])
    equal(*results)
    assert len(fast) >= 2


def test_samples_with_graphs_or_without(fast, tmp_path):
    """As the run was trained where nothing is said; and for this call."""
    Trainer(dataclasses.replace(POINTS, cuda_graph=True, iterations=1), tmp_path).train(progress=False)
    for cuda_graph, graphs_made in ((False, 0), (None, 1), (True, 1)):
        fast.clear()
        drawn = sample(
            load_run(tmp_path, device="cpu", cuda_graph=cuda_graph), 2, sampler="ddim", steps=9, progress=False
        )
        assert len(fast) == graphs_made and drawn.isfinite().all()


def test_a_seed_that_is_read_is_refused(fast, monkeypatch):
    """Its recording would draw the numbers of the first replay for ever."""
    monkeypatch.setattr(Philox, "at", lambda state, sample_offset: Philox(int(state[0]) % 2**64))
    with pytest.raises(
        RuntimeError, match=r"An iteration \(--no-cuda-graph does without\) cannot be recorded as a CUDA"
    ):
        trained(dataclasses.replace(POINTS, cuda_graph=True), "cpu")


def test_a_graph_needs_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="cuda_graph must be False on cpu, got True: only CUDA devices have graphs"):
        Trainer(dataclasses.replace(POINTS, cuda_graph=True, device="cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists() and {"cuda"} == graphs.KINDS


def test_tf32_is_set_back():
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [place.fp32_precision for place in places]
    for allowed, word in ((True, "tf32"), (False, "ieee")):
        with pytest.raises(KeyError), acceleration.tf32(allowed):
            assert [place.fp32_precision for place in places] == [word, word]
            raise KeyError
        assert [place.fp32_precision for place in places] == before


def test_training_and_sampling_run_in_it(monkeypatch, tmp_path):
    seen = []
    iterate = Learner.iterate
    monkeypatch.setattr(
        Learner, "iterate", lambda *given: seen.append(torch.backends.cudnn.conv.fp32_precision) or iterate(*given)
    )
    for allowed in (False, True):
        config = dataclasses.replace(POINTS, tf32=allowed, iterations=1, steps_per_level=1)
        Trainer(config, tmp_path / str(allowed)).train(progress=False)
        run = load_run(tmp_path / str(allowed))
        run.network.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.conv.fp32_precision))
        sample(run, 2, progress=False)
        assert set(seen) == {"tf32" if allowed else "ieee"} and len(seen) > 3
        seen.clear()


def test_a_compiled_network(monkeypatch, tmp_path):
    """Training and sampling call it, and its bits under aot_eager are those of the network."""
    calls = []

    def compile_(network):
        calls.append(network)
        return _compile(network, backend="aot_eager")

    monkeypatch.setattr(acceleration.torch, "compile", compile_)
    results = []
    for wanted in (False, True):
        config = dataclasses.replace(POINTS, compile=wanted, steps_per_level=2, precision="fp32")
        Trainer(config, tmp_path / str(wanted)).train(progress=False)
        run = load_run(tmp_path / str(wanted))
        results.append([*run.network.state_dict().values(), sample(run, 3, progress=False, batch_size=2)])
    equal(*results)
    assert len(calls) == 2


def test_deterministic_algorithms_are_set_back():
    for wanted, device, inside in ((True, "cuda", 2), (True, "cpu", 0), (False, "cuda", 0)):
        with pytest.raises(KeyError), acceleration.deterministic(wanted, torch.device(device)):
            assert torch.get_deterministic_debug_mode() == inside
            raise KeyError
        assert torch.get_deterministic_debug_mode() == 0 and torch.utils.deterministic.fill_uninitialized_memory
