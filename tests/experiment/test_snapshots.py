"""Weights that stay: snapshots, several moving averages, and the time that training took."""

import dataclasses
import json
import math
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastscore as fs
from fastscore.experiment import build, checkpoint, cli, learner_state, status
from fastscore.experiment.checkpoint import store
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.export import export_original, export_safetensors
from fastscore.experiment.history import read_metrics
from fastscore.experiment.learner import Learner
from fastscore.experiment.presets import command_line
from fastscore.experiment.sample import load_run, sample
from fastscore.experiment.train import Trainer

from .test_damaged_runs import resign
from .test_run_folders import contents
from .test_stopping import assert_same_run
from .test_train import TINY, TOY

SNAPPED = dataclasses.replace(TOY, iterations=20, width=8, snapshot_every=6, keep=1, more_ema=(0.9, 0.5))
WEIGHTS = ("raw", "ema", "ema-0.9", "ema-0.5")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapped") / "run"
    Trainer(SNAPPED, folder).train(progress=False)
    return folder


def snapshots(run):
    return [checkpoint.step_of(folder) for folder in checkpoint.snapshots(run)]


def tensors(folder):
    return {
        (file.name, name): value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()
    }


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_snapshots_stay_and_are_found(run):
    """They hold what a checkpoint of that iteration holds, but the optimizer; checkpoints are pruned, and they not."""
    assert snapshots(run) == [6, 12, 18, 20] and [p.name for p in checkpoint.steps(run)] == ["step_00000020"]
    last = run / "snapshots" / "step_00000020"
    files = {"about.json", *(checkpoint.file_of(name) for name in WEIGHTS)}
    assert {path.name for path in last.iterdir()} == files
    assert same(tensors(last), tensors(checkpoint.latest(run)))
    loaded = load_run(run, device="cpu", iteration=12)
    saved = load_file(run / "snapshots" / "step_00000012" / "ema.safetensors")
    assert loaded.iteration == 12 and same(loaded.network.state_dict(), saved)
    assert load_run(run, device="cpu").iteration == 20
    with pytest.raises(
        fs.CheckpointError,
        match=r"no checkpoint or snapshot of iteration 7 \(--checkpoint\); it has those of 20 and snapshots of 6, 12, 18, 20",
    ):
        load_run(run, iteration=7)


def test_a_snapshot_is_the_checkpoint_of_its_iteration(run, tmp_path):
    config = dataclasses.replace(SNAPPED, snapshot_every=0, checkpoint_every=6, keep=9)
    Trainer(config, tmp_path).train(progress=False)
    assert not (tmp_path / "snapshots").exists()
    for step in (6, 12, 18):
        name = f"step_{step:08d}"
        assert same(tensors(run / "snapshots" / name), tensors(tmp_path / "checkpoints" / name))


@pytest.mark.parametrize("change", ["damage", "another run's", "renamed"])
def test_snapshots_are_verified_as_checkpoints_are(run, change, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "snapshots" / "step_00000006"
    if change == "damage":
        weights = load_file(folder / "ema.safetensors")
        save_file({name: value + 1 for name, value in weights.items()}, folder / "ema.safetensors")
        words = r"ema.safetensors is damaged or another checkpoint's.*it is a snapshot, without which the run goes on: delete"
    elif change == "renamed":
        folder = folder.rename(folder.with_name("step_00000007"))
        words = "is the checkpoint of iteration 6, renamed"
    else:
        resign(folder, run="0" * 32)
        words = "belongs to another run"
    with pytest.raises(fs.CheckpointError, match=words):
        load_run(tmp_path / "run", device="cpu", iteration=checkpoint.step_of(folder))
    assert load_run(tmp_path / "run", device="cpu", iteration=12).iteration == 12


def test_snapshots_are_used_wherever_a_checkpoint_is(run, tmp_path):
    report = evaluate(run, num=20, iteration=12, weights="ema-0.9", device="cpu", progress=False, out=tmp_path / "e")
    assert (report["step"], report["weights"]) == (12, "ema-0.9")
    cli.main(
        ["sample", str(run), "--checkpoint", "6", "--weights", "ema-0.5", "--num", "4", "--out", str(tmp_path / "s")]
    )
    said = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert (said["step"], said["weights"]) == (6, "ema-0.5")
    export_safetensors(run, tmp_path / "x", iteration=12, weights="ema-0.9")
    weights = load_file(tmp_path / "x" / "model.safetensors")
    assert same(weights, load_file(run / "snapshots" / "step_00000012" / "ema-0.9.safetensors"))
    assert "of rate 0.9." in (tmp_path / "x" / "MODEL_CARD.md").read_text()


def test_a_snapshot_as_the_originals_read_it(tmp_path):
    """It has no optimizer: Adam's state is that before its first step."""
    config = dataclasses.replace(TINY, iterations=4, checkpoint_every=4, snapshot_every=2, keep=1)
    Trainer(config, tmp_path / "run").train(progress=False)
    file, _ = export_original(tmp_path / "run", tmp_path / "x.pth", iteration=2)
    model, adam, *_, shadow = torch.load(file, weights_only=True)
    folder = tmp_path / "run" / "snapshots" / "step_00000002"
    assert same({k.removeprefix("module."): v for k, v in model.items()}, load_file(folder / "model.safetensors"))
    averaged = load_file(folder / "ema.safetensors")
    assert all(torch.equal(value, averaged[name]) for name, value in shadow.items())
    assert adam["state"] == {} and adam["param_groups"][0]["lr"] == config.lr


def test_snapshots_after_the_iteration_that_a_run_goes_on_from_are_made_again(tmp_path):
    """With other settings they would be of another course of the run. Others' stay, and so do those before."""
    config = dataclasses.replace(SNAPPED, checkpoint_every=5, keep=3)
    Trainer(config, tmp_path).train(progress=False)
    before = tensors(tmp_path / "snapshots" / "step_00000018")
    for step in (15, 20):
        shutil.rmtree(tmp_path / "checkpoints" / f"step_{step:08d}")
    foreign = tmp_path / "snapshots" / "step_00000019"
    shutil.copytree(tmp_path / "snapshots" / "step_00000018", foreign)
    resign(foreign, run="0" * 32)
    left = contents(tmp_path / "snapshots" / "step_00000006")
    gentler = dataclasses.replace(config, lr=config.lr / 2)
    trainer = Trainer(gentler, tmp_path, resume=True, change=True)
    assert trainer.step == 10 and snapshots(tmp_path) == [6, 19]
    trainer.train(progress=False)
    assert snapshots(tmp_path) == [6, 12, 18, 19, 20] and contents(tmp_path / "snapshots" / "step_00000006") == left
    assert not same(tensors(tmp_path / "snapshots" / "step_00000018"), before)


def test_how_often_may_change(tmp_path):
    config = dataclasses.replace(SNAPPED, iterations=8, decay=False)
    Trainer(config, tmp_path).train(progress=False)
    Trainer(dataclasses.replace(config, iterations=16, snapshot_every=5), tmp_path, resume=True).train(progress=False)
    assert snapshots(tmp_path) == [6, 8, 10, 15, 16]


def test_every_prefix_of_a_snapshot_write_is_harmless(tmp_path, monkeypatch):
    """Stop it at each of its steps in turn: what is there is always whole, and what is half written goes."""

    class Killed(BaseException):
        pass

    trainer = Trainer(SNAPPED, tmp_path)
    trainer._iterate()
    trainer._save()
    for stop_at in range(1, 40):
        calls = 0

        def dying(original, stop_at=stop_at):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == stop_at:
                    raise Killed
                return original(*args, **kwargs)

            return call

        trainer._iterate()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying(os.fsync))
            patch.setattr(os, "rename", dying(os.rename))
            try:
                trainer._writer.save_snapshot(trainer.learner, trainer.step, 1.0)
                break
            except Killed:
                pass
        for folder in checkpoint.snapshots(tmp_path):
            assert all(checkpoint.read_weights(folder, name) for name in WEIGHTS)
    assert stop_at > 6, "the write has several steps, and each was stopped at"
    trainer.close()
    (tmp_path / "snapshots" / ".writing_00000099").mkdir()
    Trainer(SNAPPED, tmp_path, resume=True).close()
    assert snapshots(tmp_path) == [] and not list((tmp_path / "snapshots").iterdir())


def test_a_full_disk_leaves_no_part_of_a_snapshot(tmp_path, monkeypatch):
    trainer = Trainer(SNAPPED, tmp_path)
    trainer._iterate()

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(store, "write_flushed", full)
    with pytest.raises(fs.CannotWrite, match=r"No space left.*go on with: fastscore train toy .*--snapshot-every 6"):
        trainer._writer.save_snapshot(trainer.learner, 1, 0.0)
    assert not list((tmp_path / "snapshots").iterdir())


def test_status_says_what_they_take(run, tmp_path):
    said = dict(line.split(maxsplit=1) for line in status.screen(status.status(run)).splitlines())
    used = {
        name: sum(f.stat().st_size for f in (run / name).rglob("*") if f.is_file())
        for name in ("checkpoints", "snapshots")
    }
    assert said["snapshots"] == "4, of iteration 6 to 20"
    parts = f"(checkpoints {status.size(used['checkpoints'])}, snapshots {status.size(used['snapshots'])})"
    assert parts in said["disk"]
    (tmp_path / "snapshots" / "step_00000001").mkdir(parents=True)
    with pytest.raises(fs.CheckpointError, match=r"holds snapshots/, of unknown origin"):
        Trainer(SNAPPED, tmp_path)


def test_each_average_is_of_its_own_rate(tmp_path):
    """m <- d m + (1 - d) w after each step, from the first weights on, for every d by itself."""
    learner = Learner(SNAPPED, build.make_data(SNAPPED), torch.device("cpu"))
    expected = {}
    for it in range(5):
        learner.iterate(it)
        for name, decay in SNAPPED.averages.items():
            now = {k: v.detach().clone() for k, v in learner.model.state_dict().items()}
            old = expected.get(name, now)
            expected[name] = {k: torch.lerp(old[k], now[k], 1 - decay) for k in now}
    held = learner_state.weights(learner)
    assert list(held) == ["raw", "ema", "ema-0.9", "ema-0.5"]
    for name, averages in expected.items():
        for key, value in averages.items():
            torch.testing.assert_close(held[name][key], value, rtol=1e-5, atol=1e-7)
    assert not same(held["ema-0.9"], held["ema-0.5"]) and not same(held["ema-0.9"], held["ema"])
    assert learner.network is learner.ema.module


def test_a_digest_sees_every_average():
    learner = Learner(SNAPPED, build.make_data(SNAPPED), torch.device("cpu"))
    seen = {learner.digest()}
    for network in (learner.model, *(ema.module for ema in learner.averages.values())):
        with torch.no_grad():
            next(network.parameters()).view(-1)[0] += 1
        seen.add(learner.digest())
    assert len(seen) == 1 + len(WEIGHTS)


def test_runs_with_several_averages_resume_bit_for_bit(run, tmp_path):
    config = dataclasses.replace(SNAPPED, ema_warmup=True)
    Trainer(config, tmp_path / "whole").train(progress=False)
    first = Trainer(config, tmp_path / "parts")
    while first.step < 9:
        first._iterate()
        if first.step % config.log_every == 0:
            first._log(0.0, 1.0)
        if first.step % config.checkpoint_every == 0:
            first._save()
    first.close()
    again = Trainer(config, tmp_path / "parts", resume=True)
    assert [ema.num_updates for ema in again.learner.averages.values()] == [7, 7, 7]
    again.train(progress=False)
    ours, theirs = (
        [{**record, "grad_norm": 0} for record in read_metrics(tmp_path / name)] for name in ("parts", "whole")
    )
    assert [r["loss_per_sigma"] for r in ours] == [r["loss_per_sigma"] for r in theirs]
    assert same(*(tensors(checkpoint.latest(tmp_path / name)) for name in ("parts", "whole")))
    assert not same(tensors(checkpoint.latest(tmp_path / "whole")), tensors(checkpoint.latest(run)))


def test_further_averages_change_nothing_else(run, tmp_path):
    Trainer(dataclasses.replace(SNAPPED, more_ema=()), tmp_path).train(progress=False)
    theirs = tensors(checkpoint.latest(tmp_path))
    assert same({key: value for key, value in tensors(checkpoint.latest(run)).items() if key in theirs}, theirs)
    drawn = [sample(load_run(where, device="cpu"), 3, steps=2, progress=False) for where in (run, tmp_path)]
    assert torch.equal(*drawn)


def test_weights_that_there_are_not(run, tmp_path):
    names = "weights must be one of 'auto', 'ema', 'ema-0.9', 'ema-0.5', 'raw', got 'ema-0.99'"
    with pytest.raises(ValueError, match=names):
        load_run(run, weights="ema-0.99")
    Trainer(dataclasses.replace(SNAPPED, iterations=1, ema=0.0, more_ema=()), tmp_path).train(progress=False)
    with pytest.raises(
        ValueError, match=r"weights must be 'raw' or 'auto' for .*keeps no moving average.*got 'ema-0.9'"
    ):
        load_run(tmp_path, weights="ema-0.9")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"more_ema": (0.9,), "ema": 0.0}, ValueError, "more_ema must be empty where ema is 0"),
        ({"more_ema": (0.9, 0.9)}, ValueError, "more_ema must be of rates that differ"),
        (
            {"more_ema": (SNAPPED.ema,)},
            ValueError,
            "more_ema must be of rates that differ from each other and from ema",
        ),
        ({"more_ema": (1.0,)}, ValueError, "more_ema must be of numbers between 0 and 1, got 1.0"),
        ({"more_ema": (0,)}, ValueError, "more_ema must be of numbers between 0 and 1, got 0.0"),
        ({"more_ema": ("0.9",)}, TypeError, "more_ema must be a number"),
        ({"more_ema": 0.9}, TypeError, "more_ema must be a list of numbers, got float 0.9"),
        ({"snapshot_every": -1}, ValueError, "snapshot_every must be at least 0"),
    ],
)
def test_what_a_config_cannot_have(changes, error, words):
    with pytest.raises(error, match=words):
        dataclasses.replace(SNAPPED, **changes)


def test_a_config_of_several_averages_is_saved_and_pasted(tmp_path):
    config = dataclasses.replace(SNAPPED, more_ema=[0.9, 0.5])
    assert config == SNAPPED == TrainConfig.from_json(SNAPPED.to_json()) and hash(config) == hash(SNAPPED)
    assert config.averages == {"ema": 0.99, "ema-0.9": 0.9, "ema-0.5": 0.5}
    words = command_line(SNAPPED, tmp_path / "run").split()
    assert words[words.index("--more-ema") :][:3] == ["--more-ema", "0.9", "0.5"]
    cli.main([*words[1:], "--quiet"])
    assert checkpoint.read_config(tmp_path / "run") == SNAPPED


def test_seconds_are_those_of_iterations_over_all_resumes(tmp_path, monkeypatch):
    """By a clock that only iterations, previews and sums of lines move: each iteration 1 s, each preview 100 s."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    iterate = Trainer._iterate

    def slow(self):
        now[0] += 1
        return iterate(self)

    def preview(trainer):
        now[0] += 100

    monkeypatch.setattr(Trainer, "_iterate", slow)
    config = dataclasses.replace(SNAPPED, sample_every=3)
    trainer = Trainer(config, tmp_path)
    with monkeypatch.context() as patch:

        def killed(self):
            if self.step == 17:
                raise KeyboardInterrupt
            return slow(self)

        patch.setattr(Trainer, "_iterate", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(progress=False, preview=preview)
    now[0] += 1e6
    Trainer(config, tmp_path, resume=True).train(progress=False, preview=preview)
    assert {r["step"]: r["seconds"] for r in read_metrics(tmp_path)} == {5: 5.0, 10: 10.0, 15: 15.0, 20: 20.0}
    kept = {checkpoint.step_of(p): checkpoint.read_about(p).seconds for p in checkpoint.snapshots(tmp_path)}
    assert kept == {6: 6.0, 12: 12.0, 18: 18.0, 20: 20.0}
    assert checkpoint.read_about(checkpoint.latest(tmp_path)).seconds == 20.0


def test_a_checkpoint_that_does_not_say_how_long(tmp_path):
    """One of an earlier version: the time is not known from then on, and nothing else is another."""
    config = dataclasses.replace(SNAPPED, iterations=7, decay=False, snapshot_every=0)
    Trainer(config, tmp_path / "old").train(progress=False)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    folder = checkpoint.latest(tmp_path / "old")
    values = json.loads((folder / "about.json").read_text())
    assert values.pop("seconds") > 0 and values.pop("sha256")
    (folder / "about.json").write_text(store.signed_json(values))
    for name in ("old", "new"):
        Trainer(dataclasses.replace(config, iterations=14), tmp_path / name, resume=True).train(progress=False)
    assert_same_run(tmp_path / "old", tmp_path / "new")
    seconds = {name: [r["seconds"] for r in read_metrics(tmp_path / name)][-1] for name in ("old", "new")}
    assert seconds["old"] is None and math.isfinite(seconds["new"])
