"""The report of a reproduction: its numbers, what they may be held against, and what it says of what is missing."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest

from fastscore.experiment import cli
from fastscore.experiment import evaluate as evaluation
from fastscore.experiment.reproduce import report_pictures, report_tables

from ..conftest import optional
from .reproduction import LEAST, SEEDS, Page, column, edit, tables_of, text_of, write, write_out

optional("matplotlib")
optional("PIL.Image")

CHOSEN, LAST = "chosen: iteration 200,000, ema", "last: iteration 300,001, ema"
STAGES = ("data", "timing", "plan", "training", "selection", "measures")


@pytest.fixture
def plain(monkeypatch):
    """Reports without pictures, which take most of the time."""
    monkeypatch.setattr(report_pictures, "draw", lambda facts: ({}, []))


def results_of(out) -> list[list[str]]:
    return tables_of(text_of(out))[1]


# --- numbers ---


def test_results_are_mean_deviation_and_minimum_over_the_seeds_beside_the_published(tmp_path, plain):
    table = results_of(write_out(tmp_path / "out"))
    chosen, last = column(table, CHOSEN), column(table, LAST)
    values = [LEAST[seed] for seed in SEEDS]
    mean = sum(values) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    assert (mean, deviation) == pytest.approx((10.9, 0.2))
    assert [chosen[f"FID, {name}"] for name in ("mean", "standard deviation", "minimum")] == [
        "10.90",
        "0.2000",
        "10.70",
    ]
    assert [last[f"FID, {name}"] for name in ("mean", "standard deviation", "minimum")] == ["12.90", "0.2000", "12.70"]
    assert (chosen["KID, mean"], last["KID, minimum"], chosen["Inception score, mean"]) == (
        "0.003000",
        "0.005000",
        "8.400",
    )
    assert (last["Inception score, mean"], chosen["precision, mean"], chosen["recall, mean"]) == (
        "8.200",
        "0.6500",
        "0.5500",
    )
    first, second = column(table, "NCSN, published: [Song"), column(table, "NCSNv2, published: [Song")
    assert (first["FID, mean"], first["Inception score, mean"]) == ("25.32", "8.870")
    assert (second["FID, mean"], second["Inception score, mean"]) == ("10.87", "8.400")
    assert first["FID, minimum"] == second["KID, mean"] == second["recall, mean"] == "-"
    assert [cell[:7] for cell in table[0]] == ["", "chosen:", "last: i", "NCSN, p", "NCSNv2,"]


def test_each_set_of_samples_has_its_row_and_its_command(tmp_path, plain):
    out = write_out(tmp_path / "out")
    text = text_of(out)
    rows = tables_of(text)[2]
    assert rows[0][:6] == ["snapshot", "of", "sampler", "seed", "samples", "FID"]
    assert [row[3] for row in rows[1:]] == ["0", "1", "2"] * 2 and [row[0] for row in rows[1:]] == ["chosen"] * 3 + [
        "last"
    ] * 3
    assert [row[5] for row in rows[1:4]] == ["10.90", "11.10", "10.70"]
    assert rows[1][6:] == ["0.003000 ± 0.0001", "8.400 ± 0.07", "0.6500", "0.5500", "1,161", "9 h 30 min"]
    for path in sorted((out / "measures").glob("*.json")):
        assert json.loads(path.read_text())["command"] in text


def test_where_the_last_snapshot_is_the_chosen_one_there_is_one_column(tmp_path, plain):
    out = write_out(tmp_path / "out")
    edit(out / "selection.json", chosen={"step": 300_001, "weights": "ema"})
    for path in (out / "measures").glob("step_00200000*"):
        path.unlink()
    table = results_of(out)
    assert table[0][1] == "chosen and last: iteration 300,001, ema, 3 seeds" and table[0][2].startswith(
        "NCSN, published"
    )
    assert "All stages are done." in text_of(out)


def test_the_chosen_weights_come_before_others_of_the_same_iteration(tmp_path, plain):
    out = write_out(tmp_path / "out")
    edit(out / "selection.json", chosen={"step": 300_001, "weights": "raw"})
    for path in (out / "measures").glob("step_00200000*"):
        edit(path, step=300_001, weights="raw")
    tables = tables_of(text_of(out))
    assert [cell.split(",")[2] for cell in tables[1][0][1:3]] == [" raw", " ema"]  # 300,001 has a comma of its own
    assert [row[0] for row in tables[2][1:]] == ["chosen"] * 3 + ["last"] * 3


def test_one_seed_has_no_deviation_and_a_missing_number_no_mean(tmp_path, plain):
    out = write_out(tmp_path / "out")
    for seed in (1, 2):
        (out / "measures" / f"step_00200000-ema-seed-{seed}.json").unlink()
    edit(out / "measures" / "step_00300001-ema-seed-1.json", frechet_distance=math.nan, kernel_distance=None)
    table = results_of(out)
    chosen, last = column(table, f"{CHOSEN}, 1 seed"), column(table, f"{LAST}, 3 seeds")
    assert (chosen["FID, mean"], chosen["FID, standard deviation"], chosen["FID, minimum"]) == ("10.90", "-", "10.90")
    assert {last[f"{measure}, {name}"] for measure in ("FID", "KID") for name in ("mean", "minimum")} == {"-"}
    assert last["Inception score, mean"] == "8.200"


@pytest.mark.parametrize(
    "value, text",
    [
        (10.9, "10.90"),
        (0.00312345, "0.003123"),
        (-0.0004, "-0.0004000"),
        (123.456, "123.5"),
        (999.96, "1,000.0"),
        (12345.67, "12,345.7"),
        (7, "7.000"),
        (0.0, "0.000"),
        (math.nan, "-"),
        (math.inf, "-"),
        (None, "-"),
        (True, "-"),
        ("3", "-"),
        (10**400, "-"),
    ],
)
def test_numbers(value, text):
    assert report_tables.number(value) == text


# --- what they may be held against ---


@pytest.mark.parametrize(
    "file, changes, reason",
    [
        ("data.json", {"checksums": "not checked"}, "the images were not compared with CIFAR-10's published checksums"),
        ("data.json", {"train": {"name": "photos-train", "count": 50_000}}, "the data are photos-train, not CIFAR-10"),
        (
            "data.json",
            {"train": {"name": "cifar10", "count": 40_000, "shape": [3, 32, 32]}},
            "the training images are 40,000 of 3 x 32 x 32, not CIFAR-10's 50,000",
        ),
        ("plan.json", {"config": {"data": "npz"}}, "the data are cifar10 (npz), not CIFAR-10"),
        ("plan.json", {"feature": "pixels"}, "distances are of pixels, not of Inception's features"),
        (
            "plan.json",
            {"request": {"inception_checksum": False}},
            "the weights of Inception were not compared with the published checksum",
        ),
        ("plan.json", {"samples": 5000}, "they are of 5,000 samples, not 50,000, and the distance of fewer is larger"),
    ],
)
def test_published_numbers_stand_beside_comparable_ones_alone(file, changes, reason, tmp_path, plain):
    out = write_out(tmp_path / "out")
    assert "Not comparable" not in text_of(out)
    edit(out / file, **changes)
    for path in (out / "measures").glob("*.json"):
        shared = json.loads(path.read_text()).keys() & changes.keys()
        edit(path, **{name: changes[name] for name in shared})
    text = text_of(out)
    assert f"> **Note.** Not comparable with published numbers: {reason}." in text
    assert len(tables_of(text)[1][0]) == 3 and "25.32" not in text and "10.87" not in text
    assert ("Inception score, mean" in column(tables_of(text)[1], CHOSEN)) == ("feature" not in changes)
    word = "Frechet distance of pixels" if "feature" in changes else "FID"
    assert column(tables_of(text)[1], CHOSEN)[f"{word}, mean"] == "10.90"
    for path in (out / "measures").glob("*.json"):
        path.unlink()
    assert reason in text_of(out)  # as is known from the plan, before days of work


def test_measures_of_other_features_than_the_plan_are_no_part_of_a_mean(tmp_path, plain):
    out = write_out(tmp_path / "out")
    edit(out / "measures" / "step_00200000-ema-seed-1.json", feature="pixels", frechet_distance=900.0)
    text = text_of(out)
    assert column(tables_of(text)[1], f"{CHOSEN}, 2 seeds")["FID, mean"] == "10.80"
    assert "step_00200000-ema-seed-1.json is left out: it is of pixels, where the plan is of inception" in text


# --- snapshots ---


def test_snapshots_are_all_there_with_a_warning_of_the_choice(tmp_path, plain):
    out = write_out(tmp_path / "out")
    text = text_of(out)
    rows = tables_of(text)[3]
    assert [row[:3] for row in rows[1:]] == [
        ["100,000", "ema", ""],
        ["200,000", "ema", "chosen"],
        ["300,001", "ema", "last"],
    ]
    assert rows[2][3:] == ["25,600,000", "1 d 9 h", "42.00", "0.01050 ± 0.0008", "7.580 ± 0.3"]
    assert "Choosing by the distance of 1,000 images is noisy" in text and "biased downward" in text
    assert "those very images" not in text
    for path in (out / "selection").glob("*.json"):
        edit(path, seed=1)
    assert "begin with those very images" in text_of(out)


def test_of_many_snapshots_the_best_are_shown_and_all_can_be(tmp_path, plain):
    steps = (*range(15_000, 300_001, 15_000), 300_001)
    text = text_of(write_out(tmp_path / "out", steps=steps))
    shown, every = tables_of(text)[3:5]
    assert [row[0] for row in shown[1:]] == ["255,000", "270,000", "285,000", "300,000", "300,001"]
    assert [row[0] for row in every[1:]] == [f"{step:,}" for step in steps]
    assert "<details><summary>All 21 snapshots</summary>" in text
    commands = re.findall("(?m)^fastscore evaluate .*--num 1000 .*$", text)
    assert [re.search(r"--checkpoint (\d+)", line)[1] for line in commands] == [str(step) for step in steps]


def test_commands_are_what_the_command_line_takes(tmp_path, plain, monkeypatch):
    out = write_out(tmp_path / "it's a folder", until="selection")
    edit(out / "plan.json", sampler="dpm_sde", sampler_options={"steps": 50, "eta": 0.5, "denoise": False})
    edit(out / "plan.json", inception=None, request={"inception_checksum": False})  # torch hub's file
    assert "--feature inception --no-inception-checksum " in text_of(out)
    edit(out / "plan.json", inception="/x y/w.pth", request={"inception_checksum": False})
    (line,) = re.findall("(?m)^fastscore evaluate .*--checkpoint 200000 .*$", text_of(out))
    asked = {}

    def stop(run, **options):
        asked.update(options, run=run)
        raise SystemExit

    monkeypatch.setattr(evaluation, "evaluate", stop)
    with pytest.raises(SystemExit):
        cli.main(shlex.split(line)[1:])
    wanted = {
        "run": out / "run",
        "iteration": 200_000,
        "weights": "ema",
        "seed": 1000,
        "num": 1000,
        "feature": "inception",
    }
    wanted |= {"inception": Path("/x y/w.pth"), "inception_checksum": False}
    wanted |= {"sampler": "dpm_sde", "steps": 50, "eta": 0.5, "denoise": False}
    assert {name: asked[name] for name in wanted} == wanted and asked["out"].parent == out / "again"


# --- what is not there yet ---


@pytest.mark.parametrize("until, following", [*zip(STAGES, (*STAGES[1:5], "samples and measures", None))])
def test_unfinished_work_says_which_stage_is_next(until, following, tmp_path, plain):
    out = write_out(tmp_path / "out", until=until)
    text = text_of(out)
    stages = {row[0]: row[1] for row in tables_of(text)[0][1:]}
    done = STAGES.index(until) + 1
    assert list(stages.values()) == ["done"] * done + ["open"] * (6 - done)
    assert list(stages)[:5] == list(STAGES[:5]) and list(stages)[5] == "samples and measures"
    assert ("All stages are done." in text) == (following is None)
    assert following is None or f"Next comes the stage: {following}" in text
    assert ("fastscore reproduce cifar10 --data DIR --out out" in text) == (done >= 3)
    Page((out / "report.html").read_text())


def test_an_empty_folder_has_a_report(tmp_path):
    (tmp_path / "out").mkdir()
    assert "Next comes the stage: data." in text_of(tmp_path / "out")


def test_how_far_the_stages_are(tmp_path, plain):
    out = write_out(tmp_path / "out")
    (out / "selection.json").unlink()
    (out / "selection" / "step_00300001-ema.json").unlink()
    (out / "run" / "metrics.jsonl").write_text('{"step": 120000, "loss": 1.0}\n')
    edit(out / "plan.json", iterations=300_001, request={"snapshot_every": 5000})
    for path in (out / "measures").glob("*.json"):
        path.unlink()
    how = {row[0]: row[2] for row in tables_of(text_of(out))[0][1:]}
    assert how["training"] == "120,000 of 300,001 iterations" and how["selection"] == "2 of 61 snapshots measured"
    assert how["samples and measures"] == "0 sets of samples measured"
    again = write_out(tmp_path / "again")
    (again / "measures" / "step_00300001-ema-seed-2.json").unlink()
    (again / "run" / "metrics.jsonl").unlink()  # what was needed may be removed: later stages tell
    stages = tables_of(text_of(again))[0]
    assert stages[4][:2] == ["training", "done"] and stages[6] == [
        "samples and measures",
        "open",
        "5 of 6 sets of samples measured",
    ]


def test_what_is_known_of_machine_times_and_departures(tmp_path, plain):
    out = write_out(tmp_path / "out")
    edit(out / "plan.json", departures=["width 4 in place of 128", "a|b"], hours=12.0)
    text = text_of(out)
    told = {row[0]: row[1] for table in tables_of(text) for row in table if len(row) == 2}
    assert told["versions"] == "fastscore 0.1.0, torch 2.14.1" and (told["threads"], told["ranks"]) == ("16", "2")
    assert told["training, images a second"] == "208.5" and told["training, most memory"] == "5.3 GB"
    assert told["network evaluations, most memory"] == "-" and told["seeds of the samples"] == "0, 1, 2"
    assert told["training, time so far"] == "2 d 2 h" and told["samples and measures, time so far"] == "2 d 9 h"
    assert told["training images"] == "cifar10: 50,000 of 3 x 32 x 32" and told["training images, SHA-256"] == "ab" * 32
    assert ["training", "-", "-", "-", "2 d 3 h"] in tables_of(text)[-1]
    assert ["samples of a seed", "dpm_sde", "51", "50,000", "25 min 12 s"] in tables_of(text)[-1]
    assert [["departures from the recipe"], ["width 4 in place of 128"], ["a\\|b"]] in tables_of(text)
    assert "fitted into 12.00 hours" in text and "names no departure" not in text


# --- what is short of the plan ---


def test_what_to_quote_is_said_first(tmp_path, plain):
    out = write_out(tmp_path / "out")
    first = text_of(out).split("## Results\n\n")[1].split("\n\n")
    assert first[0] == "Chosen snapshot: FID 10.90 ± 0.2 (standard deviation) over 3 seeds."
    assert first[1] == "Last snapshot: FID 12.90 ± 0.2 (standard deviation) over 3 seeds." and first[2].startswith("|")
    for seed in (1, 2):
        (out / "measures" / f"step_00300001-ema-seed-{seed}.json").unlink()
    edit(out / "plan.json", feature="pixels")
    for path in (out / "measures").glob("*.json"):
        edit(path, feature="pixels")
    assert "Last snapshot: Frechet distance of pixels 12.90 over 1 seed." in text_of(out)


def test_departures_stand_beside_the_published_numbers(tmp_path, plain):
    out = write_out(tmp_path / "out")
    assert "by the recipe: " not in text_of(out)
    edit(out / "plan.json", departures=["width 64 in place of 128"])
    text = text_of(out)
    assert "but not made by the recipe: width 64 in place of 128." in text and "25.32" in text


def test_samples_that_are_not_finite_have_no_numbers_and_no_mean(tmp_path, plain):
    out = write_out(tmp_path / "out")
    none = dict.fromkeys(("frechet_distance", "kernel_distance", "inception_score", "precision", "recall"))
    edit(out / "measures" / "step_00300001-ema-seed-1.json", **none, not_finite=1234)
    text = text_of(out)
    assert "without numbers: iteration 300,001, ema, seed 1: 1,234 of 50,000 samples. A snapshot has no mean" in text
    assert f"copy `{out}/run` to NEW/run and reproduce with --out NEW." in text
    stages, results, seeds, *_ = tables_of(text)
    assert stages[-1] == ["samples and measures", "done", "6 of 6 sets of samples measured, 1 without numbers"]
    assert column(results, LAST)["FID, mean"] == "-" and column(results, CHOSEN)["FID, mean"] == "10.90"
    assert seeds[5][4:10] == ["50,000, 1,234 not finite", *["-"] * 5] and seeds[4][5] == "12.90"
    assert "Last snapshot: FID" not in text
    edit(out / "plan.json", hours=12.0)  # by which another folder might be given other iterations
    assert "with --out NEW and --iterations 300001 in place of --hours." in text_of(out)
    edit(out / "selection" / "step_00300001-ema.json", frechet_distance=None)
    assert "iteration 300,001, ema: some of the samples that snapshots are chosen by, so that no more" in text_of(out)


def test_seeds_that_were_left_out_and_the_time_that_was_spent(tmp_path, plain, capsys):
    out = write_out(tmp_path / "out")
    assert "All stages are done." in text_of(out)
    for path in (out / "measures").glob("*-seed-2.json"):
        path.unlink()
    edit(out / "plan.json", hours=12.0, request={"seeds": 5})
    left = {"seeds": [2], "seconds": 1000.0, "command": "fastscore reproduce cifar10 --hours 15"}
    write(out / "clock.json", {"seconds": {"training": 30_000, "samples": 13_000.5}, "left_out": left})
    text = text_of(out)
    assert "Done, but for seed 2, for which there was no time in --hours 12.00. More hours add them:" in text
    assert "```sh\nfastscore reproduce cifar10 --hours 15\n```" in text and "All stages are done." not in text
    tables = tables_of(text)
    assert tables[0][-1] == ["samples and measures", "done", "4 of 4 sets of samples measured; no time for seed 2"]
    told = {row[0]: row[1] for table in tables for row in table if len(row) == 2}
    assert told["all, time so far, over all calls"] == "11 h 56 min of 12 h"
    assert "Of 5 seeds 3 fit: the same command with a larger --hours adds others, and no iterations." in text
    cli.main(["status", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert "time        11 h 56 min spent of 12 hours" in lines
    assert "more seeds  fastscore reproduce cifar10 --hours 15" in lines
