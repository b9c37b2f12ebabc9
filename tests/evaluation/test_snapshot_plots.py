"""fastscore.evaluation.snapshot_plots: what its axes hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastscore.evaluation import canvas
from fastscore.evaluation.snapshot_plots import Point, save_snapshots

from ..conftest import optional

Image = optional("PIL.Image")
optional("matplotlib")

pytestmark = pytest.mark.filterwarnings("error")
NAMES = {"frechet_distance": "FID", "kernel_distance": "KID"}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved during the test, for a look at what they hold."""
    seen, save = [], canvas.save_figure
    monkeypatch.setattr(canvas, "save_figure", lambda figure, path: seen.append(figure) or save(figure, path))
    return seen


def point(images, hours, fid, kid=(0.01, 0.001)):
    return Point(images, hours, {"frechet_distance": (fid, math.nan), "kernel_distance": kid})


def test_each_measure_against_images_and_hours(tmp_path, figures):
    curves = {
        "ema": [point(2e6, 2.0, 40.0), point(1e6, 1.0, 160.0), point(3e6, math.nan, 30.0), point(4e6, 4.0, math.nan)],
        "raw": [point(1e6, 1.0, 200.0, (-0.001, 0.002))],
    }
    path = save_snapshots(curves, tmp_path / "a.png", names=NAMES, singles={"50,000 images": [point(3e6, 3.0, 10.0)]})
    axes = figures[0].axes
    assert [(ax.get_title("left"), ax.get_xlabel()) for ax in axes] == [
        (name, scale) for name in ("FID", "KID") for scale in ("training images seen (millions)", "hours of training")
    ]
    by_images, by_hours = ([line for line in ax.lines if len(line.get_xdata())] for ax in axes[:2])
    assert (by_images[0].get_xdata().tolist(), by_images[0].get_ydata().tolist()) == ([1, 2, 3], [160, 40, 30])
    assert (by_hours[0].get_xdata().tolist(), by_hours[0].get_ydata().tolist()) == ([1, 2], [160, 40])
    assert (by_images[-1].get_xdata().tolist(), by_images[-1].get_ydata().tolist()) == ([3], [10])
    assert by_images[-1].get_linestyle() == "None" and by_images[0].get_linestyle() == "-"
    assert [ax.get_yscale() for ax in axes] == ["log", "log", "linear", "linear"]  # a KID may be below 0
    assert all(ax.get_xlim()[0] == 0 for ax in axes)
    bars = [container for container in axes[2].containers if container.has_yerr]
    (low, high), *_ = bars[0][2][0].get_segments()
    assert (low[1], high[1]) == pytest.approx((0.009, 0.011))
    assert not any(container.has_yerr for container in axes[0].containers)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["50,000 images", "ema", "raw"]
    assert np.array(Image.open(path)).shape == (990, 1500, 4)
    colors = [line.get_color() for line in by_images]
    assert len(set(colors)) == 3 and colors[:2] == list(canvas.SERIES[1:3])


def test_without_times_there_is_one_column(tmp_path, figures):
    save_snapshots({"ema": [point(1e6, math.nan, 5.0)]}, tmp_path / "a.png", names={"frechet_distance": "FID"})
    assert [ax.get_xlabel() for ax in figures[0].axes] == ["training images seen (millions)"]


@pytest.mark.parametrize("points", [[], [point(1e6, 1.0, math.nan, (math.nan, 0.0))], [point(math.nan, math.nan, 1.0)]])
def test_refuses_to_draw_nothing(points, tmp_path):
    with pytest.raises(ValueError, match="curves must hold a point with a finite frechet_distance or kernel_distance"):
        save_snapshots({"ema": points}, tmp_path / "a.png", names=NAMES)
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        save_snapshots({"ema": points}, tmp_path / "a.pdf", names=NAMES)
    assert list(tmp_path.iterdir()) == []
