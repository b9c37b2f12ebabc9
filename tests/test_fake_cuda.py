"""Training and sampling on a CUDA device that holds nothing: every device agrees, and nothing is read between two logs."""

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch

import fastscore as fs
from fastscore._core import graphs
from fastscore.experiment import learner as learners
from fastscore.experiment import sample, scores
from fastscore.experiment.build import make_data, make_model, make_sigmas
from fastscore.experiment.presets import preset

from .fake_cuda import CUDA, _backward, fake_cuda, waits
from .samplers import cases
from .samplers.cases import CASES

SMALL = {"num_levels": 3, "width": 4, "batch_size": 4, "log_every": 100, "checkpoint_every": 100, "steps_per_level": 1}
DATA = {"mlp": {"data": "mixture", "model": "mlp"}} | {
    model: {"model": model, "flip": True, "dequantize": True} for model in ("ncsn", "ncsnv2")
}


def test_the_engine_in_place_of_torchs():
    """First and second derivatives of what has branches, broadcasts, sums, and functions of ours in it."""
    x, w = torch.linspace(-1, 1, 12).view(4, 3).requires_grad_(), torch.tensor([0.5, 1, 2], requires_grad=True)

    def derivatives():
        x_tilde, noise = fs.perturb(x * w, 0.3, fs.Philox(0))
        loss = fs.dsm_loss(x_tilde.sin() + w.exp() + x_tilde, noise, 0.3)
        first = torch.autograd.grad(loss.mean(), (w, x), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].sum(), (x, w), retain_graph=True)
        w.grad = None
        (loss.sum() + w.sum()).backward()
        return [*first, *second, w.grad]

    expected = derivatives()
    with patch("torch.autograd._engine_run_backward", _backward):
        torch.testing.assert_close(derivatives(), expected)


def test_what_waits_is_seen():
    with fake_cuda():
        x = torch.ones(3, device=CUDA)
        for wait in (x.sum().item, x.cpu, lambda: torch.ones(3).to(CUDA), lambda: torch.cuda.synchronize(), x.tolist):
            with waits() as seen:
                wait()
            assert seen
        with waits() as seen:
            torch.ones(3).to(CUDA, non_blocking=True).add_(x).fill_(2)
        assert not seen


def made(what, *arguments):
    """``what`` of these, made before: numbers of networks and noise levels are looked at when they are made."""
    value = what(*arguments)
    return lambda *_: value


@pytest.fixture
def no_recording(monkeypatch):
    """Graphs that run what they would record: what can be seen here is what the host waits for on the way."""
    monkeypatch.setattr(graphs, "_aside", lambda device: nullcontext())
    monkeypatch.setattr(graphs, "recorded", lambda function, device: function)


@pytest.mark.parametrize(
    "model, objective, precision, cuda_graph",
    [
        ("ncsn", "dsm", "fp16", True),
        ("ncsnv2", "ssm", "fp32", False),
        ("ncsnv2", "dsm", "bf16", True),
        ("mlp", "dsm", "fp16", False),
        ("mlp", "ssm", "fp32", True),
        ("ncsnv2", "csm", "fp16", False),
        ("mlp", "edm", "fp32", True),
        ("mlp", "stf", "fp32", True),
    ],
)
def test_an_iteration(model, objective, precision, cuda_graph, no_recording):
    more = {"accumulate": 2, "clip_norm": 1.0} if precision == "fp16" else {}
    more["cuda_graph"] = cuda_graph
    seen_dtypes = set()
    config = preset("digits", objective=objective, precision=precision, **more, **SMALL, **DATA[model])
    data = make_data(config)
    if model == "mlp":  # which draws on the CPU, and checks what it drew
        points = data._draw(0, config.batch_size // (1 if cuda_graph else config.accumulate), 0, 0, None)
        data._draw = lambda *_: points
    with (
        patch.object(learners, "make_sigmas", made(make_sigmas, config)),
        patch.object(learners, "make_model", made(make_model, config, data.shape)),
        fake_cuda(),
    ):
        learner = learners.Learner(config, data, CUDA)
        with waits():
            learner.iterate(0)  # its constants are made
        layer = next(m for m in learner.model.modules() if type(m) in (torch.nn.Conv2d, torch.nn.Linear))
        layer.register_forward_hook(lambda _, given, out: seen_dtypes.add(out.dtype))
        with waits() as seen:
            learner.iterate(1)
    assert not seen and learner.sums.device == CUDA
    assert seen_dtypes == {
        torch.float16 if precision == "fp16" else torch.bfloat16 if precision == "bf16" else torch.float32
    }
    assert all(p.device == p.grad.device == CUDA for p in learner.model.parameters())


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_sampler_reads_before_and_after_its_updates(name, cuda_graph, no_recording):
    """As often for three updates a level as for one."""
    counts, levels = [], 3
    for n in (1, 3):
        steps = {"num_steps": n} if name == "langevin" else {"steps_per_level": n}
        with fake_cuda():
            x, weight = torch.zeros(3, 4, device=CUDA), torch.zeros(4, 4, device=CUDA)
            known = torch.zeros(4, dtype=torch.bool, device=CUDA)
            with patch.object(cases, "_known", lambda x, known=known: known), waits() as seen:
                y = CASES[name](
                    lambda x, level, weight=weight: x @ weight if level is None else x @ weight / level.view(-1, 1),
                    x,
                    torch.ones(3, device=CUDA),
                    rng=fs.Philox(0),
                    cuda_graph=cuda_graph,
                    **steps,
                    **({} if name == "langevin" else {"conditioning": "sigma"}),
                )
        assert y.device == CUDA
        counts.append(len(seen))
    tables = 7 if cuda_graph else 0  # the seed and the step, there and back; the levels' numbers
    assert counts[0] == counts[1] <= levels + 2 + tables  # the noise levels; was x changed, and is it finite


@pytest.mark.parametrize("model, name", [("ncsn", "consistent"), ("ncsnv2", "annealed"), ("mlp", "annealed")])
def test_the_application_samples(model, name):
    """With its networks; nothing is read at a level or an update, whose numbers are made on the device."""
    config = preset("digits", **SMALL, **DATA[model])
    shape = (2,) if model == "mlp" else (1, 8, 8)
    network = make_model(config, shape).eval()
    with fake_cuda():
        network, sigmas = network.to(CUDA), torch.ones(3, device=CUDA)
        with patch.object(scores, "make_sigmas", lambda _: sigmas), waits() as seen:
            x = sample.draw(config, network, (2, *shape), fs.Philox(0), device=CUDA, sampler=name)
    own = 2 if name == "consistent" else 0  # which looks for the largest ratio, and at the last sigma
    assert x.device == CUDA and len(seen) == 3 + own + 3, seen  # and whether x was changed, and is finite, twice
