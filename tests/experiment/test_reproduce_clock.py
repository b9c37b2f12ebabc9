"""``fastscore reproduce --hours``: the seconds that are really spent, and the seeds for which there is no time."""

import json
import re
import shlex
import shutil
import time
from pathlib import Path

import pytest

from fastscore._core.errors import CheckpointError
from fastscore.experiment import cli
from fastscore.experiment import sample as sampling
from fastscore.experiment.ranks import ALONE
from fastscore.experiment.reproduce import clock as clocks
from fastscore.experiment.reproduce import measures, selection, stages
from fastscore.experiment.reproduce.clock import SAMPLES, TRAINING, Clock, hours_for, watching
from fastscore.experiment.reproduce.plan import Plan

from .tiny_reproduction import hasten, run, tiny, write_archive


class Time:
    """In place of the module ``time``: it passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def passing(monkeypatch) -> Time:
    passing = Time()
    monkeypatch.setattr(clocks, "time", passing)
    return passing


# --- seconds ---


def test_seconds_are_counted_by_stage_over_all_calls(tmp_path, passing):
    for call in (1, 2):
        with Clock(tmp_path, 1.0, ALONE) as clock:
            passing.now += 1
            clock.at(TRAINING)
            passing.now += 10
            clock.at(SAMPLES)
            passing.now += 100
            assert (clock.seconds(), clock.seconds(SAMPLES)) == (111 * call, 100 * call)
    passing.now += 5000  # nobody is at it
    with Clock(tmp_path, 1.0, ALONE) as clock:
        passing.now += 1
        assert clock.seconds() == 222 and clock.has_time(3600 - 222) and not clock.has_time(3600 - 221)
    kept = {"seconds": {"before": 2.0, "training": 20.0, "samples": 200.0}}
    assert json.loads((tmp_path / "clock.json").read_text()) == kept  # nothing was done


def test_no_hours_have_time_for_everything(tmp_path):
    with Clock(tmp_path, None, ALONE) as clock:
        assert clock.has_time(1e300) and clock.late(1e300) is None


def test_a_kill_loses_a_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(clocks, "_MINUTE", 0.01)
    with Clock(tmp_path, 1.0, ALONE) as clock:
        clock.at(TRAINING)
        end = time.monotonic() + 10
        while not (tmp_path / "clock.json").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert json.loads((tmp_path / "clock.json").read_text())["seconds"].keys() == {"before", "training"}


@pytest.mark.parametrize(
    "text", ["[", '{"seconds": 3}', '{"seconds": {"training": -1}}', '{"seconds": {"training": "1"}}']
)
def test_a_damaged_clock_is_named(tmp_path, text):
    (tmp_path / "clock.json").write_text(text)
    with (
        pytest.raises(CheckpointError, match=r"clock\.json .*put it back as it was, or delete it"),
        Clock(tmp_path, 1.0, ALONE),
    ):
        pass


# --- a pace that is slower than planned ---


def test_training_that_will_not_end_in_time_is_told_of_once_and_again_where_it_gets_worse(tmp_path, passing):
    """An hour for 1,000 iterations and 600 s after them."""
    said: list[str] = []
    with Clock(tmp_path, 1.0, ALONE) as clock:
        clock.at(TRAINING)
        watch = watching(clock, 1000, 600.0, said.append)
        lines = [
            (10, 500, 0),  # things warm up
            (110, 200, 0),  # 2 s an iteration: 700 + 890 x 2 + 600 = 3,080
            (210, 400, 1),  # 3 s: 1,100 + 790 x 3 + 600 = 4,070
            (310, 300, 1),  # 3 s
            (410, 600, 2),  # 3.75 s: 2,000 + 590 x 3.75 + 600 = 4,812
        ]
        for step, seconds, count in lines:
            passing.now += seconds
            watch({"step": step})
            assert len(said) == count, step
    for text, hours in zip(said, ("1.13", "1.34"), strict=True):
        assert text.startswith("slower than planned: ") and f"end after about {hours} hours, not 1. None" in text


def test_hours_that_are_told():
    assert [hours_for(s) for s in (10, 3600, 45_000, 1_000_000)] == [0.003, 1.1, 14.0, 300.0]
    assert all(1.05 * s / 3600 <= hours_for(s) < 1.17 * s / 3600 for s in range(1, 100_000, 997))


# --- seeds ---


@pytest.fixture(autouse=True)
def hastened(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return write_archive(tmp_path_factory.mktemp("data") / "tiny.npz")


def timed(archive: Path, hours: float, **changes):
    return tiny(archive, iterations=None, hours=hours, **changes)


@pytest.fixture(scope="module")
def chosen(archive, tmp_path_factory) -> Path:
    """An hour for 4 iterations and 2 seeds of 3; a snapshot is chosen."""
    out = tmp_path_factory.mktemp("chosen") / "out"
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        patch.setattr(stages, "fit", lambda *_: (4, 2))
        patch.setattr(stages, "measure", lambda *_: iter(()))
        run(timed(archive, 1.0, seeds=3), out)
    (out / "clock.json").unlink()
    return out


@pytest.fixture
def slow(monkeypatch, passing):
    """The samples of a seed take 2,000 s."""
    measured, roles = measures._measured, measures._roles

    def slowly(plan, out, *arguments):
        passing.now += 2000 / len(roles(json.loads((out / "selection.json").read_text())))
        return measured(plan, out, *arguments)

    monkeypatch.setattr(measures, "_measured", slowly)


def seeds_of(out: Path) -> set[str]:
    return {path.stem[-1] for path in (out / "measures").glob("*.json")}


def test_a_seed_for_which_there_is_no_time_is_left_out_and_added_with_more_hours(
    chosen, archive, tmp_path, monkeypatch, slow
):
    out = shutil.copytree(chosen, tmp_path / "out")
    said = run(timed(archive, 1.0, seeds=3), out)  # 2,000 s, and 4,000 with the second seed
    assert seeds_of(out) == {"0"}
    left = json.loads((out / "clock.json").read_text())["left_out"]
    assert left["seeds"] == [1] and left["seconds"] == 2000
    assert said[-1] == f"left out for want of time: seed 1; go on with: {left['command']}"
    (more,) = re.findall("--hours ([0-9.]+)", left["command"])
    assert float(more) == hours_for(4000) == 1.2
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "draw", lambda *_, **__: pytest.fail("it is drawn"))
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
        assert run(timed(archive, 1.0, seeds=3), out)[-1] == said[-1]
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before
        for hours, words in ((0.9, "hours .was 1.0, now 0.9."), (None, "hours .was 1.0, now None.")):
            with pytest.raises(
                CheckpointError, match=f"{words}; where it was begun with hours, more of them add seeds; go"
            ):
                run(timed(archive, hours, seeds=3), out)
    asked = []
    monkeypatch.setattr(stages, "reproduce", lambda request, out, **how: asked.append((request, out)) or [])
    cli.main(shlex.split(left["command"])[1:])  # as it says
    monkeypatch.undo()
    assert asked == [(timed(archive, 1.2, seeds=3), out)]


def test_more_hours_add_seeds_and_no_iterations(chosen, archive, tmp_path, monkeypatch, slow):
    """Those that the first plan had no time for too: 3 seeds of 2,000 s are 6,000, of 1.6 hours 5,760."""
    out = shutil.copytree(chosen, tmp_path / "out")
    said = run(timed(archive, 1.6, seeds=3), out)
    assert "0 s of 1.6 hours are spent; it stays at 4 iterations" in said
    assert seeds_of(out) == {"0", "1"} and said[-1].startswith("left out for want of time: seed 2; go on with: ")
    with monkeypatch.context() as patch:
        patch.setattr(measures, "_measured", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(timed(archive, 1.7, seeds=3), out)
    assert "left_out" not in json.loads((out / "clock.json").read_text())  # it is at them
    said = run(timed(archive, 1.7, seeds=3), out)
    assert seeds_of(out) == {"0", "1", "2"} and not any("left out" in text for text in said)
    assert "left_out" not in json.loads((out / "clock.json").read_text())
    plan = json.loads((out / "plan.json").read_text())
    assert (plan["hours"], plan["seeds"], plan["iterations"]) == (1.7, [0, 1, 2], 4)


def test_the_first_seed_is_drawn_whatever_the_clock_says_and_a_begun_one_needs_what_is_left_of_it(
    chosen, archive, tmp_path, slow
):
    out = shutil.copytree(chosen, tmp_path / "out")
    (out / "clock.json").write_text('{"seconds": {"training": 3601}}')
    run(timed(archive, 1.0, seeds=3), out)
    assert seeds_of(out) == {"0"}
    selection = json.loads((out / "selection.json").read_text())
    for step, weights in measures._roles(selection):  # 20 of 25 samples are there already
        where = out / "samples" / f"step_{step:08d}-{weights}-seed-1"
        shutil.copytree(where.with_name(where.name.replace("seed-1", "seed-0")), where)
        (where / "part_00002.npy").unlink()
    # 1.8 seeds took 3,600 s: a fifth of one takes 400
    for before, seeds in ((5760 - 3999, {"0"}), (5760 - 4001, {"0", "1"})):
        (out / "clock.json").write_text(json.dumps({"seconds": {"training": before, "samples": 3600}}))
        run(timed(archive, 1.6, seeds=3), out)
        assert seeds_of(out) == seeds


def test_another_sampler_is_told_the_iterations_that_hours_chose(chosen):
    """In a new folder the hours might choose others, which the run has not."""
    plan = Plan.from_json(json.loads((chosen / "plan.json").read_text()), chosen)
    assert "reproduce with --out NEW and --iterations 4 in place of --hours" in selection.another_sampler(plan, chosen)
