"""fastscore compare-samplers: its numbers are those of evaluate, and a comparison that was stopped goes on."""

import contextlib
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fastscore._core.errors import FastscoreError, MissingDependency, NonFiniteSamples
from fastscore.evaluation import features
from fastscore.experiment import checkpoint, cli
from fastscore.experiment.compare import CELLS, SEARCH_SEED, comparison
from fastscore.experiment.compare import report as reports
from fastscore.experiment.compare.cells import COMMON, Cells
from fastscore.experiment.compare.search import Asked, search
from fastscore.experiment.evaluate import evaluate, evaluations_of
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import TrainedRun, load_run, sample, with_sampling
from fastscore.experiment.train import Trainer
from fastscore.samplers import RECIPE, SAMPLERS

TINY = {"iterations": 2, "width": 4, "batch_size": 4, "num_levels": 4, "steps_per_level": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "digits"
    Trainer(preset("digits", **TINY), folder).train(progress=False)
    return folder


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "toy"
    Trainer(preset("toy", **TINY), folder).train(progress=False)
    return folder


def compared(run, out, **options):
    options = {"samplers": ["dpm"], "budgets": [3], "seeds": 2, "samples": 20, "progress": False} | options
    return comparison.compare(run, out=out, **options)


def steady(report):
    """A report without what differs from run to run."""
    return {
        "rows": report["rows"],
        "cells": [{name: value for name, value in cell.items() if name != "seconds"} for cell in report["cells"]],
    }


def cell_of(report, seed, **options):
    """The cell of that seed and those options."""
    (cell,) = [c for c in report["cells"] if c["seed"] == seed and options.items() <= c["options"].items()]
    return cell


def test_numbers_of_images_are_those_of_evaluate(images, tmp_path):
    report = compared(images, tmp_path / "a")
    cell, want = (
        cell_of(report, 1, steps=3),
        evaluate(images, num=20, seed=1, sampler="dpm", steps=3, out=tmp_path / "b", progress=False),
    )
    assert cell["frechet_distance"] == want["frechet_distance"]["samples_to_heldout"]
    assert (cell["precision"], cell["recall"]) == (want["precision"], want["recall"])
    assert cell["evaluations"] == want["network_evaluations_per_sample"] == 3 and cell["seconds"] > 0
    ideal = report["settings"]["training_data"]
    assert ideal["frechet_distance"] == want["frechet_distance"]["train_to_heldout"]
    assert (ideal["precision"], ideal["recall"]) == (want["precision_of_train"], want["recall_of_train"])
    assert json.loads((tmp_path / "a" / CELLS).read_text()) == report


def test_numbers_of_points_are_those_of_evaluate(points, tmp_path):
    """A network that knows sigma: more steps than it has levels, and no word of blending."""
    report = compared(points, tmp_path / "a", budgets=[7])
    cell = cell_of(report, 1, steps=7, interpolate=False)
    want = evaluate(points, num=20, seed=1, sampler="dpm", steps=7, out=tmp_path / "b", progress=False)
    for name in ("energy_distance", "p_value", "precision", "recall"):
        assert cell[name] == want[name], name
    assert cell["frechet_distance"] == want["frechet_distance"]["samples_to_data"]
    assert cell["weight_error"] == pytest.approx(abs(want["mode_weights"]["dpm"][0] - 0.2), abs=1e-6)
    assert next(iter(reports.measured(cell))) == "energy_distance"


def test_a_run_on_a_path_of_continuous_t(tmp_path):
    """More points than it has levels; of samplers that need levels, those that the path's stand for."""
    config = preset("toy", data="two_moons", path="vp_linear", objective="csm", **TINY)
    Trainer(config, tmp_path / "run").train(progress=False)
    report = compared(tmp_path / "run", tmp_path, samplers=["dpm", "ode"], budgets=[9], seeds=1)
    assert {c["sampler"]: (c["evaluations"], c["options"]["steps"]) for c in report["cells"]} == {
        "dpm": (9, 9),
        "ode": (9, 3),
    }
    want = evaluate(tmp_path / "run", num=20, sampler="ode", steps=3, out=tmp_path / "b", progress=False)
    assert report["cells"][1]["energy_distance"] == want["energy_distance"]
    with pytest.raises(ValueError, match="consistent"):
        compared(tmp_path / "run", tmp_path, samplers=["consistent"], budgets=[9], seeds=1)


def test_a_comparison_that_was_stopped_goes_on(images, tmp_path, monkeypatch):
    """At any cell; nothing is drawn twice, and the end is that of one that was not stopped."""
    drawn, real = [], comparison.batches
    options = {"samplers": [RECIPE, "dpm"], "budgets": [2, 9]}

    def counted(trained, num, *, seed, **how):
        if len(drawn) == stop_at:
            raise KeyboardInterrupt
        drawn.append((trained.sampler, tuple(trained.options.items()), seed))
        return real(trained, num, seed=seed, **how)

    stop_at = None
    monkeypatch.setattr(comparison, "batches", counted)
    whole = compared(images, tmp_path / "whole", **options)
    want, drawn = drawn[:], []
    assert len(set(want)) == len(want) == len(whole["cells"])
    for stop_at in (1, len(want) - 1):
        with pytest.raises(KeyboardInterrupt):
            compared(images, tmp_path / "a", **options)
        assert len(json.loads((tmp_path / "a" / CELLS).read_text())["cells"]) == stop_at
    stop_at = None
    assert steady(compared(images, tmp_path / "a", **options)) == steady(whole) and drawn == want
    tables = [(tmp_path / name / reports.TABLE).read_text().splitlines() for name in ("a", "whole")]
    without_seconds = [[line.rsplit("|", 2)[0] for line in table[:5]] for table in tables]
    assert without_seconds[0] == without_seconds[1]
    drawn.clear()
    compared(images, tmp_path / "a", **options, seeds=3)  # and one seed more is added
    assert {seed for _, _, seed in drawn} == {2} and len(drawn) == len(whole["rows"])


def test_what_is_searched_is_chosen_on_a_seed_that_is_not_reported(images, tmp_path):
    report = compared(images, tmp_path, samplers=[RECIPE, "pc"], budgets=[9])
    for name in (RECIPE, "pc"):
        tried = [c for c in report["cells"] if c["sampler"] == name and c["seed"] == SEARCH_SEED]
        (row,) = [row for row in report["rows"] if (row["sampler"], row["budget"]) == (name, 9)]
        best = min(tried, key=lambda cell: cell["frechet_distance"])
        assert best["options"] == row["options"] and len(tried) > 4
        assert all(cell["evaluations"] <= 9 for cell in tried)
    own = next(row for row in report["rows"] if row["budget"] is None)
    trained = with_sampling(load_run(images, device="cpu"), sampler=RECIPE)
    assert own["options"] == trained.options  # as trained, and not searched
    rows = reports.rows_of(report)
    assert {row.seeds for row in rows} == {2}  # the search's is no third
    mean = sum(cell_of(report, seed, **rows[0].options)["frechet_distance"] for seed in (0, 1)) / 2
    assert rows[0].distance == pytest.approx(mean)


def test_search_finds_the_least_cost_and_asks_once_more_for_none(images):
    """Of a cost whose best grid depends on the step size, from a start that is far away."""
    ready, asked = with_sampling(load_run(images, device="cpu"), sampler=RECIPE), []

    def cost(trained):
        asked.append(trained.options)
        steps = trained.options["steps_per_level"]
        return abs(math.log(trained.options["step_size"] * steps / 0.02)) + abs(steps - 2)

    grids = [{"levels": 0, "steps_per_level": 1}, {"levels": 2, "steps_per_level": 2}]
    best = search(ready, grids, cost)
    assert best.options["steps_per_level"] == best.options["levels"] == 2
    assert abs(math.log(best.options["step_size"] / 0.01)) <= math.log(2) / 4 + 0.01
    asked.clear()
    lone = search(with_sampling(ready, sampler="dpm"), [{"steps": 3}], cost)
    assert lone.options["steps"] == 3 and not asked  # nothing to choose
    assert search(ready, grids, lambda trained: math.inf).options["steps_per_level"] == 1


class Labels(nn.Module):
    """A network of labels whose embeddings nothing blends."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 4)

    def forward(self, x, labels):
        return -x


def test_what_a_network_can_be_asked(images):
    ncsn, labels = (with_sampling(load_run(images, device="cpu"), sampler="ode") for _ in range(2))
    labels = dataclasses.replace(labels, network=Labels())
    assert Asked(ncsn).grids(9) == [{"steps": 3, "interpolate": True}]
    assert Asked(labels).grids(9) == []
    assert "between the noise levels, where this run's network cannot be asked" in Asked(labels).refusal([9])
    for trained, within, beyond in (
        (ncsn, [{"steps": 4}], [{"steps": 9, "interpolate": True}]),
        (labels,) + 2 * ([{"steps": 4}],),
    ):
        trained = with_sampling(trained, sampler="dpm")
        assert Asked(trained).grids(5) == within and Asked(trained).grids(9) == beyond
    lone = dataclasses.replace(SAMPLERS["dpm"], name="lone", grids=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMPLERS, "lone", lone)
        trained = with_sampling(ncsn, sampler="lone")
        assert Asked(trained).grids(4) == [{}] and Asked(trained).grids(3) == []


def test_samplers_that_do_not_fit(images, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^samplers must leave out 'pc', .*: it needs more evaluations than 3"):
        compared(images, tmp_path, samplers=["pc", "dpm"])
    monkeypatch.setattr(TrainedRun, "score_fn", Labels())
    with pytest.raises(ValueError, match=r"^samplers must leave out 'ode', .*between the noise levels"):
        compared(images, tmp_path, samplers=["ode"])
    with pytest.warns(UserWarning, match="^samplers leaves out '(ode|pc|annealed|consistent)'"):
        report = compared(images, tmp_path, samplers=None, budgets=[1], seeds=1)
    names = {row["sampler"] for row in report["rows"]}
    assert names == {RECIPE, "dpm", "dpm_sde", "ddim", "ancestral", "reverse_sde", "heun"}


def test_a_sampler_whose_samples_decide_is_given_a_tolerance(points, tmp_path):
    """The one of least distance among those that take no more than the budget, as they were counted."""
    with pytest.raises(ValueError, match=r"^budgets must hold a larger number: these samplers take at least \d+"):
        compared(points, tmp_path, samplers=["gotta_go_fast"], budgets=[2])
    with pytest.warns(UserWarning, match="^gotta_go_fast takes more than 2 evaluations at any tolerance"):
        report = compared(points, tmp_path, samplers=["gotta_go_fast"], budgets=[2, 100])
    (row,) = report["rows"]
    tried = [cell for cell in report["cells"] if cell["seed"] == SEARCH_SEED]
    counts = [cell["evaluations"] for cell in tried]
    assert counts == sorted(counts) and counts[-2] <= 100 < counts[-1]
    best = min(tried[:-1], key=lambda cell: cell["energy_distance"])
    assert f"| rtol {best['options']['rtol']:.3g} " in reports.table(report)
    assert row["budget"] == 100 and row["options"] == best["options"]
    network = load_run(points, device="cpu")
    with evaluations_of(network.score_fn) as made:
        sample(network, 20, sampler="gotta_go_fast", rtol=best["options"]["rtol"], seed=SEARCH_SEED, progress=False)
    assert best["evaluations"] == pytest.approx(sum(made) / 20, abs=0.05)


def test_a_package_that_is_not_there(points, tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLERS, "ddim", dataclasses.replace(SAMPLERS["ddim"], needs=("no_such_package", "ode")))
    with pytest.raises(MissingDependency, match="no_such_package"):
        compared(points, tmp_path, samplers=["ddim"])
    others = {name: entry for name, entry in SAMPLERS.items() if name in ("dpm", "ddim")}
    monkeypatch.setattr(comparison, "SAMPLERS", others)
    with pytest.warns(UserWarning, match="^samplers leaves out 'ddim': .*no_such_package"):
        assert [row["sampler"] for row in compared(points, tmp_path, samplers=None)["rows"]] == ["dpm"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"samplers": ["ddim", "dpmm"]}, "samplers must be one of 'annealed'"),
        ({"samplers": []}, "samplers must name at least one of annealed"),
        ({"budgets": [3, 0]}, "budgets must be from 1 to 10000000, got 0"),
        ({"budgets": []}, "budgets must hold at least one number of evaluations"),
        ({"samples": 19}, "samples must be at least 20, got 19"),
        ({"samples": 10**30}, "samples must be smaller: with 1000"),
        ({"budgets": [10**30]}, "budgets must be from 1 to 10000000, got 1000"),
        ({"seeds": 0}, "seeds must be from 1 to 1000000, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"feature": "edges"}, "feature must be one of"),
    ],
)
def test_bad_input_is_named_before_anything_is_drawn(images, tmp_path, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        compared(images, tmp_path / "a", **options)
    assert not (tmp_path / "a" / CELLS).exists()


def test_other_settings_and_damaged_files_are_not_replaced(images, tmp_path):
    compared(images, tmp_path)
    before = (tmp_path / CELLS).read_bytes()
    for options, differs in (({"samples": 21}, r"samples \(was 20, now 21\)"), ({"weights": "raw"}, "sha256")):
        with pytest.raises(Exception, match=f"holds a comparison of other settings: {differs}.*--out.*--overwrite"):
            compared(images, tmp_path, **options)
    assert (tmp_path / CELLS).read_bytes() == before
    assert {cell["seed"] for cell in compared(images, tmp_path, samples=21, seeds=1, overwrite=True)["cells"]} == {0}
    for text in ("[", "{}", '{"settings": 1, "cells": [], "rows": []}', '{"settings": {}, "cells": [1], "rows": []}'):
        (tmp_path / CELLS).write_text(text)
        with pytest.raises(Exception, match=r"samplers\.json is no comparison of samplers that can be read"):
            compared(images, tmp_path)
    lock = checkpoint.Lock(tmp_path / comparison.LOCK)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(lock.release)
        with pytest.raises(Exception, match="another process compares samplers in"):
            compared(images, tmp_path, overwrite=True)


@pytest.mark.parametrize(
    "change",
    [
        {"evaluations": "3"},
        {"evaluations": 10**400},
        {"seed": 0.5},
        {"device": None},
        {"seconds": []},
        {"frechet_distance": {}},
        {"options": []},
        {"sampler": 7},
    ],
)
def test_cells_that_are_no_cells_are_refused(change, tmp_path):
    """Else the table, or the picture, fails after hours of sampling."""
    made, cell = row("ddim", 11, 0, {"steps": 11}, 11, 0.75)
    settings = dict.fromkeys(COMMON)
    for damaged in ({"cells": [cell | change], "rows": [made]}, {"cells": [cell], "rows": [made | {"budget": "11"}]}):
        (tmp_path / CELLS).write_text(json.dumps({"settings": settings, **damaged}))
        with pytest.raises(
            FastscoreError, match=r"is no comparison of samplers that can be read \(\w+ is .*--overwrite"
        ):
            Cells(tmp_path, settings)
    (tmp_path / CELLS).write_text(json.dumps({"settings": settings, "cells": [cell], "rows": [made]}))
    assert Cells(tmp_path, settings).holds("ddim", {"steps": 11}, 0)


def test_a_measure_that_is_infinite_or_of_one_seed_alone_is_a_cell_too():
    made, first = row("ddim", 11, 0, {"steps": 11}, 11, 0.75)
    _, second = row("ddim", 11, 1, {"steps": 11}, 11, math.inf)
    report = {"settings": {"search_seed": SEARCH_SEED}, "rows": [made], "cells": [first | {"p_value": 0.5}, second]}
    (found,) = reports.rows_of(report)
    assert found.distance == math.inf and math.isnan(found.numbers["frechet_distance"][1])
    assert "p_value" not in found.numbers and "recall" in found.numbers


@pytest.mark.filterwarnings("ignore:published FIDs")
def test_inceptions_file_is_taken_and_kept_apart(images, tmp_path, monkeypatch):
    """On digits a stand-in; the cells of one file of weights are not those of another."""
    asked = []

    class Pooled:
        def __init__(self, weights):
            self.sha256 = f"of {weights}"

        def __call__(self, images):
            return images.flatten(1)[:, 20:24] * 3

        def probabilities(self, features):
            return features.softmax(1)

    def make(*, weights, checksum, device):
        asked.append((weights, checksum, device))
        return Pooled(weights)

    monkeypatch.setitem(features.FEATURES, "inception", make)
    words = f"compare-samplers {images} --samplers dpm --budgets 3 --seeds 1 --num 20 --out {tmp_path} --quiet"
    cli.main([*words.split(), "--inception", "a.pth", "--no-inception-checksum"])
    assert asked == [(Path("a.pth"), False, torch.device("cpu"))]
    told = json.loads((tmp_path / CELLS).read_text())
    assert told["settings"]["features"] == "inception" and told["settings"]["inception_sha256"] == "of a.pth"
    want = evaluate(
        images,
        num=20,
        sampler="dpm",
        steps=3,
        inception="a.pth",
        inception_checksum=False,
        out=tmp_path / "b",
        progress=False,
    )
    assert told["cells"][0]["frechet_distance"] == want["frechet_distance"]["samples_to_heldout"]
    with pytest.raises(FastscoreError, match=r"other settings: inception_sha256 \(was of a.pth, now of b.pth\)"):
        compared(images, tmp_path, inception="b.pth")


def test_samples_that_are_not_finite_are_a_cell_too(images, tmp_path, monkeypatch):
    class Broken(Labels):
        def forward(self, x, labels):
            return x * (torch.nan if labels[0] in bad else -1.0)

    monkeypatch.setattr(TrainedRun, "score_fn", Broken())
    bad = [1, 2]
    report = compared(images, tmp_path, budgets=[2, 4], samplers=["dpm"])
    failed = [cell for cell in report["cells"] if cell["evaluations"] == 4]
    assert len(failed) == 2 and all("score_fn gave NaN" in c["failed"] and "precision" not in c for c in failed)
    lines = reports.table(report).splitlines()
    assert "not finite" not in lines[2] and lines[3].count("not finite") == 3 and "**" not in lines[3]
    bad = [3]
    with pytest.raises(NonFiniteSamples, match=r"^no sampler gave finite samples: score_fn gave NaN"):
        compared(images, tmp_path / "a", budgets=[2, 4], samplers=["dpm"])


def row(sampler, budget, seed, options, evaluations, distance):
    cell = {
        "sampler": sampler,
        "options": options,
        "seed": seed,
        "evaluations": evaluations,
        "device": "a",
        "seconds": 1.0 + seed,
    }
    return {"sampler": sampler, "budget": budget, "options": options}, cell | {
        "frechet_distance": distance, "precision": 0.5, "recall": 0.25,
    }  # fmt: skip


def test_the_table(tmp_path):
    """Sorted, the best of each budget bold, a sampler that can spend no more once, and the run's own last."""
    made = [
        row("ddim", 21, 0, {"steps": 20}, 20, 0.5),
        row("ddim", 11, 0, {"steps": 11}, 11, 0.75),
        row("ddim", 11, 1, {"steps": 11}, 11, 0.25),
        row("heun", 11, 0, {"steps": 6, "interpolate": True}, 11, 0.125),
        row("consistent", 11, 0, {"step_size": 0.0123456, "levels": 11}, 11, 1.0),
        row("annealed", None, 0, {"step_size": 1e-3, "steps_per_level": 5, "levels": 0, "denoise": True}, 101, 0.01),
        row("heun", 11, SEARCH_SEED, {"steps": 6, "interpolate": True}, 11, 100.0),
    ]
    rows = {(r["sampler"], r["budget"]): r for r, _ in made}
    rows["heun", 21] = rows["heun", 11] | {"budget": 21}
    settings = {
        **dict.fromkeys(("step", "samples"), 1), "data": "digits", "weights": "ema", "search_seed": SEARCH_SEED,
        "training_data": {"frechet_distance": 0.067},
    }  # fmt: skip
    report = {"settings": settings, "rows": [*rows.values()], "cells": [cell for _, cell in made]}
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in reports.table(report).splitlines()]
    assert lines[0][:5] == ["at most", "sampler", "settings", "evaluations", "Frechet distance"]
    assert [line[:5] for line in lines[2:]] == [
        ["11", "**heun**", "steps 6, interpolate", "11", "0.125"],
        ["11", "ddim", "steps 11", "11", "0.500 ± 0.354"],
        ["11", "consistent", "step_size 0.0123, levels 11", "11", "1.000"],
        ["21", "**ddim**", "steps 20", "20", "0.500"],
        ["recipe, the run's settings", "annealed", "step_size 0.001, steps_per_level 5", "101", "0.010"],
    ]
    assert lines[3][-1] == "1"  # the least of the seeds
    untimed = [{name: value for name, value in cell.items() if name != "seconds"} for cell in report["cells"]]
    assert "seconds" in lines[0] and "econds" not in reports.page(report | {"cells": untimed})
    page = reports.page(report)
    assert "The training images themselves: Frechet distance 0.067." in page and "annealed, consistent" in page
    assert reports.draw(report, tmp_path / "a.png").stat().st_size > 10_000


def test_command_line(images, tmp_path, capsys):
    arguments = ["compare-samplers", str(images), "--out", str(tmp_path), "--samples", "20", "--seeds", "1", "--quiet"]
    cli.main([*arguments, "--samplers", "dpm", "ddim", "--budgets", "2", "3"])
    out = capsys.readouterr().out
    for path in (reports.PICTURE, reports.TABLE, CELLS):
        assert str(tmp_path / path) in out and (tmp_path / path).stat().st_size > 100
    assert (tmp_path / reports.TABLE).read_text() in out and out.count("**") == 4
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--budgets", "0"])
    assert stop.value.code == 2 and "error: budgets must be from 1 to 10000000, got 0" in capsys.readouterr().err


def test_ctrl_c_says_what_is_kept(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "batches", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare-samplers", str(images), "--out", str(tmp_path), "--samplers", "dpm", "--quiet"])
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().err
