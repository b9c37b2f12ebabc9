"""``fastscore reproduce``: the arithmetic of hours, the plan, the data, and stages that go on where they were stopped."""

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastscore._core.errors import CannotWrite, CheckpointError, DataError, FastscoreError
from fastscore.evaluation import metrics
from fastscore.experiment import cli
from fastscore.experiment.checkpoint import Lock
from fastscore.experiment.presets import preset
from fastscore.experiment.reproduce import data, samples, stages, timing
from fastscore.experiment.reproduce.disk import needed
from fastscore.experiment.reproduce.hours import PLANNED, Work, fit, rows
from fastscore.experiment.reproduce.parts import Parts
from fastscore.experiment.reproduce.plan import Plan
from fastscore.experiment.reproduce.report import write_report
from fastscore.experiment.reproduce.request import ABLE, Request
from fastscore.experiment.reproduce.stages import reproduce
from fastscore.experiment.sample import sample
from fastscore.experiment.trained_run import load_run

from ..data.cifar_files import pack_python, publish

RATES = {
    "parameters": 1000,
    "training": {"images_per_second": 20.0, "seconds_per_iteration": 0.1, "peak_bytes": 1_000_000},
    "evaluation": {"images_per_second": 100.0, "peak_bytes": 1_000_000},
    "features": {"images_per_second": 1000.0},
}
MEASURE = timing.measure
NOT_THE_SAME_TWICE = ("seconds", "training_seconds", "images_per_second")
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
    """24 images of noise in an .npz file, which the tests call tiny."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    np.savez(path, images=images)
    return path


def tiny(archive: Path, **changes) -> Request:
    return Request(
        **{
            "data": str(archive),
            "iterations": 4,
            "width": 4,
            "batch_size": 2,
            "num_levels": 2,
            "snapshot_every": 2,
            "selection_images": 20,
            "samples": 25,
            "seeds": 2,
            "sampler_options": {"steps_per_level": 1},
        }
        | changes
    )


def run(request: Request, out: Path, **how) -> list[str]:
    """What it said."""
    said: list[str] = []
    reproduce(request, out, **{"device": "cpu", "batch_size": 10, "progress": False, "say": said.append} | how)
    return said


@pytest.fixture(autouse=True)
def constant_rates(monkeypatch):
    """A machine whose pace is always the same."""
    monkeypatch.setattr(timing, "measure", lambda *_: json.loads(json.dumps(RATES)))
    monkeypatch.setattr(samples, "_PART", 10)
    monkeypatch.setattr(stages, "write_report", lambda out: [out / "report.md"])


@pytest.fixture(scope="module")
def done(archive, tmp_path_factory) -> Path:
    """A reproduction from beginning to end."""
    out = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "measure", lambda *_: json.loads(json.dumps(RATES)))
        patch.setattr(samples, "_PART", 10)
        reports = []
        patch.setattr(stages, "write_report", lambda out: reports.append(sorted(p.name for p in out.iterdir())) or [])
        run(tiny(archive), out)
        assert len(reports) == 7  # after the plan, the training, the selection and each of four measures
    return out


def contents(out: Path) -> dict[str, object]:
    """Every file of a reproduction, by name, but for what no two runs have alike and for the report."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name in (".lock", "run.json", "about.json", "state.pt") or name.startswith("report"):
            continue
        if path.suffix == ".json":
            found[name] = without_time(json.loads(path.read_text()), out)
        elif path.suffix == ".jsonl":
            found[name] = [without_time(json.loads(line), out) for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found


def without_time(value, out: Path):
    if isinstance(value, dict):
        return {name: without_time(v, out) for name, v in value.items() if name not in NOT_THE_SAME_TWICE}
    if isinstance(value, list):
        return [without_time(v, out) for v in value]
    return value.replace(str(out), "OUT") if isinstance(value, str) else value


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


def test_hours_that_are_too_few_say_how_many_are_needed():
    least = WORK.whole(100, 1, 5) / 3600 / PLANNED
    with pytest.raises(
        ValueError, match=f"hours must be at least {least:.3g}, for the iterations to the first snapshot"
    ):
        fit(WORK, 5, 0.99 * least)
    assert fit(WORK, 5, 1.01 * least) == (100, 1)


def test_disk_by_hand():
    """Ten snapshots of two averages beside the weights, three checkpoints, 6,000 samples, 1,500 images' features."""
    config = Request("data", more_ema=(0.9999,), iterations=1000, snapshot_every=100).config("cifar10", "data", "cpu")
    expected = 4 * 1000 * (10 * 3 + 3 * 5) + 6000 * 3072
    assert needed(WORK, config, 1000, "pixels") == expected
    assert needed(WORK, config, 1000, "inception") == expected + 4 * 1500 * 2048


def test_a_disk_that_is_too_small_is_warned_of(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(stages._Reproduction, "_train", lambda self, plan: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with (
        pytest.warns(UserWarning, match=r"out will take about .* kB, and 1 B are free"),
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


# --- the stages ---


def test_what_a_reproduction_leaves(done, archive):
    plan = json.loads((done / "plan.json").read_text())
    assert plan["iterations"] == 4 and plan["recipe_iterations"] == 300_001 and plan["seeds"] == [0, 1]
    assert plan["weights"] == ["ema"] and plan["sampler_options"]["steps_per_level"] == 1
    assert (
        plan["feature"] == "pixels"
        and plan["config"]["data"] == "npz"
        and plan["command"].endswith("--steps-per-level 1")
    )
    about = json.loads((done / "data.json").read_text())
    assert about["train"]["count"] == 24 and about["heldout"] is None and about["checksums"] == "none"
    rates = json.loads((done / "timing.json").read_text())
    assert rates["training"] == RATES["training"] and {row["what"] for row in rates["rows"]} == {
        "training",
        "selection",
        "samples",
        "all",
    }
    selection = json.loads((done / "selection.json").read_text())
    assert [row["step"] for row in selection["rows"]] == [2, 4] and selection["last"] == {"step": 4, "weights": "ema"}
    best = min(selection["rows"], key=lambda row: row["frechet_distance"])
    assert selection["chosen"] == {"step": best["step"], "weights": "ema"}
    assert [row["images_seen"] for row in selection["rows"]] == [4, 8]
    assert (done / "selection" / "step_00000002-ema.png").stat().st_size > 1000
    stems = {"step_00000004-ema", f"step_{best['step']:08d}-ema"}
    assert {path.name for path in (done / "samples").iterdir()} == {
        f"{stem}-seed-{s}" for stem in stems for s in (0, 1)
    }
    assert len(list((done / "measures").iterdir())) == 2 * len(stems)


def test_numbers_are_those_of_the_samples_that_the_library_draws(done, archive):
    """The selection's and the measures', by the functions that they are to be of."""
    real = torch.from_numpy(np.load(archive)["images"]).flatten(1).float() / 255
    trained = load_run(done / "run", iteration=4, weights="ema")
    drawn = sample(trained, 20, seed=1_000_000, batch_size=10, progress=False, steps_per_level=1)
    fake = drawn.mul(255).round().flatten(1) / 255
    row = json.loads((done / "selection" / "step_00000004-ema.json").read_text())
    assert row["frechet_distance"] == pytest.approx(metrics.frechet_distance(real, fake), rel=1e-6)
    kernel = metrics.kernel_distance(real, fake, subset_size=20)
    assert row["kernel_distance"] == pytest.approx({"mean": kernel.mean, "std": kernel.std}, rel=1e-4)
    drawn = sample(trained, 25, seed=1, batch_size=10, progress=False, steps_per_level=1)
    kept = samples.kept(done, 4, "ema", 1, (3, 32, 32)).read()
    assert torch.equal(kept, drawn.mul(255).round().to(torch.uint8))
    measured = json.loads((done / "measures" / "step_00000004-ema-seed-1.json").read_text())
    fake = kept.flatten(1).float() / 255
    near = metrics.precision_recall(real, fake)
    assert (measured["precision"], measured["recall"]) == (near.precision, near.recall)
    assert measured["frechet_distance"] == pytest.approx(metrics.frechet_distance(real, fake), rel=1e-6)
    assert "last" in measured["roles"] and measured["network_evaluations_per_sample"] == 3 and measured["samples"] == 25


def test_the_command_of_a_measure_gives_its_number(done, tmp_path):
    measured = json.loads((done / "measures" / "step_00000004-ema-seed-0.json").read_text())
    words = measured["command"].split()
    words[words.index("--out") + 1] = str(tmp_path / "again")
    cli.main([*words[1:], "--quiet"])
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    # of float samples, where those were rounded to 8 bits
    assert again["frechet_distance"]["samples_to_train"] == pytest.approx(measured["frechet_distance"], rel=1e-3)


def test_what_is_done_is_not_done_again(done, archive, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file() and path.name != ".lock"}

    def never(*_, **__):
        raise AssertionError("done already")

    monkeypatch.setattr("fastscore.experiment.sample.draw", never)
    monkeypatch.setattr("fastscore.experiment.learner.Learner.iterate", never)
    monkeypatch.setattr(timing, "measure", never)
    run(tiny(archive), done)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


def test_stopped_between_any_two_writes_it_goes_on_to_the_same(done, archive, tmp_path, monkeypatch):
    """Every file is put in place by a rename: each attempt is allowed one or two, and stopped at the next."""
    out, left = tmp_path / "out", [0]

    class Stopped(Exception):
        pass

    def limited(rename):
        def renamed(source, target, **how):
            if left[0] <= 0:
                raise Stopped
            if "report" not in str(target):
                left[0] -= 1
            return rename(source, target, **how)

        return renamed

    monkeypatch.setattr(os, "replace", limited(os.replace))
    monkeypatch.setattr(os, "rename", limited(os.rename))
    attempts, finished = 0, False
    while not finished:
        left[0] = 1 + attempts % 2  # a run begins with two, of which the first is written anew
        attempts += 1
        try:
            run(tiny(archive), out)
            finished = True
        except Stopped:
            assert attempts < 60
    assert attempts > 15
    assert contents(out) == contents(done)


def test_a_dry_run_measures_and_ends(archive, tmp_path, capsys):
    said = run(tiny(archive), tmp_path / "out", dry_run=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "data.json", "timing.json"}
    table = next(text for text in said if "--sampler" in text)
    for name in ("annealed --steps-per-level 1", "dpm_sde --steps 50", "ddim --steps 100", "heun --steps 18", "pc"):
        assert f"\n{name}" in table
    line = next(line for line in table.splitlines() if line.startswith("heun")).split()
    assert line[3] == "35"
    each = 35 / 100 + 1 / 1000
    assert float(line[5]) == pytest.approx(100 * each / 3600, rel=0.01)  # 2 x 2 x 25 samples
    assert "training, 4 iterations of 2: 0.000111 hours" in table


def test_measured_rates_are_of_this_machine(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "measure", MEASURE)
    monkeypatch.setattr(timing, "_SECONDS", 0.2)
    run(tiny(archive), tmp_path / "out", dry_run=True)
    found = json.loads((tmp_path / "out" / "timing.json").read_text())
    seconds = found["training"]["seconds_per_iteration"]
    assert 1e-4 < seconds < 60 and found["training"]["images_per_second"] == pytest.approx(2 / seconds)
    assert found["evaluation"]["images_per_second"] > 1 and found["features"]["images_per_second"] > 1
    assert found["training"]["peak_bytes"] > 1e7 and found["ranks"] == 1 and found["threads"] == torch.get_num_threads()
    measured = dict(found)
    run(tiny(archive), tmp_path / "out", dry_run=True)  # not measured anew under the same conditions
    assert json.loads((tmp_path / "out" / "timing.json").read_text()) == measured
    run(tiny(archive, width=8), tmp_path / "out", dry_run=True)
    assert json.loads((tmp_path / "out" / "timing.json").read_text())["training"] != measured["training"]


def test_hours_are_kept_in_the_plan(archive, tmp_path, monkeypatch):
    """0.1 s an iteration; 3 evaluations at 100 and one extraction at 1,000 a second: 0.031 s a sample."""
    monkeypatch.setattr(stages._Reproduction, "_train", lambda self, plan: (_ for _ in ()).throw(KeyboardInterrupt))
    request = tiny(archive, iterations=None, hours=20 / 3600 / PLANNED, seeds=5)
    with pytest.raises(KeyboardInterrupt):
        run(request, tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    # 20 s: one seed takes 50 x 0.031 = 1.55; two iterations and a snapshot 0.2 + 0.62; the features 0.024
    assert plan["seeds"] == [0] and plan["iterations"] == 2 * int((20 - 1.55 - 0.024) / 0.82)
    hours = {
        (row["what"], row["sampler"]): row["hours"]
        for row in json.loads((tmp_path / "out" / "timing.json").read_text())["rows"]
    }
    assert hours["all", "annealed"] <= request.hours
    assert f"iterations {plan['iterations']} in place of 300001" in plan["departures"]
    monkeypatch.setattr(timing, "measure", lambda *_: {})  # whatever the machine is now
    with pytest.raises(KeyboardInterrupt):
        run(request, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == plan


def test_the_report_is_of_what_is_there(done):
    chosen = json.loads((done / "selection.json").read_text())["chosen"]["step"]
    measured = json.loads((done / "measures" / f"step_{chosen:08d}-ema-seed-0.json").read_text())
    files = write_report(done)
    text = (done / "report.md").read_text()
    assert done / "report.md" in files and f"{measured['frechet_distance']:.4g}"[:4] in text
    assert "width 4 in place of 128" in text


# --- what is refused ---


def test_another_plan_is_refused_by_name(done, archive):
    with pytest.raises(
        CheckpointError, match=r"another plan: width \(was 4, now 5\), seeds \(was 2, now 3\); go on with it by"
    ):
        run(tiny(archive, width=5, seeds=3), done)


def test_the_data_may_lie_elsewhere_and_must_be_the_same(done, archive, tmp_path):
    copy = shutil.copy(archive, tmp_path / "copy.npz")
    run(tiny(copy), done)
    np.savez(tmp_path / "other.npz", images=np.zeros((24, 3, 32, 32), dtype=np.uint8))
    with pytest.raises(CheckpointError, match="was begun with other data"):
        run(tiny(tmp_path / "other.npz"), done)


def test_one_process_at_a_time(archive, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    lock = Lock(out / ".lock")
    with pytest.raises(FastscoreError, match="another process reproduces in"):
        run(tiny(archive), out)
    lock.release()


def test_a_folder_of_a_run_is_refused(done, archive):
    with pytest.raises(CheckpointError, match="holds a run of fastscore train"):
        run(tiny(archive), done / "run")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "request": 3}'])
def test_a_damaged_plan_is_named(archive, tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"plan\.json"):
        run(tiny(archive), tmp_path)


def test_parts_that_are_none_are_named(tmp_path):
    kept = Parts(tmp_path, (3, 32, 32), torch.uint8)
    assert kept.count() == 0 and kept.read().shape == (0, 3, 32, 32)
    np.save(tmp_path / "part_00001.npy", np.zeros((2, 3, 32, 32), np.uint8))
    with pytest.raises(CheckpointError, match=r"part_00000\.npy is missing"):
        kept.read()
    (tmp_path / "part_00001.npy").rename(tmp_path / "part_00000.npy")
    kept.append(torch.ones(3, 3, 32, 32, dtype=torch.uint8))
    assert kept.count() == 5 and kept.read().sum() == 3 * 3 * 32 * 32
    for wrong in (np.zeros((2, 3, 32, 32), np.float32), np.zeros((2, 32, 32), np.uint8), np.zeros(2, np.int16)):
        np.save(tmp_path / "part_00001.npy", wrong)
        with pytest.raises(CheckpointError, match=r"part_00001\.npy is not a part .*it must be torch.uint8"):
            kept.count()
    (tmp_path / "part_00001.npy").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"part_00001\.npy is not a part .*: delete"):
        kept.read()


def test_a_full_disk_says_how_to_go_on(archive, tmp_path, monkeypatch):
    def full(path, data):
        raise CannotWrite(f"{path} cannot be written: No space left on device", 28, str(path))

    monkeypatch.setattr("fastscore._core.files.write_atomically", full)
    request = tiny(archive)
    with pytest.raises(CannotWrite, match="No space left on device; what was written stays") as error:
        run(request, tmp_path / "out")
    assert str(error.value).endswith(f"go on with: {request.command(tmp_path / 'out')}")


# --- how far it is ---


def test_status_says_the_stage(done, archive, tmp_path, capsys, monkeypatch):
    cli.main(["status", str(done)])
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if not line.startswith(" "))
    assert told["reproduces"].strip() == f"{done}: ncsnv2 on tiny" and told["state"].strip() == "done"
    monkeypatch.setattr(
        "fastscore.experiment.learner.Learner.iterate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    request, out = tiny(archive), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(request, out)
    cli.main(["status", str(out)])
    text = capsys.readouterr().out
    assert f"at training; no process is at it: go on with: {request.command(out)}" in text
    assert "training               0 of 4 iterations" in text and "checkpoint  none yet" in text
    lock = Lock(out / ".lock")
    cli.main(["status", str(out)])
    assert "\nstate       at training\n" in capsys.readouterr().out
    lock.release()
