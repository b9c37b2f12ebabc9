"""The report of a reproduction: its numbers, what they may be held against, and what it says of what is missing."""

from __future__ import annotations

import base64
import errno
import html.parser
import json
import math
import pickle
import random
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from fastscore._core.errors import CannotWrite
from fastscore.experiment import cli
from fastscore.experiment import evaluate as evaluation
from fastscore.experiment.reproduce import report_facts, report_page, report_pictures, report_tables
from fastscore.experiment.reproduce.report import write_report

from ..conftest import optional
from .reproduction import LEAST, SEEDS, edit, write_out

optional("matplotlib")
optional("PIL.Image")

CHOSEN, LAST = "chosen: iteration 200,000, ema", "last: iteration 300,001, ema"
STAGES = ("data", "timing", "plan", "training", "selection", "measures")
VOID = ("meta", "img", "br")


@pytest.fixture
def plain(monkeypatch):
    """Reports without pictures, which take most of the time."""
    monkeypatch.setattr(report_pictures, "draw", lambda facts: ({}, []))


def text_of(out) -> str:
    return write_report(out)[0].read_text()


def tables_of(text: str) -> list[list[list[str]]]:
    """The tables of a page in Markdown: rows of cells, the rule left out."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[-1] += [] if set("".join(cells)) <= set("-:") and cells[0] else [cells]
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def column(table: list[list[str]], head: str) -> dict[str, str]:
    """The cells of a column by the first cell of their row."""
    (place,) = [i for i, cell in enumerate(table[0]) if cell.startswith(head)]
    return {row[0]: row[place] for row in table[1:]}


def results_of(out) -> list[list[str]]:
    return tables_of(text_of(out))[1]


class Page(html.parser.HTMLParser):
    """The text of an HTML page, its tags and attributes; tags that do not match are an error."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.words, self.links = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [(name, value) for name, value in attrs if name in ("src", "href", "style") or name[:2] == "on"]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


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


# --- pictures and form ---


def test_the_page_holds_its_pictures_and_needs_nothing_else(tmp_path):
    out = write_out(tmp_path / "out", model="ncsn")
    written = write_report(out)
    names = [str(path.relative_to(out)) for path in written]
    pictures = ["chosen", "last", "snapshots", "training"]
    assert names == ["report.md", "report.html", *(f"report/{name}.png" for name in pictures)]
    page = Page(written[1].read_text())
    sources = [value for name, value in page.links if name == "src"]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == [
        (out / "report" / f"{name}.png").read_bytes() for name in pictures
    ]
    assert {value for name, value in page.links if name == "href"} == {
        "https://arxiv.org/abs/1907.05600",
        "https://arxiv.org/abs/2006.09011",
    }
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags) and len(page.links) == 6
    assert re.findall(r"!\[.*?\]\((.*?)\)", written[0].read_text()) == names[2:]
    assert sorted(path.name for path in out.iterdir() if "report" in path.name) == [
        "report",
        "report.html",
        "report.md",
    ]
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_report(out)] == before  # the same folder, the same bytes


def test_samples_are_the_first_hundred_of_the_first_seed(tmp_path, monkeypatch):
    out, seen = write_out(tmp_path / "out", model="ncsn"), {}
    (out / "run" / "metrics.jsonl").unlink()
    monkeypatch.setattr(report_pictures, "save_grid", lambda images, path: seen.update({path.stem: images}) or path)
    pictures, faults = report_pictures.draw(report_facts.read(out))
    assert faults == [] and pictures["chosen"].says.startswith("The first 100 samples of seed 0 of the chosen snapshot")
    part = np.load(out / "samples" / "step_00200000-ema-seed-0" / "part_00000.npy")
    assert np.array_equal(seen["chosen"].mul(255).round().byte().numpy(), part[:100])
    (out / "samples" / "step_00200000-ema-seed-0" / "part_00000.npy").unlink()
    (out / "samples" / "step_00300001-ema-seed-0").rename(out / "samples" / "gone")
    pictures, _ = report_pictures.draw(report_facts.read(out))
    assert "of seed 1 of" in pictures["last"].says
    before = write_out(tmp_path / "before", model="ncsn", until="selection")
    pictures, _ = report_pictures.draw(report_facts.read(before))
    assert pictures["chosen"].file == before / "selection" / "step_00200000-ema.png"
    assert pictures["chosen"].name == "selection/step_00200000-ema.png"


def test_without_matplotlib_and_pillow_the_report_says_what_to_install(tmp_path, monkeypatch):
    out = write_out(tmp_path / "out")
    for name in ("matplotlib.figure", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    text = text_of(out)
    assert (
        not (out / "report").exists()
        and "![" not in text
        and column(tables_of(text)[1], CHOSEN)["FID, mean"] == "10.90"
    )
    assert "needs the package 'matplotlib'" in text and "pip install 'fastscore-torch[train]'" in text
    assert text.count("needs the package 'PIL'") == 1


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_report(tmp_path, monkeypatch):
    out = write_out(tmp_path / "out", model="ncsn")
    before = [path.read_bytes() for path in write_report(out)]

    def full(self, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    edit(out / "plan.json", hours=3.0)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(CannotWrite, match=r"chosen\.png cannot be written: No space left"):
            write_report(out)
    assert [path.read_bytes() for path in (out / "report.md", out / "report.html")] == before[:2]


# --- what was not written by us ---


def test_odd_names_are_shown_and_do_nothing(tmp_path, plain):
    odd = "a|b <script>alert(1)</script> `c` **d** [e](f) _g_ & \n\"h'"
    out = write_out(tmp_path / "x' <i>|y")
    edit(out / "data.json", train={"name": odd, "count": 3}, source=odd)
    edit(out / "timing.json", device=odd, rows=[{"what": odd, "hours": math.nan}])
    edit(out / "plan.json", departures=[odd], command=f"fastscore {odd}", hours=None)
    text = text_of(out)
    for table in tables_of(text):
        assert len({len(row) for row in table}) == 1
    assert "<script>" not in text.replace(f"fastscore {odd}", "") and "&lt;script&gt;" in text
    assert r"a\|b &lt;script&gt;alert(1)&lt;/script&gt; \`c\` \*\*d\*\* \[e\](f) \_g\_ &amp; " in text
    page = Page((out / "report.html").read_text())
    assert "script" not in page.tags and "i" not in page.tags and odd in page.words


def test_markdown_means_what_html_says(tmp_path):
    markdown_it = optional("markdown_it")
    out = write_out(tmp_path / "x `|` y", model="ncsn")
    write_report(out)
    rendered = (
        markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render((out / "report.md").read_text())
    )
    ours, theirs = Page((out / "report.html").read_text()), Page(rendered)
    for tag in ("table", "tr", "td", "th", "h1", "h2", "img", "pre", "details"):
        assert ours.tags.count(tag) == theirs.tags.count(tag), tag


@pytest.mark.parametrize(
    "text, shown",
    [("a `b` c", "`` a `b` c ``"), ("x|y", r"`x\|y`"), ("a\nb", "`a b`")],
)
def test_code_in_a_table(text, shown):
    table = report_page.Table(("",), ((report_page.Code(text),),))
    assert report_page.markdown([table]).splitlines()[-1] == f"| {shown} |"


def test_a_command_that_holds_a_fence_stays_inside_its_own():
    assert report_page.markdown([report_page.Commands(("a\n```\nb",))]) == "````sh\na\n```\nb\n````\n"


def test_damaged_files_are_named_and_nothing_of_them_is_run(tmp_path):
    out = write_out(tmp_path / "out", model="ncsn")
    (out / "timing.json").write_text('{"device": ')
    (out / "data.json").write_text("[1]")
    (out / "measures" / "step_00200000-ema-seed-0.json").write_text('{"step": "x"}')
    edit(out / "measures" / "step_00200000-ema-seed-1.json", weights="../../x")
    part = out / "samples" / "step_00300001-ema-seed-0" / "part_00000.npy"
    np.save(part, np.array([Burglar(tmp_path / "broken-in")], object), allow_pickle=True)
    (out / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "loss_per_sigma": [1.0]}\n')
    text = text_of(out)
    assert not (tmp_path / "broken-in").exists()
    assert (
        "timing.json cannot be read (" in text
        and "data.json cannot be read (it must hold a JSON object, got list)" in text
    )
    assert text.count("it does not say of which iteration, weights and seed it is") == 2
    assert "the picture last.png: " in text and "the picture training.png: sigmas must be as many" in text
    assert column(tables_of(text)[1], f"{CHOSEN}, 1 seed")["FID, mean"] == "10.70"


class Burglar:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_the_burglar_would_have(tmp_path):
    pickle.loads(pickle.dumps(Burglar(tmp_path / "broken-in")))
    assert (tmp_path / "broken-in").exists()


def test_values_of_any_kind_make_a_report(tmp_path, plain):
    """Each value of each JSON file in turn is something else: the report is made all the same."""
    out, draw = write_out(tmp_path / "out"), random.Random(0)
    odd = [None, math.nan, -1, 10**400, "", "<b>", [], [[]], {}, {"mean": "x"}, True]
    paths = [out / f"{name}.json" for name in ("plan", "data", "timing", "selection")]
    paths += [out / "selection" / "step_00200000-ema.json", out / "measures" / "step_00200000-ema-seed-0.json"]
    for path in paths:
        good = path.read_text()
        for place in places(json.loads(good)):
            values = json.loads(good)
            inner = values
            for name in place[:-1]:
                inner = inner[name]
            inner[place[-1]] = draw.choice(odd)
            path.write_text(json.dumps(values))
            try:
                write_report(out)
            except Exception as error:
                raise AssertionError(f"{path.name}, {place}: {inner[place[-1]]!r:.30}") from error
        path.write_text(good)


def places(value, here=()):
    """The places of all values in a JSON object, but of the config's, which is a plan's one part."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*here, name)
        if name != "config":
            yield from places(inner, (*here, name))
