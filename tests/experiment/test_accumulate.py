"""Gradient accumulation: a batch worked on in parts gives the whole batch's losses and step."""

import dataclasses
import json

import pytest
import torch

import fastscore as fs
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.history import read_metrics
from fastscore.experiment.learner import parts
from fastscore.experiment.train import Trainer
from fastscore.ops import ImageBatch

from .test_train import CONFIGS, TINY, TOY, weights

# a large eps: else the step of a gradient that is rounding alone is +-lr
NAMES = {name: dataclasses.replace(CONFIGS[name], eps=1.0, lr=0.1) for name in ("ncsn", "mlp, ssm", "ncsn, ssm")}


def seen(trainer, iterations=2):
    """What the loss of each part was given, and gave, in the order of the batch's rows."""
    found, loss = [], trainer.learner._loss

    def spy(x, labels, rng):
        value = loss(x, labels, rng)
        x = x.tensor() if isinstance(x, ImageBatch) else x
        found.append((x, labels, value.detach()))
        return value

    trainer.learner._loss = spy
    for _ in range(iterations):
        trainer._iterate()
    return [torch.cat(values) for values in zip(*found)]


@pytest.mark.parametrize("name, accumulate", [("ncsn", 3), ("mlp, ssm", 8), ("ncsn, ssm", 3)])
def test_the_step_is_the_whole_batchs(name, accumulate, tmp_path):
    """The same rows with the same numbers; losses and weights to rounding. 3 does not divide the batch."""
    config = dataclasses.replace(NAMES[name], batch_size=8)
    whole = Trainer(config, tmp_path / "whole")
    several = Trainer(dataclasses.replace(config, accumulate=accumulate), tmp_path / "parts")
    (x, labels, loss), (x_, labels_, loss_) = seen(whole), seen(several)
    assert torch.equal(x, x_) and torch.equal(labels, labels_)
    torch.testing.assert_close(loss_, loss, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(loss_[:8], loss[:8], rtol=1e-5, atol=1e-6)  # before there were other weights
    torch.testing.assert_close(several.learner.sums, whole.learner.sums, rtol=1e-3, atol=1e-5)
    assert torch.equal(several.learner.sums[1], whole.learner.sums[1])
    before = Trainer(config, tmp_path / "before").model.state_dict()
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(several.model.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(v, before[k], rtol=1e-2, atol=1e-3) for k, v in whole.model.state_dict().items())


@pytest.mark.parametrize("batch_size, accumulate", [(8, 1), (8, 3), (5, 5), (128, 7)])
def test_parts_are_the_batch(batch_size, accumulate):
    found = parts(batch_size, accumulate)
    assert [row for first, size in found for row in range(first, first + size)] == list(range(batch_size))
    sizes = [size for _, size in found]
    assert len(sizes) == accumulate and max(sizes) - min(sizes) <= 1


def test_a_run_goes_on_in_parts(tmp_path):
    """Resumed, it is the run itself; and with --change another number of parts goes on where the whole batch stopped."""
    config = dataclasses.replace(TOY, accumulate=3, iterations=14, checkpoint_every=7, decay=False)
    Trainer(config, tmp_path / "whole").train(progress=False)
    Trainer(dataclasses.replace(config, iterations=7), tmp_path / "b").train(progress=False)
    Trainer(config, tmp_path / "b", resume=True).train(progress=False)
    assert all(torch.equal(v, weights(tmp_path / "whole")[k]) for k, v in weights(tmp_path / "b").items())
    assert read_metrics(tmp_path / "b")[-1]["loss"] == read_metrics(tmp_path / "whole")[-1]["loss"]
    longer = dataclasses.replace(config, iterations=16, accumulate=1)
    with pytest.raises(fs.CheckpointError, match=r"another config: accumulate \(was 3, now 1\)"):
        Trainer(longer, tmp_path / "b", resume=True)
    Trainer(longer, tmp_path / "b", resume=True, change=True).train(progress=False)
    changes = [json.loads(line) for line in (tmp_path / "b" / "changes.jsonl").read_text().splitlines()]
    assert {"step": 14, "field": "accumulate", "old": 3, "new": 1} in changes


def test_a_loss_that_is_not_finite_does_not_reach_the_weights(tmp_path):
    trainer = Trainer(dataclasses.replace(TINY, accumulate=2), tmp_path)
    loss = trainer.learner._loss
    calls = []

    def second_part(x, labels, rng):
        calls.append(len(labels))
        return loss(x, labels, rng) * (float("inf") if len(calls) == 2 else 1)

    trainer.learner._loss = second_part
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with pytest.raises(fs.NonFiniteLoss):
        trainer._iterate()
    assert calls == [4, 4] and all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


@pytest.mark.parametrize(
    "accumulate, error, text",
    [
        (0, ValueError, "accumulate must be at least 1, got 0"),
        (9, ValueError, "accumulate must be at most batch_size, 8, a sample in each part, got 9"),
        (2.0, TypeError, "accumulate must be an integer at least 1"),
    ],
)
def test_bad_numbers_of_parts(accumulate, error, text):
    with pytest.raises(error, match=text):
        TrainConfig(batch_size=8, accumulate=accumulate)


def test_what_reads_and_perturbs_in_one_pass(tmp_path):
    """Denoising of images never makes the clean batch, and has the loss of it bit for bit; other objectives are given it."""
    learner = Trainer(TINY, tmp_path / "a").learner
    handle = learner._samples(3, 2, 4)
    assert isinstance(handle, ImageBatch) and handle.sample_offset == 2
    labels, rngs = torch.tensor([0, 3, 3, 19]), [fs.Philox(1, sample_offset=2) for _ in range(2)]
    losses = [learner._loss(x, labels, rng) for x, rng in zip((handle, handle.tensor()), rngs)]
    assert torch.equal(*losses) and rngs[0].step == rngs[1].step
    for i, name in enumerate(("ncsn, ssm", "mlp")):
        x = Trainer(CONFIGS[name], tmp_path / str(i)).learner._samples(3, 2, 4)
        assert isinstance(x, torch.Tensor) and x.shape[0] == 4
