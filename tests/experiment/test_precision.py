"""A run's precision: what auto becomes and is remembered as, what is computed in it, the scale of fp16, and the optimizer."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import fastscore as fs
from fastscore import losses
from fastscore.experiment import checkpoint, cli, learner_state, precision, preview
from fastscore.experiment.build import make_data, make_model, make_sigmas
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.learner import Learner
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import load_run, sample
from fastscore.experiment.train import Trainer

from .test_train import TINY, TOY, weights

CPU = torch.device("cpu")
SHORT = dataclasses.replace(TINY, iterations=2, checkpoint_every=2, log_every=2, steps_per_level=1)
BF16 = dataclasses.replace(SHORT, precision="bf16")


@pytest.fixture
def able(monkeypatch):
    """able(*precisions): what the device multiplies, beside fp32."""

    def set_to(*precisions):
        monkeypatch.setattr(precision, "multiplies", lambda name, device: name in ("fp32", *precisions))

    return set_to


def learner(config: TrainConfig) -> Learner:
    return Learner(config, make_data(config), CPU)


def test_auto_is_bf16_where_that_is_faster(able, monkeypatch):
    wide = preset("mnist")
    able("bf16")
    assert precision.resolve(wide, CPU) == "bf16"
    for narrow in (preset("digits"), preset("toy", width=64), dataclasses.replace(wide, objective="ssm")):
        assert precision.resolve(narrow, CPU) == "fp32"
    assert precision.resolve(dataclasses.replace(wide, precision="fp16"), CPU) == "fp16"
    able()
    assert precision.resolve(wide, CPU) == "fp32"


@pytest.mark.parametrize(
    "has, found", [({"amx_bf16": True}, ["bf16"]), ({"avx512_fp16": True, "amx_tile": True}, ["fp16"]), ({}, [])]
)
def test_what_a_cpu_multiplies(has, found, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert [name for name in ("bf16", "fp16") if precision.multiplies(name, CPU)] == found
    assert precision.multiplies("fp16", torch.device("cuda")) and not precision.multiplies("bf16", torch.device("mps"))


def test_bad_precisions_are_named(able, tmp_path):
    with pytest.raises(ValueError, match=r"precision must be one of .auto., .fp32., .bf16., .fp16., got 'half'"):
        preset("digits", precision="half")
    able("bf16")
    with pytest.raises(ValueError, match=r"precision must be bf16 or fp32 on cpu.*got 'fp16'"):
        Trainer(dataclasses.replace(TOY, precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    able()
    with pytest.warns(UserWarning, match="cpu does not multiply bfloat16"):
        Trainer(BF16, tmp_path / "run").close()


def test_a_run_remembers_what_auto_became(able, tmp_path):
    """On another machine, where auto would be another, it goes on as it began; another precision needs --change."""
    run = tmp_path / "run"
    wide = dataclasses.replace(SHORT, width=32, batch_size=2, iterations=1, precision="auto")
    able("bf16")
    Trainer(wide, run).train(progress=False)
    assert checkpoint.read_config(run).precision == "bf16"
    able()
    with pytest.warns(UserWarning, match="cpu does not multiply bfloat16"):
        assert Trainer(wide, run, resume=True).config.precision == "bf16"
    Trainer(wide, tmp_path / "other").train(progress=False)
    able("bf16", "fp16")
    assert Trainer(wide, tmp_path / "other", resume=True).config.precision == "fp32"
    other = dataclasses.replace(wide, precision="fp32", decay=False)
    with pytest.raises(fs.CheckpointError, match=r"precision \(was bf16, now fp32\)"):
        Trainer(other, run, resume=True)
    with Trainer(dataclasses.replace(other, iterations=2), run, resume=True, change=True) as trainer:
        assert "precision (was bf16, now fp32)" in trainer.retuned
    changes = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    assert {"step": 1, "field": "precision", "old": "bf16", "new": "fp32"} in changes
    old = json.loads(wide.to_json())
    del old["precision"]  # as before there was a choice
    assert TrainConfig.from_json(json.dumps(old)).precision == "fp32"


def test_the_network_alone_is_computed_in_it():
    """The gradient of the float32 loss of a score that autocast computed; weights, gradients and moments float32."""
    ours = learner(BF16)
    x, rng = ours.data.batch(0, 8, seed=0), fs.Philox(0).substream(0)
    labels = losses.draw_labels(BF16.num_levels, 8, rng)
    z = rng.randn(x.shape, stream=fs.Stream.PERTURB)
    model, sigma = make_model(BF16, ours.data.shape), make_sigmas(BF16)[labels].view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        score = model(x + sigma * z, labels)
    (0.5 * (sigma * score + z).square().sum((1, 2, 3))).mean().backward()
    seen = []
    ours.model.res1[0].conv1.register_forward_hook(lambda layer, inputs, out: seen.append(out.dtype))
    ours.iterate(0)
    assert seen == [torch.bfloat16]
    for mine, theirs in zip(ours.model.parameters(), model.parameters()):
        assert mine.dtype == mine.grad.dtype == ours.optimizer.state[mine]["exp_avg"].dtype == torch.float32
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0.05, atol=0.02 * float(theirs.grad.abs().max()) + 1e-6)


@pytest.mark.parametrize("word", ["bf16", "fp16"])
def test_for_sampling_is_the_same_network(word):
    """Bit for bit, with its weights rounded once; the weights that are trained stay as they are."""
    model = make_model(TINY, (1, 8, 8))
    before, x, labels = copy.deepcopy(model.state_dict()), torch.rand(4, 1, 8, 8), torch.arange(4)
    rounded = precision.for_sampling(model, word)
    with torch.no_grad():
        out = rounded(x, labels)
        assert out.dtype == torch.float32 and torch.equal(out, precision.in_precision(model, word)(x, labels))
        assert torch.equal(rounded.at_level(3)(x), rounded(x, torch.full((4,), 3)))
        exact = model(x, labels)
    assert 0 < (out - exact).norm() / exact.norm() < 0.1  # how a processor multiplies bfloat16 decides: 0.052 was seen
    assert rounded.network.end_conv.weight.dtype == precision._DTYPES[word]
    assert rounded.network.begin_conv.weight.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert precision.for_sampling(model, "fp32") is model


def test_a_weight_that_a_hook_makes_is_rounded_after_it():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(2, 2, 3, padding=1))).eval()
    x = torch.rand(2, 2, 8, 8)
    rounded, computed = (
        precision.for_sampling(LabelFree(model), "bf16"),
        precision.in_precision(LabelFree(model), "bf16"),
    )
    with torch.no_grad():
        assert torch.equal(rounded(x, None), computed(x, None))


class LabelFree(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, labels):
        return self.inner(x)


@pytest.mark.parametrize("how", ["hook", "derived"])
def test_a_level_of_a_network_that_does_more(how):
    """What a call does beside the class's forward is done at a level too."""

    class Half(fs.models.NCSN):
        def forward(self, x, labels):
            return super().forward(x, labels) / 2

    model = (Half if how == "derived" else fs.models.NCSN)(channels=1, image_size=8, ngf=4, num_levels=3)
    if how == "hook":
        model.register_forward_hook(lambda network, given, out: out / 2)
    rounded, x = precision.for_sampling(model, "bf16"), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(rounded.at_level(1)(x), rounded(x, torch.tensor([1, 1])))


def test_sampling_is_in_the_runs_precision_or_another(tmp_path, able):
    run, out = tmp_path / "run", tmp_path / "out"
    able("bf16")
    Trainer(BF16, run).train(progress=False)
    own, other = load_run(run, device="cpu"), load_run(run, device="cpu", precision="fp32")
    assert (own.precision, other.precision) == ("bf16", "fp32") and other.score_fn is other.network
    a, b = (sample(trained, 3, progress=False) for trained in (own, other))
    assert 0 < (a - b).abs().max() < 0.2
    line = ["sample", str(run), "--num", "3", "--quiet", "--out", str(out), "--device", "cpu"]
    cli.main([*line, "--precision", "fp32"])
    about = json.loads((out / "samples.json").read_text())
    assert about["precision"] == "fp32"
    with pytest.raises(SystemExit):
        cli.main(line)  # would be samples of other settings
    del about["precision"]  # as before there was a choice
    (out / "samples.json").write_text(json.dumps(about))
    cli.main([*line, "--precision", "fp32"])
    with pytest.raises(ValueError, match="got 'fp16'"):
        load_run(run, device="cpu", precision="fp16")


def test_a_preview_is_drawn_in_the_runs_precision(tmp_path, able, monkeypatch):
    able("bf16")
    drawn = []
    monkeypatch.setattr(
        preview, "draw", lambda config, network, shape, rng, **_: drawn.append(network) or torch.zeros(shape)
    )
    with Trainer(BF16, tmp_path / "run") as trainer:
        preview.save_preview(trainer)
        assert trainer.network.end_conv.weight.dtype == torch.float32
    assert drawn[0].network.end_conv.weight.dtype == torch.bfloat16


def test_fp16_scales_its_loss_and_goes_on_with_the_scale(able, tmp_path):
    able("fp16")
    config = dataclasses.replace(TOY, precision="fp16", iterations=14, clip_norm=1.0)
    Trainer(config, tmp_path / "whole").train(progress=False)
    with Trainer(config, tmp_path / "parts") as trainer:
        for _ in range(9):
            trainer._iterate()
            if trainer.step == 7:
                trainer._save()
    Trainer(config, tmp_path / "parts", resume=True).train(progress=False)
    ours, theirs = (weights(tmp_path / name) for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (checkpoint.read_state(checkpoint.latest(tmp_path / name)) for name in ("parts", "whole"))
    assert ours["scaler"] == theirs["scaler"] and ours["scaler"]["_growth_tracker"] > 7  # it was not begun anew


def test_fp16_clips_the_gradient_itself(able):
    """Not the scaled one: the norm, and with a large eps the step, are those of float32."""
    able("fp16")
    config = dataclasses.replace(TOY, log_every=1, clip_norm=0.5, eps=1.0, warmup=0)
    first, (half, full) = (
        make_model(config, (2,)),
        [learner(dataclasses.replace(config, precision=p)) for p in ("fp16", "fp32")],
    )
    norms = [float(one.iterate(0)) for one in (half, full)]
    assert norms[1] > config.clip_norm and abs(norms[0] / norms[1] - 1) < 0.02
    for start, a, b in zip(*(map(torch.detach, net.parameters()) for net in (first, half.model, full.model))):
        torch.testing.assert_close(a - start, b - start, rtol=0.05, atol=0.05 * float((b - start).abs().max()))


def test_a_step_whose_scaled_gradient_overflows_is_left_out(able):
    able("fp16")
    ours = learner(dataclasses.replace(TOY, precision="fp16", log_every=1))
    before = [p.detach().clone() for p in ours.model.parameters()]
    ours.scaler.load_state_dict(ours.scaler.state_dict() | {"scale": 2.0**120})
    assert not torch.isfinite(ours.iterate(0))
    assert all(torch.equal(a, b) for a, b in zip(before, ours.model.parameters()))
    assert ours.scaler.get_scale() == 2.0**119 and learner_state.finite(ours)
    for wrong in ({"scale": 2.0}, ours.scaler.state_dict() | {"scale": 0.0}):
        with pytest.raises(fs.CheckpointError, match="scale of an fp16 run"):
            checkpoint.load_scaler(ours.scaler, wrong, Path("run/checkpoints/step_00000007"))


def test_the_norm_of_the_gradient_is_taken_where_it_is_used():
    assert [learner(TOY).iterate(it) is None for it in (0, 4, 59)] == [True, False, False]  # log_every 5, 60 iterations


def test_moments_lie_as_the_weights_do():
    """The fused Adam walks through memory: moments in another order would be other weights' moments."""
    model = make_model(TINY, (1, 8, 8))

    def adam(network):
        return torch.optim.Adam(network.parameters(), fused=True)

    def step(network, optimizer):
        for i, p in enumerate(network.parameters()):
            p.grad = torch.empty_like(p).copy_(torch.linspace(-1, 1, p.numel()).view(p.shape) + i)
        optimizer.step()

    one, two = copy.deepcopy(model), copy.deepcopy(model)
    first = adam(one)
    step(one, first)
    two.load_state_dict(one.state_dict())
    two.to(memory_format=torch.channels_last)
    second = adam(two)
    checkpoint.load_optimizer(second, copy.deepcopy(first.state_dict()), Path("run/checkpoints/step_00000007"))
    step(one, first)
    step(two, second)
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert any(not p.is_contiguous() for p in two.parameters())


@pytest.mark.parametrize("mode", ["vjp", "jvp"])
def test_sliced_score_matching_in_bf16(mode):
    """Its gradient, of a derivative by x, is that of float32 to the rounding of so small a network."""
    model, sigmas, found = make_model(TINY, (1, 8, 8)), make_sigmas(TINY), []
    x = fs.Philox(0).rand(4, 1, 8, 8)
    for word in ("fp32", "bf16"):
        loss = losses.annealed_ssm_vr(precision.in_precision(model, word), x, sigmas, rng=fs.Philox(1), mode=mode)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    assert 0 < (found[1] - found[0]).norm() / found[0].norm() < 0.25  # a wrong derivative: about 1
