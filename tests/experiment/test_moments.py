"""The mean and covariance of the training data are kept with a run, which is sampled without its data set."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fastscore as fs
from fastscore._core.errors import DataError
from fastscore.experiment import checkpoint, cli, moments, preview
from fastscore.experiment.build import make_data
from fastscore.experiment.sample import load_run, sample
from fastscore.experiment.train import Trainer

from .test_train import TOY

IMAGES = dataclasses.replace(
    TOY,
    data="npz",
    model="ncsn",
    width=4,
    batch_size=4,
    iterations=4,
    checkpoint_every=2,
    sigma_begin=1.0,
    sigma_end=0.1,
    solver_steps=2,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on images in a file of its own, and the file."""
    folder = tmp_path_factory.mktemp("moments")
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images)
    config = dataclasses.replace(IMAGES, data_dir=str(folder / "images.npz"))
    Trainer(config, folder / "run").train(progress=False)
    return folder / "run", config


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_data(monkeypatch):
    """Nothing reads the data set from here on."""

    def gone(config):
        raise DataError("they are not here")

    moments._moments_of_data.cache_clear()
    monkeypatch.setattr(moments, "make_data", gone)
    yield
    moments._moments_of_data.cache_clear()


def drawn(run):
    return sample(load_run(run, device="cpu"), 3, sampler="ddim", steps=2, progress=False)


def test_samples_need_no_data_and_are_the_same(run, whole, no_data, monkeypatch):
    found = drawn(run)
    (run / "moments.safetensors").unlink()
    with pytest.raises(DataError, match="about the mean of the training data, which are not here"):
        drawn(run)
    monkeypatch.setattr(moments, "make_data", make_data)  # as a run of an earlier version is sampled
    assert torch.equal(drawn(run), found)
    moments._moments_of_data.cache_clear()
    assert found.std() > 0


def test_what_is_kept(whole):
    """Half of the symmetric covariance in float64, and nothing is lost."""
    run, config = whole
    images = make_data(config).images.flatten(1).double() / 255
    kept = moments.kept(run)
    assert kept.keys() == {"mean", "covariance"} and kept["mean"].shape == (1, 8, 8)
    torch.testing.assert_close(kept["covariance"], torch.cov(images.T, correction=0), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(kept["mean"].flatten().double(), images.mean(0), rtol=1e-5, atol=1e-8)
    found = moments.moments_of(make_data(config))
    assert all(torch.equal(kept[name], found[name]) for name in found)
    assert (run / "moments.safetensors").stat().st_size < 64 * 65 / 2 * 8 + 64 * 4 + 1000


def test_of_many_numbers_the_deviations_are_kept(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "_COVARIANCE_LIMIT", 63)
    found = moments.moments_of(make_data(whole[1]))
    moments.keep(tmp_path, make_data(whole[1]))
    shutil.copy(whole[0] / "run.json", tmp_path)
    kept = moments.kept(tmp_path)
    assert kept.keys() == found.keys() == {"mean", "std"} and all(torch.equal(kept[k], found[k]) for k in found)


def test_they_are_there_before_the_first_checkpoint(whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*arguments, **how):
        raise Killed

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Killed):
        Trainer(whole[1], tmp_path).train(progress=False)
    assert (tmp_path / "moments.safetensors").is_file() and not checkpoint.steps(tmp_path)


def test_where_no_samples_begin_about_them_nothing_is_kept(tmp_path):
    config = dataclasses.replace(TOY, path="vp_linear", iterations=2, width=8, sampler="annealed")
    Trainer(config, tmp_path).train(progress=False)
    assert not (tmp_path / "moments.safetensors").exists() and checkpoint.steps(tmp_path)


def test_damage_and_other_data_are_errors(run, whole, no_data):
    path = run / "moments.safetensors"
    text = path.read_bytes()
    path.write_bytes(text[:-1] + bytes([text[-1] ^ 1]))
    with pytest.raises(
        fs.CheckpointError, match=r"moments.safetensors is damaged: its checksum is wrong; delete it: the"
    ):
        drawn(run)
    path.write_bytes(text[:100])
    with pytest.raises(fs.CheckpointError, match=r"moments.safetensors is damaged"):
        drawn(run)
    save_file(load_file(whole[0] / path.name), path)
    with pytest.raises(fs.CheckpointError, match=r"moments.safetensors is damaged"):
        drawn(run)
    path.unlink()
    other = dataclasses.replace(TOY, width=8)
    moments.keep(run, make_data(other))
    with pytest.raises(fs.CheckpointError, match=r"is of other data than .*run was trained on; delete it"):
        drawn(run)


def test_a_file_that_cannot_be_read_is_not_called_one_that_cannot_be_written(run, tmp_path, capsys):
    (run / "moments.safetensors").unlink()
    (run / "moments.safetensors").symlink_to("nowhere")
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), "--num", "2", "--out", str(tmp_path / "out"), "--quiet"])
    error = f"error: {run / 'moments.safetensors'}: No such file or directory\n"
    assert stop.value.code == 2 and capsys.readouterr().err == error


@pytest.mark.parametrize("there", ["none", "cut off", "other"])
def test_a_run_that_goes_on_writes_what_is_missing(run, whole, there):
    path, config = run / "moments.safetensors", dataclasses.replace(whole[1], decay=False)
    text = path.read_bytes()
    {"none": path.unlink, "cut off": lambda: path.write_bytes(text[:50]), "other": lambda: path.write_bytes(b"x")}[
        there
    ]()
    values = json.loads((run / "config.json").read_text()) | {"decay": False}
    (run / "config.json").write_text(json.dumps(values))
    Trainer(dataclasses.replace(config, iterations=6), run, resume=True, change=True).train(progress=False)
    now, then = load_file(path), load_file(whole[0] / path.name)  # the header's order is the writer's affair
    assert len(path.read_bytes()) == len(text) and now.keys() == then.keys()
    assert all(torch.equal(now[name], then[name]) for name in then) and moments.kept(run)


def test_a_folder_with_anothers_moments_is_not_free(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(run / "moments.safetensors", other)
    with pytest.raises(fs.CheckpointError, match=r"holds moments.safetensors, of unknown origin"):
        Trainer(TOY, other)


def test_commands_and_previews_take_them(run, whole, no_data, tmp_path):
    cli.main(
        ["sample", str(run), "--num", "2", "--sampler", "ddim", "--steps", "2", "--out", str(tmp_path / "s"), "--quiet"]
    )
    assert np.load(tmp_path / "s" / "samples.npy").shape == (2, 1, 8, 8)
    config = dataclasses.replace(whole[1], sampler="dpm_sde", solver_steps=2, sample_every=2)
    Trainer(config, tmp_path / "new").train(progress=False, preview=preview.save_preview)
    assert len(list((tmp_path / "new" / "samples").glob("*.png"))) == 2
