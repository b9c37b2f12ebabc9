"""What is written has a place of its own: --out never leads into the files that a run needs, and standard output may be full."""

import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

import fastscore as fs
from fastscore.experiment import checkpoint, cli, moments
from fastscore.experiment.export import export_original, export_safetensors
from fastscore.experiment.presets import preset
from fastscore.experiment.train import Trainer

from .test_run_folders import contents


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A tiny trained run."""
    config = preset("toy", iterations=2, width=8, batch_size=8, checkpoint_every=2, log_every=1, steps_per_level=1)
    folder = tmp_path_factory.mktemp("places") / "run"
    Trainer(config, folder).train(progress=False)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "export {run} --safetensors --overwrite --out {run}/checkpoints/step_00000002",
        "export {run} --safetensors --overwrite --out {link}",
        "export {run} --safetensors --overwrite --out {run}/classifier",
        "sample {run} --num 2 --out {run}/snapshots",
        "evaluate {run} --num 20 --out {run}/checkpoints/new/er",
        "inspect {run} --num 20 --out {run}/checkpoints",
        "compare-samplers {run} --samplers ddim --budgets 2 --samples 20 --seeds 1 --out {run}/checkpoints",
        "train toy --iterations 1 --width 8 --out {run}/checkpoints/again",
        "reproduce cifar10 --data photos --dry-run --out {run}/checkpoints",
        "import nowhere.pth --out {run}/snapshots/imported",
    ],
)
def test_nothing_is_written_among_the_files_that_a_run_needs(command, run, tmp_path, capsys):
    """Export replaced the run's own weights by an average of them, which the run could then not read."""
    link, before = tmp_path / "link", contents(run)
    link.symlink_to(run / "checkpoints" / "step_00000002")
    with pytest.raises(SystemExit) as stop:
        cli.main(command.format(run=run, link=link).split())
    text = capsys.readouterr().err
    assert stop.value.code == 2 and "--out" in text and f"files that the run {run} needs" in text
    assert contents(run) == before


def test_a_file_of_the_originals_is_not_written_over_those_of_a_run(run, tmp_path):
    for name in ("config.json", "run.json", "metrics.jsonl", ".lock", "checkpoints/step_00000002/model.safetensors"):
        with pytest.raises(fs.CheckpointError, match=r"out \(--out\) must not be among the files that the run"):
            export_original(run, run / name, overwrite=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").touch()  # some project's, where no run is
    cli.main(["sample", str(run), "--num", "2", "--out", str(tmp_path / "checkpoints" / "x"), "--quiet"])
    assert (tmp_path / "checkpoints" / "x" / "samples.npy").exists()


@pytest.mark.parametrize("arguments", [["status", "{run}"], ["status", "--help"], ["--version"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_standard_output_is_named(arguments, buffered, run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(open("/dev/full", "wb"), write_through=not buffered))  # noqa: SIM115
    with pytest.raises(SystemExit) as stop:
        cli.main([argument.format(run=run) for argument in arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: standard output cannot be written: No space left on device\n"
    assert sys.stdout.closed  # else the interpreter writes once more at its end, and says so


def _link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, _link_to_zero])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "run.json",
        "metrics.jsonl",
        "moments.safetensors",
        "checkpoints/step_00000002/about.json",
        "checkpoints/step_00000002/model.safetensors",
        "checkpoints/step_00000002/state.pt",
    ],
)
def test_a_device_or_a_pipe_in_the_place_of_a_file_is_refused(name, make, run, tmp_path):
    """Reading one took all memory, or waited for ever."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / name).unlink(missing_ok=True)
    make(copy / name)
    with pytest.raises(OSError, match="it must be a file, and is a device, a pipe or a socket") as error:
        moments.kept(copy)
        Trainer(checkpoint.read_config(copy), copy, resume=True)
    assert error.value.filename == str(copy / name)


def test_a_folder_in_the_place_of_the_moments_is_told_before_training(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "moments.safetensors").unlink()
    (copy / "moments.safetensors").mkdir()
    with pytest.raises(fs.CheckpointError, match=r"moments.safetensors is a folder, .*: move it away"):
        Trainer(checkpoint.read_config(copy), copy, resume=True)


def test_the_same_weights_are_exported_as_the_same_file(run, tmp_path):
    """The order of what the file says of itself was drawn anew: one in 24 times the same."""
    files = [export_safetensors(run, tmp_path / str(k))[0] for k in range(3)]
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == {"format": "pt", "fastscore": fs.__version__, "iteration": "2", "weights": "ema"}
        kept = checkpoint.read_weights(checkpoint.latest(run), "ema")
        assert set(file.keys()) == set(kept) and all(file.get_tensor(name).equal(kept[name]) for name in kept)
