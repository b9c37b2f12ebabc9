"""A folder of samples is replaced whole or not at all; what was drawn is kept; the settings stand beside it."""

import dataclasses
import json
import os
import resource
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore._core import files
from fastscore._core.errors import NonFiniteSamples
from fastscore.experiment import checkpoint, cli, limits
from fastscore.experiment import evaluate as evaluation
from fastscore.experiment import sample as sampling
from fastscore.experiment.presets import preset
from fastscore.experiment.preview import save_preview
from fastscore.experiment.sample import load_run
from fastscore.experiment.sample_folder import read_samples, write_samples
from fastscore.experiment.train import Trainer
from fastscore.samplers import DEFAULT, SAMPLERS


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of 2-D points with checkpoints of iterations 2 and 3."""
    config = preset(
        "toy",
        sampler=DEFAULT,  # whose step size tells samples of other settings apart
        data="two_moons",
        iterations=3,
        width=8,
        batch_size=8,
        checkpoint_every=2,
        log_every=1,
        num_levels=4,
        steps_per_level=1,
        ema=0.9,
    )
    folder = tmp_path_factory.mktemp("trained") / "run"
    Trainer(config, folder).train(progress=False)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def refused(arguments, capsys) -> str:
    """The one line on standard error, without warnings, of a command that ends with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, arguments), "--quiet"])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_the_settings_stand_beside_the_samples(run):
    cli.main(["sample", str(run), "--num", "7", "--seed", "5", "--step-size", "0.01", "--no-denoise", "--quiet"])
    said = json.loads((run / "samples-5" / "samples.json").read_text())
    expected = {
        "run": str(run),
        "step": 3,
        "weights": "ema",
        "num": 7,
        "seed": 5,
        "sampler": "annealed",
        "step_size": 0.01,
        "steps_per_level": 1,
        "denoise": False,
        "start": "normal",
        "shape": [2],
    }
    assert {name: said[name] for name in expected} == expected
    assert said["versions"]["torch"] == torch.__version__


def test_samples_of_other_settings_are_not_replaced(run, capsys):
    folder, draw = run / "samples-0", ["sample", run, "--num", 30]
    cli.main([*map(str, draw), "--quiet"])
    before = contents(folder)
    for option, differs in (
        (["--step-size", "0.02"], "step_size (was 0.05, now 0.02)"),
        (["--steps-per-level", "2"], "steps_per_level (was 1, now 2)"),
        (["--num", "25"], "num (was 30, now 25)"),
        (["--no-denoise"], "denoise (was True, now False)"),
        (["--weights", "raw"], "weights (was ema, now raw)"),
        (["--checkpoint", "2"], "step (was 3, now 2)"),
    ):
        line = refused([*draw, *option], capsys)
        assert differs in line and "--out" in line and "--overwrite" in line
    assert contents(folder) == before
    cli.main([*map(str, draw), "--quiet"])  # the same again
    cli.main([*map(str, draw), "--num", "40", "--quiet"])  # the same and more
    cli.main([*map(str, draw), "--step-size", "0.02", "--overwrite", "--quiet"])
    assert json.loads((folder / "samples.json").read_text())["step_size"] == 0.02
    said = json.loads((folder / "samples.json").read_text())
    del said["levels"], said["precision"]  # of before there were others
    (folder / "samples.json").write_text(json.dumps(said))
    cli.main([*map(str, draw), "--step-size", "0.02", "--num", "41", "--quiet"])
    assert "levels (was 0, now 2)" in refused([*draw, "--step-size", "0.02", "--num", 41, "--levels", 2], capsys)
    (folder / "samples.json").write_text("[")
    assert "samples without a readable samples.json" in refused(draw, capsys)


def test_an_evaluation_of_other_settings_is_not_replaced(run, capsys):
    evaluation.evaluate(run, num=20, progress=False)
    before = contents(run)
    assert "step_size (was 0.05, now 0.02)" in refused(["evaluate", run, "--num", "20", "--step-size", "0.02"], capsys)
    assert contents(run) == before
    evaluation.evaluate(run, num=20, step_size=0.02, overwrite=True, progress=False)
    assert json.loads((run / "metrics.json").read_text())["step_size"] == 0.02


def test_samples_of_an_earlier_iteration_are_replaced_with_a_word(run, tmp_path, capsys):
    options = ["--out", str(tmp_path / "out"), "--quiet"]
    cli.main(["sample", str(run), "--num", "4", "--checkpoint", "2", *options])
    cli.main(["sample", str(run), "--num", "4", *options])
    assert capsys.readouterr().err == f"warning: the samples of iteration 2 in {tmp_path / 'out'} will be replaced\n"


def test_a_moved_run_is_the_same_run_and_another_is_not(run, tmp_path, capsys):
    cli.main(["sample", str(run), "--num", "4", "--quiet"])
    moved = run.rename(tmp_path / "moved")
    cli.main(["sample", str(moved), "--num", "4", "--quiet"])
    copied = Path(shutil.copytree(moved, tmp_path / "copied"))
    cli.main(["sample", str(copied), "--num", "4", "--out", str(moved / "samples-0"), "--quiet"])
    twin = tmp_path / "twin"  # trained again: the very same weights
    Trainer(checkpoint.read_config(moved), twin).train(progress=False)
    cli.main(["sample", str(twin), "--num", "4", "--out", str(moved / "samples-0"), "--quiet"])
    other = tmp_path / "other"
    Trainer(dataclasses.replace(checkpoint.read_config(moved), seed=9), other).train(progress=False)
    draw = ["sample", moved, "--num", "4", "--out", tmp_path / "out"]
    assert f"run (was {twin}, now {other})" in refused(
        ["sample", other, "--num", "4", "--out", moved / "samples-0"], capsys
    )
    cli.main([*map(str, draw), "--quiet"])
    shutil.rmtree(moved)
    other.rename(moved)
    assert f"run (was {moved}, now another one in that place)" in refused(draw, capsys)


def test_samples_that_came_meanwhile_are_not_replaced(run, tmp_path):
    """Two commands that draw into one folder at the same time: the second to end keeps its samples elsewhere."""
    folder, trained = tmp_path / "out", load_run(run)
    first, second = (sampling.with_sampling(trained, step_size=step_size) for step_size in (0.01, 0.02))
    parts = sampling.batches(second, 6, progress=False)

    def slow():
        yield from parts
        sampling.sample_into(folder, first, run, 6, progress=False)

    with (
        pytest.warns(UserWarning, match="the first 6 of 6 samples are kept in"),
        pytest.raises(fs.FastscoreError, match=r"step_size \(was 0.01, now 0.02\)"),
    ):
        write_samples(slow(), folder, sampling.settings(second, run, 6, 0))
    assert torch.equal(read_samples(folder), sampling.sample(first, 6, progress=False))
    kept = torch.from_numpy(np.load(folder / "samples.partial.npy"))
    assert torch.equal(kept, sampling.sample(second, 6, progress=False))


def diverging(monkeypatch):
    """Make the default sampler return infinity."""
    entry = dataclasses.replace(
        SAMPLERS[DEFAULT], run=lambda score_fn, shape, *_, **__: torch.full(shape, float("inf"))
    )
    monkeypatch.setitem(SAMPLERS, DEFAULT, entry)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_samples_that_are_not_finite_replace_nothing(shape, tmp_path, monkeypatch):
    """Infinity, too, which clamping makes an image of; the message names --step-size and there is no second one."""
    name = "toy" if len(shape) == 1 else "digits"
    config = preset(name, sampler=DEFAULT, num_levels=3, steps_per_level=1, step_size=0.125)
    run = sampling.TrainedRun(config, lambda x, labels: -x, shape, torch.device("cpu"), 1)
    sampling.sample_into(tmp_path / "a", run, tmp_path, 3, progress=False)
    before = contents(tmp_path / "a")
    bad = dataclasses.replace(run, network=lambda x, labels: -x * torch.tensor(1e38) ** (x[:, :1] * 0 + labels.max()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NonFiniteSamples, match=r"3 of 3 samples are not finite: step_size, 0\.125, .*--step-size"):
            sampling.sample_into(tmp_path / "a", bad, tmp_path, 3, overwrite=True, progress=False)
        diverging(monkeypatch)
        with pytest.raises(NonFiniteSamples):
            sampling.sample_into(tmp_path / "a", run, tmp_path, 3, overwrite=True, progress=False)
    assert contents(tmp_path / "a") == before and len(before) == 3


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_points_that_are_not_finite_end_with_code_2(command, run, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--step-size", "1e35", "--steps-per-level", "9"]
    line = refused([command, run, "--num", "20", *options, "--out", out], capsys)
    assert "--step-size" in line and contents(out) == {}


def test_plain_langevin_that_diverges_finds_no_mode(tmp_path, monkeypatch):
    """Its points are no error, since the samples are others, but neither are they nearest to the first mode."""
    config = preset("toy", sampler=DEFAULT, iterations=1, width=4, batch_size=4, num_levels=3, steps_per_level=1)
    Trainer(config, tmp_path / "run").train(progress=False)
    plain = torch.cat([torch.full((15, 2), float("nan")), torch.full((5, 2), float("inf")), torch.full((20, 2), 5.0)])
    monkeypatch.setattr("fastscore.samplers.langevin", lambda *a, **k: plain)
    weights = evaluation.evaluate(tmp_path / "run", num=40, device="cpu", progress=False)["mode_weights"]
    assert sum(weights["plain"]) == 0.5 and sum(weights[DEFAULT]) == 1


def test_a_grid_that_is_not_finite_does_not_end_the_training(tmp_path, monkeypatch):
    diverging(monkeypatch)
    config = preset("digits", sampler=DEFAULT, iterations=1, width=4, batch_size=4, sample_every=1)
    with pytest.warns(UserWarning, match="no picture of iteration 1: 64 of 64 samples are not finite"):
        assert Trainer(config, tmp_path / "run").train(progress=False, preview=save_preview).name == "step_00000001"


def fails_after(batches: int, error: BaseException):
    def draw(*arguments, draw=sampling.draw, left=[batches], **options):  # noqa: B006
        left[0] -= 1
        if left[0] < 0:
            raise error
        return draw(*arguments, **options)

    return draw


@pytest.mark.parametrize(
    "error, code, line",
    [
        (
            OSError(5, "Input/output error", "/data/0.png"),
            2,
            "error: /data/0.png: Input/output error\n",
        ),  # what was read
        (KeyboardInterrupt(), 130, "\nstopped\n"),
        (torch.OutOfMemoryError("no memory"), 2, "error: out of memory: use a smaller --batch-size"),
    ],
)
def test_what_was_drawn_is_kept(error, code, line, run, tmp_path, monkeypatch, capsys):
    """As a .npy file of the first samples, twice under two names; what was there before stays."""
    out = tmp_path / "out"
    cli.main(["sample", str(run), "--num", "11", "--out", str(out), "--quiet"])
    whole, before = np.load(out / "samples.npy"), contents(out)
    for name in ("samples.partial", "samples.partial-2"):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "draw", fails_after(2, error))
            with pytest.raises(SystemExit) as stop:
                cli.main(["sample", str(run), "--num", "11", "--out", str(out), "--batch-size", "3", "--quiet"])
        told = capsys.readouterr().err
        assert stop.value.code == code
        assert told.startswith(f"warning: the first 6 of 11 samples are kept in {out / name}.npy\n")
        assert line.format(out=out) in told
        np.testing.assert_allclose(np.load(out / f"{name}.npy"), whole[:6], rtol=1e-4, atol=1e-4)
        assert json.loads((out / f"{name}.json").read_text())["num"] == 6
    assert {name: data for name, data in contents(out).items() if ".partial" not in name} == before


def test_a_full_disk_is_reported_before_sampling(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    cli.main(["sample", str(run), "--num", "3", "--out", str(out), "--quiet"])
    before = contents(out)
    monkeypatch.setattr(sampling, "draw", lambda *a, **k: pytest.fail("it sampled"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        line = refused(["sample", run, "--num", "20000", "--out", out], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line == f"error: the samples cannot be written into {out}: File too large"
    assert contents(out) == before


def test_a_picture_that_cannot_be_written_keeps_both_old_files(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    cli.main(["sample", str(run), "--num", "3", "--out", str(out), "--quiet"])
    before = contents(out)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastscore.evaluation.plots.save_points", full)
    assert refused(["sample", run, "--num", "5", "--out", out], capsys).endswith("No space left on device")
    after = contents(out)
    assert {name: after[name] for name in before} == before and len(before) == 3
    assert np.load(out / "samples.partial.npy").shape == (5, 2)


@pytest.mark.parametrize("name", ["samples.npy", "samples.png", "samples.json"])
def test_an_end_between_two_files_leaves_no_settings_of_others(name, run, tmp_path, monkeypatch, capsys):
    """Where not all three were renamed, samples.json is not there: the next call asks before it replaces."""
    out, replace = tmp_path / "out", os.replace
    cli.main(["sample", str(run), "--num", "3", "--out", str(out), "--quiet"])

    def dies(source, target):
        if Path(target) == out / name:
            raise OSError(5, "Input/output error")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        refused(["sample", run, "--num", "5", "--out", out], capsys)
    assert not (out / "samples.json").exists() and (out / "samples.npy").exists()
    assert "of unknown settings" in refused(["sample", run, "--num", "3", "--out", out], capsys)


def test_temporary_files_of_the_dead_are_deleted_and_those_of_the_living_stay(tmp_path):
    mine = files.temporary(tmp_path / "samples.npy")
    dead = mine.with_name(mine.name.replace(f".{os.getpid()}.", ".4194305."))  # above the largest that Linux gives
    elsewhere = mine.with_name(dead.name.replace(".4194305", "-elsewhere.4194305"))
    for path in (mine, dead, elsewhere, tmp_path / ".notes.4194305.tmp", tmp_path / "a.npy"):
        path.touch()
    files.clear_leftovers(tmp_path)
    assert not dead.exists() and len(list(tmp_path.iterdir())) == 4


def test_raw_weights_and_earlier_checkpoints(run, tmp_path):
    """Each is what safetensors holds; the moving average is the default where there is one."""
    for step, weights, name in ((None, "auto", "ema"), (2, "ema", "ema"), (3, "raw", "raw"), (2, "raw", "raw")):
        loaded = load_run(run, device="cpu", weights=weights, iteration=step)
        saved = checkpoint.read_weights(run / "checkpoints" / f"step_{step or 3:08d}", name)
        assert loaded.iteration == (step or 3) and loaded.weights == name
        assert all(torch.equal(value, saved[name]) for name, value in loaded.network.state_dict().items())
    report = evaluation.evaluate(run, num=20, weights="raw", iteration=2, device="cpu", progress=False)
    assert (report["weights"], report["step"]) == ("raw", 2)
    with pytest.raises(fs.CheckpointError, match=r"no checkpoint of iteration 1 \(--checkpoint\); .* of 2, 3"):
        load_run(run, iteration=1)
    with pytest.raises(ValueError, match="weights must be one of 'auto', 'ema', 'raw', got 'both'"):
        load_run(run, weights="both")
    Trainer(preset("toy", iterations=1, width=8, batch_size=8, ema=0.0), tmp_path / "raw").train(progress=False)
    assert load_run(tmp_path / "raw").weights == "raw"
    with pytest.raises(ValueError, match=r"weights must be 'raw' or 'auto' for .*keeps no moving average"):
        load_run(tmp_path / "raw", weights="ema")


def test_evaluation_into_another_folder_leaves_the_run_alone(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cli.main(["evaluate", str(run), "--num", "20", "--out", str(tmp_path / "other"), "--quiet"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert {"metrics.json", "samples.npy", "samples.json", "samples.png", "training.png"} == set(
        contents(tmp_path / "other")
    )


@pytest.mark.parametrize(
    "name, place, reason",
    [
        ("a file", "file", "is a file"),
        ("below a file", "file/x/y", "is a file"),
        ("a loop", "loop/x", "symbolic links"),
        ("a link to nothing", "nothing", "No such file"),
        ("a long name", "n" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sample"])
def test_a_path_that_is_not_a_folder_is_named_with_its_option(command, name, place, reason, run, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nothing").symlink_to(tmp_path / "nowhere" / "at all")
    line = refused([command, "toy" if command == "train" else run, "--out", tmp_path / place], capsys)
    assert line.startswith(f"error: --out must be a folder that can be written, got '{tmp_path / place}': ")
    assert reason in line and "[Errno" not in line


def test_sizes_beyond_the_machine_are_refused(monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda device: 1 << 30)
    cpu, images, points = torch.device("cpu"), preset("cifar10-ncsn", width=8), preset("toy")
    limits.check_run(images, cpu)
    limits.check_batch(images, (3, 32, 32), 1 << 14, cpu)  # 4 (3 + 8) 1024 bytes each: 704 MiB
    for changes, message in (
        ({"batch_size": 1 << 15}, "batch_size must be smaller: with 32768, .* at least 1 GiB"),
        ({"width": 1 << 13}, "width must be smaller: with 8192"),
        ({"num_levels": 1 << 28, "steps_per_level": 1}, "num_levels must be smaller"),
        ({"data": "folder", "image_size": 1 << 15}, "image_size must be smaller: with 32768"),
        ({"steps_per_level": 10**40}, r"less than 2\^32, got a number of 41 digits times 10"),
        ({"sigma_begin": 1e30}, "sigma_begin must be between 1e-18 and 1e18"),
    ):
        with pytest.raises(ValueError, match=message):
            limits.check_run(dataclasses.replace(images, **changes), cpu)
    limits.check_run(dataclasses.replace(points, width=1 << 12, batch_size=1 << 14), cpu)
    with pytest.raises(ValueError, match="batch_size"):
        limits.check_run(dataclasses.replace(points, width=1 << 12, batch_size=1 << 16), cpu)
    with pytest.raises(ValueError, match=r"num must be smaller: with 100000, the samples take at least 1 GiB"):
        limits.check_kept(100_000, (3, 32, 32))
