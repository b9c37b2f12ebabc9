"""fastscore.evaluation.plots: what the axes hold."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch

from fastscore.evaluation import canvas, plots
from fastscore.rng import Philox

Image = pytest.importorskip("PIL.Image")
matplotlib = pytest.importorskip("matplotlib")

pytestmark = pytest.mark.filterwarnings("error")


def read(path):
    """[H, W, 3] int: the pixels of a PNG file."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).int()


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved during the test, for a look at what they hold."""
    seen, save = [], canvas.save_figure

    def look(figure, path):
        seen.append(figure)
        return save(figure, path)

    monkeypatch.setattr(canvas, "save_figure", look)
    return seen


# --- training curves ---


def test_curves_of_a_short_run_are_the_records(tmp_path, figures):
    history = [
        {"step": s, "loss": 100 / s, "loss_per_sigma": [50 / s, None, 1 / s], "images_per_second": r}
        for s, r in ((30, 900.0), (10, 1000.0), (20, 5000.0))
    ]  # in any order
    path = plots.save_training_curves(history, tmp_path / "a.png", sigmas=[1.0, 0.1, 0.01])
    total, levels, last, bar = figures[0].axes
    assert total.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert total.lines[0].get_ydata().tolist() == pytest.approx([10, 5, 100 / 30])
    assert [len(line.get_xdata()) for line in levels.lines] == [3, 0, 3]
    assert levels.lines[2].get_ydata().tolist() == pytest.approx([0.1, 0.05, 1 / 30])
    assert last.lines[0].get_xdata().tolist() == pytest.approx([1, 0.1, 0.01])
    assert last.lines[0].get_ydata().tolist() == pytest.approx([5 / 3, math.nan, 1 / 30], nan_ok=True)
    assert total.get_title("left") == "Loss (30 steps, 1,000 samples/s)"
    assert {ax.get_xlabel() for ax in (total, levels)} == {"step"}
    assert last.get_xlabel() == bar.get_ylabel() == "noise level σ (units of the data)"
    assert {ax.get_ylabel() for ax in (total, levels, last)} == {"loss per sample"}
    assert (total.get_yscale(), levels.get_yscale(), last.get_xscale(), total.get_xscale()) == (
        "log",
        "log",
        "log",
        "linear",
    )
    pixels = read(path)
    assert pixels.shape == (510, 2130, 3) and path.stat().st_size > 20_000
    assert pixels[0, 0].tolist() == [255, 255, 255] and (pixels < 100).all(-1).any()


def test_curves_of_a_long_run_are_medians_coloured_by_sigma(tmp_path, figures):
    noise = Philox(seed=0).randn(6000, dtype=torch.float64)
    history = [
        {"step": i + 1, "loss": float(noise[i].exp()), "loss_per_sigma": [float(noise[i].exp())] * 10}
        for i in range(6000)
    ]
    sigmas = torch.logspace(0, -2, 10)
    plots.save_training_curves(history, tmp_path / "a.png", sigmas=sigmas)
    total, levels, last, _ = figures[0].axes
    middle = next(line for line in total.lines if line.get_label() == "median")
    assert len(total.lines[0].get_xdata()) == 6000 and len(middle.get_xdata()) <= plots._BINS
    assert total.get_xscale() == "log"  # 1 to 6000: bins of equal width in log steps
    steps = torch.arange(1.0, 6001.0, dtype=torch.float64).log()
    rows = (steps / steps[-1] * 60).long().clamp(max=59) == 59
    assert middle.get_ydata()[-1] == pytest.approx(float(noise[rows].exp().quantile(0.5)))
    assert middle.get_xdata()[-1] == torch.arange(1.0, 6001.0)[rows].median()
    lightness = [np.dot(line.get_color()[:3], (0.3, 0.6, 0.1)) for line in levels.lines]
    assert np.all(np.diff(lightness) < 0)  # perceptual: the most noise is the lightest
    viridis = matplotlib.colormaps["viridis"]
    assert levels.lines[0].get_color() == pytest.approx(viridis(0.93), abs=0.02)
    assert levels.lines[-1].get_color() == pytest.approx(viridis(0.0), abs=0.02)
    assert last.lines[0].get_ydata()[0] == pytest.approx(float(noise[-600:].exp().quantile(0.5)))


@pytest.mark.parametrize(
    "history, sigmas",
    [
        ([{"step": 0, "loss": 1.0}], None),
        ([{"step": 5, "loss": math.nan, "loss_per_sigma": [None, None]}], [1.0, 0.1]),
        ([{"step": i, "loss": i - 1.0, "loss_per_sigma": [-1.0, None, 2.0]} for i in range(300)], [1, 0.1, 0.01]),
        ([{"step": i, "loss": math.inf if i % 7 else 2.0} for i in range(300)], None),
        ([{"step": i, "loss": 1.0, "loss_per_sigma": None if i % 9 else [1.0, 2.0]} for i in range(99)], None),
        ([{"step": i, "loss": 1.0, "loss_per_sigma": [1.0]} for i in range(3)], torch.tensor([0.5])),
        ([{"step": i, "loss": 1.0} for i in range(3)], [1.0, 0.5]),
    ],
)
def test_curves_of_odd_runs_are_drawn_without_a_warning(history, sigmas, tmp_path, figures):
    assert plots.save_training_curves(history, tmp_path / "a.png", sigmas=sigmas).stat().st_size > 5000
    drawn = figures[0].axes[0].lines[-1].get_ydata()
    losses = [row["loss"] for row in history if math.isfinite(row["loss"])]
    if losses:
        assert min(losses) <= np.nanmin(drawn) and np.nanmax(drawn) <= max(losses)
    log = bool(losses) and max(losses) >= 3 * min(losses) > 0
    assert figures[0].axes[0].get_yscale() == ("log" if log else "linear")


@pytest.mark.parametrize(
    "history, sigmas, text",
    [
        ([], None, "history must hold records"),
        ([{"step": 1}], None, "history must hold records with 'step' and 'loss'"),
        ([{"step": 1, "loss": 1.0, "loss_per_sigma": [1.0] * n} for n in (2, 3)], None, r"got lengths \[2, 3\]"),
        (
            [{"step": 1, "loss": 1.0, "loss_per_sigma": [1.0] * 2}],
            [1, 0.5, 0.1],
            "sigmas must be as many as 'loss_per_sigma' has values, 2, got 3",
        ),
    ],
)
def test_curves_refuse(history, sigmas, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        plots.save_training_curves(history, tmp_path / "a.png", sigmas=sigmas)


# --- score fields ---


def pull(x):
    """The score of N((1, 0), I)."""
    return torch.tensor([1.0, 0.0]) - x


def test_score_field_arrows_errors_and_weights(tmp_path, figures):
    modes = torch.tensor([[-4.0, 0.0], [4.0, 0.0]])
    data = modes.repeat_interleave(torch.tensor([80, 20]), 0)
    plain = modes.repeat_interleave(torch.tensor([50, 50]), 0)
    annealed = torch.cat([data, torch.tensor([[-9.0, 0.0], [math.nan, 0.0]])])
    path = plots.save_score_field(
        lambda x: pull(x) + torch.tensor([0.0, 0.5]),
        pull,
        tmp_path / "a.png",
        samples={"Data": data, "Plain Langevin": plain, "Annealed Langevin": annealed},
        modes=modes,
        log_density=lambda x: -pull(x).square().sum(1) / 2,
    )
    learned, exact, error, *clouds, _ = figures[0].axes
    assert [ax.get_title("left") for ax in clouds] == [
        "Data\nmode weights 0.80 / 0.20",
        "Plain Langevin\nmode weights 0.50 / 0.50",
        "Annealed Langevin\nmode weights 0.79 / 0.20\n2 of 102 outside the picture",
    ]
    arrows = next(c for c in exact.collections if hasattr(c, "U"))
    points = torch.from_numpy(np.stack([arrows.X, arrows.Y], 1)).float()
    score = pull(points)
    arrow = torch.from_numpy(np.stack([np.asarray(arrows.U), np.asarray(arrows.V)], 1)).float()
    torch.testing.assert_close(torch.nn.functional.normalize(arrow), torch.nn.functional.normalize(score))
    ratio = arrow.norm(dim=1) / score.norm(dim=1).log1p()
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    tilted = next(c for c in learned.collections if hasattr(c, "U"))
    assert np.mean(np.asarray(tilted.V) > np.asarray(arrows.V)) > 0.95  # pulled up, and on the same scale
    mesh = error.collections[0].get_array()
    assert np.allclose(mesh, 0.5, atol=1e-6) and mesh.size == 120**2
    assert all(ax.get_xlim() == (-8, 8) and ax.get_aspect() == 1 for ax in (learned, exact, error, *clouds))
    assert len(clouds[0].collections[0].get_offsets()) == 100
    assert read(path).shape == (1110, 1650, 3)


def test_score_field_density_is_shaded_at_its_place(tmp_path, figures):
    """The mode is at (2, 0) of the data's coordinates: x and y are not exchanged, nor up and down."""
    path = plots.save_score_field(
        pull,
        pull,
        tmp_path / "a.png",
        limits=(-4, 4),
        log_density=lambda x: -(x - torch.tensor([2.0, 0.5])).square().sum(1) * 3,
    )
    pixels = read(path)

    def shade(ax, x, y):
        """The red of the most common colour near a point, whatever the arrows: less in darker blue."""
        column, up = (int(value) for value in ax.transData.transform((x, y)))
        row = pixels.shape[0] - up
        return pixels[row - 8 : row + 9, column - 8 : column + 9, 0].flatten().mode().values.item()

    for ax in figures[0].axes[:2]:
        assert shade(ax, 2.1, 0.6) < 110 < shade(ax, 3.2, 0.6) < 235
        assert min(shade(ax, *point) for point in ((0.6, 2.1), (-2.1, 0.6), (2.1, -2.1), (2.1, 3.6))) > 240


def test_score_field_without_samples_or_with_one_kind(tmp_path, figures):
    assert read(plots.save_score_field(pull, pull, tmp_path / "a.png")).shape == (570, 1650, 3)
    plots.save_score_field(pull, pull, tmp_path / "b.png", samples={"Annealed Langevin": torch.zeros(5, 2)})
    panels = figures[1].axes
    assert [ax.axison for ax in panels[:6]] == [True] * 4 + [False] * 2
    assert panels[3].get_title("left") == "Annealed Langevin"


@pytest.mark.parametrize(
    "learned, options, text",
    [
        (pull, {"limits": (3, 3)}, r"limits must be \(low, high\) with low < high"),
        (pull, {"samples": {"Plain": torch.zeros(3, 3)}}, r"samples\['Plain'\] must have shape \[N, 2\].*\(3, 3\)"),
        (pull, {"samples": dict.fromkeys("abcd", torch.zeros(3, 2))}, "samples must be at most three sets .*got 4"),
        (pull, {"modes": torch.zeros(2)}, r"modes must have shape \[N, 2\]"),
        (lambda x: x.sum(1), {}, r"learned must give finite values of shape \(484, 2\)"),
        (lambda x: x / 0, {}, "learned must give finite values"),
        (pull, {"log_density": pull}, r"log_density must give finite values of shape \(14400,\)"),
    ],
)
def test_score_field_refuses(learned, options, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        plots.save_score_field(learned, pull, tmp_path / "a.png", **options)
    assert os.listdir(tmp_path) == []


def test_points(tmp_path, figures):
    points = Philox(seed=0).randn(500, 3)
    path = plots.save_points(points, tmp_path / "a.png", title="Moons")
    drawn = torch.from_numpy(np.asarray(figures[0].axes[0].collections[0].get_offsets())).float()
    torch.testing.assert_close(drawn, points[:, :2])
    assert figures[0].axes[0].get_title("left") == "Moons (500)" and read(path).shape == (750, 750, 3)
    for bad in (points[:0], points[:, :1], points[0]):
        with pytest.raises(ValueError, match="points must have shape"):
            plots.save_points(bad, tmp_path / "b.png")
