"""``fastscore status``: what one screen says of a run, and that it changes nothing; and TensorBoard's event files."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

import fastscore as fs
from fastscore.experiment import checkpoint, cli, status
from fastscore.experiment.event_files import EventFiles
from fastscore.experiment.history import read_metrics
from fastscore.experiment.presets import preset
from fastscore.experiment.train import Trainer

from ..conftest import optional
from .test_run_folders import contents

CONFIG = preset(
    "toy", data="two_moons", iterations=6, width=8, batch_size=8, checkpoint_every=2, log_every=1, decay=False, keep=2
)


def lines(run) -> dict[str, str]:
    return {line[:12].strip(): line[12:] for line in status.screen(status.status(run)).splitlines()}


def test_a_run_from_its_start_to_its_end(tmp_path):
    run = tmp_path / "run"
    with Trainer(CONFIG, run) as trainer:
        said = lines(run)
        assert said["run"] == f"{run}: mlp on two_moons, 0 of 6 iterations (0.0 %)"
        assert said["state"] == "a process trains here now" and said["checkpoint"] == "none yet"
        assert said.keys() == {"run", "state", "checkpoint", "disk"}
        trainer.train(progress=False)
    assert lines(run)["state"] == "trained" and "left" not in lines(run)
    assert lines(run)["checkpoint"].startswith("iteration 6, ") and lines(run)["checkpoint"].endswith("ago; 2 kept")
    used = sum(p.stat().st_size for p in run.rglob("*") if p.is_file())
    found = status.status(run)
    assert found.used == used and found.checkpoints == (4, 6) and lines(run)["disk"].startswith(status.size(used))
    assert found.loss == read_metrics(run)[-1]["loss"]


def test_pace_time_left_and_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    Trainer(CONFIG, run).train(progress=False)
    config = dataclasses.replace(checkpoint.read_config(run), iterations=1006)
    (run / "config.json").write_text(config.to_json())
    records = [
        {"step": step, "loss": 2.5, "images_per_second": pace}
        for step, pace in ((4, 99.0), (5, 4.0), (6, 2.0), (7, 8.0))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + "cut o")
    hour_ago = time.time() - 3600
    os.utime(run / "metrics.jsonl", (hour_ago, hour_ago))
    os.utime(run / "checkpoints" / "step_00000006", (hour_ago - 86400, hour_ago - 86400))
    found = status.status(run)
    assert (found.step, found.images_per_second, found.seconds_left) == (7, 6.0, 999 * 8 / 6)  # the median: (4 + 8) / 2
    said = lines(run)
    assert (
        said["last line"] == "loss 2.5, 6 images/s, 1 h ago" and said["left"] == "22 min 12 s of training, at that pace"
    )
    assert said["checkpoint"] == "iteration 6, 1 d 1 h ago; 2 kept"
    assert said["state"].startswith("no process trains here; go on with: fastscore train toy --out ")
    with Trainer(config, run, resume=True):
        # iteration 7, after the last checkpoint, is made again; and there is a time of day
        assert lines(run)["left"].startswith("33 min 20 s of training, at that pace: ")


def test_another_process_is_seen_and_its_death_too(tmp_path):
    Trainer(CONFIG, tmp_path / "run").train(progress=False)
    held = (  # as a Lock is
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(0); print('held', flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", held, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert status.status(tmp_path / "run").alive is True
        process.kill()
        process.wait()
        assert status.status(tmp_path / "run").alive is False


def test_nothing_is_written(tmp_path, monkeypatch):
    run = tmp_path / "run"
    Trainer(CONFIG, run).train(progress=False)
    (run / ".lock").unlink()  # of a copy
    before = contents(run)
    assert status.status(run).alive is False
    assert contents(run) == before and not (run / ".lock").exists()
    (run / ".lock").touch()
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *args: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert status.status(run).alive is None
    (run / "config.json").write_text(dataclasses.replace(CONFIG, iterations=9).to_json())
    assert lines(run)["state"].startswith(
        "whether a process trains here cannot be told (.lock cannot be locked); go on"
    )


def test_the_command(tmp_path, capsys):
    Trainer(CONFIG, tmp_path / "run").train(progress=False)
    cli.main(["status", str(tmp_path / "run")])
    assert capsys.readouterr().out.splitlines()[1] == "state       trained"
    with pytest.raises(SystemExit) as stop:
        cli.main(["status", str(tmp_path)])
    assert stop.value.code == 2 and "is not a run folder" in capsys.readouterr().err


def test_words_for_times_and_sizes():
    seconds = (0.2, 59.4, 59.6, 3599, 3600, 86400 * 2 + 3660, 86400 + 59)
    words = ["0 s", "59 s", "1 min", "59 min 59 s", "1 h", "2 d 1 h", "1 d"]
    assert list(map(status.duration, seconds)) == words
    assert list(map(status.size, (0, 999, 1000, 5e15))) == ["0 B", "999 B", "1 kB", "5000 TB"]


def test_an_imported_run_has_no_lines_yet(tmp_path):
    run = tmp_path / "run"
    last = Trainer(CONFIG, run).train(progress=False)
    (run / "metrics.jsonl").unlink()
    found = status.status(run)
    assert (found.step, found.loss, found.seconds_left) == (checkpoint.step_of(last), None, None)
    assert "last line" not in lines(run)


def test_tensorboard_is_asked_for_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SystemExit):
        cli.main(["train", "toy", "--out", str(tmp_path / "run"), "--tensorboard"])
    assert "fastscore-torch[tensorboard]" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_event_files_hold_the_lines(tmp_path):
    """Of a run that was killed after its last checkpoint, the lines that are made again are there once."""
    optional("tensorboard")
    accumulator = optional("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    for start, end in ((0, 3), (0, 4), (2, 6)):  # the first was killed before any checkpoint
        events = EventFiles(run, start)
        for i in range(start, end):
            events({"step": i + 1, "loss": i + start + 0.5, "loss_per_sigma": [1.0 * i, None], "lr": 1e-3})
        events.close()
    read = accumulator.EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(i + 1, i + 0.5 + 2 * (i > 1)) for i in range(6)]
    assert set(read.Tags()["scalars"]) == {"loss", "lr", "loss_per_sigma/0"}


def test_a_trainer_tells_its_listener_every_line(tmp_path):
    told = []
    Trainer(CONFIG, tmp_path / "run").train(progress=False, listener=told.append)
    assert told == read_metrics(tmp_path / "run") and len(told) == 6
    with pytest.raises(fs.CannotWrite, match=r"No space left.*go on with: fastscore train"):
        Trainer(CONFIG, tmp_path / "other").train(
            progress=False, listener=lambda record: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
