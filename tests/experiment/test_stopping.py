"""A run that is stopped, at any moment and in any way, goes on as if it had not been; one process trains in a folder."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastscore as fs
from fastscore.experiment import checkpoint
from fastscore.experiment.build import make_data
from fastscore.experiment.checkpoint import store
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.history import read_metrics
from fastscore.experiment.sample import load_run
from fastscore.experiment.train import Trainer

from .forked_ranks import event, forked
from .test_train import CONFIGS, TOY, weights


def assert_same_run(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []
    drop = ("images_per_second", "seconds")
    first, second = ([{k: v for k, v in r.items() if k not in drop} for r in read_metrics(run)] for run in (a, b))
    assert first == second


@pytest.mark.parametrize("name", CONFIGS)
def test_stopping_and_resuming_is_not_stopping(name, tmp_path):
    config = CONFIGS[name]
    Trainer(config, tmp_path / "whole").train(progress=False)
    first = Trainer(config, tmp_path / "parts")
    while first.step < 13:  # stops between two checkpoints and two log lines
        first._iterate()
        if first.step % config.log_every == 0:
            first._log(0.0, 1.0)
        if first.step % config.checkpoint_every == 0:
            first._save()
    first.close()
    Trainer(config, tmp_path / "parts", resume=True).train(progress=False)
    ours = read_metrics(tmp_path / "parts")
    theirs = read_metrics(tmp_path / "whole")
    assert [r["loss_per_sigma"] for r in ours] == [r["loss_per_sigma"] for r in theirs]
    a, b = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def go_on(config: TrainConfig, run: Path, kill_at: int, threads: int, started) -> None:
    """Train in a process of its own, which kills itself before the ``kill_at``-th step of its checkpoints' writes."""
    torch.set_num_threads(threads)
    calls = 0

    def fatal(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    trainer = Trainer(config, run, resume=True)
    os.fsync, store.flush_folder, os.rename = fatal(os.fsync), fatal(store.flush_folder), fatal(os.rename)
    store.shutil.rmtree = fatal(store.shutil.rmtree)
    started.set()
    trainer.train(progress=False)


def start(config: TrainConfig, run: Path, kill_at: int = 0):
    """The process; it sets its ``started`` once the run is read."""
    started = event()
    process = forked(go_on, config, run, kill_at, torch.get_num_threads(), started)
    process.started = started
    return process


def end(process) -> int:
    process.join(120)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "ncsn"])
def test_killed_runs_end_as_if_they_were_not(name, tmp_path):
    """SIGKILL inside a checkpoint's write and at random moments; each time resumed; the end is the same."""
    config = CONFIGS[name]
    Trainer(config, tmp_path / "whole").train(progress=False)
    run, dice = tmp_path / "killed", random.Random(name)
    kills = 0
    for kill_at in (1, 3, 5, 7, dice.randint(8, 20)):  # the first checkpoint's write is among them
        process = start(config, run, kill_at)
        kills += end(process) == -signal.SIGKILL
    for _ in range(2):
        process = start(config, run)
        assert process.started.wait(120)
        time.sleep(dice.uniform(0, 0.3))
        process.kill()
        kills += end(process) == -signal.SIGKILL
    assert kills >= 5
    assert end(start(config, run)) == 0
    assert_same_run(run, tmp_path / "whole")
    assert not list((run / "checkpoints").glob(".*")), "nothing half-written is left"


def test_every_prefix_of_a_checkpoint_write_is_harmless(tmp_path, monkeypatch):
    """Stop a save at each of its steps in turn: what load finds is always a whole checkpoint, old or new."""

    class Killed(BaseException):
        pass

    config = dataclasses.replace(TOY, keep=1)
    trainer = Trainer(config, tmp_path / "run")
    stop_at = 0
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

        before = checkpoint.steps(tmp_path / "run")
        trainer._iterate()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying(os.fsync))
            patch.setattr(os, "rename", dying(os.rename))
            patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
            try:
                trainer._save()
                break
            except Killed:
                pass
        if before:
            folder = checkpoint.latest(tmp_path / "run")
            assert checkpoint.read_state(folder)["step"] == int(folder.name[5:])
            checkpoint.read_weights(folder, "ema"), checkpoint.read_weights(folder, "raw")
    assert stop_at > 6, "the write has several steps, and each was stopped at"


def test_the_last_k_checkpoints_stay(tmp_path):
    Trainer(dataclasses.replace(TOY, keep=2), tmp_path / "run").train(progress=False)
    assert [p.name for p in checkpoint.steps(tmp_path / "run")] == ["step_00000056", "step_00000060"]


def test_foreign_files_beside_the_checkpoints_stay(tmp_path):
    """Only what a killed save leaves behind is removed."""
    folder = tmp_path / "run" / "checkpoints"
    config = dataclasses.replace(TOY, decay=False)
    Trainer(dataclasses.replace(config, iterations=7), tmp_path / "run").train(progress=False)
    for name in (".writing_00000003", ".deleting_step_00000001", ".snapshot"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    (folder / ".nfs0001").touch()
    Trainer(dataclasses.replace(config, iterations=14, keep=1), tmp_path / "run", resume=True).train(progress=False)
    assert sorted(p.name for p in folder.iterdir()) == [".nfs0001", ".snapshot", "step_00000014"]
    assert (folder / ".snapshot" / "file").exists()


HOLDER = """
import sys
from pathlib import Path
from fastscore.experiment import checkpoint
lock = checkpoint.Lock(Path(sys.argv[1]) / checkpoint.LOCK)
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_trains_in_a_folder(tmp_path):
    """A second trainer is refused and changes nothing; the end of the first, even by a kill, frees the folder."""
    run, config = tmp_path / "run", dataclasses.replace(TOY, iterations=20, decay=False)
    Trainer(config, run).train(progress=False)
    longer = dataclasses.replace(config, iterations=30)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(fs.CheckpointError, match=f"another process.*trains in {run}: wait until it ends, or"):
            Trainer(longer, run, resume=True)
        assert checkpoint.read_config(run) == config
        load_run(run, device="cpu")  # sampling goes on meanwhile
        other.kill()
    Trainer(longer, run, resume=True).train(progress=False)
    assert [r["step"] for r in read_metrics(run)] == [5, 10, 15, 20, 25, 30]


def test_the_folder_is_locked_while_training(tmp_path, monkeypatch):
    refused = []

    def iterate(self, original=Trainer._iterate):
        with pytest.raises(fs.CheckpointError, match=r"another process.* trains in") as caught:
            Trainer(TOY, tmp_path / "run", resume=True)
        refused.append(caught)
        return original(self)

    monkeypatch.setattr(Trainer, "_iterate", iterate)
    Trainer(dataclasses.replace(TOY, iterations=60), tmp_path / "run").train(progress=False)
    assert len(refused) == 60


def test_two_fresh_runs_at_once(tmp_path, monkeypatch):
    """The second finds the first's run once it has the lock, though the folder was free when it began."""
    run = tmp_path / "run"

    def slow_data(config):
        monkeypatch.undo()
        Trainer(TOY, run).close()
        return make_data(config)

    monkeypatch.setattr("fastscore.experiment.train.make_data", slow_data)
    with pytest.raises(fs.CheckpointError, match="already holds a run"):
        Trainer(dataclasses.replace(TOY, width=8), run)
    assert checkpoint.read_config(run) == TOY


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match=r"run/.lock cannot be locked .*Operation not supported"):
        Trainer(dataclasses.replace(TOY, iterations=7), tmp_path / "run").train(progress=False)
    assert [p.name for p in checkpoint.steps(tmp_path / "run")] == ["step_00000007"]


def test_a_half_written_last_line_of_metrics_is_dropped(tmp_path):
    run = tmp_path / "run"
    Trainer(dataclasses.replace(TOY, iterations=20, decay=False), run).train(progress=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 25, "lo')
    Trainer(dataclasses.replace(TOY, iterations=30, decay=False), run, resume=True).train(progress=False)
    assert [r["step"] for r in read_metrics(run)] == [5, 10, 15, 20, 25, 30]


def test_a_damaged_line_of_metrics_costs_that_line_alone(tmp_path):
    run = tmp_path / "run"
    Trainer(dataclasses.replace(TOY, iterations=20, decay=False), run).train(progress=False)
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    bad = [
        b"\xff\xfe\x00",
        b"",
        b"[1]",
        b"3",
        b'{"loss": 1.0}',
        b'{"step": 6}',
        b'{"step": "6", "loss": 1.0}',
        b'{"step": true, "loss": 1.0}',
        b'{"step": 6, "loss": null}',
        b'{"step": 6, "lo',
        b"9" * 5000,
    ]
    (run / "metrics.jsonl").write_bytes(b"\n".join([*bad, lines[0], *bad, *lines[1:], *bad]))
    assert [r["step"] for r in read_metrics(run)] == [5, 10, 15, 20]
    Trainer(dataclasses.replace(TOY, iterations=30, decay=False), run, resume=True).train(progress=False)
    assert [r["step"] for r in read_metrics(run)] == [5, 10, 15, 20, 25, 30]
    kept = [*bad, lines[0], *bad, *lines[1:], *bad[:-1]]  # whose they are is not known: all but the torn last one stay
    assert (run / "metrics.jsonl").read_bytes().splitlines()[: len(kept)] == kept
