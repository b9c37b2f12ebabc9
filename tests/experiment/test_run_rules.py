"""How long and how large a run may be, what may change on the way, and who may train: known before it begins."""

import dataclasses
import json
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastscore as fs
from fastscore._core import files
from fastscore.experiment import checkpoint, cli
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.history import read_metrics
from fastscore.experiment.presets import command_line, preset
from fastscore.experiment.train import Trainer

from .test_run_folders import CONFIG, not_finite, train
from .test_train import weights


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"iterations": 2**32 + 1}, "iterations must be from 1 to 4294967296, got 4294967297"),
        ({"iterations": int("7" * 400)}, "iterations must be from 1 to 4294967296, got a number of 400 digits"),
        (
            {"steps_per_level": 10**9},
            r"steps_per_level times num_levels must be less than 2\^32.*got 1000000000 times 12",
        ),
        ({"lr": 1e308}, "lr must be from 1.2e-38 to 3.4e[+]38, which float32 holds, got 1e[+]308"),
        ({"lr": 10**400}, "lr must be a number that float32 holds, got a number of 401 digits"),
        ({"lr": 1e30, "beta1": 1 - 1e-12}, "lr must be at most"),
        ({"model": "ncsn", "width": 1}, "width must be at least 2 for images"),
        ({"weight": 60.0}, "weight must keep sigma"),
        ({"step_size": 1e37}, "step_size .*must be at most"),
        ({"solver_steps": -1}, "solver_steps must be at least 0, got -1"),
        ({"sampler": "fast"}, "sampler must be one of .*annealed.*, got 'fast'"),
        ({"sampler": ["annealed"]}, "sampler must be one of .*, got "),
    ],
)
def test_bounds_of_a_config(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_sampler_that_could_not_draw_is_refused_before_training(tmp_path, monkeypatch):
    """A network of labels between its levels; one of any sigma may be asked there."""
    config = preset("digits", width=4, num_levels=3, solver_steps=4)
    with pytest.raises(
        ValueError, match=r"solver_steps must be at most num_levels, 3, for ncsn, .* got 4; .*--interpolate"
    ):
        Trainer(config, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    Trainer(dataclasses.replace(config, model="ncsnv2"), tmp_path / "b")
    Trainer(dataclasses.replace(config, solver_steps=3), tmp_path / "c")
    Trainer(dataclasses.replace(config, sampler="annealed"), tmp_path / "d")  # which takes no steps
    between = dataclasses.replace(config, sampler="gotta_go_fast")
    with pytest.raises(
        ValueError, match=r"sampler must be one that asks for noise levels alone for ncsn, .*--interpolate"
    ):
        Trainer(between, tmp_path / "e")
    monkeypatch.setitem(sys.modules, "torchode", None)
    with pytest.raises(fs.MissingDependency, match="torchode"):
        Trainer(dataclasses.replace(config, model="ncsnv2", sampler="adaptive_ode"), tmp_path / "e")
    assert not (tmp_path / "e").exists()
    Trainer(dataclasses.replace(between, model="ncsnv2"), tmp_path / "f")


@pytest.mark.parametrize("changes", [{"width": 10**26}, {"batch_size": 10**13}])
def test_a_run_beyond_the_machine_is_refused_before_it_begins(changes, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} must be smaller: with 10"):
        Trainer(dataclasses.replace(CONFIG, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_longest_run_ends_within_the_random_numbers(tmp_path):
    """Its last iteration runs; the first of 2^32 shuffles that data does not have is refused before it begins."""
    longest = dataclasses.replace(CONFIG, iterations=2**32, log_every=2**31)
    trainer = Trainer(longest, tmp_path / "a")
    trainer.step = longest.iterations - 1
    trainer._iterate()
    with pytest.raises(ValueError, match=r"less than 2\^32 epochs of 898 samples"):
        Trainer(preset("digits", width=4, batch_size=4096, iterations=10**9), tmp_path / "b")


def test_the_way_on_after_a_loss_that_is_not_finite_can_be_followed(tmp_path, monkeypatch, capsys):
    """The command in the text goes on from the checkpoint it names, and changes.jsonl says what changed."""
    run, iterate = tmp_path / "a b", Trainer._iterate
    assert fs.NonFiniteLoss.__doc__

    def diverging(self):
        if self.step == 5 and self.config.lr == CONFIG.lr:
            self.learner.sums.fill_(torch.nan)
        return iterate(self)

    monkeypatch.setattr(Trainer, "_iterate", diverging)
    with pytest.raises(fs.NonFiniteLoss, match=r"the last good checkpoint is .*step_00000004. Go on from it") as caught:
        train(run)
    command = str(caught.value).split("smaller steps: ")[1]
    assert "--resume --change" in command and "--lr 0.0001" in command and "--clip-norm 1.0" in command
    with pytest.raises(SystemExit):  # without --change it is another config, and the text says what would do
        cli.main([*shlex.split(command.replace(" --change", ""))[1:], "--quiet"])
    assert "with --change the run goes on with them, and records it" in capsys.readouterr().err
    cli.main([*shlex.split(command)[1:], "--quiet"])
    assert "from iteration 4 on it trains with lr (was 0.001, now 0.0001)" in capsys.readouterr().out
    changes = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    assert changes == [
        {"step": 4, "field": "lr", "old": 0.001, "new": 0.0001},
        {"step": 4, "field": "clip_norm", "old": 0.0, "new": 1.0},
    ]
    assert [r["lr"] for r in read_metrics(run)][-2:] == [CONFIG.lr / 10 * (n / CONFIG.warmup) for n in (5, 6)]
    before = weights(run)
    cli.main([*shlex.split(command)[1:], "--quiet"])  # from its own checkpoint there is nothing to change
    assert len((run / "changes.jsonl").read_text().splitlines()) == 2
    assert all(torch.equal(v, before[k]) for k, v in weights(run).items())


def test_change_is_about_the_optimizer_alone(tmp_path):
    train(tmp_path)
    with pytest.raises(fs.CheckpointError, match=r"another config: width \(was 8, now 9\); leave"):
        Trainer(dataclasses.replace(CONFIG, width=9, lr=0.1), tmp_path, resume=True, change=True)


def test_changes_of_iterations_that_are_made_again_go(tmp_path):
    """changes.jsonl is what led to the weights, also after a checkpoint was given up; a plain resume keeps it."""

    def go_on(lr, iterations, change=True):
        config = dataclasses.replace(CONFIG, keep=9, lr=lr, iterations=iterations)
        Trainer(config, tmp_path, resume=True, change=change).train(progress=False)
        return [tuple(json.loads(line).values()) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]

    train(tmp_path, keep=9)
    first = (6, "lr", CONFIG.lr, 2e-4)
    assert go_on(2e-4, 8) == [first]
    assert go_on(3e-4, 10) == [first, (8, "lr", 2e-4, 3e-4)] == go_on(3e-4, 12, change=False)
    for step in (12, 10, 8):
        shutil.rmtree(tmp_path / "checkpoints" / f"step_{step:08d}")
    assert go_on(3e-4, 12, change=False) == [(6, "lr", CONFIG.lr, 3e-4)]


def test_a_checkpoint_with_nan_is_not_called_good(tmp_path):
    train(tmp_path)
    not_finite(tmp_path, None)
    assert checkpoint.last_good(tmp_path).name == "step_00000004"


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        preset("digits", decay=False, flip=True, data_dir="it's", lr=1e-4),
        preset("cifar10-ncsnv2", seed=3),
        preset("toy", weight=-1.5e-5),
        preset("toy", objective="ssm"),
        preset("toy", objective="ssm", objective_options={"n_particles": 3}),
        dataclasses.replace(preset("mnist"), ema_warmup=True, ema=0.9, dequantize=False),
    ],
)
def test_command_lines_say_the_config(config, monkeypatch):
    said = []
    monkeypatch.setattr(
        "fastscore.experiment.train.Trainer", lambda config, run, **k: said.append((config, run)) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        cli.main(shlex.split(command_line(config, "-x  y", "--resume"))[1:])
    assert said == [(config, Path("-x  y"))]


def test_a_command_line_begins_from_the_nearest_preset():
    assert command_line(preset("mnist", seed=4), "r", "--resume") == "fastscore train mnist --out r --seed 4 --resume"


def test_a_run_is_locked_from_its_beginning_to_its_end(tmp_path):
    trainer = Trainer(CONFIG, tmp_path / "a")
    for resume in (False, True):
        with pytest.raises(fs.CheckpointError, match=r"already holds a run|another Trainer of this one, trains in"):
            Trainer(CONFIG, tmp_path / "a", resume=resume)
    trainer.train(progress=False)
    with pytest.raises(fs.CheckpointError, match=r"this Trainer of .* has ended"):
        trainer.train(progress=False)
    with Trainer(CONFIG, tmp_path / "a", resume=True) as second:
        assert second.step == 6
    Trainer(CONFIG, tmp_path / "a", resume=True)


def test_a_killed_writers_files_go_before_anything_is_written(tmp_path, monkeypatch):
    """They may be what fills the disk."""
    train(tmp_path, iterations=4)
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [tmp_path / f".{'a' * 32}.{platform.node()}.{dead.pid}.tmp.json", tmp_path / "checkpoints/.writing_00000006"]
    left[0].touch()
    left[1].mkdir()
    (tmp_path / ".mine.tmp").touch()
    seen = []
    monkeypatch.setattr(
        files,
        "flush_folder",
        lambda path, flush=files.flush_folder: (
            seen.append([p.exists() for p in (*left, tmp_path / ".mine.tmp")]) or flush(path)
        ),
    )
    Trainer(dataclasses.replace(CONFIG, iterations=5), tmp_path, resume=True)
    assert seen and seen[0] == [False, False, True]


def test_a_config_of_integers_is_the_config_of_floats():
    values = json.loads(CONFIG.to_json()) | {"lr": 1, "weight": 2, "sigma_begin": 20}
    config = TrainConfig.from_json(json.dumps(values))
    assert type(config.lr) is float and config == dataclasses.replace(CONFIG, lr=1.0)
