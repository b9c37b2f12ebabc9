"""``fastscore reproduce``: stages that go on where they were stopped, to the numbers that they should have."""

import gc
import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastscore._core.errors import CannotWrite, CheckpointError, FastscoreError, NonFiniteLoss, NonFiniteSamples
from fastscore.evaluation import metrics
from fastscore.evaluation.features import pixel_features
from fastscore.experiment import cli
from fastscore.experiment import sample as sampling
from fastscore.experiment.checkpoint import Lock
from fastscore.experiment.learner import Learner
from fastscore.experiment.reproduce import samples, selection, stages, timing
from fastscore.experiment.reproduce.hours import PLANNED
from fastscore.experiment.reproduce.parts import Parts
from fastscore.experiment.reproduce.report import write_report
from fastscore.experiment.sample import sample
from fastscore.experiment.trained_run import load_run

from .tiny_reproduction import RATES, hasten, run, tiny, write_archive

MEASURE = timing.measure
NOT_THE_SAME_TWICE = ("seconds", "training_seconds", "images_per_second")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return write_archive(tmp_path_factory.mktemp("data") / "tiny.npz")


@pytest.fixture(autouse=True)
def hastened(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture(scope="module")
def done(archive, tmp_path_factory) -> Path:
    """A reproduction from beginning to end."""
    out = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
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
        if path.name in (".lock", "clock.json", "run.json", "about.json", "state.pt") or name.startswith("report"):
            continue
        if path.suffix == ".json":
            found[name] = without_time(json.loads(path.read_text()), out)
        elif path.suffix == ".jsonl":
            found[name] = [without_time(json.loads(line), out) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        else:
            found[name] = path.read_bytes()
    return found


def without_time(value, out: Path):
    if isinstance(value, dict):
        return {name: without_time(v, out) for name, v in value.items() if name not in NOT_THE_SAME_TWICE}
    if isinstance(value, list):
        return [without_time(v, out) for v in value]
    return value.replace(str(out), "OUT") if isinstance(value, str) else value


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
    first, second = (row["training_seconds"] for row in selection["rows"])
    assert 0 < first < second
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
    np.savez(tmp_path / "other.npz", images=np.zeros((30, 3, 32, 32), dtype=np.uint8))
    run(tiny(tmp_path / "other.npz"), tmp_path / "out", dry_run=True)  # nothing is begun yet
    assert json.loads((tmp_path / "out" / "data.json").read_text())["train"]["count"] == 30


def test_measured_rates_are_of_this_machine(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "measure", MEASURE)
    monkeypatch.setattr(timing, "_SECONDS", 0.2)
    run(tiny(archive), tmp_path / "out", dry_run=True)
    found = json.loads((tmp_path / "out" / "timing.json").read_text())
    seconds = found["training"]["seconds_per_iteration"]
    assert 1e-4 < seconds < 60 and found["training"]["images_per_second"] == pytest.approx(2 / seconds)
    assert found["evaluation"]["images_per_second"] > 1 and found["features"]["images_per_second"] > 1
    assert found["training"]["peak_bytes"] > 1e7 and found["ranks"] == 1 and found["threads"] == torch.get_num_threads()
    said = run(tiny(archive, iterations=None, hours=1.0), tmp_path / "out", dry_run=True)
    assert said[-1].startswith("in 1 hours: ") and not (tmp_path / "out" / "plan.json").exists()
    measured = json.loads((tmp_path / "out" / "timing.json").read_text())
    assert measured["training"] == found["training"]  # under the same conditions
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
    copy, before = shutil.copy(archive, tmp_path / "copy.npz"), contents(done)
    run(tiny(copy), done)
    says_where = {"run/config.json": 0, "plan.json": 0}
    assert contents(done) | says_where == before | says_where
    assert json.loads((done / "plan.json").read_text())["command"] == tiny(copy).command(done)
    assert json.loads((done / "run" / "config.json").read_text())["data_dir"] == str(copy)
    np.savez(tmp_path / "other.npz", images=np.zeros((24, 3, 32, 32), dtype=np.uint8))
    with pytest.raises(CheckpointError, match="was begun with other data"):
        run(tiny(tmp_path / "other.npz"), done)
    run(tiny(archive), done)
    assert contents(done) == before


def test_weights_of_inception_must_be_those_that_it_was_begun_with(archive, tmp_path, monkeypatch):
    def features(name, device, **how):
        made = pixel_features()
        made.sha256 = sha256
        return made

    monkeypatch.setattr(stages, "make_features", features)
    monkeypatch.setattr(stages._Reproduction, "_train", lambda self, plan: (_ for _ in ()).throw(KeyboardInterrupt))
    sha256 = "aa"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tiny(archive), tmp_path / "out")
    sha256 = "bb"
    with pytest.raises(
        CheckpointError, match=r"Inception's weights of SHA-256 aa, and these have bb: name .*--inception"
    ):
        run(tiny(archive), tmp_path / "out")


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


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "selection/step_00000004-ema.json",
            {"images": 1000},
            "says images 1000 where it must be 20: put .*, or delete",
        ),
        ("selection/step_00000004-ema.json", {"step": 2}, "says step 2 where it must be 4: "),
        ("selection/step_00000002-ema.json", {"frechet_distance": "3"}, "'3' where it must be a number or null: "),
        ("measures/step_00000004-ema-seed-1.json", {"seed": 0}, "says seed 0 where it must be 1: put .*, or delete"),
        ("measures/step_00000004-ema-seed-1.json", {"samples": 25.0}, "says samples 25.0 where it must be 25: "),
        (
            "measures/step_00000004-ema-seed-1.json",
            {"feature": "inception"},
            "says feature 'inception' where it must be",
        ),
        ("timing.json", {"evaluation": {"images_per_second": 0}}, "says evaluation: .* above 0: put .*, or delete"),
        ("timing.json", {"training": None}, "says training: seconds_per_iteration None, where it must be a number"),
        ("plan.json", {"seeds": [0, 2]}, r"its seeds must be 0, 1, ..., got \[0, 2\]"),
        ("plan.json", {"request": [1]}, "is not the plan of a reproduction"),
        ("data.json", {"train": 3}, "was begun with other data: none in place of 24 images"),
    ],
)
def test_what_was_edited_or_is_anothers_is_named(done, archive, name, changes, message, monkeypatch):
    monkeypatch.setattr("fastscore.experiment.sample.draw", lambda *_, **__: pytest.fail("it is drawn"))
    before = (done / name).read_bytes()
    (done / name).write_text(json.dumps(json.loads(before) | changes))
    try:
        with pytest.raises(CheckpointError, match=message):
            run(tiny(archive), done)
    finally:
        (done / name).write_bytes(before)


def test_a_run_that_is_gone_is_not_trained_again_beside_its_numbers(done, archive, tmp_path):
    shutil.copytree(done, tmp_path / "out", ignore=shutil.ignore_patterns("run"))
    with pytest.raises(
        CheckpointError, match=r"out/run is gone, whose snapshots .*selection compares: put it back, or"
    ):
        run(tiny(archive), tmp_path / "out")
    (tmp_path / "out" / "clock.json").unlink()
    (tmp_path / "out" / "clock.json").mkdir()
    with pytest.raises(CheckpointError, match=r"clock\.json cannot be read: Is a directory; put it back"):
        run(tiny(archive), tmp_path / "out")


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


def test_a_loss_that_is_not_finite_names_no_way_on_that_the_recipe_has_not(archive, tmp_path, monkeypatch):
    def diverged(learner, it):
        raise NonFiniteLoss(f"the loss at iteration {it} is nan")

    monkeypatch.setattr("fastscore.experiment.learner.Learner.iterate", diverged)
    with pytest.raises(
        NonFiniteLoss, match=r"^the loss at iteration 0 is nan; the recipe .* another folder .*--precision"
    ) as error:
        run(tiny(archive), tmp_path / "out")
    assert "fastscore train" not in str(error.value)


def break_samples(monkeypatch, broken: dict[int, tuple[int, ...]], seed: int) -> None:
    """Of the iterations ``broken`` these samples of ``seed`` are not finite: a batch with one of them is an error."""
    finite, load, step = sampling.draw, selection.load_on, [0]

    def draw(config, network, shape, rng, **how):
        batch = range(rng.sample_offset, rng.sample_offset + shape[0])
        bad = [k for k in broken.get(step[0], ()) if k in batch and rng.seed == seed + (1 << 63)]
        if bad:
            raise NonFiniteSamples("some samples are not finite")
        return finite(config, network, shape, rng, **how)

    def load_on(ranks, run, *, iteration, **how):
        step[0] = iteration
        return load(ranks, run, iteration=iteration, **how)

    monkeypatch.setattr(selection, "load_on", load_on)
    monkeypatch.setattr(sampling, "draw", draw)


def test_numbers_of_samples_that_are_not_finite_are_withheld_and_all_others_kept(done, archive, tmp_path, monkeypatch):
    """Where the few by which the snapshot was chosen were finite; and where the samples are there it ends as before."""
    out = shutil.copytree(done, tmp_path / "out")
    shutil.rmtree(out / "measures")
    shutil.rmtree(out / "samples")
    with monkeypatch.context() as patch:
        break_samples(patch, {4: (3, 4, 21)}, seed=0)
        message = (
            r"^samples are not finite, and have no numbers: iteration 4 \(ema\), seed 0: 3 of 25\. All others are in .*report\.md; "
            rf"for a smaller --step-size or another --sampler copy {out}/run to NEW/run and reproduce with --out NEW"
        )
        with pytest.raises(NonFiniteSamples, match=message):
            run(tiny(archive), out)
    monkeypatch.setattr(sampling, "draw", lambda *_, **__: pytest.fail("it is drawn"))
    with pytest.raises(NonFiniteSamples, match="seed 0: 3 of 25"):
        run(tiny(archive), out)
    ours, theirs = contents(out), contents(done)
    bad = "measures/step_00000004-ema-seed-0.json"
    numbers = ("frechet_distance", "kernel_distance", "inception_score", "precision", "recall")
    assert ours.pop(bad) == theirs.pop(bad) | dict.fromkeys(numbers) | {"not_finite": 3}
    where = "samples/step_00000004-ema-seed-0"
    assert ours.pop(f"{where}/not_finite.json") == {"samples": [3, 4, 21]}
    kept, finite = (
        samples.kept(out, 4, "ema", 0, (3, 32, 32)).read(),
        samples.kept(done, 4, "ema", 0, (3, 32, 32)).read(),
    )
    rest = [k for k in range(25) if k not in (3, 4, 21)]
    assert kept[[3, 4, 21]].count_nonzero() == 0 and finite.flatten(1).any(1).all()
    assert int((kept[rest].int() - finite[rest].int()).abs().max()) <= 1  # drawn in other batches: to rounding
    assert {name for name, value in ours.items() if theirs[name] != value} <= {
        f"{where}/part_0000{k}.npy" for k in range(3)
    }
    assert ours.keys() == theirs.keys()


def test_which_samples_are_not_finite_is_known_of_what_is_kept_alone(tmp_path):
    """After a kill between the note of a part and the part it is drawn anew, and then it may be finite."""
    kept = Parts(tmp_path / "set", (1, 2, 2), torch.uint8)
    first, second = torch.rand(4, 1, 2, 2), torch.rand(4, 1, 2, 2)
    first[1, 0, 0, 0], second[3, 0, 1, 1] = torch.inf, torch.nan
    samples._keep_not_finite(kept, 0, first)
    assert samples.not_finite(kept) == []
    kept.append(samples.eight_bit(first))
    samples._keep_not_finite(kept, 4, second)
    assert samples.not_finite(kept) == [1]
    samples._keep_not_finite(kept, 4, second.nan_to_num())
    kept.append(samples.eight_bit(second.nan_to_num()))
    assert samples.not_finite(kept) == [1]
    for text in ("{", "[]", "{}", '{"samples": [-1]}', '{"samples": ["x"]}'):
        (tmp_path / "set" / "not_finite.json").write_text(text)
        with pytest.raises(
            CheckpointError, match=r"not_finite\.json does not say .* delete .*set to have them drawn again"
        ):
            samples.not_finite(kept)


def test_another_sampler_takes_the_run_and_does_not_train_again(done, archive, tmp_path, monkeypatch):
    """As the text says where samples are not finite."""
    shutil.copytree(done / "run", tmp_path / "new" / "run")
    monkeypatch.setattr("fastscore.experiment.learner.Learner.iterate", lambda *_: pytest.fail("it trains"))
    run(tiny(archive, sampler_options={"steps_per_level": 1, "step_size": 1e-7}), tmp_path / "new")
    assert len(list((tmp_path / "new" / "measures").iterdir())) >= 2


def test_what_trained_is_given_back_before_anything_is_drawn(archive, tmp_path, monkeypatch):
    """Also where it holds itself, as it does with a graph of its iteration."""
    learners, begin = [], Learner.__init__

    def init(self, *args, **how):
        begin(self, *args, **how)
        self.itself = self
        learners.append(weakref.ref(self))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "__init__", init)
    monkeypatch.setattr(stages, "select", stop)
    gc.disable()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tiny(archive), tmp_path / "out")
        assert [learner() for learner in learners] == [None]
    finally:
        gc.enable()


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


# --- weights, and samples that are not finite ---


def test_a_snapshot_whose_samples_are_not_finite_is_not_chosen(done, archive, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(done, tmp_path / "out")
    for name in ("selection", "measures", "samples"):
        shutil.rmtree(out / name)
    (out / "selection.json").unlink()
    with monkeypatch.context() as patch:
        break_samples(patch, {2: (0,), 4: (0,)}, seed=selection.SEED)
        with pytest.raises(
            NonFiniteSamples, match=r"no snapshot in .* has finite samples; for a smaller --step-size or"
        ):
            run(tiny(archive), out)
    shutil.rmtree(out / "selection")
    break_samples(monkeypatch, {4: (0,)}, seed=selection.SEED)
    with pytest.raises(
        NonFiniteSamples, match=r"no numbers: iteration 4 \(ema\), of few samples to choose by: some\. All"
    ):
        run(tiny(archive), out)
    told = json.loads((out / "selection.json").read_text())
    assert told["chosen"]["step"] == 2 and told["last"]["step"] == 4
    assert [row["frechet_distance"] is None for row in told["rows"]] == [False, True]
    assert {path.name for path in (out / "measures").iterdir()} == {f"step_00000002-ema-seed-{s}.json" for s in (0, 1)}
    assert json.loads((out / "measures" / "step_00000002-ema-seed-0.json").read_text())["roles"] == ["chosen"]
    cli.main(["status", str(out)])
    told = capsys.readouterr().out
    assert "\nstate       done\n" in told and "2 of 2 sets of samples measured" in told
