"""What lies on disk, damaged, foreign or hostile, and the command line: refused in words, and nothing is lost."""

import dataclasses
import errno
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

import fastscore as fs
from fastscore.experiment import checkpoint, cli
from fastscore.experiment.build import pick_device
from fastscore.experiment.checkpoint import store
from fastscore.experiment.checkpoint.files import read_signed_json, signed_json
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import load_run, sample
from fastscore.experiment.train import Trainer
from fastscore.models import load_original_checkpoint

from ..conftest import optional


@pytest.fixture
def run(tmp_path) -> Path:
    """A tiny trained run."""
    config = preset("toy", iterations=2, width=8, batch_size=8, checkpoint_every=2, log_every=1, steps_per_level=1)
    Trainer(config, tmp_path / "run").train(progress=False)
    return tmp_path / "run"


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def truncate(name):
    def damage(run):
        file = checkpoint.latest(run) / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def resign(folder: Path, **changes) -> None:
    """Make the checksums of a checkpoint right again, so that what is behind them is looked at."""
    about = read_signed_json((folder / "about.json").read_bytes()) | changes
    about["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in about["files"]}
    (folder / "about.json").write_text(signed_json(about))


def shaped(shape):
    return lambda run: resign(checkpoint.latest(run), sample_shape=shape)


def with_state(change, state=None):
    """A state.pt whose checksum is right: what ``change`` makes of the old one, or ``state``."""

    def damage(run):
        file = checkpoint.latest(run) / "state.pt"
        value = torch.load(file, weights_only=True) if change else state
        changed = change(value) if change else None
        torch.save(changed if isinstance(changed, dict) and "sums" in changed else value, file)
        resign(file.parent)

    return damage


def foreign_weights(run):
    from safetensors.torch import save_file

    save_file({"foreign": torch.zeros(3)}, checkpoint.latest(run) / "ema.safetensors")
    save_file({"foreign": torch.zeros(3)}, checkpoint.latest(run) / "model.safetensors")
    resign(checkpoint.latest(run))


DAMAGE = {
    "config gone": (lambda run: (run / "config.json").unlink(), "is not a run folder: it has no config.json"),
    "config not JSON": (
        lambda run: (run / "config.json").write_text("{"),
        "config.json is not the config of a run: .*put it back as it was: the field 'config' of .*2/about.json is a copy",
    ),
    "config of zeros, as after a power cut": (
        lambda run: (run / "config.json").write_bytes(bytes(4)),
        "is not the config of a run: Expecting value",
    ),
    "identity of zeros": (
        lambda run: (run / "run.json").write_bytes(bytes(4)),
        "is not the identity of a run: Expecting value.*; put it back as it was: it says whose checkpoints",
    ),
    "config a list": (lambda run: (run / "config.json").write_text("[]"), "is not the config of a run"),
    "config not UTF-8": (
        lambda run: (run / "config.json").write_bytes(b'{"data": "\xff"}'),
        "run/config.json is not the config of a run: .*can't decode",
    ),
    "config flag a text": (
        lambda run: (run / "config.json").write_text('{"flip": "false"}'),
        "flip must be true or false, got str 'false'",
    ),
    "config flag a number": (
        lambda run: (run / "config.json").write_text('{"denoise": 1}'),
        "denoise must be true or false, got int 1",
    ),
    "config of the future": (
        lambda run: (run / "config.json").write_text('{"colour": 1}'),
        "not know, of a later one perhaps: colour",
    ),
    "config with bad values": (lambda run: (run / "config.json").write_text('{"batch_size": 0}'), "batch_size must be"),
    "no checkpoints": (lambda run: [p.rename(run / p.name) for p in checkpoint.steps(run)], "has no checkpoint yet"),
    "weights truncated": (truncate("ema.safetensors"), "ema.safetensors is damaged or another checkpoint's"),
    "weights missing": (
        lambda run: (checkpoint.latest(run) / "ema.safetensors").unlink(),
        "ema.safetensors is missing",
    ),
    "weights foreign": (foreign_weights, "does not fit the network"),
    "shape missing": (
        lambda run: (checkpoint.latest(run) / "about.json").write_text("{}"),
        "about.json does not describe a checkpoint: it has no checksum: an earlier version",
    ),
    "shape empty": (shaped([]), r"does not describe a checkpoint: sample_shape must be .*got list \[\]"),
    "shape of a plane": (shaped([8, 8]), r"sample_shape must be \[C, H, W\] or \[D\], got list \[8, 8\]"),
    "shape negative": (shaped([-2]), r"sample_shape must be .*got list \[-2\]"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_runs(case, run, capsys):
    damage, message = DAMAGE[case]
    damage(run)
    before = sorted(p for p in run.rglob("*"))
    with pytest.raises(fs.CheckpointError, match=message):
        load_run(run, device="cpu")
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), "--num", "2", "--quiet"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    assert sorted(p for p in run.rglob("*")) == before


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate("state.pt"), "state.pt is damaged or another"),
        (lambda run: (checkpoint.latest(run) / "state.pt").write_bytes(b""), "state.pt is damaged or another"),
        (with_state(None, {"epoch": 3}), "is not the state of a fastscore run"),
        (with_state(None, {"step": 2, "optimizer": {}}), "state.pt is not the state of a fastscore run"),
        (with_state(lambda state: state | {"step": float("nan")}), "not the state of iteration 2, but of float nan"),
        (with_state(lambda state: state | {"step": 10**18}), "not the state of iteration 2, but of int 1000000"),
        (with_state(lambda state: state | {"optimizer": None}), "does not hold Adam's moments"),
        (with_state(lambda state: state["optimizer"].pop("state")), "does not hold Adam's moments"),
        (with_state(lambda state: state["optimizer"]["state"][0].pop("exp_avg")), "does not hold Adam's moments"),
        (
            with_state(lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.ones(7))),
            "not hold Adam's moments",
        ),
        (
            with_state(lambda state: state["optimizer"]["state"][0]["exp_avg_sq"].fill_(torch.inf)),
            "not hold Adam's moment",
        ),
        (
            with_state(lambda state: state["optimizer"]["state"][0].update(step=torch.tensor([1]))),
            "not hold Adam's moments",
        ),
        (with_state(lambda state: state | {"sums": state["sums"].float()}), "does not hold the sums of the loss"),
        (with_state(lambda state: state | {"sums": state["sums"][:, :3]}), "does not hold the sums of the loss"),
        (with_state(lambda state: state | {"sums": 0.0}), "does not hold the sums of the loss"),
    ],
)
def test_damaged_state_is_refused_on_resume(damage, message, run):
    damage(run)
    with pytest.raises(fs.CheckpointError, match=message):
        Trainer(checkpoint.read_config(run), run, resume=True)


@pytest.mark.parametrize(
    "damage, read",
    [
        (truncate("model.safetensors"), lambda folder: checkpoint.read_weights(folder, "raw")),
        (truncate("state.pt"), checkpoint.read_state),
        (with_state(None, {}), checkpoint.read_state),
        (lambda run: (checkpoint.latest(run) / "state.pt").unlink(), checkpoint.read_state),
        (shaped([]), checkpoint.read_shape),
    ],
)
def test_a_damaged_last_checkpoint_says_how_to_go_on(damage, read, run):
    with_one = checkpoint.latest(run)
    damage(run)
    with pytest.raises(
        fs.CheckpointError, match=r"; there is no checkpoint before it: train again, in another folder$"
    ):
        read(with_one)
    before = with_one.with_name("step_00000001")
    before.mkdir()
    with pytest.raises(fs.CheckpointError, match=f"; delete {with_one} to go on from the one before$"):
        read(with_one)


def test_a_damaged_checkpoint_that_the_run_does_not_need(run):
    """Asked for by its iteration: nobody has to train again, since the run goes on from a later one."""
    first = checkpoint.latest(run).with_name("step_00000001")
    first.mkdir()
    with pytest.raises(fs.CheckpointError, match=f"the run goes on from step_00000002, without it: delete {first}"):
        load_run(run, iteration=1)


def test_a_data_set_of_three_images_is_refused_before_sampling(tmp_path, monkeypatch):
    image = optional("PIL.Image")
    (tmp_path / "photos").mkdir()
    for k in range(3):
        image.new("RGB", (8, 8), (k, k, k)).save(tmp_path / "photos" / f"{k}.png")
    config = preset(
        "digits", data="folder", data_dir=str(tmp_path / "photos"), image_size=8, iterations=1, width=4, batch_size=2
    )
    Trainer(config, tmp_path / "run").train(progress=False)
    monkeypatch.setattr("fastscore.experiment.sample.draw", lambda *a, **k: pytest.fail("it sampled"))
    with pytest.raises(fs.DataError, match="photos has 3 images, and evaluation needs at least 4"):
        evaluate(tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "save", [lambda value, path: torch.save(value, path), lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_loading_never_executes_code(save, run, tmp_path):
    trap = tmp_path / "executed"
    save({"step": Touch(trap), "optimizer": {}}, checkpoint.latest(run) / "state.pt")
    resign(checkpoint.latest(run))
    with pytest.raises(fs.CheckpointError, match=r"could execute code|cannot be read"):
        Trainer(checkpoint.read_config(run), run, resume=True)
    original = tmp_path / "checkpoint.pth"
    save([{"module.begin_conv.weight": Touch(trap)}], original)
    with pytest.raises(fs.CheckpointError):
        load_original_checkpoint(original)
    assert not trap.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "nope"], "nope"),
        (["train", "digits", "--widht", "3"], "--widht"),
        (["train", "digits", "--width", "-3"], "width must be at least 1, got -3"),
        (
            ["train", "digits", "--num-levels", "1"],
            "must be equal where num_levels is 1 (--sigma-begin, --sigma-end, --num-l",
        ),
        (["train", "mnist", "--data-dir", "{tmp}", "--out", "{tmp}/r"], "(fastscore train: --download, --data-dir)"),
        (["train", "digits", "--model", "mlp", "--out", "{tmp}/r"], "model must be 'mlp' for 2-D points"),
        (["train", "cifar10-ncsn", "--data-dir", "{tmp}", "--out", "{tmp}/r"], "cifar-10-batches-py"),
        (["train", "digits", "--device", "cuda:77", "--out", "{tmp}/r"], "device must be auto, cpu, or a GPU"),
        (["train", "toy", "--out", "{file}/run"], "{file}"),
        (["sample", "{tmp}/nowhere"], "is not a run folder"),
        (["sample", "{run}", "--num", "0"], "num must be at least 1, got 0"),
        (["sample", "{run}", "--num", "2", "--out", "{file}/x"], "{file}"),
        (["evaluate", "{run}", "--num", "3"], "num must be at least 20, got 3"),
        (["evaluate", "{run}", "--feature", "vgg"], "vgg"),
        (["evaluate", "{run}", "--feature", "inception", "--quiet"], "feature must be 'auto' or 'pixels' for points"),
    ],
)
def test_command_line_errors(arguments, message, run, tmp_path, capsys):
    if {"cifar10-ncsn", "mnist"} & set(arguments):
        optional("torchvision")
    file = tmp_path / "file"
    file.touch()
    places = {"tmp": str(tmp_path), "run": str(run), "file": str(file)}
    with pytest.raises(SystemExit) as stop:
        cli.main([argument.format(**places) for argument in arguments])
    assert stop.value.code == 2
    text = "".join(capsys.readouterr())
    assert "Traceback" not in text
    assert message.format(**places) in " ".join(text.replace("│", " ").split())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(run, tmp_path, capsys):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), "--num", "2", "--out", str(closed / "x"), "--quiet"])
    assert stop.value.code == 2 and "closed" in capsys.readouterr().err


def test_any_error_of_an_unusable_device_is_reported(monkeypatch):
    def empty(*args, **kwargs):
        raise ImportError

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ValueError, match=r"device must be auto, .* got 'cpu' \(ImportError\)"):
        pick_device("cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "state.pt"])
def test_a_checkpoint_that_cannot_be_written_names_the_file(file, run, monkeypatch):
    """A full disk: the text says so, names the file and the way on; what was there stays, nothing half-written does."""

    def full(path, data, write=store.write_flushed):
        if path.name != file:
            return write(path, data)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
            return write(path, data)

    trainer = Trainer(dataclasses.replace(checkpoint.read_config(run), decay=False), run, resume=True, change=True)
    trainer.step = 3
    monkeypatch.setattr(store, "write_flushed", full)
    with pytest.raises(
        OSError,
        match=rf"writing_00000003/{file} cannot be written: No space left; the checkpoints "
        rf"that were written stay.*go on with: fastscore train toy --out {run}.*--resume$",
    ) as told:
        trainer._save()
    assert told.value.errno == errno.ENOSPC
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step_00000002"]
    monkeypatch.undo()
    assert load_run(run).iteration == 2
    trainer._save()
    assert load_run(run).iteration == 3


OUT_OF_MEMORY = "error: out of memory: use a smaller --batch-size, or train with a smaller --width"


@pytest.mark.parametrize(
    "error, code, message",
    [
        (KeyboardInterrupt(), 130, "\nstopped\n"),
        (MemoryError(), 2, f"{OUT_OF_MEMORY} (MemoryError)\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            2,
            f"{OUT_OF_MEMORY} (CUDA out of memory. Tried)\n",
        ),
    ],
)
def test_interrupts_and_memory_are_one_line(error, code, message, run, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("fastscore.experiment.sample.draw", fails)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), "--quiet"])
    assert stop.value.code == code and capsys.readouterr().err == message


def test_the_memory_of_the_cpu(run, monkeypatch, capsys):
    """torch's own error, from a tensor of an exabyte; any other RuntimeError is a bug and keeps its traceback."""
    monkeypatch.setattr("fastscore.experiment.sample.draw", lambda *a, **k: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), "--quiet"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(OUT_OF_MEMORY) and error.count("\n") == 1
    monkeypatch.setattr("fastscore.experiment.sample.draw", lambda *a, **k: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        cli.main(["sample", str(run), "--quiet"])


def test_sampling_arguments(run):
    trained = load_run(run, device="cpu")
    for changes, message in (
        ({"num": 0}, "num must be"),
        ({"num": 2, "batch_size": 0}, "batch_size must be"),
        ({"num": 2, "seed": -1}, "seed must be"),
        ({"num": 2, "sampler": "magic"}, "sampler must be"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(trained, progress=False, **changes)


def test_config_json_round_trip_names_what_is_wrong(tmp_path):
    values = json.loads(TrainConfig().to_json()) | {"lr": "fast"}
    with pytest.raises(fs.CheckpointError, match="lr must be a number"):
        TrainConfig.from_json(json.dumps(values))
