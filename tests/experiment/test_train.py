"""Training: recipes, what an iteration is, previews, and losses that are not finite. Stopping: test_stopping.py."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fastscore as fs
from fastscore.experiment import checkpoint
from fastscore.experiment.build import make_data, make_model, make_sigmas
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.history import read_metrics
from fastscore.experiment.learner import learning_rate
from fastscore.experiment.presets import PRESETS, preset
from fastscore.experiment.preview import save_preview
from fastscore.experiment.sample import load_run, sample
from fastscore.experiment.train import Trainer

TOY = preset("toy", iterations=60, width=16, batch_size=32, checkpoint_every=7, log_every=5, warmup=5, precision="fp32")
TINY = preset(
    "digits", iterations=24, width=4, batch_size=8, checkpoint_every=5, log_every=4, warmup=3, precision="fp32"
)
CONFIGS = {
    "mlp": TOY,
    "ncsn": TINY,
    "ncsnv2, bf16": dataclasses.replace(TINY, model="ncsnv2", ema=0.0, clip_norm=1.0, precision="bf16"),
    "mlp, ssm": dataclasses.replace(TOY, objective="ssm"),
    "ncsn, ssm": dataclasses.replace(TINY, objective="ssm", objective_options={"n_particles": 2}),
}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint: weights, their average, and the optimizer's."""
    folder = checkpoint.latest(run)
    found = {f"{file.stem}.{k}": v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    for index, state in checkpoint.read_state(folder)["optimizer"]["state"].items():
        found |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    return found


def test_presets_are_the_recipes():
    """The table of the two papers' code, number for number."""
    v1, v2 = preset("cifar10-ncsn"), preset("cifar10-ncsnv2")
    shared = dict(
        data="cifar10",
        width=128,
        batch_size=128,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight=2.0,
        flip=True,
        start="uniform",
        sampler="annealed",
        sigma_end=0.01,
        clip_norm=0.0,
        warmup=0,
        decay=False,
    )
    one = dict(
        model="ncsn",
        sigma_begin=1.0,
        num_levels=10,
        lr=1e-3,
        iterations=200_001,
        ema=0.0,
        steps_per_level=100,
        step_size=2 * 2e-5,
        denoise=False,
        dequantize=True,
    )
    two = dict(
        model="ncsnv2",
        sigma_begin=50.0,
        num_levels=232,
        lr=1e-4,
        iterations=300_001,
        ema=0.999,
        steps_per_level=5,
        step_size=2 * 6.2e-6,
        denoise=True,
        dequantize=False,
    )
    for config, expected in ((v1, shared | one), (v2, shared | two)):
        for name, value in expected.items():
            assert getattr(config, name) == value, name
    assert (preset("mnist").data, preset("mnist").width, preset("mnist").model) == ("mnist", 64, "ncsn")
    with torch.device("meta"):
        assert sum(p.numel() for p in make_model(v1, (3, 32, 32)).parameters()) == 30_117_635
    assert sum(p.numel() for p in make_model(v2, (3, 32, 32)).parameters()) == 29_694_083
    sigmas = make_sigmas(v1)
    assert len(sigmas) == 10 and float(sigmas[0]) == 1.0 and math.isclose(float(sigmas[-1]), 0.01, rel_tol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_configs_survive_json(name):
    config = preset(name)
    assert TrainConfig.from_json(config.to_json()) == config


def test_one_iteration_is_the_recipe(tmp_path):
    """One step of Adam on the mean NCSN loss of the contract's batch, labels and noise; then the moving average."""
    config = dataclasses.replace(
        TINY, iterations=1, warmup=0, decay=False, log_every=1, checkpoint_every=1, lr=0.1, eps=1.0
    )  # a large eps: else the step of a gradient that is rounding alone is +-lr
    run = Trainer(config, tmp_path / "run").train(progress=False)
    data = make_data(config)
    model, sigmas = make_model(config, data.shape), make_sigmas(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, eps=1.0)
    x = data.batch(0, 8, seed=0)
    rng = fs.Philox(0).substream(0)
    labels = rng.randint(config.num_levels, 8, stream=fs.Stream.LABELS)
    z = rng.randn(x.shape, stream=fs.Stream.PERTURB)
    sigma = sigmas[labels].view(-1, 1, 1, 1)
    each = 0.5 * (sigma * model(x + sigma * z, labels) + z).square().sum((1, 2, 3))
    each.mean().backward()
    optimizer.step()
    for name, value in checkpoint.read_weights(run, "raw").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5)
    assert all(
        torch.equal(v, checkpoint.read_weights(run, "raw")[k])  # the average starts at the first weights
        for k, v in checkpoint.read_weights(run, "ema").items()
    )
    record = read_metrics(tmp_path / "run")[0]
    assert math.isclose(record["loss"], each.mean().item(), rel_tol=1e-5)
    for level in range(config.num_levels):
        mine = each[labels == level]
        logged = record["loss_per_sigma"][level]
        assert (logged is None) == (len(mine) == 0)
        assert logged is None or math.isclose(logged, float(mine.mean()), rel_tol=1e-4)


def test_moving_average(tmp_path):
    """m <- ema m + (1 - ema) w after every step but the first."""
    config = dataclasses.replace(TOY, iterations=4, checkpoint_every=1, keep=4, ema=0.9)
    Trainer(config, tmp_path / "run").train(progress=False)
    mean = None
    for folder in checkpoint.steps(tmp_path / "run"):
        now = checkpoint.read_weights(folder, "raw")
        mean = now if mean is None else {k: 0.9 * mean[k] + 0.1 * v for k, v in now.items()}
        for name, value in checkpoint.read_weights(folder, "ema").items():
            torch.testing.assert_close(value, mean[name], rtol=1e-5, atol=1e-7)


def test_learning_rate():
    config = dataclasses.replace(TOY, iterations=100, warmup=10, lr=1.0, decay=False)
    assert learning_rate(config, 0) == 0.1 and learning_rate(config, 9) == learning_rate(config, 50) == 1.0
    decayed = dataclasses.replace(config, decay=True)
    assert math.isclose(learning_rate(decayed, 50), 0.5) and learning_rate(decayed, 99) < 1e-3


def test_gradient_clipping(tmp_path, monkeypatch):
    norms = []
    step = torch.optim.Adam.step

    def spy(self, *args):
        norms.append(float(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    Trainer(dataclasses.replace(TOY, iterations=3, clip_norm=0.01), tmp_path / "a").train(progress=False)
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)
    assert all(r["grad_norm"] > 0.01 for r in read_metrics(tmp_path / "a"))  # logged as it was before
    norms.clear()
    for share in (1e9, 0.9, 1.1):  # of the first gradient's norm: without a bound, just below it, just above
        bound = share * (norms[0] if norms else 1)
        with Trainer(dataclasses.replace(TOY, clip_norm=bound), tmp_path / f"{share}") as trainer:
            trainer.learner.iterate(0)
    assert norms == pytest.approx([norms[0], 0.9 * norms[0], norms[0]], rel=1e-4)


def test_a_line_of_metrics_is_of_the_iterations_since_the_last(tmp_path):
    each, pairs = (dataclasses.replace(TOY, iterations=4, log_every=every) for every in (1, 2))
    for name, config in (("each", each), ("pairs", pairs)):
        Trainer(config, tmp_path / name).train(progress=False)
    one, two = ([r["loss"] for r in read_metrics(tmp_path / name)] for name in ("each", "pairs"))
    assert two == pytest.approx([(one[0] + one[1]) / 2, (one[2] + one[3]) / 2], rel=1e-6)


def test_the_loss_falls(tmp_path):
    Trainer(dataclasses.replace(TOY, iterations=300, width=64, batch_size=128), tmp_path / "run").train(progress=False)
    losses = [r["loss"] for r in read_metrics(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(r["images_per_second"] > 0 for r in read_metrics(tmp_path / "run"))


@pytest.mark.parametrize("lr, clip", [(1e30, 0.0)])
def test_a_loss_that_is_not_finite_stops_the_run(lr, clip, tmp_path):
    run = tmp_path / "run"
    Trainer(dataclasses.replace(TOY, iterations=7, decay=False, warmup=0), run).train(progress=False)
    good = weights(run)
    trainer = Trainer(dataclasses.replace(TOY, decay=False, warmup=0), run, resume=True)
    trainer.learner.config = dataclasses.replace(trainer.config, lr=lr, clip_norm=clip)
    with pytest.raises(fs.NonFiniteLoss, match=r"loss at iteration \d+ is not finite; loss by sigma.*step_00000007"):
        trainer.train(progress=False)
    after = weights(run)
    assert all(torch.equal(good[k], after[k]) for k in good) and len(checkpoint.steps(run)) == 1


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer = Trainer(TOY, tmp_path / "run")
    next(trainer.model.parameters()).data[0] = float("nan")
    with pytest.raises(fs.NonFiniteLoss, match="not saved"):
        trainer._save()
    assert not checkpoint.steps(tmp_path / "run")


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run = tmp_path / "run"
    Trainer(dataclasses.replace(TOY, iterations=7), run).train(progress=False)
    with pytest.raises(fs.CheckpointError, match="already holds a run: add --resume"):
        Trainer(TOY, run)
    with pytest.raises(fs.CheckpointError, match=r"another config: width \(was 16, now 8\)"):
        Trainer(dataclasses.replace(TOY, width=8, iterations=7), run, resume=True)


def test_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Trainer(dataclasses.replace(TOY, iterations=2), tmp_path / "run").train(progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_are_the_same_in_any_batch_size(tmp_path):
    """The same noise; the values to rounding, which a convolution's algorithm may change with the batch size."""
    run = tmp_path / "run"
    Trainer(dataclasses.replace(TINY, steps_per_level=3), run).train(progress=False)
    trained = load_run(run, device="cpu")
    whole = sample(trained, 7, progress=False, batch_size=7)
    parts = sample(trained, 7, progress=False, batch_size=3)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole, sample(trained, 7, seed=1, progress=False), atol=1e-2)
    assert bool((whole >= 0).all()) and bool((whole <= 1).all())


def test_sampling_uses_the_moving_average(tmp_path):
    run = tmp_path / "run"
    folder = Trainer(dataclasses.replace(TOY, ema=0.5), run).train(progress=False)
    network = load_run(run, device="cpu").network
    average = checkpoint.read_weights(folder, "ema")
    assert all(torch.equal(v, average[k]) for k, v in network.state_dict().items())


def test_grids_while_training(tmp_path):
    """By a callback after every sample_every iterations and the last one; without one, or for points, there are none."""
    run, config = tmp_path / "run", dataclasses.replace(TINY, iterations=5, sample_every=2, steps_per_level=1)
    called = []

    def preview(trainer):
        called.append(trainer.step)
        save_preview(trainer)

    trainer = Trainer(config, run)
    trainer.train(progress=False, preview=preview)
    assert called == [2, 4, 5] and trainer.network is trainer.learner.ema.module
    assert [p.name for p in sorted((run / "samples").iterdir())] == [f"step_0000000{step}.png" for step in called]
    Trainer(config, tmp_path / "none").train(progress=False)
    points = dataclasses.replace(TOY, iterations=2, sample_every=1)
    Trainer(points, tmp_path / "points").train(progress=False, preview=save_preview)
    assert not (tmp_path / "none" / "samples").exists() and not (tmp_path / "points" / "samples").exists()


def test_a_preview_that_cannot_be_drawn_or_written(tmp_path, monkeypatch):
    """Samples that are not finite are a warning; a folder that cannot be written is told with the way on."""
    config = dataclasses.replace(TINY, iterations=1, sample_every=1, steps_per_level=1)
    trainer = Trainer(config, tmp_path / "run")
    next(trainer.network.parameters()).data.fill_(torch.nan)
    with pytest.warns(UserWarning, match="no picture of iteration 0: .* for 64 of 64 samples"):
        save_preview(trainer)
    assert not (tmp_path / "run" / "samples").exists()

    def without_end(*_, **__):
        raise fs.NotConverged("1 of 64 samples is not at its end")

    monkeypatch.setattr("fastscore.experiment.preview.draw", without_end)
    with pytest.warns(UserWarning, match="no picture of iteration 0: 1 of 64 samples is not at its end"):
        save_preview(trainer)
    monkeypatch.setattr("fastscore.experiment.preview.draw", lambda *a, **k: torch.zeros(64, 1, 8, 8))
    (tmp_path / "run" / "samples").touch()
    with pytest.raises(
        fs.CannotWrite, match=r"run/samples cannot be written: File exists.*go on with: fastscore train"
    ):
        save_preview(trainer)


def test_config_is_saved_with_the_run(tmp_path):
    Trainer(TOY, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["batch_size"] == 32
    assert checkpoint.read_config(tmp_path / "run") == TOY
