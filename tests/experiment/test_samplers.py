"""A sampler is one entry of the registry: command line, Python and evaluation offer it and its options from there."""

import dataclasses
import inspect
import json
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from fastscore import data
from fastscore._core import checks
from fastscore._core.errors import DataError, NonFiniteSamples, require
from fastscore._core.options import Option, boolean
from fastscore.evaluation import pictures
from fastscore.experiment import cli, evaluate_images, moments
from fastscore.experiment.build import make_data, make_sigmas
from fastscore.experiment.cli import commands
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.moments import moments_of_data
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import _SAMPLING_SEED, TrainedRun, load_run, sample, with_sampling
from fastscore.experiment.train import Trainer
from fastscore.rng import Philox, Stream
from fastscore.samplers import BEST_OF_FEW, DEFAULT, SAMPLERS, Sampler, Trajectory, dpm_solver


def jump(score_fn, shape, sigmas, options, *, rng, device, callback, trajectory, cuda_graph=False):
    """From noise to the mean of the clean sample, ``jumps`` times at each level."""
    assert not cuda_graph  # it records none
    x = options["width"] * rng.randn(shape, stream=Stream.INIT, device=device)
    for i, sigma in enumerate(sigmas.tolist()):
        for j in range(options["jumps"]):
            labels = torch.full(shape[:1], i, device=device)
            with torch.no_grad():
                x = x + options["step_size"] * sigma**2 * score_fn(x, labels)
            step = i * options["jumps"] + j + 1
            if callback is not None:
                callback(step, x)
            if trajectory is not None:
                trajectory.add(step, len(sigmas) * options["jumps"], x)
    return -x if options["mirrored"] else x


TOY = Sampler(
    name="toy",
    title="jumping",
    source="nobody 1999",
    summary="which no one should use",
    cost="levels x jumps",
    options=(
        SAMPLERS["annealed"].options[0],  # the step size, which the run's settings have
        Option("jumps", int, "Jumps at each noise level", partial(checks.integer, low=1), default=3),
        Option("width", float, "How far from 0 it begins", checks.positive, default=1.0),
        Option("mirrored", bool, "Turn the samples about 0", boolean, default=False),
    ),
    run=jump,
    updates=lambda L, options: L * options["jumps"],
    evaluations=lambda L, options: L * options["jumps"],
    sigma_after=lambda sigmas, options, step: sigmas[(step - 1) // options["jumps"]],
    remedy="jump less than {jumps} times",
)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "toy", TOY)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samplers") / "run"
    config = preset(
        "toy", data="two_moons", iterations=1, width=4, batch_size=4, num_levels=3, steps_per_level=2, step_size=0.125
    )
    Trainer(config, folder).train(progress=False)
    return folder


def test_fastscore_sample(run, tmp_path):
    options = ["--sampler", "toy", "--jumps", "2", "--width", "0.5", "--mirrored", "--step-size", "0.25"]
    cli.main(["sample", str(run), "--num", "5", "--seed", "7", "--out", str(tmp_path), *options, "--quiet"])
    said = json.loads((tmp_path / "samples.json").read_text())
    values = {"sampler": "toy", "step_size": 0.25, "jumps": 2, "width": 0.5, "mirrored": True}
    assert {name: said[name] for name in values} == values and "steps_per_level" not in said
    trained = load_run(run, device="cpu")
    want = sample(trained, 5, seed=7, progress=False, **values)
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), want.numpy())
    unlike = [{"jumps": 3}, {"width": 0.6}, {"mirrored": False}, {"step_size": 0.125}, {"jumps": None}]
    for changes in unlike:
        assert not torch.equal(sample(trained, 5, seed=7, progress=False, **(values | changes)), want), changes


def test_the_same_samples_by_hand(run):
    """The network, the run's noise levels and settings, the entry's defaults, the seed's numbers, in any batches."""
    trained = with_sampling(load_run(run, device="cpu"), sampler="toy")
    assert trained.options == {"step_size": 0.125, "jumps": 3, "width": 1.0, "mirrored": False}
    rng = Philox(4 + _SAMPLING_SEED)
    want = jump(
        trained.network,
        (5, 2),
        make_sigmas(trained.config),
        trained.options,
        rng=rng,
        device=torch.device("cpu"),
        callback=None,
        trajectory=None,
    )
    got = sample(trained, 5, seed=4, batch_size=2, progress=False)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_run_names_its_sampler_and_one_of_before_keeps_annealed_langevin(run, tmp_path):
    """What draws where none is asked for; and the config.json of a run that was trained when there was no choice."""
    options = ["sample", str(run), "--num", "3", "--quiet", "--out"]
    assert {preset(name).sampler for name in ("digits", "toy", "mnist")} == {BEST_OF_FEW} != {DEFAULT}
    assert {preset(name).sampler for name in ("cifar10-ncsn", "cifar10-ncsnv2")} == {DEFAULT}  # the published recipes
    old = tmp_path / "old"
    shutil.copytree(run, old)
    values = json.loads((run / "config.json").read_text())
    assert values.pop("sampler") == BEST_OF_FEW and values.pop("solver_steps") == 20
    (old / "config.json").write_text(json.dumps(values))
    assert load_run(run).sampler == BEST_OF_FEW and load_run(old).sampler == "annealed"
    cli.main([*options, str(tmp_path / "own")])
    cli.main([*options, str(tmp_path / "annealed"), "--sampler", "annealed"])
    options[1] = str(old)
    cli.main([*options, str(tmp_path / "of the old")])
    own, asked, before = (np.load(tmp_path / name / "samples.npy") for name in ("own", "annealed", "of the old"))
    np.testing.assert_array_equal(before, asked)
    np.testing.assert_array_equal(before, sample(load_run(run), 3, sampler="annealed", progress=False).numpy())
    assert not np.allclose(own, asked)
    said = json.loads((tmp_path / "of the old" / "samples.json").read_text())
    assert said["sampler"] == "annealed" and said["steps_per_level"] == 2


def test_options_given_before_stay_until_another_sampler_is_asked_for(run):
    trained = with_sampling(load_run(run, device="cpu"), sampler="toy", jumps=2, step_size=0.5)
    assert with_sampling(trained, width=2.0).options == {"step_size": 0.5, "jumps": 2, "width": 2.0, "mirrored": False}
    other = with_sampling(trained, sampler="annealed")
    assert other.options["step_size"] == 0.5 and other.given == {}
    assert with_sampling(other, sampler="toy").options["jumps"] == 3


def test_fastscore_evaluate(run, tmp_path, capsys):
    options = ["--sampler", "toy", "--jumps", "2", "--no-mirrored"]
    cli.main(["evaluate", str(run), "--num", "20", "--out", str(tmp_path / "a"), *options, "--quiet"])
    report = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert (report["sampler"], report["jumps"], report["mirrored"]) == ("toy", 2, False)
    assert report["network_evaluations_per_sample"] == 3 * 2
    assert "jumps" in capsys.readouterr().out
    assert evaluate(run, num=20, sampler="toy", out=tmp_path / "b", progress=False)["jumps"] == 3


def test_help_offers_it(monkeypatch, capsys):
    for name in SAMPLERS.keys() - {"annealed", "consistent", BEST_OF_FEW, "toy"}:  # the third is of presets
        monkeypatch.delitem(SAMPLERS, name)
    for command, about in (("sample", "toy: jumping (nobody 1999), which no one should use."), ("evaluate", "or toy")):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for words in (
            about,
            f"--sampler {{annealed,consistent,{BEST_OF_FEW},toy}}",
            "--jumps INT Jumps at each noise level; by default 3. Only with --sampler toy.",
            "--mirrored Turn the samples about 0; by default False. Only with --sampler toy.",
            "--no-mirrored Turn --mirrored off for this call.",
            "--step-size FLOAT Langevin step size at the smallest noise level; by default as the run's config.json has it. "
            "Only with --sampler annealed or toy. Step size: an update removes the fraction step_size / (2 sigma_L^2) of",
            "--start {uniform,normal}",
            "Only with --sampler annealed or consistent.",
        ):
            assert words in text, (words, text)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--sampler", "annealed", "--jumps", "2"],
            "jumps must be left out for sampler 'annealed', which takes step_size, steps_per_level, ",
        ),
        (["--jumps", "2"], "start, interpolate, got int 2 (--sampler toy takes it)"),  # the run's own takes none
        (["--sampler", "toy", "--jumps", "0"], "jumps must be at least 1, got 0"),
        (
            ["--sampler", "toy", "--start", "normal"],
            "start must be left out for sampler 'toy', which takes step_size, jumps",
        ),
        (["--sampler", "toy", "--mirrored", "--no-mirrored"], "give one of --mirrored and --no-mirrored, or neither"),
    ],
)
def test_wrong_options_are_reported(run, arguments, message, capsys):
    for command in ("sample", "evaluate"):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, str(run), *arguments, "--quiet"])
        assert stop.value.code == 2 and message in capsys.readouterr().err


def test_samples_that_are_not_finite_name_the_entrys_remedy(run):
    with pytest.raises(NonFiniteSamples, match="5 of 5 samples are not finite: jump less than 9 times"):
        sample(load_run(run, device="cpu"), 5, sampler="toy", width=1e30, jumps=9, step_size=1e30, progress=False)


def test_one_option_of_two_kinds_is_an_error(monkeypatch):
    odd = dataclasses.replace(TOY, name="odd", options=(Option("jumps", str, "Which", boolean, default="far"),))
    monkeypatch.setitem(SAMPLERS, "odd", odd)
    with pytest.raises(TypeError, match="option jumps of sampler odd must be of one kind in all samplers"):
        commands._commands(require("tyro", "train"))


def test_the_picture_of_a_run_shows_the_last_samples_at_each_level(monkeypatch, tmp_path):
    """Also where frames and levels do not go together: every second of 3 updates at each of 3 levels."""
    shown = []
    monkeypatch.setattr(pictures, "save_trajectory", lambda frames, sigmas, path: shown.append((frames, sigmas)))
    trained = TrainedRun(
        preset("digits", num_levels=3), torch.nn.Identity(), (1, 8, 8), torch.device("cpu"), 1, sampler="toy"
    )
    trajectory = Trajectory(every=2)
    for step in range(1, 10):
        trajectory.add(step, 9, torch.full((1,), float(step)))
    evaluate_images._draw_trajectory(trajectory, trained, tmp_path / "a.png")
    ((frames, sigmas),) = shown
    assert [int(frame) for frame in frames] == [2, 6, 9] and len(sigmas) == 3 and sigmas[0] == 1.0
    evaluate_images._draw_trajectory(Trajectory(), trained, tmp_path / "a.png")
    assert len(shown) == 1  # nothing to show


def test_settings_that_options_come_from_are_the_runs():
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for entry in SAMPLERS.values():
        for option in entry.options:
            if option.setting is not None:
                assert option.check(option.name, fields[option.setting].default) == fields[option.setting].default


def test_no_option_has_a_name_that_is_taken():
    """By a flag of a command, or by what samples.json and metrics.json say beside the options."""
    taken = {name for command in (commands.sample, commands.evaluate) for name in inspect.signature(command).parameters}
    taken |= {"identity", "step", "sha256", "shape", "versions", "data", "samples", "network_evaluations_per_sample"}
    taken |= {
        "frechet_distance",
        "precision",
        "recall",
        "mode_weights",
        "score_error",
        "score_error_on_path",
        "features",
    }
    assert not taken & {option.name for entry in SAMPLERS.values() for option in entry.options if entry is not TOY}
    assert not {"exact", "data", "plain"} & set(SAMPLERS)  # the other rows of "mode_weights"


def test_solvers_of_the_command_line_begin_with_the_moments_of_the_data(run, tmp_path):
    """The run's own levels and data; a network that knows sigma is told sigma, and may be asked between its levels."""
    trained = load_run(run, device="cpu")
    points = make_data(trained.config).sample(100_000, Philox(0))[0]
    about = {"mean": points.mean(0), "covariance": torch.cov(points.double().T, correction=0)}
    for steps in (2, 7):
        options = ["--sampler", "dpm", "--eta", "0.5", "--steps", str(steps), "--out", str(tmp_path / str(steps))]
        cli.main(["sample", str(run), "--num", "4", "--seed", "7", "--quiet", *options])
        want = dpm_solver(
            trained.network,
            (4, 2),
            make_sigmas(trained.config),
            steps=steps,
            eta=0.5,
            conditioning="sigma",
            rng=Philox(7 + _SAMPLING_SEED),
            **about,
        )
        np.testing.assert_allclose(np.load(tmp_path / str(steps) / "samples.npy"), want.numpy(), rtol=1e-4, atol=1e-4)
        said = json.loads((tmp_path / str(steps) / "samples.json").read_text())
        assert {"steps": steps, "eta": 0.5, "start": "normal", "denoise": True, "order": 2}.items() <= said.items()


@pytest.mark.filterwarnings("ignore:samples of 2 elements")
def test_a_sampler_that_chooses_its_steps(run, tmp_path, capsys):
    """What it costs is counted, since nobody knows it before."""
    options = {"sampler": "gotta_go_fast", "rtol": 0.5, "atol": 0.25}
    report = evaluate(run, num=20, batch_size=8, out=tmp_path / "a", progress=False, **options)
    trained, rows = load_run(run, device="cpu"), []
    trained.network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    sample(trained, 20, batch_size=8, progress=False, **options)
    assert report["network_evaluations_per_sample"] == sum(rows) / 20 > 3 and set(rows) == {8, 4}  # all of a batch
    cli.main(
        ["sample", str(run), "--num", "3", "--out", str(tmp_path / "b"), "--sampler", "gotta_go_fast", "--rtol=0.5"]
    )
    assert re.search(r"sampling: \d+, ", capsys.readouterr().err)
    for more, message in (
        (["--max-steps", "2"], "max_steps=2 steps, the last at t = "),
        (["--cuda-graph"], "cuda_graph must be False on cpu, got True"),
        (["--cuda-graph", "--no-cuda-graph"], "give one of --cuda-graph and --no-cuda-graph, or neither"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["sample", str(run), "--out", str(tmp_path / "c"), "--sampler", "gotta_go_fast", *more, "--quiet"])
        assert message in capsys.readouterr().err


def test_the_moments_of_data_and_data_that_are_not_there(tmp_path, monkeypatch):
    config = preset("digits")
    images = data.to_float(make_data(config).images)
    found, covariance = moments_of_data(config), torch.cov(images.flatten(1).double().T, correction=0)
    torch.testing.assert_close(found, {"mean": images.mean(0), "covariance": covariance}, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(moments, "_COVARIANCE_LIMIT", 63)
    monkeypatch.setattr(moments, "_AT_A_TIME", 100)
    moments._moments_of_data.cache_clear()
    want = {"mean": images.mean(0), "std": images.std(0, correction=0)}
    torch.testing.assert_close(moments_of_data(config), want, rtol=1e-5, atol=1e-6)
    moments._moments_of_data.cache_clear()
    with pytest.raises(
        DataError, match=r"about the mean of the training data, which are not here .--data-dir, .* --start uniform or"
    ):
        moments_of_data(dataclasses.replace(config, data="mnist", data_dir=str(tmp_path)))
