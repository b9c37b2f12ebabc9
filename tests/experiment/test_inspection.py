"""What is said of a run's likelihood and of its noise levels, on networks whose faults are known."""

import dataclasses
import json
import math

import pytest
import torch

from fastscore import data
from fastscore.evaluation import level_plots, metrics
from fastscore.experiment import cli, evaluate_bits, inspection
from fastscore.experiment import evaluate as evaluation
from fastscore.experiment.build import make_sigmas
from fastscore.experiment.classes import Asked
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import TrainedRun
from fastscore.experiment.train import Trainer
from fastscore.rng import Philox


class Known(torch.nn.Module):
    """The mixture's score, times 1 + ``fault`` at one level."""

    def __init__(self, sigmas, level, fault):
        super().__init__()
        self.sigmas, self.level, self.fault = sigmas, level, fault
        self.computed_in = set()

    def forward(self, x, labels):
        self.computed_in.add(torch.backends.cudnn.conv.fp32_precision)
        off = 1 + self.fault * (labels == self.level)[:, None]
        return data.GaussianMixture().score(x, self.sigmas[labels]) * off


def run_of(config, network):
    return TrainedRun(config, network, (2,), torch.device("cpu"), 7)


def test_the_weak_level_is_found(tmp_path, monkeypatch):
    config = preset("toy", num_levels=5)
    network = Known(make_sigmas(config), 3, 0.5)
    monkeypatch.setattr(inspection, "load_run", lambda *_, **__: run_of(config, network))
    report = inspection.inspect(tmp_path, num=2000)
    assert network.computed_in == {"ieee"}  # whatever TF32 would give
    columns = report["columns"]
    assert report["weakest"] == 3 and report["measure"] == "score_error"
    assert columns["score_error"][3] == pytest.approx(0.25) and sum(columns["score_error"]) == pytest.approx(0.25)
    assert 3 in report["worse_than_gaussian"] or columns["loss"][3] < columns["gaussian_loss"][3]
    assert columns["stein"][3] > columns["stein_noise"][3]  # which finds it without the true score
    assert max(columns["curl"]) < 1e-3 and columns["loss"][0] == pytest.approx(columns["gaussian_loss"][0], abs=0.01)
    text = (tmp_path / "inspect.md").read_text()
    assert "weakest at sigma" in text and "(level 4 of 5)" in text and text.count("\n| ") == 7
    assert (tmp_path / "inspect.png").read_bytes()[:4] == b"\x89PNG"


def test_an_exact_score_has_no_weak_level(tmp_path, monkeypatch):
    """By Stein's identity alone: what is known of the mixture is hidden from it."""
    config = preset("toy", num_levels=5)
    network = Known(make_sigmas(config), 0, 0.0)
    monkeypatch.setattr(inspection, "load_run", lambda *_, **__: run_of(config, network))
    found = inspection._samples(run_of(config, network), 2000, 0)
    hidden = run_of(dataclasses.replace(config, data="two_moons"), network)
    columns = inspection._columns(hidden, *found, 0)
    assert all(a < 2 * b for a, b in zip(columns["stein"], columns["stein_noise"], strict=True))
    assert inspection._verdict(columns)["worse_than_gaussian"] == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected") / "digits"
    Trainer(preset("digits", iterations=3, width=4, num_levels=4, batch_size=16, steps_per_level=1), folder).train()
    return folder


def test_the_command_lines(run, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_bits, "IMAGES", 3)
    monkeypatch.setattr(evaluate_bits, "_ON_CPU", 2)
    cli.main(["inspect", str(run), "--num", "20"])
    told = capsys.readouterr()
    assert "(level " in told.out and f"look at {run / 'inspect.png'}\npage: {run / 'inspect.md'}" in told.out
    assert "inspecting: 4 of 4 (100 %)" in told.err and (run / "inspect.md").exists()
    cli.main(["inspect", str(run), "--num", "20", "--quiet"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(evaluation, "evaluate_images", lambda *_, **__: {})  # which other tests are about
    asked, computed_in = evaluate_bits.how_to_ask, []

    def spy(trained):
        computed_in.append(torch.backends.cudnn.conv.fp32_precision)
        return asked(trained)

    monkeypatch.setattr(evaluate_bits, "how_to_ask", spy)
    cli.main(["evaluate", str(run), "--num", "20", "--bits-per-dim"])
    assert computed_in == ["ieee"]
    assert "bits per dimension: 3 of 3 (100 %)" in capsys.readouterr().err
    bits = json.loads((run / "metrics.json").read_text())["bits_per_dim"]
    assert bits["grey_values"] == 17 and bits["offset"] == math.log2(17) and bits["images"] == 3 and bits["heldout"]
    assert 1 < bits["gaussian_fit"] < bits["kernel_density"] < math.log2(17) < bits["network"]  # three iterations
    assert 0 < bits["error_of_dequantization"] < bits["error_bar"]


def test_what_a_linear_correction_takes_off():
    """Of N(0, I) with noise of 1, whose score is -x / 2: nothing, beyond noise; of -3 x / 4, E||x / 4||^2 / D = 1/8."""
    x0, z = (Philox(k).randn(600, 30, dtype=torch.float64) for k in (0, 1))
    x = x0 + z
    share, noise = inspection._stein(x / 2**0.5, -x / 2, z, loss=0.5)
    assert share < noise < 0.02
    share, noise = inspection._stein(x / 2**0.5, -3 * x / 4, z, loss=0.625)
    assert 0.625 * share == pytest.approx(1 / 8, abs=0.02)


def test_a_run_on_a_path(tmp_path):
    """Where the times are the path's; its network, after three iterations, is worse than a Gaussian fit."""
    config = preset("toy", iterations=3, num_levels=4, path="vp_linear", objective="csm")
    Trainer(config, tmp_path / "run").train()
    report = inspection.inspect(tmp_path / "run", num=50, out=tmp_path / "page")
    assert report["columns"]["sigma"] == pytest.approx(make_sigmas(config).tolist(), rel=1e-3)
    assert report["worse_than_gaussian"] and (tmp_path / "page" / "inspect.md").exists()


def test_what_has_no_bits():
    with pytest.raises(ValueError, match="bits_per_dim must be False for points such as mixture"):
        evaluate_bits.check_bits(run_of(preset("toy"), torch.nn.Identity()))
    images = dataclasses.replace(run_of(preset("digits"), torch.nn.Identity()), shape=(1, 8, 8), precision="bf16")
    with pytest.raises(ValueError, match="precision must be 'fp32' where bits_per_dim is True, got 'bf16'"):
        evaluate_bits.check_bits(images)
    of_a_class = dataclasses.replace(images, precision="fp32", asked=Asked("each"))
    with pytest.raises(ValueError, match="bits_per_dim must be False with a label, got True with label 'each'"):
        evaluate_bits.check_bits(of_a_class)


def test_plain_densities():
    z = Philox(0).randn(4000, 3, dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    exact = torch.distributions.Normal(0.0, scale).log_prob(z[:200] * scale).sum(1)
    error = metrics.gaussian_log_prob(z * scale, z[:200] * scale) - exact
    assert abs(float(error.mean())) < 0.02 and float(error.abs().max()) < 0.5
    train = torch.tensor([[0.0], [1.0]])
    value, h = metrics.kernel_log_prob(train, torch.tensor([[0.0]]), 0.5)
    assert float(value.exp()) == pytest.approx((1 + math.exp(-2)) / 2 / (0.5 * math.sqrt(2 * math.pi))) and h == 0.5
    one = z[:, :1]
    value, h = metrics.kernel_log_prob(one[:1000], one[1000:2000])
    assert 0.1 < h < 0.5 and float(value.mean()) == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi), abs=0.06)
    with pytest.raises(ValueError, match="train must have more than D = 3 samples, got 3"):
        metrics.gaussian_log_prob(z[:3], z)
    with pytest.raises(ValueError, match="not singular"):
        metrics.gaussian_log_prob(torch.ones(9, 3), z)
    with pytest.raises(ValueError, match="x must have the width of train, 3, got"):
        metrics.kernel_log_prob(z, one)
    with pytest.raises(ValueError, match="bandwidth must be given where all samples of train are equal"):
        metrics.kernel_log_prob(torch.ones(9, 3), z)
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity in 1 of 1 rows"):
        metrics.gaussian_log_prob(z, torch.full((1, 3), torch.nan))


def test_plain_densities_far_from_0_and_of_numbers_that_others_tell():
    """log p does not depend on where the origin is; a covariance that is singular but for rounding is singular."""
    z = Philox(4).randn(120, 3, dtype=torch.float64)
    for log_prob in (metrics.gaussian_log_prob, lambda train, x: metrics.kernel_log_prob(train, x)[0]):
        torch.testing.assert_close(log_prob(z[20:] + 1e8, z[:20] + 1e8), log_prob(z[20:], z[:20]), rtol=1e-6, atol=1e-6)
    for seed in range(12):
        mix = Philox(seed).randn(3, 2, dtype=torch.float64)
        with pytest.raises(ValueError, match="a covariance that is not singular"):
            metrics.gaussian_log_prob(torch.cat([z, z @ mix], 1), torch.zeros(1, 5))


def test_columns_are_checked(tmp_path):
    with pytest.raises(ValueError, match="must have 2 values, one for each level, got 1"):
        level_plots.save_levels([2.0, 1.0], {"loss": [1.0]}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="columns must be one of"):
        level_plots.save_levels([2.0], {"other": [1.0]}, tmp_path / "a.png")
