"""Snapshots of a run compared as a PNG file: how good their samples are, against images seen and time spent.

Returns, errors and how files are written are those of :mod:`fastscore.evaluation.pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import canvas
from .canvas import PathLike

_MARKERS, _SINGLE = "osD^v", "*XP"
_MILLION = 1e6
_SCALES = {"images": "training images seen (millions)", "hours": "hours of training"}


@dataclass(frozen=True)
class Point:
    """What a snapshot reached.

    Attributes:
        images: training images seen until then. hours: of training until then. Both NaN where not known.
        numbers: by the name of a measure (mean, standard deviation), the latter NaN where there is none. A measure that is
            missing, or whose mean is NaN, is not drawn.
    """

    images: float
    hours: float
    numbers: Mapping[str, tuple[float, float]]


def save_snapshots(
    curves: Mapping[str, Sequence[Point]],
    path: PathLike,
    *,
    names: Mapping[str, str],
    singles: Mapping[str, Sequence[Point]] | None = None,
    title: str = "Snapshots",
) -> Path:
    """Each measure against the images seen (left) and the hours of training (right, where any are known).

    Args:
        curves: by a name, as of the weights that were sampled, points that are joined from the left to the right.
        path: a .png file.
        names: the measures that are drawn, a row each, and their words.
        singles: by a name, points that stand alone, as of another number of samples.
        title: over the picture.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        ValueError: no point to draw, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path, singles = canvas.target(path), singles or {}
    points = [point for group in (*curves.values(), *singles.values()) for point in group]
    scales = [scale for scale in _SCALES if any(_shown(points, measure, scale) for measure in names)]
    if not scales:
        raise ValueError(f"curves must hold a point with a finite {' or '.join(names) or 'measure'}, got none")
    figure = canvas.figure(4.8 * len(scales) + 0.4, 2.9 * len(names) + 0.8)
    grid = figure.subplots(len(names), len(scales), squeeze=False)
    for row, (measure, words) in zip(grid, names.items()):
        for ax, scale in zip(row, scales):
            for i, (name, curve) in enumerate(curves.items()):
                _curve(ax, name, _shown(curve, measure, scale), i)
            for i, (name, group) in enumerate(singles.items()):
                _stars(ax, name, _shown(group, measure, scale), i)
            canvas.style(ax, words, _SCALES[scale])
            if all(mean > 0 for _, mean, _ in _shown(points, measure, scale)):
                canvas.log_axis(ax, "y")
            ax.set_xlim(left=0)
    handles = {label: handle for ax in grid.flat for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=canvas.INK)
    return canvas.save_figure(figure, path)


def _shown(points: Sequence[Point], measure: str, scale: str) -> list[tuple[float, float, float]]:
    """(where on the scale, mean, standard deviation) of the points that have both, from the left."""
    found = []
    for point in points:
        x, (mean, spread) = getattr(point, scale), point.numbers.get(measure, (math.nan, math.nan))
        if math.isfinite(x) and math.isfinite(mean):
            found.append((x / _MILLION if scale == "images" else x, mean, spread if math.isfinite(spread) else 0.0))
    return sorted(found)


def _curve(ax: Any, name: str, shown: list[tuple[float, float, float]], index: int) -> None:
    if not shown:
        return
    x, means, spreads = zip(*shown)
    ax.errorbar(
        x,
        means,
        spreads if any(spreads) else None,
        label=name,
        color=canvas.SERIES[1 + index % (len(canvas.SERIES) - 1)],  # the first one is the grey of real data
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=4,
        linewidth=1.3,
        elinewidth=0.8,
        capsize=2,
    )


def _stars(ax: Any, name: str, shown: list[tuple[float, float, float]], index: int) -> None:
    if shown:
        x, means, _ = zip(*shown)
        ax.plot(x, means, _SINGLE[index % len(_SINGLE)], label=name, color=canvas.INK, markersize=8, alpha=0.8)
