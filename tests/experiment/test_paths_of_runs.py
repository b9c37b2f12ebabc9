"""Runs on a path of continuous t: losses and times, what the network predicts, which samplers draw, what is refused."""

import dataclasses
import json
import math
import re

import pytest
import torch

import fastscore as fs
from fastscore import losses, paths, samplers
from fastscore.data import GaussianMixture
from fastscore.experiment import checkpoint, cli
from fastscore.experiment.build import make_data, make_model, make_sigmas
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.history import read_metrics
from fastscore.experiment.moments import moments_of_data
from fastscore.experiment.path_bounds import make_path
from fastscore.experiment.presets import command_line, preset
from fastscore.experiment.preview import save_preview
from fastscore.experiment.sample import _SAMPLING_SEED, load_run, sample, with_sampling
from fastscore.experiment.scores import begins_about_the_mean, on_path, where_sampled
from fastscore.experiment.train import Trainer
from fastscore.losses import OBJECTIVES
from fastscore.paths import PATHS
from fastscore.samplers import BEST_OF_FEW, DEFAULT, SAMPLERS

from .test_train import TINY, TOY, weights

CONTINUOUS = [name for name, kind in PATHS.items() if kind.continuous]
TOY_VP = dataclasses.replace(TOY, path="vp_linear", num_levels=5, solver_steps=0)
DIGITS_VP = dataclasses.replace(TINY, path="vp_linear", model="ncsnv2", num_levels=3, iterations=2, batch_size=4)
KINDS = ("epsilon", "x0", "v", "velocity")


def truth(path, mixture):
    def score(x, t):  # x / alpha is the mixture with noise sigma / alpha
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        alpha, sigma = path.alpha(t).to(x), path.sigma(t).to(x)
        return mixture.score(x / alpha[:, None], sigma / alpha) / alpha[:, None]

    return score


# The score


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_network_predicts(kind):
    """A network that gives the truth of its kind is the true score, told x_t itself and sigma / alpha."""
    config = dataclasses.replace(TOY, path="vp_cosine", parametrization=kind)
    path, mixture = make_path(config), GaussianMixture()
    exact = fs.as_prediction(truth(path, mixture), kind=kind, path=path)
    x, t = 5 * fs.Philox(0).randn(32, 2), torch.linspace(0.01, 0.99, 32, dtype=torch.float64)
    network = torch.nn.Module()
    network.forward = lambda x, ratio: exact(x, path.t_of_log_snr(-2 * ratio.double().log()))
    torch.testing.assert_close(on_path(config, network)(x, t), truth(path, mixture)(x, t), rtol=2e-3, atol=2e-3)
    assert make_model(config, (2,)).preconditioned is False


def test_what_ncsnv2_predicts():
    """Its score at x_t / alpha; what it gives before the division; or EDM's F."""
    path, x, t = paths.vp_linear(), fs.Philox(0).rand(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = (v.float()[:, None, None, None] for v in (path.alpha(t), path.sigma(t)))
    network = make_model(DIGITS_VP, (1, 8, 8))
    close = {"rtol": 1e-4, "atol": 1e-5}
    got = on_path(DIGITS_VP, network)(x, t)
    torch.testing.assert_close(got, network(x / alpha, (sigma / alpha).flatten()) / alpha, **close)
    got = on_path(dataclasses.replace(DIGITS_VP, parametrization="epsilon"), network)(x, t)
    torch.testing.assert_close(got, -network(x, torch.ones(3)) / sigma, **close)
    edm = dataclasses.replace(DIGITS_VP, objective="edm", objective_options={"data_std": 0.3})
    tau, ratio = 0.09 + (sigma / alpha) ** 2, sigma / alpha
    clean = 0.09 / tau * (x / alpha) + ratio * 0.3 / tau.sqrt() * network(x / alpha / tau.sqrt(), torch.ones(3))
    torch.testing.assert_close(on_path(edm, network)(x, t), (alpha * clean - x) / sigma**2, rtol=1e-3, atol=1e-3)
    assert make_model(dataclasses.replace(TOY_VP, objective="edm"), (2,)).data_std == 0.5


# Runs


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "vp_linear", "objective": "csm", "objective_options": {"weighting": "g^2", "proposal": "importance"}},
        {"path": "rectified", "parametrization": "velocity", "objective": "stf"},
        {"path": "edm", "objective": "edm", "objective_options": {"data_std": 3.0, "p_mean": 0.5}},
    ],
    ids=lambda changes: changes["path"],
)
def test_a_resumed_run_is_the_run_itself(changes, tmp_path):
    config = dataclasses.replace(TOY, iterations=9, checkpoint_every=3, decay=False, **changes)
    Trainer(config, tmp_path / "whole").train(progress=False)
    Trainer(dataclasses.replace(config, iterations=4), tmp_path / "parts").train(progress=False)
    Trainer(config, tmp_path / "parts", resume=True).train(progress=False)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    saved = checkpoint.read_config(tmp_path / "parts")
    assert saved == config and saved.path_options == config.path_options
    other = dataclasses.replace(config, path="vp_cosine", path_options={})
    with pytest.raises(fs.CheckpointError, match=f"path .was {config.path}, now vp_cosine"):
        Trainer(other, tmp_path / "parts", resume=True)


def test_parts_of_a_batch_are_the_batch(tmp_path):
    for parts in (1, 3):
        config = dataclasses.replace(TOY_VP, iterations=3, accumulate=parts, log_every=1, lr=0.1, eps=1.0)
        Trainer(config, tmp_path / str(parts)).train(progress=False)
    one, three = (read_metrics(tmp_path / name) for name in ("1", "3"))
    assert [a["loss"] for a in one] == pytest.approx([a["loss"] for a in three], rel=1e-5)


def test_losses_are_shown_at_the_nearest_noise(tmp_path):
    trainer = Trainer(TOY_VP, tmp_path)
    path, sigmas = make_path(TOY_VP), make_sigmas(TOY_VP)
    assert float(sigmas[0]) == pytest.approx(math.exp(-float(path.log_snr(1.0)) / 2), rel=1e-5)
    t = path.t_of_log_snr(-2 * sigmas.double().log().clamp(*sorted(-float(path.log_snr(t)) / 2 for t in (1e-3, 1.0))))
    assert trainer.learner._nearest(t, trainer.learner._score).tolist() == [0, 1, 2, 3, 4]
    trainer._iterate()
    assert int(trainer.learner.sums[1].sum()) == TOY_VP.batch_size


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, config in (("vp", TOY_VP), ("ve", dataclasses.replace(TOY, path="ve")), ("digits", DIGITS_VP)):
        Trainer(dataclasses.replace(config, iterations=2, sample_every=0), folder / name).train(progress=False)
    return folder


@pytest.mark.parametrize("steps", [None, 3])
def test_the_default_sampler_by_hand(runs, steps):
    trained = load_run(runs / "vp", device="cpu")
    unnamed = dataclasses.replace(trained.config, sampler=DEFAULT)
    assert dataclasses.replace(trained, config=unnamed, sampler="").sampler == BEST_OF_FEW
    path = paths.vp_linear()
    score = fs.as_score(trained.network, kind="score", path=path, conditioning="sigma", rescale=True)
    want = samplers.dpm_solver(score, (6, 2), path, eta=1.0, steps=steps or 5, rng=fs.Philox(4 + _SAMPLING_SEED))
    assert torch.equal(sample(trained, 6, seed=4, batch_size=6, steps=steps, progress=False), want)
    assert with_sampling(trained, steps=steps).options["steps"] == (steps or 5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_on_the_path_or_says_why_not(name, runs, torchode):
    """Sample 2 alone is sample 2 of three."""
    for run in ("vp", "ve", "digits"):
        trained = load_run(runs / run, device="cpu")
        if not SAMPLERS[name].any_path and run != "ve":
            with pytest.raises(ValueError, match=f"sampler must be dpm_sde, .*, whose alpha is not 1: .* got '{name}'"):
                with_sampling(trained, sampler=name)
            continue
        close = {"rtol": 1e-3, "atol": 1e-3}  # of networks on batches of other sizes
        given = {"annealed": {"steps_per_level": 2}, "gotta_go_fast": {"rtol": 0.5, "atol": 0.5}}.get(name, {})
        x = sample(trained, 3, sampler=name, batch_size=3, progress=False, **given)
        assert torch.isfinite(x).all() and x.shape == (3, *trained.shape)
        torch.testing.assert_close(sample(trained, 3, sampler=name, batch_size=2, progress=False, **given), x, **close)
        if not SAMPLERS[name].one_step_a_level:
            continue
        options = with_sampling(trained, sampler=name).options
        where = where_sampled(trained.config, SAMPLERS[name])
        after = [
            SAMPLERS[name].sigma_after(where, options, step)
            for step in range(1, 1 + SAMPLERS[name].updates(trained.config.num_levels, options))
        ]
        points = where.grid(options["steps"], {"heun": "karras", "reverse_sde": "time"}.get(name, "log_snr"))
        ratios = (points.sigma / points.alpha)[1:-1].tolist()  # the last update goes to the clean sample
        assert list(dict.fromkeys(after)) == pytest.approx(ratios) and after[-1] == after[-2]


def test_where_samples_begin(runs):
    """About the mean of the data where the path's end has a hundredth of them, and never among them where alpha falls."""
    trained = load_run(runs / "ve", device="cpu")
    path = paths.ve(sigma_min=0.5, sigma_max=20.0)
    score = fs.as_score(trained.network, kind="score", path=path, conditioning="sigma", rescale=True)
    about, rng = moments_of_data(trained.config), fs.Philox(_SAMPLING_SEED)
    want = samplers.ddim(score, (4, 2), path, steps=3, **about, rng=rng)
    assert torch.equal(sample(trained, 4, sampler="ddim", steps=3, progress=False), want)
    sample(trained, 2, sampler="ddim", steps=3, start="uniform", progress=False)
    with pytest.raises(
        ValueError, match="start must be 'normal' on path 'vp_linear', which begins in noise, got 'uniform'"
    ):
        with_sampling(load_run(runs / "vp", device="cpu"), start="uniform")
    short = dataclasses.replace(TOY_VP, path_options={"beta_max": 3.0})
    assert [begins_about_the_mean(config) for config in (TOY, trained.config, short, TOY_VP)] == [
        True,
        True,
        True,
        False,
    ]


def test_annealed_langevin_on_a_path_whose_alpha_is_1(runs):
    trained = load_run(runs / "ve", device="cpu")
    config = trained.config
    want = samplers.annealed_langevin(
        trained.network,
        (4, 2),
        make_sigmas(config),
        step_size=config.step_size,
        steps_per_level=3,
        start="normal",
        denoise=True,
        conditioning="sigma",
        rng=fs.Philox(_SAMPLING_SEED),
    )
    got = sample(trained, 4, sampler="annealed", steps_per_level=3, progress=False)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_evaluation_and_preview(runs, tmp_path):
    """Of points the score's error at sigma / alpha = 0.5 against the exact one, of images the picture of the way there."""
    report = evaluate(runs / "vp", num=50, out=tmp_path / "a", progress=False)
    assert (report["sampler"], report["steps"], report["network_evaluations_per_sample"]) == ("dpm_sde", 5, 5)
    path, config = paths.vp_linear(), TOY_VP
    network, real = load_run(runs / "vp", device="cpu").network, make_data(config).batch(0, 50, seed=1)
    t = path.t_of_log_snr(-2 * math.log(math.sqrt(5 * config.step_size)))
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    exact = truth(path, GaussianMixture())(real, t)
    with torch.no_grad():
        error = network(real / alpha, torch.full((50,), sigma / alpha)) / alpha - exact
    want = float((error.square().sum() / exact.square().sum()).sqrt())
    assert report["score_error"] == pytest.approx(want, rel=1e-3)
    score = fs.as_score(network, kind="score", path=path, conditioning="sigma", rescale=True)
    exact, times = truth(path, GaussianMixture()), path.grid(5).t.tolist()
    each = [losses.esm(score, exact, real, path, t=t, rng=fs.Philox(k)) for k, t in enumerate(times)]
    want = float((2 * torch.stack(each)).sqrt().mean())
    assert report["score_error_on_path"] == pytest.approx(want, rel=1e-3)
    evaluate(runs / "digits", num=20, out=tmp_path / "b", progress=False)
    assert (tmp_path / "b" / "sampling.png").exists()
    with Trainer(DIGITS_VP, tmp_path / "c") as trainer:
        save_preview(trainer)
    assert (tmp_path / "c" / "samples" / "step_00000000.png").exists()


@pytest.mark.parametrize("path, parametrization", [("ve", "score"), ("vp_linear", "v"), ("rectified", "velocity")])
def test_a_run_learns_the_score_of_the_mixture(path, parametrization, tmp_path):
    """The root mean square of sigma || s - s* || over uniform times falls below a third of what it was."""
    config = dataclasses.replace(
        TOY, path=path, parametrization=parametrization, iterations=300, width=48, batch_size=256, lr=4e-3
    )
    trainer, made, mixture = Trainer(config, tmp_path), make_path(config), GaussianMixture()
    x = mixture.sample(2000, fs.Philox(99))

    def error():
        score = on_path(config, trainer.network)
        with torch.no_grad():
            return float(2 * losses.esm(score, truth(made, mixture), x, made, rng=fs.Philox(98))) ** 0.5

    before = error()
    trainer.train(progress=False)
    assert error() < before / 3, (before, error())


# What goes with what


@pytest.mark.parametrize("path", PATHS)
def test_the_table_of_what_goes_with_what(path):
    """Every objective, path, model and prediction: made, or refused by the name of what does not fit."""
    for objective in OBJECTIVES:
        for model in ("ncsn", "ncsndeeper", "ncsnv2", "ncsnv2deeper", "ncsnv2deepest", "mlp"):
            for kind in ("score", *KINDS):
                wrong = None
                if path == "levels":
                    wrong = "parametrization" if kind != "score" else None
                elif model in ("ncsn", "ncsndeeper"):
                    wrong = "model"
                elif objective == "ssm":
                    wrong = "objective"
                given = dict(path=path, objective=objective, model=model, parametrization=kind)
                if wrong is None:
                    TrainConfig(**given)
                else:
                    with pytest.raises(ValueError, match=f"^{wrong} must be"):
                        TrainConfig(**given)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"path": "vp"}, ValueError, f"path must be one of {str([*PATHS])[1:-1]}, got 'vp'"),
        ({"path": 3}, TypeError, "path must be one of levels, ve, edm, vp_linear"),
        ({"path_options": 3}, TypeError, "path_options must be a mapping of names to values, got int 3"),
        (
            {"path_options": {"beta_max": 3.0}},
            ValueError,
            "beta_max must be left out for path 'levels', which takes no",
        ),
        (
            {"path": "vp_linear", "path_options": {"beta_max": 0.01}},
            ValueError,
            "beta_max must be at least beta_min, 0.1",
        ),
        ({"path": "vp_linear", "path_options": {"t_min": 2.0}}, ValueError, "t_max must be greater than t_min, 2.0"),
        ({"path": "rectified", "path_options": {"t_max": 1.0}}, ValueError, "alpha must be finite and greater than 0"),
        ({"path": "ve", "parametrization": "noise"}, ValueError, "parametrization must be one of 'score', 'epsilon'"),
        ({"path": "ve", "cuda_graph": True}, ValueError, "cuda_graph must be False on path 've'"),
        ({"path": "ve", "num_levels": 1, "sigma_end": 20.0}, ValueError, "num_levels must be at least 2 on path 've'"),
        (
            {"path": "ve", "accumulate": 2, "objective": "stf"},
            ValueError,
            "accumulate must be 1 for the objective 'stf'",
        ),
        ({"path": "vp_linear", "weight": -20.0}, ValueError, "weight must keep sigma"),
    ],
)
def test_bad_input_is_named_when_a_config_is_made(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dataclasses.replace(TOY, **changes)


def test_bad_input_of_objectives(tmp_path):
    score = fs.as_score(lambda x, t: x, kind="score", path=paths.ve())
    for name, path, message in (
        ("ssm", paths.ve(), "path must be one of noise levels, paths.levels, for the objective 'ssm', got ve"),
        ("csm", paths.levels([1.0, 0.1]), r"path must be one of continuous t .on noise levels: on.network, sigmas"),
    ):
        with pytest.raises(ValueError, match=message):
            OBJECTIVES[name].on_path(score, path, (2,), weight=2.0)
    levels = dataclasses.replace(TOY, objective="csm", objective_options={"proposal": "importance"})
    with pytest.raises(ValueError, match="proposal must be 'uniform' on noise levels"):
        Trainer(levels, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="preconditioned must be True for a network without sigmas"):
        fs.models.ScoreMLP(preconditioned=False)


def test_a_config_of_before_is_on_its_levels():
    values = json.loads(TOY.to_json())
    for name in ("path", "path_options", "parametrization"):
        del values[name]
    assert TrainConfig.from_json(json.dumps(values)) == TOY and TOY.path == "levels"


def test_the_command_line(tmp_path, capsys):
    """Flags of the path; a preset with another path; the command that a run is gone on with; noise that no path takes."""
    line = ["train", "toy-vp", "--width", "8", "--iterations", "1", "--data", "two_moons", "--quiet", "--out"]
    cli.main([*line, str(tmp_path / "a"), "--path", "rectified", "--t-max", "0.99", "--parametrization", "v"])
    config = checkpoint.read_config(tmp_path / "a")
    assert (config.path, config.path_options, config.parametrization) == (
        "rectified",
        {"t_min": 1e-3, "t_max": 0.99},
        "v",
    )
    assert "path: rectified(), t from 0.001 to 0.99; the network predicts v" in capsys.readouterr().out
    words = command_line(config, tmp_path / "a")
    assert "--path rectified" in words and "--t-max 0.99" in words and "--t-min" not in words and "beta" not in words
    cli.main(["sample", str(tmp_path / "a"), "--num", "4", "--quiet"])
    assert json.loads((tmp_path / "a" / "samples-0" / "samples.json").read_text())["sampler"] == "dpm_sde"
    for wrong, message in (
        (
            ["--sigma-begin", "5"],
            "sigma_begin must be left out on path 'vp_linear', whose noise is given by --beta-min,",
        ),
        (["--offset", "0.1"], "offset must be left out for path 'vp_linear', which takes beta_min, beta_max, t_min"),
        (["--model", "ncsn"], "model must be one that takes any noise, ncsnv2,"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*line, str(tmp_path / "b"), *wrong])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert preset("toy-vp").path == preset("digits-vp").path == "vp_linear"


def test_the_trainer_knows_no_path_by_name():
    table = paths.registry.table()
    assert all(f"| `{name}` |" in table for name in PATHS) and table.count("\n") == 2 + len(PATHS)
