"""The command line from end to end, on networks too small to be good."""

import dataclasses
import json
import math
import re
import sys
import warnings

import numpy as np
import pytest
import torch

from fastscore import data
from fastscore._core import backends
from fastscore._core.errors import how_to_install
from fastscore.evaluation import features, metrics
from fastscore.experiment import cli
from fastscore.experiment import evaluate as evaluation
from fastscore.experiment import sample as sampling
from fastscore.experiment.presets import PRESETS, preset
from fastscore.experiment.sample import load_run
from fastscore.experiment.train import Trainer
from fastscore.samplers import BEST_OF_FEW


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "digits"
    cli.main(
        [
            "train",
            "digits",
            "--out",
            str(folder),
            "--iterations",
            "6",
            "--width",
            "4",
            "--batch-size",
            "16",
            "--log-every",
            "2",
            "--checkpoint-every",
            "3",
            "--steps-per-level",
            "2",
            "--quiet",
        ]
    )
    return folder


def test_train_says_what_it_wrote(run, capsys):
    cli.main(
        [
            "train",
            "digits",
            "--out",
            str(run),
            "--iterations",
            "6",
            "--width",
            "4",
            "--batch-size",
            "16",
            "--log-every",
            "2",
            "--checkpoint-every",
            "3",
            "--steps-per-level",
            "2",
            "--resume",
        ]
    )
    out = capsys.readouterr().out
    assert "going on at iteration 6 of 6" in out and "training.png" in out and f"next: fastscore sample {run}" in out
    assert (run / "training.png").stat().st_size > 10_000


def test_a_finished_run_without_metrics_resumes(tmp_path, capsys):
    run = tmp_path / "toy"
    config = preset("toy", data="two_moons", iterations=2, width=8, batch_size=8, log_every=1)
    Trainer(config, run).train(progress=False)
    (run / "metrics.jsonl").unlink()
    cli.main(
        [
            "train",
            "toy",
            "--data",
            "two_moons",
            "--iterations",
            "2",
            "--width",
            "8",
            "--batch-size",
            "8",
            "--log-every",
            "1",
            "--out",
            str(run),
            "--resume",
            "--quiet",
        ]
    )
    out = capsys.readouterr().out
    assert f"trained: {run}/checkpoints/step_00000002" in out and "loss curves" not in out
    assert not (run / "training.png").exists()


def test_train_by_sliced_score_matching(tmp_path):
    for preset_name, folder in (("toy", "points"), ("digits", "images")):
        run = tmp_path / folder
        data = ["--data", "two_moons"] if preset_name == "toy" else []
        cli.main(
            [
                "train",
                preset_name,
                *data,
                "--objective",
                "ssm",
                "--out",
                str(run),
                "--iterations",
                "3",
                "--width",
                "4",
                "--batch-size",
                "8",
                "--log-every",
                "1",
                "--quiet",
            ]
        )
        assert json.loads((run / "config.json").read_text())["objective"] == "ssm"
        assert (run / "training.png").exists()


def test_sample(run, tmp_path, capsys):
    cli.main(["sample", str(run), "--num", "5", "--out", str(tmp_path / "a"), "--quiet"])
    cli.main(["sample", str(run), "--num", "9", "--batch-size", "4", "--out", str(tmp_path / "b"), "--quiet"])
    a, b = np.load(tmp_path / "a" / "samples.npy"), np.load(tmp_path / "b" / "samples.npy")
    assert a.shape == (5, 1, 8, 8) and a.dtype == np.float32 and b.shape[0] == 9
    np.testing.assert_allclose(a, b[:5], rtol=1e-4, atol=1e-4)
    cli.main(["sample", str(run), "--num", "5", "--seed", "1", "--out", str(tmp_path / "c"), "--quiet"])
    assert np.abs(np.load(tmp_path / "c" / "samples.npy") - a).max() > 0.1
    assert (tmp_path / "a" / "samples.png").exists() and "picture: " in capsys.readouterr().out


@pytest.mark.parametrize("sampler", ["annealed", "consistent"])
def test_evaluate(run, sampler, capsys):
    cli.main(["evaluate", str(run), "--num", "60", "--sampler", sampler, "--overwrite", "--quiet"])
    report = json.loads((run / "metrics.json").read_text())
    frechet = report["frechet_distance"]
    assert frechet["samples_to_heldout"] > frechet["train_to_heldout"] > 0
    assert math.isclose(frechet["ratio"], frechet["samples_to_heldout"] / frechet["train_to_heldout"])
    samples, train = torch.from_numpy(np.load(run / "samples.npy")), data.to_float(data.load("digits").images)
    assert math.isclose(frechet["samples_to_train"], metrics.frechet_distance(samples.flatten(1), train.flatten(1)))
    assert 0 <= report["precision"] <= 1 and 0 <= report["recall"] <= 1
    assert report["precision_of_train"] > 0.6 and report["recall_of_train"] > 0.6
    assert sum(report["class_histogram"]) == 60 and report["classifier_accuracy"] > 0.97
    assert report["network_evaluations_per_sample"] == (41 if sampler == "annealed" else 20)
    for name in ("samples", "training", "sampling", "neighbours", "classes"):
        assert (run / f"{name}.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "frechet distance samples to heldout" in out and str(run / "samples.png") in out


def test_sampling_settings_of_one_call(run, tmp_path, capsys):
    """--step-size, --steps-per-level and --no-denoise change this call; the run's config.json stays."""
    before = (run / "config.json").read_text()
    options = ["--sampler", "annealed", "--step-size", "1e-4", "--steps-per-level", "3", "--no-denoise", "--quiet"]
    cli.main(["sample", str(run), "--num", "5", "--out", str(tmp_path / "a"), *options])
    trained = load_run(run)
    config = dataclasses.replace(trained.config, step_size=1e-4, steps_per_level=3, denoise=False)
    expected = sampling.sample(dataclasses.replace(trained, config=config), 5, sampler="annealed", progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "samples.npy"), expected.numpy())
    cli.main(["evaluate", str(run), "--num", "20", "--overwrite", *options])
    report = json.loads((run / "metrics.json").read_text())
    assert [report[k] for k in ("step_size", "steps_per_level", "denoise", "network_evaluations_per_sample")] == [
        1e-4,
        3,
        False,
        60,
    ]
    cli.main(["evaluate", str(run), "--num", "20", "--denoise", "--sampler", "consistent", "--overwrite", "--quiet"])
    report = json.loads((run / "metrics.json").read_text())
    assert (report["step_size"], report["denoise"]) == (
        trained.config.step_size,
        True,
    ) and "steps_per_level" not in report
    assert (run / "config.json").read_text() == before
    capsys.readouterr()
    for wrong, message in (
        (["--denoise", "--no-denoise"], "give one of --denoise and --no-denoise"),
        (["--sampler", "annealed", "--step-size", "-1"], "step_size must be finite and greater than 0, got -1.0"),
        (["--sampler", "consistent", "--steps-per-level", "3"], "steps_per_level must be left out"),
        (["--steps-per-level", "3"], "got int 3 (--sampler annealed takes it)"),
    ):
        for command in ("sample", "evaluate"):
            with pytest.raises(SystemExit):
                cli.main([command, str(run), *wrong])
            assert message in capsys.readouterr().err


def test_resuming_says_which_sampling_settings_change(tmp_path, capsys):
    toy = [
        "train",
        "toy",
        "--data",
        "two_moons",
        "--iterations",
        "2",
        "--width",
        "8",
        "--batch-size",
        "8",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    cli.main([*toy, "--step-size", "0.1"])
    cli.main([*toy, "--step-size", "0.1", "--resume"])
    assert "from now on" not in capsys.readouterr().out
    cli.main([*toy, "--steps-per-level", "7", "--resume"])
    assert (
        "from now on this run samples with step_size (was 0.1, now 0.05), steps_per_level (was 100, now 7)\n"
        in capsys.readouterr().out
    )


def test_few_samples_are_no_published_fid(run, capsys, monkeypatch):
    """--feature inception says so below 50,000 samples; the distance to the training set stands in metrics.json."""

    def pooled(images):
        return images.flatten(2).mean(2).expand(-1, 4) * torch.arange(1.0, 5)

    pooled.probabilities = lambda features: features.softmax(1)
    monkeypatch.setitem(features.FEATURES, "inception", lambda **_: pooled)
    cli.main(["evaluate", str(run), "--num", "20", "--feature", "inception", "--overwrite", "--quiet"])
    assert "warning: published FIDs compare 50,000 samples with the training set" in capsys.readouterr().err
    report = json.loads((run / "metrics.json").read_text())
    fake, real = torch.from_numpy(np.load(run / "samples.npy")), data.to_float(data.load("digits").images)
    assert report["features"] == "inception"
    assert math.isclose(
        report["frechet_distance"]["samples_to_train"], metrics.frechet_distance(pooled(fake), pooled(real))
    )
    with pytest.warns(UserWarning, match="the Frechet distance of 49,999 samples is larger"):
        evaluation.resolve_feature("inception", load_run(run), 49_999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluation.resolve_feature("inception", load_run(run), 50_000) == "inception"


def test_too_many_pixels_are_refused_before_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "draw", lambda *a, **k: pytest.fail("it sampled"))
    trained = sampling.TrainedRun(preset("digits"), torch.nn.Identity(), (3, 64, 64), torch.device("cpu"), 1)
    monkeypatch.setattr(evaluation, "load_on", lambda *a, **k: trained)
    with pytest.raises(ValueError, match=r"feature must be 'inception' for images of \(3, 64, 64\).*1.1 GiB"):
        evaluation.evaluate(tmp_path)
    assert evaluation.resolve_feature("auto", dataclasses.replace(trained, shape=(3, 32, 32)), 100) == "pixels"


def test_toy_draws_both_score_fields(tmp_path, capsys, monkeypatch):
    run, devices = tmp_path / "toy", []
    monkeypatch.setattr(evaluation, "load_on", lambda _, run, device, **k: devices.append(device) or load_run(run))
    cli.main(
        [
            "train",
            "toy",
            "--out",
            str(run),
            "--iterations",
            "4",
            "--width",
            "8",
            "--batch-size",
            "32",
            "--log-every",
            "2",
            "--steps-per-level",
            "2",
            "--device",
            "cpu",
            "--quiet",
        ]
    )
    assert devices == ["cpu"]
    out = capsys.readouterr().out
    assert "score_field.png" in out and "exact 0.20 / 0.80" in out and (run / "score_field.png").exists()
    report = json.loads((run / "metrics.json").read_text())
    assert all(math.isclose(sum(w), 1, rel_tol=1e-6) for w in report["mode_weights"].values())
    assert list(report["mode_weights"]) == ["exact", "data", BEST_OF_FEW, "plain"]
    counts = [2000 * share for share in report["mode_weights"][BEST_OF_FEW]]  # what is printed is what the picture says
    assert counts == pytest.approx([round(count) for count in counts], abs=1e-9)


def test_points_are_drawn_by_the_sampler_that_is_asked_for(tmp_path, monkeypatch):
    """And in the batches asked for; metrics.json is about those points."""
    run = tmp_path / "toy"
    Trainer(preset("toy", iterations=2, width=8, batch_size=8, steps_per_level=2), run).train(progress=False)
    sizes = []
    monkeypatch.setattr(sampling, "draw", lambda *a, draw=sampling.draw, **k: sizes.append(a[2][0]) or draw(*a, **k))
    cli.main(["evaluate", str(run), "--num", "50", "--sampler", "consistent", "--batch-size", "20", "--quiet"])
    assert sizes == [20, 20, 10]
    points = sampling.sample(load_run(run), 50, sampler="consistent", batch_size=20, progress=False)
    np.testing.assert_array_equal(np.load(run / "samples.npy"), points.numpy())
    report = json.loads((run / "metrics.json").read_text())
    assert report["sampler"] == "consistent" and report["network_evaluations_per_sample"] == 12
    assert list(report["mode_weights"]) == ["exact", "data", "consistent", "plain"]


@pytest.mark.slow
def test_toy_recovers_the_weights_by_noise_levels_alone(tmp_path):
    """The learned score: 20 evaluations down the noise levels find 0.2 / 0.8, plain Langevin dynamics does not."""
    cli.main(["train", "toy", "--out", str(tmp_path / "toy"), "--quiet"])
    report = json.loads((tmp_path / "toy" / "metrics.json").read_text())
    weights = report["mode_weights"]
    assert report["network_evaluations_per_sample"] == 20
    assert abs(weights[BEST_OF_FEW][0] - 0.2) < 0.03, weights
    assert abs(weights["plain"][0] - 0.2) > 0.15, weights
    assert report["score_error"] < 0.25
    assert report["frechet_distance"]["samples_to_data"] < 0.5


def test_doctor(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    cli.main(["doctor"])
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out
    assert re.search(r"operators \(.*dsm_loss, .*fill, .*langevin_step, .*perturb.*\)", out)
    for device in ("cpu", "cuda"):
        assert f"{device:<16} {backends.default(torch.device(device))}" in out
    assert f"  torch_fidelity   missing: {how_to_install('eval')}\n" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["train", "sample", "evaluate", "status", "import", "export", "doctor", "fastscore train digits"]),
        (["train"], [*PRESETS, "--resume", "--out"]),
        (
            ["train", "digits"],
            [
                "--sigma-begin",
                "--out",
                "--resume",
                "Largest noise level",
                "--objective {dsm,ssm,",
                "denoising score matching",
                "sliced score matching",
            ],
        ),
        (
            ["sample"],
            [
                "--num",
                "--seed",
                "--sampler",
                "consistent",
                "--step-size FLOAT",
                "--steps-per-level INT",
                "--denoise",
                "--no-denoise",
                "--out PATH",
            ],
        ),
        (
            ["evaluate"],
            [
                "Frechet",
                "precision",
                "recall",
                "--feature",
                "50,000 samples with the training set",
                "--step-size FLOAT",
                "--steps-per-level INT",
                "--denoise",
                "--no-denoise",
            ],
        ),
    ],
)
def test_help(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in words:
        assert word in text
