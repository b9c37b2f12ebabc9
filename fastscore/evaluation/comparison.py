"""Samplers compared as a PNG file: how good samples are against what they cost.

Returns, errors and how files are written are those of :mod:`fastscore.evaluation.pictures`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._core import checks
from . import canvas
from .canvas import PathLike

_MARKERS = "osD^vP"
_OTHERS = ("precision", "recall")

Point = tuple[float, Mapping[str, tuple[float, float]]]


def save_comparison(
    curves: Mapping[str, Sequence[Point]],
    path: PathLike,
    *,
    names: Mapping[str, str] | None = None,
    references: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    title: str = "Samplers",
) -> Path:
    """A distance (left), precision and recall (right) against the number of evaluations, with error bars.

    Args:
        curves: by the name of a sampler, points (evaluations, {measure: (mean, standard deviation)}), evaluations above
            0 and a standard deviation of NaN where it is not known. The first measure is the distance; "precision" and
            "recall" are among the others.
        path: a .png file.
        names: measures in words.
        references: by a name, {measure: (mean, standard deviation)} of what the samplers are to be held against: a dashed
            or dotted line across, and its spread; measures may be missing.
        title: over the picture.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        ValueError: no points, a point without a measure, a mean that is not finite, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path, points = canvas.target(path), [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError("curves must hold at least one point, got none")
    measures = [next(iter(points[0][1])), *_OTHERS]
    for evaluations, numbers in points:
        checks.positive("the evaluations of a point", evaluations)
        for measure in measures:
            if not math.isfinite(numbers.get(measure, (math.nan, 0))[0]):
                raise ValueError(f"curves must have a finite {measure!r} at every point, got {dict(numbers)}")
    figure = canvas.figure(11, 5.2)
    places = figure.add_gridspec(2, 2, width_ratios=(1.2, 1))
    axes = [figure.add_subplot(place) for place in (places[:, 0], places[0, 1], places[1, 1])]
    for ax, measure in zip(axes, measures):
        for i, (name, curve) in enumerate(curves.items()):
            _curve(ax, name, i, curve, measure)
        for (name, numbers), line in zip((references or {}).items(), itertools.cycle(("--", ":"))):
            if measure in numbers:
                mean, spread = numbers[measure]
                ax.axhline(mean, color=canvas.INK, linewidth=1, linestyle=line, label=name)
                if not math.isnan(spread):
                    ax.axhspan(mean - spread, mean + spread, color=canvas.INK, alpha=0.08, linewidth=0)
        words = (names or {}).get(measure, measure)
        canvas.style(ax, words[:1].upper() + words[1:], "network evaluations for a sample")
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # there are no 10.4 evaluations
        canvas.log_axis(ax, "x")
    canvas.log_axis(axes[0], "y")
    axes[1].set_xlabel("")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower center", ncols=5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=canvas.INK)
    return canvas.save_figure(figure, path)


def _curve(ax: Any, name: str, index: int, curve: Sequence[Point], measure: str) -> None:
    """One sampler's line; two of one colour have other markers."""
    means, spreads = zip(*(numbers[measure] for _, numbers in curve))
    ax.errorbar(
        [evaluations for evaluations, _ in curve],
        means,
        None if any(map(math.isnan, spreads)) else spreads,
        label=name,
        color=canvas.SERIES[index % len(canvas.SERIES)],
        marker=_MARKERS[index // len(canvas.SERIES) % len(_MARKERS)],
        markersize=5,
        linewidth=1.3,
        elinewidth=0.8,
        capsize=2,
    )
