"""Features of many images: the same bits in any batches of one size, on one rank or several; evaluation on two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastscore import data
from fastscore.evaluation import features, metrics
from fastscore.experiment import cli, extraction
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.presets import preset
from fastscore.experiment.ranks import RankFailed
from fastscore.experiment.train import Trainer
from fastscore.rng import Philox

FORKS = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
IMAGES = Philox(seed=1).randint(256, 23, 3, 4, 4).byte()
WEIGHT = Philox(seed=2).randn(48, 5)


class Net:
    """Features whose last bits depend on the batch that an image is in, as a network's may."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(len(images))
        return images.flatten(1) @ WEIGHT.to(images.dtype) + len(images) * 1e-3

    def probabilities(self, features):
        return features.softmax(1)


def expected(images=IMAGES, batch_size=4):
    return torch.cat(
        [Net()((batch / 255) if batch.dtype == torch.uint8 else batch) for batch in images.split(batch_size)]
    )


def test_features_are_the_networks_batch_by_batch():
    net = Net()
    found = extraction.extract(net, IMAGES, batch_size=4)
    assert torch.equal(found, expected()) and net.sizes == [4, 4, 4, 4, 4, 3]
    assert torch.equal(extraction.extract(Net(), IMAGES / 255, batch_size=4), found)
    of_double = extraction.extract(Net(), (IMAGES / 255).double(), batch_size=4)
    assert of_double.dtype == torch.float32 and torch.allclose(of_double, found, rtol=1e-5)
    net = Net()
    extraction.extract(net, IMAGES)
    assert net.sizes == [23]


@pytest.mark.parametrize(
    "images, kind, text",
    [
        (None, TypeError, "images must be a torch.Tensor, got None"),
        (IMAGES[0], ValueError, r"images must be \[N, C, H, W\] and not empty, got .*\(3, 4, 4\)"),
        (IMAGES[:0], ValueError, r"not empty, got .*\(0, 3, 4, 4\)"),
        (IMAGES.long(), TypeError, "images must be float16.*int64"),
    ],
)
def test_images_are_checked(images, kind, text):
    with pytest.raises(kind, match=text):
        extraction.extract(Net(), images)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        extraction.extract(Net(), IMAGES, batch_size=0)


def test_progress_counts_images(capsys):
    extraction.extract(Net(), IMAGES, batch_size=4, progress=True)
    assert "features: 23 of 23 (100 %)" in capsys.readouterr().err


@FORKS
@pytest.mark.parametrize("images", [IMAGES, IMAGES / 255], ids=["uint8", "float"])
def test_ranks_extract_the_bits_of_one(forked, images):
    """23 images, 4 at a time: of six batches each of two ranks makes three. Rank 0's images are taken, and no others'."""

    def work(ranks):
        net = Net()
        found = extraction.extract(net, images if ranks.leads else None, ranks=ranks, batch_size=4)
        again = extraction.extract(Net(), images if ranks.leads else images[:1], ranks=ranks, batch_size=30)
        if ranks.leads:
            assert torch.equal(found, expected(images)) and torch.equal(again, expected(images, 30))
            assert net.sizes == [4, 4, 4]
        else:
            assert found.shape == again.shape == (0, 0) and net.sizes == [4, 4, 3]
        if ranks.leads:
            extraction.share(2, ranks)
            first, second = (extraction.extract(Net(), x, ranks=ranks) for x in (images, images[:5]))
            assert torch.equal(first, expected(images, 23)) and torch.equal(second, expected(images[:5], 5))
        else:
            extraction.help_out(Net(), ranks)

    forked(work)


@FORKS
def test_a_rank_that_cannot_ends_all(forked):
    def work(ranks):
        def fail(images):
            raise KeyError("no such feature")

        with pytest.raises(RankFailed if ranks.leads else KeyError):
            extraction.extract(Net() if ranks.leads else fail, IMAGES, ranks=ranks, batch_size=4)

    forked(work)


@FORKS
def test_other_weights_on_another_rank_are_refused(forked):
    def work(ranks):
        net = Net()
        net.sha256 = f"of rank {ranks.rank}"
        with pytest.raises(
            RankFailed, match=r"Inception's weights .* must be the same on all ranks, and differs .* on 1"
        ):
            extraction.extract(net, IMAGES, ranks=ranks, batch_size=4)
        assert net.sizes == []

    forked(work)


# --- evaluation ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extraction") / "digits"
    Trainer(preset("digits", iterations=2, width=4, num_levels=3, batch_size=8, steps_per_level=1), folder).train()
    return folder


class Pooled(Net):
    """Stands in for Inception on digits."""

    def __call__(self, images):
        self.sizes.append(len(images))
        return images.flatten(1)[:, 20:24] * 3 + len(images) * 1e-3


@pytest.fixture
def made(monkeypatch):
    """The arguments that Inception's features are made with."""
    calls: list = []

    def make(**how):
        calls.append((how, Pooled()))
        return calls[-1][1]

    monkeypatch.setitem(features.FEATURES, "inception", make)
    return calls


@FORKS
@pytest.mark.filterwarnings("ignore:published FIDs")
def test_evaluation_on_two_ranks_is_that_on_one(forked, run, made, tmp_path):
    evaluate(run, num=510, batch_size=300, feature="inception", out=tmp_path / "one", progress=False)
    assert made.pop()[0] == {"weights": None, "checksum": True, "device": torch.device("cpu")}

    def work(ranks):
        torch.set_num_threads(1)  # those of a parent do not live on in its child
        found = evaluate(
            run, num=510, batch_size=300, feature="inception", out=tmp_path / "two", progress=False, ranks=ranks
        )
        # 510 samples, 898 images and 899 held out are batches of 500 and what is left
        assert made[0][1].sizes == ([500, 500, 500] if ranks.leads else [10, 398, 399]), made[0][1].sizes
        assert ("kernel_distance" in found) == ranks.leads

    forked(work)
    reports = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert reports[0] == reports[1] and reports[0]["features"] == "inception"


@pytest.mark.filterwarnings("ignore:published FIDs")
def test_the_command_takes_inceptions_file(run, made, tmp_path, capsys):
    command = ["evaluate", str(run), "--num", "20", "--quiet", "--out", str(tmp_path / "out")]
    cli.main([*command, "--inception", "w.pth", "--no-inception-checksum"])
    assert [how for how, _ in made] == [{"weights": Path("w.pth"), "checksum": False, "device": torch.device("cpu")}]
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["features"] == "inception" and report["kernel_distance"].keys() == {"mean", "std"}
    out = capsys.readouterr().out
    assert f"  kernel distance mean                 {report['kernel_distance']['mean']:.4g}\n" in out
    with pytest.raises(SystemExit):
        cli.main([*command, "--inception", "w.pth", "--feature", "pixels"])
    text = "feature must be 'auto' or 'inception' where inception is given, w.pth, got 'pixels'"
    assert capsys.readouterr().err.endswith(f"error: {text}\n") and len(made) == 1


def test_the_kernel_distance_is_that_to_the_training_images(run, tmp_path):
    """Of subsets of 1,000, or of as many as there are; on pixels, where no other are asked for."""
    report = evaluate(run, num=40, out=tmp_path, progress=False)
    train = data.load("digits").images
    fake = torch.from_numpy(np.load(tmp_path / "samples.npy"))
    pixels = features.make("pixels")
    expected = metrics.kernel_distance(pixels(data.to_float(train)), pixels(fake), subset_size=40)
    assert report["features"] == "pixels" and report["kernel_distance"] == expected._asdict()
