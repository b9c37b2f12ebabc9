"""Bad input: every case is a clear error that names the argument, what it was and what it must be."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

import fastscore as fs
from fastscore import checkpoint, cli, data, losses, samplers
from fastscore.compat import ncsn as compat
from fastscore.config import TrainConfig, preset
from fastscore.evaluate import evaluate
from fastscore.models import NCSN, NCSNv2, ScoreMLP, build_model, load_original_checkpoint
from fastscore.noise import geometric_sigmas, suggest
from fastscore.sample import load_run, sample
from fastscore.train import Trainer, make_model, pick_device

from .conftest import optional

X = torch.zeros(4, 3)
SIGMAS = torch.tensor([1.0, 0.1])
LABELS = torch.zeros(4, dtype=torch.int64)
NAN, INF = float("nan"), float("inf")


def zero(x, labels=None):
    return torch.zeros_like(x)


def anneal(**changes):
    return samplers.annealed_langevin(zero, (4, 3), **({"sigmas": SIGMAS, "alpha": 0.1, "steps_per_level": 1} | changes))


def noise(*shape):
    return fs.Philox(0).noise(shape or (4, 3))


def through_torchvision(name):
    optional("torchvision")
    return data.load(name, root="nowhere")


CASES = {
    # operators
    "perturb a list": (lambda: fs.perturb([1.0], 1.0), TypeError, "x must be a torch.Tensor, got list"),
    "perturb integers": (lambda: fs.perturb(X.int(), 1.0), TypeError, "x must be float16.*int32 tensor"),
    "perturb complex": (lambda: fs.perturb(X + 1j, 1.0), TypeError, "x must be float16.*complex64"),
    "perturb no batch": (lambda: fs.perturb(torch.tensor(1.0), 1.0), ValueError, r"x must have a batch dim.*\(\)"),
    "sigma negative": (lambda: fs.perturb(X, -1.0), ValueError, "sigma must be finite and greater than 0, got -1.0"),
    "sigma zero": (lambda: fs.perturb(X, 0.0), ValueError, "sigma must be finite and greater than 0, got 0.0"),
    "sigma nan": (lambda: fs.perturb(X, NAN), ValueError, "sigma must be finite and greater than 0, got nan"),
    "sigma infinite": (lambda: fs.perturb(X, INF), ValueError, "sigma must be finite and greater than 0, got inf"),
    "sigma text": (lambda: fs.perturb(X, "1"), TypeError, "sigma must be a number greater than 0, got str '1'"),
    "sigma True": (lambda: fs.perturb(X, True), TypeError, "sigma must be a number greater than 0, got bool"),
    "sigma wrong batch": (lambda: fs.perturb(X, torch.ones(3)), ValueError, r"sigma must be.*shape \(4,\).*\(3,\)"),
    "sigma 2-D": (lambda: fs.perturb(X, torch.ones(4, 1)), ValueError, r"sigma must be.*shape \(4,\).*\(4, 1\)"),
    "sigma [B] zero": (lambda: fs.perturb(X, torch.tensor([1, 0, 1, 1.0])), ValueError, "sigma must be .*got 0.0 in"),
    "sigma [B] nan": (lambda: fs.perturb(X, torch.tensor([1, NAN, 1, 1])), ValueError, "sigma must be .*got nan in"),
    "sigma integers": (lambda: fs.perturb(X, torch.ones(4).int()), TypeError, "sigma must be float16.*int32"),
    "sigma on meta": (lambda: fs.perturb(X, torch.ones(4, device="meta")), ValueError, "sigma must be on the device"),
    "alpha negative": (lambda: fs.perturb(X, 1.0, alpha=-1.0), ValueError, "alpha must be .*at least 0, got -1.0"),
    "rng a seed": (lambda: fs.perturb(X, 1.0, 5), TypeError, "rng must be a fastscore.Philox or None, got int 5"),
    "dsm noise shape": (lambda: fs.dsm_loss(X, noise(4, 2), 1.0), ValueError, r"noise must .*\(4, 3\).*\(4, 2\)"),
    "dsm noise tensor shape": (lambda: fs.dsm_loss(X, X[:2], 1.0), ValueError, r"noise must .*\(4, 3\).*\(2, 3\)"),
    "dsm noise a number": (lambda: fs.dsm_loss(X, 1.0, 1.0), TypeError, "noise must be the handle .*got float 1.0"),
    "dsm score None": (lambda: fs.dsm_loss(None, noise(), 1.0), TypeError, "score must be a torch.Tensor, got NoneType"),
    "dsm weight nan": (lambda: fs.dsm_loss(X, noise(), 1.0, NAN), ValueError, "weight must be finite, got nan"),
    "langevin score shape": (lambda: fs.langevin_step(X, X[:, :2], 0.1), ValueError, r"score must .*\(4, 3\).*\(4, 2\)"),
    "langevin score device": (lambda: fs.langevin_step(X, X.to("meta"), 0.1), ValueError, "score must be on the device"),
    "langevin alpha": (lambda: fs.langevin_step(X, X, -0.1), ValueError, "alpha must be finite and at least 0, got -0.1"),
    "langevin out dtype": (lambda: fs.langevin_step(X, X, 0.1, out=X.double()), TypeError, "out must have the dtype"),
    "langevin out shape": (lambda: fs.langevin_step(X, X, 0.1, out=X[:2]), ValueError, "out must have the shape of x"),
    "langevin out and grad": (lambda: fs.langevin_step(X.clone().requires_grad_(), X, 0.1, out=X.clone()), ValueError,
                              "out must be None where gradients are recorded"),
    "langevin rng and noise": (lambda: fs.langevin_step(X, X, 0.1, fs.Philox(0), noise=X), ValueError, "rng must be None"),
    # random numbers
    "seed negative": (lambda: fs.Philox(-1), ValueError, f"seed must be from 0 to {2**64 - 1}, got -1"),
    "seed a float": (lambda: fs.Philox(1.5), TypeError, "seed must be an integer .*got float 1.5"),
    "step too large": (lambda: fs.Philox(0, step=2**32), ValueError, "step must be from 0 to"),
    "sample beyond 2^32": (lambda: fs.Philox(0, sample_offset=2**32 - 2).randn(3, 1), ValueError, "at most 2\\^32"),
    "shape without batch": (lambda: fs.Philox(0).randn(()), ValueError, r"shape must be \[B, ...\]"),
    "randint high": (lambda: fs.Philox(0).randint(0, 3), ValueError, "high must be from 1"),
    # losses
    "sigmas unsorted": (lambda: losses.ncsn(zero, X, SIGMAS.flip(0)), ValueError, "sigmas must be strictly decreasing"),
    "sigmas equal": (lambda: losses.ncsn(zero, X, torch.ones(2)), ValueError, "sigmas must be strictly decreasing"),
    "sigmas empty": (lambda: losses.ncsn(zero, X, torch.ones(0)), ValueError, r"sigmas must have shape \(L,\)"),
    "sigmas negative": (lambda: losses.ncsn(zero, X, -SIGMAS.flip(0)), ValueError, "sigmas must be .*greater than 0"),
    "labels too large": (lambda: losses.ncsn(zero, X, SIGMAS, labels=torch.full((4,), 2)), ValueError,
                         "labels must be from 0 to 1 .*got values from 2 to 2"),
    "labels negative": (lambda: losses.ncsn(zero, X, SIGMAS, labels=torch.full((4,), -1)), ValueError, "labels must be"),
    "labels float": (lambda: losses.ncsn(zero, X, SIGMAS, labels=X[:, 0]), ValueError, "labels must be an int64 tensor"),
    "labels batch": (lambda: losses.ncsn(zero, X, SIGMAS, labels=torch.zeros(3).long()), ValueError, r"labels .*\(4,\)"),
    "empty batch mean": (lambda: losses.ncsn(zero, X[:0], SIGMAS), ValueError, "x must have at least one sample"),
    "reduction": (lambda: losses.dsm(zero, X, 1.0, reduction="avg"), ValueError, "reduction must be one of .*got 'avg'"),
    "parametrization": (lambda: losses.dsm(zero, X, 1.0, parametrization="v"), ValueError, "parametrization must be one"),
    "conditioning": (lambda: losses.ncsn(zero, X, SIGMAS, conditioning="none"), ValueError, "conditioning must be one"),
    "score_fn output": (lambda: losses.dsm(lambda x: x[:, :1], X, 1.0), ValueError, "output of score_fn must have the sh"),
    "compat labels": (lambda: compat.anneal_dsm_score_estimation(zero, X, X[:, 0].long() + 9, SIGMAS), ValueError, "labels"),
    "compat labels twice": (lambda: compat.anneal_dsm_score_estimation(zero, X, LABELS, SIGMAS, labels=LABELS), TypeError,
                            "given once each, got a second labels: a int64 tensor"),
    "compat sigmas twice": (lambda: compat.anneal_dsm_score_estimation(zero, X, SIGMAS, SIGMAS), TypeError,
                            "given once each, got a second sigmas: a float32 tensor"),
    "compat no sigmas": (lambda: compat.anneal_dsm_score_estimation(zero, X, LABELS), TypeError, "sigmas must be a torch."),
    "compat step_lr": (lambda: compat.anneal_Langevin_dynamics(X, zero, SIGMAS, 1, -1e-5), ValueError, "step_lr must be"),
    # samplers
    "anneal alpha": (lambda: anneal(alpha=0.0), ValueError, "alpha must be finite and greater than 0, got 0.0"),
    "anneal steps": (lambda: anneal(steps_per_level=0), ValueError, "steps_per_level must be at least 1, got 0"),
    "anneal unsorted": (lambda: anneal(sigmas=[0.1, 1.0]), ValueError, "sigmas must be strictly decreasing"),
    "anneal start": (lambda: anneal(start="zeros"), ValueError, "start must be 'uniform', 'normal' or a tensor"),
    "anneal start shape": (lambda: anneal(start=X[:2]), ValueError, r"start must have shape \(4, 3\)"),
    "anneal clamp": (lambda: anneal(clamp=(1, 0)), ValueError, r"clamp must be None or \(low, high\)"),
    "anneal callback": (lambda: anneal(callback=3), TypeError, "callback must be a function"),
    "anneal trajectory": (lambda: anneal(trajectory=[]), TypeError, "trajectory must be a fastscore.samplers.Trajectory"),
    "anneal empty shape": (lambda: samplers.annealed_langevin(zero, (0, 3), SIGMAS, alpha=0.1), ValueError, "shape must"),
    "anneal score_fn": (lambda: samplers.annealed_langevin(3, (4, 3), SIGMAS, alpha=0.1), TypeError, "score_fn must be"),
    "langevin neither": (lambda: samplers.langevin(zero, X, num_steps=1), ValueError, "give one of alpha and tau"),
    "langevin both": (lambda: samplers.langevin(zero, X, num_steps=1, alpha=1.0, tau=1.0), ValueError, "give one of"),
    "consistent eta": (lambda: samplers.consistent_annealed(zero, (4, 3), SIGMAS, eta=0.5), ValueError,
                       "eta must be at least 0.9 .*got 0.5"),
    "consistent steps": (lambda: samplers.consistent_annealed(zero, (4, 3), SIGMAS, eta=0.95, steps_per_level=2),
                         ValueError, "steps_per_level must be 1"),
    "mask float": (lambda: samplers.inpaint(zero, X, X, SIGMAS, alpha=0.1), TypeError, "mask must be a bool tensor"),
    "mask shape": (lambda: samplers.inpaint(zero, X, X[:3] > 0, SIGMAS, alpha=0.1), ValueError, "mask must broadcast"),
    "interpolate none": (lambda: samplers.interpolate(zero, (2, 3), SIGMAS, num_interpolations=0, alpha=0.1), ValueError,
                         "num_interpolations must be at least 1"),
    # models, noise, data, config
    "model name": (lambda: build_model("unet"), ValueError, "name must be one of .*'ncsn'"),
    "ncsn x": (lambda: NCSN(1, 8, 8)(X, torch.zeros(4).long()), ValueError, "x must"),
    "ncsn channels": (lambda: NCSN(1, 8, 8)(torch.zeros(4, 3, 8, 8), torch.zeros(4).long()), ValueError, "x must"),
    "ncsn labels": (lambda: NCSN(1, 8, 8, 2)(torch.zeros(4, 1, 8, 8), torch.full((4,), 7)), ValueError, "labels must"),
    "ncsnv2 sigmas": (lambda: NCSNv2(1, 8, 8, sigmas=SIGMAS.flip(0)), ValueError, "sigmas must be strictly decreasing"),
    "mlp x": (lambda: ScoreMLP(2, sigmas=SIGMAS)(X, torch.zeros(4).long()), ValueError, "x must"),
    "geometric order": (lambda: geometric_sigmas(0.01, 1.0, 10), ValueError, "begin"),
    "suggest one sample": (lambda: suggest(X[:1]), ValueError, "data must"),
    "data name": (lambda: data.load("imagenet"), ValueError, "name must be one of .*'digits'.*got 'imagenet'"),
    "data missing": (lambda: through_torchvision("cifar10"), fs.DataError, "cifar-10-batches-py"),
    "mnist missing": (lambda: through_torchvision("mnist"), fs.DataError, "train-images-idx3-ubyte.*--download, --data-dir"),
    "folder missing": (lambda: data.load("folder", root="nowhere", image_size=8), fs.DataError, "--data-dir.*nowhere"),
    "preset": (lambda: preset("cifar100"), ValueError, "preset must be one of 'digits'.*got 'cifar100'"),
    "preset field": (lambda: preset("digits", widht=3), ValueError, "widht is not a field of TrainConfig"),
    "config batch": (lambda: TrainConfig(batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
    "config lr": (lambda: TrainConfig(lr=-1e-3), ValueError, "lr must be finite and greater than 0"),
    "config ema": (lambda: TrainConfig(ema=1.0), ValueError, "ema must be at least 0 and less than 1, got 1.0"),
    "config sigmas": (lambda: TrainConfig(sigma_begin=0.01, sigma_end=1.0), ValueError, "sigma_begin must be greater"),
    "config model": (lambda: TrainConfig(model="unet"), ValueError, "model must be one of"),
    "config one level": (lambda: TrainConfig(num_levels=1), ValueError,
                         r"sigma_begin and sigma_end must be equal where num_levels is 1 .*--num-levels.* 1.0 and 0.01"),
    "config denoise": (lambda: TrainConfig(denoise="no"), TypeError, "denoise must be true or false, got str 'no'"),
    "mlp for images": (lambda: make_model(preset("digits", model="mlp"), (1, 8, 8)), ValueError, "model must be 'mlp'"),
    "device": (lambda: pick_device("cuda:99"), ValueError, "device must be auto, cpu, or a GPU"),
    "device meta": (lambda: pick_device("meta"), ValueError, "device must be auto, .* got 'meta' .*hold no numbers"),
    "device unknown": (lambda: pick_device("gpu"), ValueError, "device must be auto, .* got 'gpu'"),
    "device None": (lambda: pick_device(None), ValueError, "device must be auto, .* got None"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call()


def test_there_are_enough_cases():
    assert len(CASES) >= 60


# What lies on disk: damaged, foreign, or hostile. Each is refused in words, and nothing is lost.

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


def shaped(shape):
    return lambda run: (checkpoint.latest(run) / "about.json").write_text(json.dumps({"sample_shape": shape}))


def foreign_weights(run):
    from safetensors.torch import save_file

    save_file({"foreign": torch.zeros(3)}, checkpoint.latest(run) / "ema.safetensors")
    save_file({"foreign": torch.zeros(3)}, checkpoint.latest(run) / "model.safetensors")


DAMAGE = {
    "config gone": (lambda run: (run / "config.json").unlink(), "is not a run folder: it has no config.json"),
    "config not JSON": (lambda run: (run / "config.json").write_text("{"), "is not the config of a run"),
    "config a list": (lambda run: (run / "config.json").write_text("[]"), "is not the config of a run"),
    "config not UTF-8": (lambda run: (run / "config.json").write_bytes(b'{"data": "\xff"}'),
                         "run/config.json is not the config of a run: .*can't decode"),
    "config flag a text": (lambda run: (run / "config.json").write_text('{"flip": "false"}'),
                           "flip must be true or false, got str 'false'"),
    "config flag a number": (lambda run: (run / "config.json").write_text('{"denoise": 1}'),
                             "denoise must be true or false, got int 1"),
    "config of the future": (lambda run: (run / "config.json").write_text('{"colour": 1}'), "not know: colour"),
    "config with bad values": (lambda run: (run / "config.json").write_text('{"batch_size": 0}'), "batch_size must be"),
    "no checkpoints": (lambda run: [p.rename(run / p.name) for p in checkpoint.steps(run)], "has no checkpoint yet"),
    "weights truncated": (truncate("ema.safetensors"), "ema.safetensors cannot be read"),
    "weights missing": (lambda run: (checkpoint.latest(run) / "ema.safetensors").unlink(), "ema.safetensors is missing"),
    "weights foreign": (foreign_weights, "does not fit the network"),
    "shape missing": (lambda run: (checkpoint.latest(run) / "about.json").write_text("{}"), "does not say the shape"),
    "shape empty": (shaped([]), r"does not say the shape of a sample: sample_shape must be .*got \[\]"),
    "shape of a plane": (shaped([8, 8]), r"sample_shape must be \[C, H, W\] or \[D\], got \[8, 8\]"),
    "shape negative": (shaped([-2]), r"sample_shape must be .*got \[-2\]"),
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


@pytest.mark.parametrize("damage, message", [
    (truncate("state.pt"), "state.pt is damaged|state.pt cannot be read"),
    (lambda run: (checkpoint.latest(run) / "state.pt").write_bytes(b""), "state.pt"),
    (lambda run: torch.save({"epoch": 3}, checkpoint.latest(run) / "state.pt"), "is not the state of a fastscore run"),
    (lambda run: torch.save({"step": 2, "optimizer": {}}, checkpoint.latest(run) / "state.pt"),
     "state.pt is not the state of a fastscore run"),
])
def test_damaged_state_is_refused_on_resume(damage, message, run):
    damage(run)
    with pytest.raises(fs.CheckpointError, match=message):
        Trainer(checkpoint.read_config(run), run, resume=True)


@pytest.mark.parametrize("damage, read", [
    (truncate("model.safetensors"), lambda folder: checkpoint.read_weights(folder, ema=False)),
    (truncate("state.pt"), checkpoint.read_state),
    (lambda run: torch.save({}, checkpoint.latest(run) / "state.pt"), checkpoint.read_state),
    (lambda run: (checkpoint.latest(run) / "state.pt").unlink(), checkpoint.read_state),
    (shaped([]), checkpoint.read_shape),
])
def test_a_damaged_last_checkpoint_says_how_to_go_on(damage, read, run):
    with_one = checkpoint.latest(run)
    damage(run)
    with pytest.raises(fs.CheckpointError, match=r"; there is no checkpoint before it: train again$"):
        read(with_one)
    before = with_one.with_name("step_00000001")
    before.mkdir()
    with pytest.raises(fs.CheckpointError, match=f"; delete {with_one} to go on from the one before$"):
        read(with_one)


def test_a_data_set_of_three_images_is_refused_before_sampling(tmp_path, monkeypatch):
    image = optional("PIL.Image")
    (tmp_path / "photos").mkdir()
    for k in range(3):
        image.new("RGB", (8, 8), (k, k, k)).save(tmp_path / "photos" / f"{k}.png")
    config = preset("digits", data="folder", data_dir=str(tmp_path / "photos"), image_size=8, iterations=1, width=4,
                    batch_size=2)
    Trainer(config, tmp_path / "run").train(progress=False)
    monkeypatch.setattr("fastscore.sample.draw", lambda *a, **k: pytest.fail("it sampled"))
    with pytest.raises(fs.DataError, match="photos has 3 images, and evaluation needs at least 4"):
        evaluate(tmp_path / "run", progress=False)


@pytest.mark.parametrize("save", [lambda value, path: torch.save(value, path),
                                  lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_loading_never_executes_code(save, run, tmp_path):
    trap = tmp_path / "executed"
    save({"step": Touch(trap), "optimizer": {}}, checkpoint.latest(run) / "state.pt")
    with pytest.raises(fs.CheckpointError, match=r"could execute code|cannot be read"):
        Trainer(checkpoint.read_config(run), run, resume=True)
    original = tmp_path / "checkpoint.pth"
    save([{"module.begin_conv.weight": Touch(trap)}], original)
    with pytest.raises(fs.CheckpointError):
        load_original_checkpoint(original)
    assert not trap.exists()


@pytest.mark.parametrize("arguments, message", [
    (["train", "nope"], "nope"),
    (["train", "digits", "--widht", "3"], "--widht"),
    (["train", "digits", "--width", "-3"], "width must be at least 1, got -3"),
    (["train", "digits", "--num-levels", "1"], "must be equal where num_levels is 1 (--sigma-begin, --sigma-end, --num-l"),
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
])
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


def test_any_error_of_an_unusable_device_is_told(monkeypatch):
    def empty(*args, **kwargs):
        raise ImportError

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ValueError, match=r"device must be auto, .* got 'cpu' \(ImportError\)"):
        pick_device("cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "state.pt"])
def test_a_checkpoint_that_cannot_be_written_names_the_file(file, run, monkeypatch):
    """A full disk: safetensors and torch each have an error of their own, and what was there stays."""
    def full(save, error):
        def write(value, path):
            if Path(path).name == file:
                raise error("No space left on device")
            return save(value, path)
        return write

    monkeypatch.setattr(safetensors.torch, "save_file", full(safetensors.torch.save_file, safetensors.SafetensorError))
    monkeypatch.setattr(torch, "save", full(torch.save, RuntimeError))
    trainer = Trainer(checkpoint.read_config(run), run, resume=True)
    trainer.step = 3
    with pytest.raises(OSError, match=f"writing_00000003/{file} cannot be written: .*No space left"):
        trainer._save()
    monkeypatch.undo()
    assert load_run(run).step == 2
    trainer._save()
    assert load_run(run).step == 3


OUT_OF_MEMORY = "error: out of memory: use a smaller --batch-size, or train with a smaller --width"


@pytest.mark.parametrize("error, code, message", [
    (KeyboardInterrupt(), 130, "\nstopped\n"),
    (MemoryError(), 2, f"{OUT_OF_MEMORY} (MemoryError)\n"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), 2, f"{OUT_OF_MEMORY} (CUDA out of memory. Tried)\n"),
])
def test_interrupts_and_memory_are_one_line(error, code, message, run, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("fastscore.sample.draw", fails)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), "--quiet"])
    assert stop.value.code == code and capsys.readouterr().err == message


def test_the_memory_of_the_cpu(run, monkeypatch, capsys):
    """torch's own error, from a tensor of an exabyte; any other RuntimeError is a bug and keeps its traceback."""
    monkeypatch.setattr("fastscore.sample.draw", lambda *a, **k: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(run), "--quiet"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(OUT_OF_MEMORY) and error.count("\n") == 1
    monkeypatch.setattr("fastscore.sample.draw", lambda *a, **k: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        cli.main(["sample", str(run), "--quiet"])


def test_sampling_arguments(run):
    trained = load_run(run, device="cpu")
    for changes, message in (({"num": 0}, "num must be"), ({"num": 2, "batch_size": 0}, "batch_size must be"),
                             ({"num": 2, "seed": -1}, "seed must be"), ({"num": 2, "sampler": "magic"}, "sampler must be")):
        with pytest.raises(ValueError, match=message):
            sample(trained, progress=False, **changes)


def test_config_json_round_trip_names_what_is_wrong(tmp_path):
    values = json.loads(TrainConfig().to_json()) | {"lr": "fast"}
    with pytest.raises(fs.CheckpointError, match="lr must be a number"):
        TrainConfig.from_json(json.dumps(values))
