"""What ``fastscore reproduce`` plans: the arithmetic of hours and of the disk, what departs from the recipe, and the data."""

import dataclasses
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastscore._core.errors import DataError, FastscoreError
from fastscore.experiment import cli
from fastscore.experiment.presets import preset
from fastscore.experiment.reproduce import data, stages, timing
from fastscore.experiment.reproduce.disk import needed
from fastscore.experiment.reproduce.hours import PLANNED, Work, fit, rows
from fastscore.experiment.reproduce.plan import Plan
from fastscore.experiment.reproduce.request import ABLE, Request

from ..data.cifar_files import pack_python, publish
from .tiny_reproduction import RATES, hasten, run, tiny, write_archive

WORK = Work(
    iterations=1000,
    batch_size=128,
    snapshot_every=100,
    weights=1,
    selection_images=10,
    samples=1000,
    seeds=3,
    train=500,
    iteration=2.0,
    evaluated=50.0,
    extracted=100.0,
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return write_archive(tmp_path_factory.mktemp("data") / "tiny.npz")


@pytest.fixture(autouse=True)
def hastened(monkeypatch):
    hasten(monkeypatch)


# --- the arithmetic of hours ---


def test_hours_of_all():
    """By hand: 1,000 iterations of 2 s; 10 snapshots of 10 samples, and 2 x 3 x 1,000 samples, each of 5 evaluations at 50 a
    second and one extraction at 100; and the features of 500 training images."""
    each = 5 / 50 + 1 / 100
    table = {(row["what"], row["sampler"]): row for row in rows(WORK, {"annealed": 5, "ddim": 10})}
    assert table["training", None] == {
        "what": "training",
        "sampler": None,
        "evaluations": None,
        "images": 128_000,
        "hours": 2000 / 3600,
    }
    assert table["selection", "annealed"]["images"] == 100
    assert table["selection", "annealed"]["hours"] == pytest.approx((100 * each + 5) / 3600)
    assert table["samples", "annealed"]["images"] == 6000
    assert table["samples", "annealed"]["hours"] == pytest.approx(6000 * each / 3600)
    assert table["all", "annealed"]["hours"] == pytest.approx((2000 + 100 * each + 5 + 6000 * each) / 3600)
    assert table["samples", "ddim"]["hours"] == pytest.approx(6000 * (each + 5 / 50) / 3600)
    assert {row["evaluations"] for row in table.values()} == {None, 5, 10}


def test_a_snapshot_at_the_end_of_each_interval_and_of_the_last():
    assert [WORK.snapshots(n) for n in (1, 100, 101, 1000)] == [1, 1, 2, 10]
    request = Request("data", snapshot_every=100, iterations=250)
    plan = Plan(request, request.config("cifar10", "data", "cpu"), (0,), "pixels", None)
    assert plan.steps == (100, 200, 250) and len(plan.steps) == WORK.snapshots(250)
    assert plan.last == (250, "ema")


@pytest.mark.parametrize("hours", [0.2, 0.35, 0.4, 0.66, 0.7, 0.75, 0.8, 0.95])
def test_as_much_as_fits_into_the_hours(hours):
    """One step more of what was cut does not fit: a seed, or a whole interval."""
    seconds = PLANNED * 3600 * hours
    iterations, seeds = fit(WORK, 5, hours)
    assert WORK.whole(iterations, seeds, 5) <= seconds
    if iterations < 1000:
        assert seeds == 1 and iterations % 100 == 0
        assert WORK.whole(iterations + 100, 1, 5) > seconds
    else:
        assert seeds == 3 or WORK.whole(1000, seeds + 1, 5) > seconds


def test_hours_by_hand():
    """A seed takes 2 x 1,000 x 0.11 = 220 s, an interval of training and its snapshot 200 + 1.1 s, and the features 5 s."""
    planned = 3600 * PLANNED
    assert fit(WORK, 5, 1e6) == (1000, 3)
    assert fit(WORK, 5, 2677 / planned) == (1000, 3) and fit(WORK, 5, 2675 / planned) == (1000, 2)  # 2,016 + 3 x 220
    assert fit(WORK, 5, 2237 / planned) == (1000, 1) and fit(WORK, 5, 2235 / planned) == (900, 1)
    assert fit(WORK, 5, 1000 / planned) == (300, 1)  # (1,000 - 220 - 5) / 201.1 = 3.85
    longer = dataclasses.replace(WORK, iterations=1001)  # 11 snapshots: 2,002 + 12.1 + 5 + 220
    assert fit(longer, 5, 2240 / planned) == (1001, 1) and fit(longer, 5, 2239 / planned) == (1000, 1)


def test_hours_that_are_too_few_say_how_many_are_needed():
    least = WORK.whole(100, 1, 5) / 3600 / PLANNED
    with pytest.raises(
        ValueError, match=f"hours must be at least {least:.3g}, for the iterations to the first snapshot"
    ):
        fit(WORK, 5, 0.99 * least)
    assert fit(WORK, 5, 1.01 * least) == (100, 1)


def test_disk_by_hand():
    """Ten snapshots of two averages beside the weights, three checkpoints, half a covariance, 6,000 samples, 1,500 features."""
    config = Request("data", more_ema=(0.9999,), iterations=1000, snapshot_every=100).config("cifar10", "data", "cpu")
    expected = 4 * 1000 * (10 * 3 + 3 * 5) + 8 * 3072 * 3073 // 2 + 6000 * 3072
    assert needed(WORK, config, 1000, "pixels") == expected
    assert needed(WORK, config, 1000, "inception") == expected + 4 * 1500 * 2048


def test_a_disk_that_is_too_small_is_warned_of(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(stages._Reproduction, "_train", lambda self, plan: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with (
        pytest.warns(UserWarning, match=r"out will take about .* MB, and 1 B are free"),
        pytest.raises(KeyboardInterrupt),
    ):
        run(tiny(archive), tmp_path / "out")


# --- what is asked for ---


@pytest.mark.parametrize("model", ["ncsn", "ncsnv2"])
def test_the_recipe_itself(model):
    request = Request("data", model=model, precision="fp32")
    config, recipe = request.config("cifar10", "data", "auto"), preset(f"cifar10-{model}")
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(recipe, f.name)}
    assert changed <= {
        "precision",
        "sample_every",
        "checkpoint_every",
        "snapshot_every",
    }  # none of which changes an iteration
    assert request.departures(config) == []
    assert request.evaluations(config) == {"ncsn": 1000, "ncsnv2": 1161}[model]


def test_departures_are_named():
    request = Request("data", width=64, tf32=True, samples=1000, sampler_options={"steps_per_level": 3})
    assert request.departures(request.config("folder", "data", "cpu")) == [
        "data folder in place of cifar10",
        "width 64 in place of 128",
        "precision auto in place of fp32",
        "tf32",
        "steps_per_level 3 in place of 5",
        "samples 1000 in place of 50000",
    ]
    other = Request("data", sampler="ddim", precision="fp32")
    assert other.departures(other.config("cifar10", "d", "cpu")) == ["sampler ddim in place of annealed"]


def test_the_command_asks_for_the_same(archive, monkeypatch, tmp_path):
    request = tiny(
        archive,
        model="ncsn",
        precision="fp32",
        tf32=True,
        checksum=False,
        sampler="ddim",
        sampler_options={"eta": 0.5, "denoise": False},
        inception=Path("a file"),
        inception_checksum=False,
        more_ema=(0.99, 0.9999),
        cuda_graph=False,
    )
    asked = []
    monkeypatch.setattr(stages, "reproduce", lambda request, out, **how: asked.append((request, out)) or [])
    words = shlex.split(request.command(tmp_path / "an out"))
    assert words[0] == "fastscore"
    cli.main(words[1:])
    assert asked == [(request, tmp_path / "an out")]
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hours": 0.0, "iterations": None}, "hours must be above 0"),
        ({"hours": 1.0}, "iterations must be left out with hours"),
        ({"seeds": 0}, "seeds must be"),
        ({"samples": 19}, "samples must be"),
        ({"selection_images": 3}, "selection_images must be"),
        ({"sampler": "adaptive_ode"}, "sampler must be one of"),
        ({"model": "mlp"}, "model must be"),
        ({"feature": "classifier"}, "feature must be"),
        ({"width": 0}, "width must be"),
        ({"more_ema": (0.999,)}, "more_ema must be of rates that differ"),
        ({"cuda_graph": True}, "cuda_graph must be False on cpu"),
        ({"sampler_options": {"steps": 3}}, "steps must be left out for sampler 'annealed'"),
        (
            {"model": "ncsn", "sampler": "ddim", "sampler_options": {"interpolate": False}},
            "interpolate must be True .* for an ncsn, which knows its 2 noise levels",
        ),
    ],
)
def test_what_is_refused_before_anything_is_written(archive, tmp_path, changes, message):
    with pytest.raises((ValueError, FastscoreError), match=message):
        run(tiny(archive, **changes), tmp_path / "out")
    assert not list(tmp_path.rglob("*.json"))


def test_numbers_that_do_not_fit_are_refused_at_the_start(archive, tmp_path):
    with pytest.raises(ValueError, match="sampling_batch_size must be"):
        run(tiny(archive), tmp_path / "out", batch_size=0)
    with pytest.raises(ValueError, match="sampling_batch_size must be smaller: with 400000000, samples and"):
        run(tiny(archive, samples=500_000_000), tmp_path / "out", batch_size=400_000_000)
    with pytest.raises(ValueError, match="width must be smaller"):
        run(tiny(archive, width=10_000_000), tmp_path / "out")
    with pytest.raises(ValueError, match="samples must be smaller: with 4294967296, the samples take"):
        run(tiny(archive, samples=2**32), tmp_path / "out")


def test_all_samplers_are_there_whose_evaluations_are_known():
    assert set(ABLE) == {
        "annealed",
        "consistent",
        "dpm_sde",
        "dpm",
        "ddim",
        "ancestral",
        "reverse_sde",
        "heun",
        "pc",
        "ode",
    }
    for model in ("ncsn", "ncsnv2"):
        request = Request("data", model=model)
        config = request.config("cifar10", "data", "cpu")
        found = {name: request.evaluations(config, name) for name in request.offered()}
        assert found["dpm_sde"] == 50 and found["ddim"] == 100 and found["heun"] == 35
        assert next(iter(found)) == "annealed"


def test_further_averages_are_compared_beside_the_recipes():
    for model, weights in (("ncsn", ("raw", "ema", "ema-0.9999")), ("ncsnv2", ("ema", "ema-0.99", "ema-0.9999"))):
        request = Request("data", model=model, more_ema=(0.99, 0.9999), iterations=10, snapshot_every=5)
        config = request.config("cifar10", "data", "cpu")
        plan = Plan(request, config, (0,), "pixels", None)
        assert plan.weights == weights and plan.last == (10, weights[0]) and len(plan.snapshots) == 6
        assert set(weights) <= {"raw", *config.averages}
        assert request.departures(dataclasses.replace(config, precision="fp32")) == [
            f"iterations 10 in place of {request.recipe.iterations}",
            "snapshot_every 5 in place of 5000",
        ]


@pytest.mark.parametrize("model", ["ncsn", "ncsnv2"])
def test_hours_count_the_choice_among_averages(model, archive, tmp_path):
    """Each snapshot has as many sets of samples as weights that are compared; and the averages' pace is another's."""
    plain, more = (tiny(archive, model=model, more_ema=rates) for rates in ((), (0.9, 0.99)))
    hours, conditions = [], []
    for request in (plain, more):
        run(request, tmp_path / "out", dry_run=True)
        timing = json.loads((tmp_path / "out" / "timing.json").read_text())
        (row,) = (row for row in timing["rows"] if (row["what"], row["sampler"]) == ("selection", "annealed"))
        assert row["images"] == 2 * 20 * len(request.weights())
        hours.append(row["hours"])
        conditions.append(timing["conditions"])
    features = 24 / 1000 / 3600  # of the training images
    assert hours[1] - features == pytest.approx(3 * (hours[0] - features)) and conditions[0] != conditions[1]


def test_the_rates_of_an_ncsn_without_an_average_are_not_taken_for_one_with(archive, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(timing, "measure", lambda config, *_: measured.append(config.averages) or dict(RATES))
    for rates in ((), (), (0.9,), (0.9,)):
        run(tiny(archive, model="ncsn", more_ema=rates), tmp_path / "out", dry_run=True)
    assert measured == [{}, {"ema": 0.9}]


# --- the data ---


def noise(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels, for files of CIFAR-10's form."""
    draw = np.random.default_rng(count)
    images = torch.from_numpy(draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
    return images, torch.arange(count) % 10


def test_which_data_set_lies_there(tmp_path, archive):
    train, test = noise(50), noise(10)
    packed = pack_python(tmp_path / "cifar", train, test)
    assert data.place(Request(str(tmp_path / "cifar"))) == ("cifar10", str(tmp_path / "cifar"))
    assert data.place(Request(str(packed)))[0] == "cifar10"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "cifar-10-binary.tar.gz").touch()  # to be unpacked first, which the data set says
    assert data.place(Request(str(tmp_path / "packed")))[0] == "cifar10"
    (tmp_path / "images").mkdir()
    assert data.place(Request(str(tmp_path / "images")))[0] == "folder"
    assert data.place(Request(str(archive))) == ("npz", str(archive))
    assert data.place(Request("photos"))[0] == "photos"
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(
        DataError, match=r"must be a folder, a .npz file or the word photos, got the file .*: unpack it"
    ):
        data.place(Request(str(tmp_path / "cifar-10-python.tar.gz")))
    with pytest.raises(DataError, match=r"there is no '.*nowhere'"):
        data.place(Request(str(tmp_path / "nowhere")))


def test_data_json_of_cifar10(tmp_path, monkeypatch):
    train, test = noise(50), noise(10)
    packed = pack_python(tmp_path, train, test)
    request = Request(str(tmp_path), feature="pixels", checksum=False)
    config = request.config(*data.place(request), "cpu")
    found = data.described(config, *data.load(config))
    assert found["train"]["count"] == 50 and found["heldout"]["count"] == 10 and found["num_classes"] == 10
    assert found["train"]["shape"] == [3, 32, 32] and found["checksums"] == "not checked"
    with pytest.raises(DataError, match="checksum"):
        data.load(dataclasses.replace(config, checksum=True))
    publish(packed, monkeypatch)
    config = dataclasses.replace(config, checksum=True)
    assert data.described(config, *data.load(config)) == found | {"checksums": "published"}


def test_a_folder_of_anything_else_says_what_to_put_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DataError, match=r"no image in it.*CIFAR-10 itself is looked for in .* as cifar-10-batches-py or"
    ):
        run(Request(str(tmp_path)), tmp_path / "out")


@pytest.mark.parametrize(
    ("images", "message"),
    [((24, 1, 32, 32), r"images of shape \(3, 32, 32\)"), ((19, 3, 32, 32), "at least 20 training images")],
)
def test_images_that_the_recipe_is_not_for(tmp_path, images, message):
    np.savez(tmp_path / "other.npz", images=np.zeros(images, dtype=np.uint8))
    with pytest.raises(DataError, match=message):
        run(tiny(tmp_path / "other.npz"), tmp_path / "out")
