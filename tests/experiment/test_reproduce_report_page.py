"""The report of a reproduction: its pictures and its form, and files that it did not write."""

from __future__ import annotations

import base64
import errno
import json
import math
import pickle
import random
import re
import sys

import numpy as np
import pytest

from fastscore._core.errors import CannotWrite
from fastscore.experiment.reproduce import report_facts, report_page, report_pictures
from fastscore.experiment.reproduce.report import write_report

from ..conftest import optional
from .reproduction import Page, column, edit, tables_of, text_of, write_out

optional("matplotlib")
optional("PIL.Image")

CHOSEN = "chosen: iteration 200,000, ema"


@pytest.fixture
def plain(monkeypatch):
    """Reports without pictures, which take most of the time."""
    monkeypatch.setattr(report_pictures, "draw", lambda facts: ({}, []))


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
