"""fastscore.evaluation.comparison: what the axes hold."""

from __future__ import annotations

import math

import pytest

from fastscore.evaluation import canvas
from fastscore.evaluation.comparison import save_comparison

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("error")


def numbers(distance, spread=0.1):
    return {"energy_distance": (distance, spread), "recall": (0.5, spread), "precision": (0.25 * distance, spread)}


def test_axes_hold_the_points(tmp_path, monkeypatch):
    figures, save = [], canvas.save_figure
    monkeypatch.setattr(canvas, "save_figure", lambda figure, path: figures.append(figure) or save(figure, path))
    curves = {
        "ddim": [(11, numbers(3.0)), (41, numbers(1.0))],
        "heun": [(21, numbers(2.0, math.nan))],
        **{f"sampler {i}": [(10 + i, numbers(1.0)), (20, numbers(2.0))] for i in range(6)},
    }
    path = tmp_path / "a.png"
    options = {
        "names": {"energy_distance": "energy distance"},
        "references": {"own": numbers(1.5), "data": {"precision": (0.9, math.nan)}},
        "title": "Six",
    }
    assert save_comparison(curves, path, **options) == path
    distance, precision, recall = figures[0].axes
    bars = {c.get_label(): c for c in distance.containers}
    assert list(bars) == list(curves)
    line, _, (spread,) = bars["ddim"].lines
    assert line.get_xydata().tolist() == [[11, 3], [41, 1]]
    assert [segment[:, 1].tolist() for segment in spread.get_segments()] == [
        pytest.approx([2.9, 3.1]),
        pytest.approx([0.9, 1.1]),
    ]
    assert not bars["heun"].has_yerr
    assert precision.containers[0].lines[0].get_ydata().tolist() == [0.75, 0.25]
    assert recall.containers[0].lines[0].get_ydata().tolist() == [0.5, 0.5]
    looks = {(b.lines[0].get_color(), b.lines[0].get_marker()) for b in bars.values()}
    assert len(looks) == len(curves)  # no two look alike
    assert [ax.get_xscale() for ax in figures[0].axes] == ["log"] * 3 and distance.get_yscale() == "log"
    assert distance.get_title("left") == "Energy distance"
    across = [
        {line.get_label(): line.get_ydata()[0] for line in ax.lines if line.get_linestyle() in ("--", ":")}
        for ax in (distance, precision)
    ]
    assert across == [{"own": 1.5}, {"own": 0.375, "data": 0.9}] and [
        len(ax.patches) for ax in (distance, precision)
    ] == [1, 1]
    before = path.read_bytes()
    save_comparison(curves, path, **options)
    assert path.read_bytes() == before


def test_one_budget_has_whole_numbers_below(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(canvas, "save_figure", lambda figure, path: figures.append(figure))
    save_comparison({"ddim": [(11, numbers(3.0))]}, tmp_path / "a.png")
    marks = [mark for ax in figures[0].axes for mark in ax.get_xticks()]
    assert marks and all(mark == round(mark) for mark in marks)


@pytest.mark.parametrize(
    "curves, text",
    [
        ({}, "curves must hold at least one point"),
        ({"a": []}, "curves must hold at least one point"),
        ({"a": [(0, numbers(1.0))]}, "the evaluations of a point must be"),
        ({"a": [(1, numbers(math.nan))]}, "curves must have a finite 'energy_distance'"),
        ({"a": [(1, {"d": (1.0, 0.0), "precision": (1.0, 0.0)})]}, "curves must have a finite 'recall'"),
    ],
)
def test_refuses(curves, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        save_comparison(curves, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        save_comparison({"a": [(1, numbers(1.0))]}, tmp_path / "a.pdf")
    assert not [*tmp_path.iterdir()]
