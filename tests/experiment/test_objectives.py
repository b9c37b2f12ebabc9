"""What the trainer minimises: a table of objectives, each drawing as it likes from its iteration's own numbers."""

import dataclasses
import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch

import fastscore as fs
from fastscore import experiment, losses
from fastscore._core import checks
from fastscore._core.options import Option
from fastscore.data import GaussianMixture
from fastscore.experiment import checkpoint, cli
from fastscore.experiment.build import make_data, make_model, make_sigmas
from fastscore.experiment.checkpoint import folder
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.history import read_metrics
from fastscore.experiment.presets import PRESETS, preset
from fastscore.experiment.sample import load_run
from fastscore.experiment.train import Trainer
from fastscore.losses import OBJECTIVES, Objective

from .test_train import CONFIGS, TOY, weights


def times(factor):
    """ncsn, with a factor on each level's loss, which is divided by their mean where they are a density."""

    def loss(network, x, sigmas, *, labels, weighting=None, data_std=None, p_mean=None, p_std=None, **given):
        return factor(sigmas.double())[labels].float() * losses.ncsn(network, x, sigmas, labels=labels, **given)

    return loss


def edm_factor(sigma):
    density = (-((sigma.log() + 0.5) / 0.8).square() / 2).exp()
    return (1 + (sigma / 2.0).square()) * density / density.mean()


def stf(network, x, sigmas, *, labels, rng, weight, reduction):
    sigma = sigmas[labels]
    x_tilde, _ = fs.perturb(x, sigma, rng)
    target = losses.target_field(x_tilde, x, torch.ones_like(sigma), sigma)
    return sigma ** (weight - 2) * (0.5 * sigma.square() * (network(x_tilde, labels) - target).square().sum(1))


#: The public loss that each objective is at every iteration; a new objective is a row more.
LOSSES = {
    "dsm": (losses.ncsn, {}),
    "ssm": (losses.annealed_ssm_vr, {"projection": "gaussian", "n_particles": 2}),
    "csm": (times(lambda s: -torch.gradient(s**2)[0] * (len(s) - 1) / s**2), {"weighting": "g^2"}),
    "ddpm": (losses.ncsn, {}),
    "edm": (times(edm_factor), {"data_std": 2.0, "p_mean": -0.5, "p_std": 0.8}),
    "stf": (stf, {}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_its_public_loss(name):
    """Bit for bit, and so are the gradient and the place in the random sequence where it ends."""
    loss, options = LOSSES[name]
    network, sigmas = make_model(TOY, (2,)), make_sigmas(TOY)
    x, labels = make_data(TOY).batch(0, 16, seed=0), torch.arange(16) % TOY.num_levels
    bound = OBJECTIVES[name].on(network, sigmas, (2,), weight=1.5, **options)
    ours, theirs = fs.Philox(3), fs.Philox(3)
    got = bound(x, labels, ours)
    expected = loss(network, x, sigmas, labels=labels, rng=theirs, weight=1.5, reduction="none", **options)
    assert torch.equal(got, expected) and ours.step == theirs.step and got.shape == (16,)
    parameters = list(network.parameters())
    for a, b in zip(torch.autograd.grad(got.mean(), parameters), torch.autograd.grad(expected.mean(), parameters)):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "name, options", [("csm", {"weighting": "g^2"}), ("csm", {"weighting": "1"}), ("ddpm", {}), ("stf", {})]
)
def test_at_weight_2_it_is_the_loss_on_the_path_of_the_levels(name, options):
    network, sigmas = make_model(TOY, (2,)), make_sigmas(TOY)
    x, labels = make_data(TOY).batch(0, 16, seed=0), torch.arange(16) % TOY.num_levels
    got = OBJECTIVES[name].on(network, sigmas, (2,), weight=2.0, **options)(x, labels, fs.Philox(3))
    path = fs.paths.levels(sigmas)
    if name == "ddpm":
        network = fs.as_prediction(network, kind="epsilon", path=path, conditioning="labels")
    conditioning = {} if name == "ddpm" else {"conditioning": "labels"}
    loss = getattr(losses, name)
    expected = loss(network, x, path, t=sigmas[labels], rng=fs.Philox(3), reduction="none", **options, **conditioning)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_edm_on_levels_is_edm_at_these():
    """The factor beside the log-normal's density is that of losses.edm."""
    network, sigmas = make_model(TOY, (2,)), make_sigmas(TOY)
    x, labels = make_data(TOY).batch(0, 16, seed=0), torch.arange(16) % TOY.num_levels
    flat = {"p_mean": 0.0, "p_std": 1e6}  # the same density at every level
    got = OBJECTIVES["edm"].on(network, sigmas, (2,), weight=2.0, data_std=1.5, **flat)(x, labels, fs.Philox(3))
    expected = losses.edm(network, x, sigma=sigmas[labels], data_std=1.5, rng=fs.Philox(3), reduction="none")
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_a_batch_whose_rows_depend_on_each_other_is_one_part():
    with pytest.raises(
        ValueError, match="accumulate must be 1 for the objective 'stf', in which the samples of a batch"
    ):
        dataclasses.replace(TOY, objective="stf", accumulate=2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_bound_is_checked(name):
    network, sigmas = make_model(TOY, (2,)), make_sigmas(TOY)
    for shape, levels, keywords, message in (
        ((2,), sigmas.flip(0), {}, "sigmas must be strictly decreasing"),
        ((2,), sigmas, {"weight": math.nan}, "weight must be finite"),
        ((2,), sigmas, {"n": 3}, f"n must be left out for objective '{name}'"),
        ((2, 2), sigmas, {}, r"objective must be one for samples of shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            OBJECTIVES[name].on(network, levels, shape, **{"weight": 2.0} | keywords)


def test_one_iteration_of_sliced_score_matching(tmp_path):
    """Of sub-stream 0: labels by step 0, noise by step 1, signs by step 2: sigma^2 (1/2 ||s||^2 + v^T J v)."""
    config = dataclasses.replace(
        TOY,
        objective="ssm",
        iterations=1,
        warmup=0,
        decay=False,
        log_every=1,
        ema=0.0,
        checkpoint_every=1,
        lr=0.1,
        eps=1.0,
    )
    run = Trainer(config, tmp_path / "run").train(progress=False)
    data = make_data(config)
    model, sigmas = make_model(config, data.shape), make_sigmas(config)
    x, rng = data.batch(0, 32, seed=0), fs.Philox(0).substream(0)
    labels = rng.randint(config.num_levels, 32, stream=fs.Stream.LABELS)
    sigma = sigmas[labels][:, None]
    x = x + sigma * rng.randn(x.shape, stream=fs.Stream.PERTURB)
    v = rng.rademacher(x.shape, stream=fs.Stream.PROBE)
    score, product = torch.func.jvp(lambda y: model(y, labels), (x,), (v,))
    each = sigma[:, 0] ** 2 * (score.square().sum(1) / 2 + (v * product).sum(1))
    each.mean().backward()
    torch.optim.Adam(model.parameters(), lr=0.1, eps=1.0).step()
    for name, value in checkpoint.read_weights(run, "raw").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5)
    assert math.isclose(read_metrics(tmp_path / "run")[0]["loss"], each.mean().item(), rel_tol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "mlp, ssm"])
def test_an_iteration_checks_nothing_again(name, tmp_path, monkeypatch):
    """Noise levels and network were looked at when the run began."""
    trainer = Trainer(CONFIGS[name], tmp_path / "run")
    for place in ("fastscore._core.checks.sigmas", "fastscore.trace.modules.check"):
        monkeypatch.setattr(place, lambda *a, **k: pytest.fail("checked again"))
    trainer._iterate()
    assert trainer.step == 1


@pytest.mark.parametrize("name", ["mlp", "mlp, ssm"])
def test_each_iteration_has_a_sub_stream_of_its_own(name, tmp_path):
    trainer, seen = Trainer(CONFIGS[name], tmp_path / "run"), []
    loss = trainer.learner._loss
    trainer.learner._loss = lambda x, labels, rng: seen.append((rng.seed, rng.step)) or loss(x, labels, rng)
    for _ in range(3):
        trainer._iterate()
    assert seen == [(fs.Philox(CONFIGS[name].seed).substream(i).seed, 1) for i in range(3)]  # labels took a step


# A toy objective, as an author would write it: a file with its loss, and an entry.


def capricious(network, sigmas, *, weight, strength, norm):
    """Denoising, with a part of the batch's noise drawn again and again, as often as the batch happens to say."""

    def loss(x, labels, rng):
        sigma = sigmas[labels][:, None]
        z = rng.randn(x.shape)
        for _ in range(int(x.sum().abs()) % 5):
            z = rng.randn(x.shape, stream=fs.Stream.PERTURB) + 0.1 * z
        error = sigma * network(x + sigma * z, labels) + z
        error = error.abs() if norm == "l1" else error.square() / 2
        return strength * sigma[:, 0] ** (weight - 2) * error.sum(1)

    return loss


TOY_OBJECTIVE = Objective(
    name="capricious",
    title="a toy",
    source="nobody",
    summary="draws as often as it likes",
    bind=capricious,
    options=(
        Option("strength", float, "Factor on the loss", checks.positive, default=1.0),
        Option(
            "norm", str, "Norm of the error", partial(checks.one_of, allowed=("l1", "l2")), "l2", choices=("l1", "l2")
        ),
    ),
    sample_kinds=("points",),
)


@pytest.fixture
def toy_objective(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, TOY_OBJECTIVE.name, TOY_OBJECTIVE)
    return TOY_OBJECTIVE


def test_a_new_objective_is_an_entry(toy_objective, tmp_path):
    """Trained by the command line with its options, and resumed bit for bit, though each of its iterations draws
    another number of times."""
    config = preset(
        "toy",
        objective="capricious",
        objective_options={"strength": 2.5},
        **dict(data="two_moons", width=8, batch_size=8, decay=False, iterations=4, log_every=1, checkpoint_every=1),
        precision="fp32",
    )
    Trainer(config, tmp_path / "whole").train(progress=False)
    line = ["train", "toy", "--data", "two_moons", "--width", "8", "--batch-size", "8", "--no-decay", "--quiet"]
    line += ["--objective", "capricious", "--strength", "2.5", "--log-every", "1", "--checkpoint-every", "1"]
    cli.main([*line, "--iterations", "2", "--out", str(tmp_path / "parts")])
    Trainer(config, tmp_path / "parts", resume=True).train(progress=False)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    saved = checkpoint.read_config(tmp_path / "parts")
    assert saved == config and saved.objective_options == {"strength": 2.5, "norm": "l2"}
    x, rng = make_data(config).batch(0, 8, seed=0), fs.Philox(0).substream(0)
    labels = losses.draw_labels(config.num_levels, 8, rng)
    bound = toy_objective.on(make_model(config, (2,)), make_sigmas(config), (2,), weight=2.0, strength=2.5)
    expected = float(bound(x, labels, rng).detach().mean())
    assert read_metrics(tmp_path / "parts")[0]["loss"] == pytest.approx(expected, rel=1e-6)
    other = dataclasses.replace(config, objective_options={"strength": 2.5, "norm": "l1"})
    with pytest.raises(
        fs.CheckpointError, match=r"config: objective_options \(was \{'strength': 2.5, 'norm': 'l2'\}, n"
    ):
        Trainer(other, tmp_path / "parts", resume=True)


def test_what_an_objective_does_with_its_options(toy_objective, tmp_path, capsys):
    """The help, the documentation's table, the command that a run is gone on with, and what it does not fit."""
    with pytest.raises(SystemExit):
        cli.main(["train", "toy", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (
        f"--objective{{{','.join(OBJECTIVES)}}}" in text.replace(" ", "")
        and "capricious, a toy, draws as often as it likes." in text
    )
    assert "--norm {l1,l2} Norm of the error; by default l2. Only with --objective capricious." in text
    assert "--strength FLOAT" in text and "--objective-options" not in text
    row = "| `capricious` | a toy: draws as often as it likes | points | `strength`, `norm` | nobody |\n"
    assert losses.objectives.table().endswith(row) and losses.objectives.table().count("\n") == 2 + len(OBJECTIVES)
    assert "| `strength` | Factor on the loss | `1.0` | `capricious` |\n" in losses.objectives.options_table()
    images = preset("digits", objective="capricious", width=4, iterations=1, batch_size=2)
    with pytest.raises(
        ValueError, match=r"objective must be one for samples of shape \(1, 8, 8\), got 'capricious', w"
    ):
        Trainer(images, tmp_path / "images")
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"objective": "ism"}, ValueError, f"objective must be one of {str([*OBJECTIVES])[1:-1]}, got 'ism'"),
        ({"objective": ["dsm"]}, TypeError, f"objective must be one of {', '.join(OBJECTIVES)}, got list"),
        ({"objective_options": 3}, TypeError, "objective_options must be a mapping of names to values, got int 3"),
        (
            {"objective_options": {"n_particles": 2}},
            ValueError,
            "n_particles must be left out for objective 'dsm', which takes no options",
        ),
        (
            {"objective": "ssm", "objective_options": {"n": 2}},
            ValueError,
            "n must be left out for objective 'ssm', which takes projection, n_particles, got int 2",
        ),
        ({"objective": "ssm", "objective_options": {"n_particles": 0}}, ValueError, "n_particles must be from 1 to"),
        ({"objective": "ssm", "objective_options": {"projection": []}}, ValueError, "projection must be one of 'rade"),
    ],
)
def test_options_are_checked_when_a_config_is_made(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dataclasses.replace(TOY, **changes)


def test_options_by_name():
    """What is left out has its default, so equal runs have equal configs; no name is a field's or another flag's."""
    config = dataclasses.replace(TOY, objective="ssm", objective_options={"n_particles": 1})
    assert config == dataclasses.replace(TOY, objective="ssm") != TOY
    assert hash(config) == hash(dataclasses.replace(config)) and TrainConfig.from_json(config.to_json()) == config
    taken = {field.name for field in dataclasses.fields(TrainConfig)} | {"out", "resume", "change", "quiet", "options"}
    assert not taken & {option.name for objective in OBJECTIVES.values() for option in objective.options}


def test_the_trainer_knows_no_objective_by_name():
    """Only a default and a preset may name one."""
    names = "|".join(OBJECTIVES)
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(experiment.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(rf"""["']({names})["']|objective ==""", line)
    ]
    assert found == ['config.py: objective: str = "dsm"']
    assert {config.objective for _, config in PRESETS.values()} <= set(OBJECTIVES)


def test_a_run_of_another_version_is_sampled_and_not_trained_further(tmp_path, monkeypatch):
    """Its iterations drew other numbers. Its config.json may lack the objective (dsm), and call the step size alpha."""
    run = tmp_path / "run"
    config = dataclasses.replace(TOY, iterations=7, decay=False)
    Trainer(config, run).train(progress=False)
    identity = checkpoint.read_identity(run)
    assert identity.format == folder.FORMAT
    checkpoint.begin(run, dataclasses.replace(identity, format=1))
    fields = json.loads((run / "config.json").read_text())
    assert fields.pop("objective") == "dsm" and fields.pop("objective_options") == {}
    fields["alpha"] = fields.pop("step_size") / 2
    (run / "config.json").write_text(json.dumps(fields))
    trained = load_run(run, device="cpu")
    assert trained.iteration == 7 and trained.config.step_size == config.step_size / 2
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
    with pytest.raises(
        fs.CheckpointError,
        match=r"begun by another version .* other random numbers \(format 1 in run.json; this version's is 2\).*sampled",
    ):
        Trainer(dataclasses.replace(config, iterations=9), run, resume=True)
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before


@pytest.mark.slow
def test_both_objectives_teach_the_same_score(tmp_path):
    """A short run on the mixture: the mean error of the score over the noise levels, in units of 1 / sigma."""

    def error(objective):
        config = dataclasses.replace(TOY, iterations=400, width=64, batch_size=256, objective=objective)
        run = Trainer(config, tmp_path / objective).train(progress=False)
        network, mixture = load_run(run.parent.parent, device="cpu").network, GaussianMixture()
        x, errors = make_data(config).batch(0, 500, seed=1), []
        for level, sigma in enumerate(make_sigmas(config).tolist()):
            noisy = x + sigma * fs.Philox(level).randn(x.shape)
            learned, exact = network(noisy, torch.full((500,), level)), mixture.score(noisy, sigma)
            errors.append(sigma * (learned - exact).square().sum(1).mean().sqrt())
        return float(torch.stack(errors).mean())

    dsm, ssm = error("dsm"), error("ssm")
    assert ssm < 1.5 * dsm and ssm < 0.2, (dsm, ssm)
