"""Run folders: nothing of unknown origin is touched, nothing altered or another run's is used, and data is the data."""

import dataclasses
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastscore as fs
from fastscore.experiment import checkpoint
from fastscore.experiment.checkpoint import reading
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.history import read_metrics
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import load_run
from fastscore.experiment.train import Trainer

from ..conftest import optional
from .test_damaged_runs import resign

CONFIG = preset(
    "toy", data="two_moons", iterations=6, width=8, batch_size=8, checkpoint_every=2, log_every=1, decay=False, keep=2
)


def train(run: Path, **changes) -> Path:
    return Trainer(dataclasses.replace(CONFIG, **changes), run).train(progress=False)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file's bytes and every link's target; .lock aside, which is empty."""
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else ""
        for p in folder.rglob("*")
        if p.name != ".lock"
    }


def refuse(run: Path, message: str, error=fs.CheckpointError, **changes) -> str:
    """Training is refused with and without resume, and leaves the folder as it was."""
    before = contents(run)
    resume = changes.pop("resume", (False, True))
    for way in resume:
        with pytest.raises(error, match=message) as caught:
            Trainer(dataclasses.replace(CONFIG, iterations=9, **changes), run, resume=way).train(progress=False)
        assert contents(run) == before
    return str(caught.value)


def test_checkpoints_without_a_config_are_not_touched(tmp_path):
    run = tmp_path / "a"
    train(run)
    config = (run / "config.json").read_text()
    (run / "config.json").unlink()
    text = refuse(
        run, r"has no config.json but holds metrics.jsonl, moments.safetensors, checkpoints/, of unknown origin"
    )
    with pytest.raises(fs.CheckpointError, match=r"it holds checkpoints/step_00000006: put the config.json") as caught:
        load_run(run)
    assert "fastscore train" not in str(caught.value)
    assert str(run / "checkpoints/step_00000006/about.json") in text and "about.json" in str(caught.value)
    (run / "config.json").write_text(config)
    assert load_run(run).iteration == 6


@pytest.mark.parametrize("name", ["metrics.jsonl", "changes.jsonl", "run.json", "samples/step_1.png", "checkpoints/x"])
def test_a_foreign_file_where_a_run_would_write(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"step": 3, "loss": 1.0}\n')
    refuse(tmp_path, f"holds {name.split('/')[0]}.*of unknown origin, which a new run would overwrite")


def test_foreign_files_elsewhere_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    train(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine" and load_run(tmp_path).iteration == 6


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_vanishes_is_not_made_again(again, tmp_path, monkeypatch):
    run, iterate = tmp_path / "run", Trainer._iterate

    def vanishing(self):
        if self.step == 4:
            shutil.rmtree(run)
            if again:
                run.mkdir()
                (run / ".lock").touch()
        return iterate(self)

    monkeypatch.setattr(Trainer, "_iterate", vanishing)
    with pytest.raises(fs.CheckpointError, match=r"run was removed, moved or replaced while this run trained in it"):
        train(run)
    assert [p.name for p in run.iterdir()] == [".lock"] if again else not run.exists()


@pytest.mark.parametrize(
    "where, message",
    [
        ("", "was removed, moved or replaced while this run trained in it"),
        ("checkpoints", r"checkpoints cannot be written: File exists; the checkpoints .* go on with: fastscore train"),
    ],
)
def test_a_file_in_the_place_of_a_folder(where, message, tmp_path):
    trainer = Trainer(CONFIG, tmp_path / "run")
    trainer._iterate()
    place = tmp_path / "run" / where
    if place.exists():
        place.rename(tmp_path / "elsewhere")
    place.touch()
    with pytest.raises((fs.CheckpointError, fs.CannotWrite), match=message):
        trainer._save()


def test_a_config_or_identity_that_vanishes_stops_the_run(tmp_path):
    trainer = Trainer(CONFIG, tmp_path / "a")
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(fs.CheckpointError, match=r"config.json was deleted while this run trained"):
        trainer._save()
    trainer = Trainer(CONFIG, tmp_path / "b")
    other = Trainer(CONFIG, tmp_path / "c")
    shutil.copy(tmp_path / "c" / "run.json", tmp_path / "b")
    with pytest.raises(fs.CheckpointError, match=r"run.json is another run's by now"):
        trainer._save()
    assert not checkpoint.steps(tmp_path / "b") and other._opening.identity.run != trainer._opening.identity.run


def test_only_own_checkpoints_are_pruned_by_number(tmp_path):
    """Beyond 8 digits too, where names no longer sort; another run's stay, and the last one written always does."""
    trainer = Trainer(dataclasses.replace(CONFIG, keep=1), tmp_path / "a")
    train(tmp_path / "b", iterations=2)
    trainer._iterate()
    for step in (99_999_998, 99_999_999, 100_000_000):
        trainer.step = step
        trainer._save()
        if step == 99_999_998:
            shutil.copytree(tmp_path / "b" / "checkpoints" / "step_00000002", trainer.last.with_name("step_00000002"))
            shutil.copytree(trainer.last.with_name("step_00000002"), trainer.last.with_name("step_99999990"))
    names = ["step_00000002", "step_99999990", "step_100000000"]
    assert [p.name for p in checkpoint.steps(tmp_path / "a")] == names
    assert checkpoint.latest(tmp_path / "a") == trainer.last and load_run(tmp_path / "a").iteration == 10**8


def test_only_names_that_a_run_writes_are_checkpoints(tmp_path):
    for name in ("step_00000007", "step_000000008", "step_0000009", "step_" + 8 * "\u0661"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [p.name for p in checkpoint.steps(tmp_path)] == ["step_00000007"]


def link(run):
    (run / "checkpoints").rename(run / "elsewhere")
    (run / "checkpoints").symlink_to("mounted")


@pytest.mark.parametrize(
    "lose, error, message",
    [
        (link, fs.CheckpointError, "checkpoints is a link to mounted, which is not there"),
        (
            lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").touch()),
            NotADirectoryError,
            "Not a directory: .*checkpoints",
        ),
        (
            lambda run: shutil.rmtree(run / "checkpoints"),
            fs.CheckpointError,
            "has no checkpoint, though its metrics.jsonl goes to iteration 6: put checkpoints/ back",
        ),
        (lambda run: (run / "run.json").unlink(), fs.CheckpointError, "has no run.json, which says whose checkpoints"),
    ],
)
def test_lost_checkpoints_do_not_cost_the_history(lose, error, message, tmp_path):
    train(tmp_path)
    lose(tmp_path)
    refuse(tmp_path, message, error, resume=(True,))


def test_a_kill_before_the_first_checkpoint_begins_again(tmp_path):
    train(tmp_path / "whole")
    trainer = Trainer(CONFIG, tmp_path / "a")
    for _ in range(2):  # a line of metrics at the very iteration of the checkpoint that was not written
        trainer._iterate()
        trainer._log(1.0, 1.0)
    trainer.close()
    Trainer(CONFIG, tmp_path / "a", resume=True).train(progress=False)
    assert [r["loss"] for r in read_metrics(tmp_path / "a")] == [r["loss"] for r in read_metrics(tmp_path / "whole")]


def test_lines_that_are_not_the_runs_stay_among_those_that_go(tmp_path):
    train(tmp_path)
    shutil.rmtree(checkpoint.latest(tmp_path))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("a note of mine\n")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    Trainer(CONFIG, tmp_path, resume=True).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [*lines[:4], "a note of mine"]


def pictures(folder: Path, count: int) -> Path:
    image = optional("PIL.Image")
    folder.mkdir(exist_ok=True)
    for k in range(count):
        image.new("RGB", (8, 8), (40 * k, 9, 200)).save(folder / f"{k}.png")
    return folder


def test_changed_data_is_refused_and_a_moved_folder_is_not(tmp_path, monkeypatch):
    photos = pictures(tmp_path / "photos", 4)
    monkeypatch.chdir(tmp_path)
    config = preset(
        "digits",
        data="folder",
        data_dir="photos",
        image_size=8,
        iterations=2,
        width=4,
        batch_size=2,
        checkpoint_every=2,
        decay=False,
    )
    trainer = Trainer(config, tmp_path / "run")
    assert trainer.about_data.startswith(f"photos: 4 images of (3, 8, 8), from {photos}")
    trainer.train(progress=False)
    assert checkpoint.read_config(tmp_path / "run").data_dir == str(photos)
    identity = checkpoint.read_identity(tmp_path / "run")
    assert (identity.count, identity.source, identity.num_classes) == (4, str(photos), None)

    def go_on(data_dir, **changes):
        longer = dataclasses.replace(config, data_dir=str(data_dir), iterations=4, **changes)
        return Trainer(longer, tmp_path / "run", resume=True)

    pictures(photos, 5)
    with pytest.raises(
        fs.CheckpointError,
        match=rf"other data: number of samples \(was 4, now 5\); it was read from "
        rf"{photos}. What is there now is photos: 5 images",
    ):
        go_on(photos)
    with pytest.warns(UserWarning, match=r"trained on other data than .*photos: 5 images.*samples \(was 4, now 5\)"):
        evaluate(tmp_path / "run", num=20, sampler="annealed", steps_per_level=1, progress=False)
    (photos / "4.png").unlink()
    (photos / "0.png").rename(photos / "9.png")
    with pytest.raises(fs.CheckpointError, match=r"other data: content: as many samples of the same shape"):
        go_on(photos)
    (photos / "9.png").rename(photos / "0.png")
    photos.rename(tmp_path / "moved")
    moved = {"data_dir": tmp_path / "moved", "sampler": "annealed", "steps_per_level": 1}
    report = evaluate(tmp_path / "run", num=20, progress=False, **moved)
    assert report["samples"] == 20
    assert go_on(tmp_path / "moved").train(progress=False).name == "step_00000004"


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    train(tmp_path)

    def denied(self, read=Path.read_bytes):
        if self.name == "ema.safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(PermissionError, match=r"Permission denied: .*ema.safetensors"):
        load_run(tmp_path)


def test_files_have_the_mode_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        folder = train(tmp_path / "run")
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [*folder.iterdir(), *(tmp_path / "run").iterdir()]}
    wrong = {name: mode for name, mode in modes.items() if mode != (0o750 if name == "checkpoints" else 0o640)}
    assert wrong == {}


def test_a_reader_takes_the_new_latest_where_the_old_one_was_pruned(tmp_path, monkeypatch):
    trainer = Trainer(dataclasses.replace(CONFIG, keep=1), tmp_path)
    trainer._iterate(), trainer._save()
    read = reading._bytes

    def late(path):
        if path.name == "ema.safetensors" and trainer.step == 1:
            trainer._iterate(), trainer._save()
        return read(path)

    monkeypatch.setattr(reading, "_bytes", late)
    assert load_run(tmp_path).iteration == 2


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    train(folder / "a")
    train(folder / "b", seed=1)
    return folder


def swap(name):
    def damage(run, other):
        shutil.copy(checkpoint.latest(other) / name, checkpoint.latest(run) / name)

    return damage


def flip(name):
    def damage(run, other):
        file = checkpoint.latest(run) / name
        data = bytearray(file.read_bytes())
        data[-9] ^= 4
        file.write_bytes(data)

    return damage


def swap_all(run, other):
    shutil.rmtree(checkpoint.latest(run))
    shutil.copytree(checkpoint.latest(other), run / "checkpoints" / "step_00000006")


def rename(run, other):
    checkpoint.latest(run).rename(run / "checkpoints" / "step_00000060")


def edit(**values):
    def damage(run, other):
        old = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(old | values))

    return damage


def not_finite(run, other):
    for name in ("model.safetensors", "ema.safetensors"):
        tensors = load_file(checkpoint.latest(run) / name)
        next(iter(tensors.values())).view(-1)[0] = torch.nan
        save_file(tensors, checkpoint.latest(run) / name)
    resign(checkpoint.latest(run))


ALTERED = {
    "ema of another seed": (swap("ema.safetensors"), "ema.safetensors is damaged or another checkpoint's"),
    "model for ema": (
        lambda run, other: shutil.copy(
            checkpoint.latest(run) / "model.safetensors", checkpoint.latest(run) / "ema.safetensors"
        ),
        "ema.safetensors",
    ),
    "checkpoint of another seed": (swap_all, "step_00000006 belongs to another run"),
    "about of another seed": (swap("about.json"), "step_00000006 belongs to another run"),
    "run.json of another seed": (lambda run, other: shutil.copy(other / "run.json", run), "belongs to another run"),
    "renamed": (rename, "step_00000060 is the checkpoint of iteration 6, renamed"),
    "renamed copy": (
        lambda run, other: shutil.copytree(checkpoint.latest(run), run / "checkpoints" / "step_00000060"),
        "iteration 6, renamed: move it away",
    ),
    "bit of ema": (flip("ema.safetensors"), "ema.safetensors is damaged"),
    "bit of about": (flip("about.json"), r"about.json does not describe a checkpoint: (its checksum is wrong|.)"),
    "another noise": (edit(sigma_begin=10), r"sigma_begin \(was 20.0, now 10.0\); put these back"),
    "another network": (edit(model="ncsn", data="digits"), "data .*model .*put these back"),
    "NaN": (not_finite, "ema.safetensors holds weights that are not finite"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_what_was_altered_or_is_another_runs_is_not_sampled(case, two_runs, tmp_path):
    damage, message = ALTERED[case]
    shutil.copytree(two_runs / "a", tmp_path / "a")
    damage(tmp_path / "a", two_runs / "b")
    with pytest.raises(fs.CheckpointError, match=message):
        load_run(tmp_path / "a")


@pytest.mark.parametrize(
    "damage, message",
    [
        (swap("state.pt"), "state.pt is damaged"),
        (flip("state.pt"), "state.pt is damaged"),
        (flip("model.safetensors"), "model.safetensors is damaged"),
        (swap("model.safetensors"), "model.safetensors is"),
    ],
)
def test_what_was_altered_is_not_resumed(damage, message, two_runs, tmp_path):
    shutil.copytree(two_runs / "a", tmp_path / "a")
    damage(tmp_path / "a", two_runs / "b")
    refuse(tmp_path / "a", message, resume=(True,))
