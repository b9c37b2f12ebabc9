"""What ranks are timed against is the same training, in turns, and the rows say what was measured."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import scaling
from fastscore.experiment.presets import preset

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import contents  # noqa: E402


def test_a_row_leaves_the_first_round_out_and_compares_within_a_round():
    found = {"ranks": [1e9, 20.0, 30.0, 80.0], "threads": [1e-9, 10.0, 30.0, 20.0]}
    row = scaling.row_of(preset("photos"), (3, 32, 32), 7, 2, 5, found)
    assert (row["rounds"], row["batch_size"], row["network"]) == (3, 64, "ncsnv2, ngf 32")
    assert row["ranks_times_threads"] == pytest.approx([1.4, 2, 3.2])  # of 2, 1 and 4
    assert row["count"] == 2
    assert (row["ranks"]["images_per_second"][1], row["threads"]["images_per_second"][1]) == (30, 20)


def test_what_is_timed_are_iterations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(scaling.time, "perf_counter", lambda: now[0])

    class Learner:
        config, seen = preset("digits", batch_size=10), []

        def iterate(self, it):
            self.seen.append(it)
            now[0] += 2

    assert scaling.timed(Learner(), 3, 4) == 10 / 2 and Learner.seen == [3, 4, 5, 6]


def test_ranks_and_threads_are_timed_in_one_launch(tmp_path, monkeypatch, capsys):
    """By torchrun; each trains with the threads that the table says."""
    words = ["scaling.py", "--preset", "toy", "--rounds", "2", "--iterations", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    scaling.main()
    (path,) = tmp_path.glob("*-2-threads-scaling.json")
    results = json.loads(path.read_text())
    row = results["row"]
    assert (row["data"], row["shape"], row["rounds"], row["iterations"]) == ("mixture", [2], 2, 1)
    assert row["parameters"] > 10_000 and results["about"]["threads"] == 2
    low, middle, high = row["ranks_times_threads"]
    assert 0 < low <= middle <= high
    assert path.with_suffix(".md").read_text() == scaling.markdown(row, results["about"])
    assert "| 2 ranks, a thread each |" in capsys.readouterr().out


def test_rounds_take_turns(tmp_path, monkeypatch):
    """One rank alone: the same iterations in the same order, each with its number of threads, and equal weights."""
    seen, timed = [], scaling.timed

    def spied(learner, first, iterations):
        seen.append((first, iterations, torch.get_num_threads(), learner.ranks.count))
        return timed(learner, first, iterations)

    monkeypatch.setattr(scaling, "timed", spied)
    before = torch.get_num_threads()
    scaling.work(preset("toy", width=4, batch_size=4, precision="fp32"), 2, 3, tmp_path / "row.json")
    torch.set_num_threads(before)
    assert [first for first, *_ in seen] == [0, 0, 2, 2, 5, 5] and [n for _, n, *_ in seen] == [2, 2, 3, 3, 3, 3]


def test_the_page_shows_them_or_says_that_there_are_none():
    assert "images a second" in contents.scaling() or "make bench" in contents.scaling()
