"""What is known of a network at each of its noise levels, in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .._core import checks
from . import canvas
from .canvas import PathLike

_PANELS = {
    "loss": ("Loss / the best constant's", "1 of a network that says nothing"),
    "score_error": ("Error of the score, squared", "relative: 1 of a score that is 0"),
    "stein": ("Stein: what is linear in the error", "share of the loss"),
    "curl": ("Curl", "||J − Jᵀ|| / ||J||"),
}
_BESIDE = {"gaussian_loss": ("loss", "a Gaussian fit's"), "stein_noise": ("stein", "its noise")}


def save_accuracy(
    sigmas: Sequence[float],
    accuracy: Sequence[float],
    path: PathLike,
    *,
    chance: float,
    best: Sequence[float] | None = None,
    title: str = "",
) -> Path:
    """How often a classifier of noisy samples is right, against the noise level.

    Args:
        sigmas: the noise levels [L].
        accuracy: from 0 to 1, [L].
        path: a .png file.
        chance: the accuracy of who names the most frequent class.
        best: what no classifier exceeds, [L], where that is known.
        title: what stands above.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        ValueError: columns of different lengths; a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path = canvas.target(path)
    for name, values in (("accuracy", accuracy), ("best", best)):
        if values is not None and len(values) != len(sigmas):
            raise ValueError(f"{name} must have {len(sigmas)} values, one for each level, got {len(values)}")
    figure = canvas.figure(5.0, 3.2)
    ax = figure.subplots()
    if best is not None:
        ax.plot(sigmas, best, color=canvas.INK, linewidth=1, label="the best that there is")
    ax.plot(sigmas, accuracy, color=canvas.ACCENT, marker="o", markersize=3, label="the classifier")
    ax.axhline(chance, color=canvas.INK, linestyle="--", linewidth=1, label="the most frequent class")
    canvas.style(ax, title, "noise level σ (units of the data)", "share that is right")
    ax.set_ylim(0, 1.02)
    canvas.log_axis(ax, "x")
    ax.legend(fontsize=8, frameon=False)
    return canvas.save_figure(figure, path)


def save_levels(
    sigmas: Sequence[float], columns: Mapping[str, Sequence[float]], path: PathLike, *, title: str = ""
) -> Path:
    """A panel for each measure of a network against the noise level.

    Args:
        sigmas: the noise levels [L].
        columns: some of "loss", "score_error", "stein" and "curl", and beside them "gaussian_loss" and "stein_noise": [L] each.
        path: a .png file.
        title: what stands above.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        ValueError: an unknown column, or one of another length; a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path = canvas.target(path)
    for name, values in columns.items():
        checks.one_of("columns", name, [*_PANELS, *_BESIDE])
        if len(values) != len(sigmas):
            raise ValueError(f"columns[{name!r}] must have {len(sigmas)} values, one for each level, got {len(values)}")
    shown = [name for name in _PANELS if name in columns]
    if not shown:
        raise ValueError(f"columns must have one of {', '.join(_PANELS)}, got {list(columns)}")
    figure = canvas.figure(3.4 * len(shown), 3.2)
    for ax, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        ax.plot(sigmas, columns[name], color=canvas.ACCENT, marker="o", markersize=3, label="the network's")
        for other, (of, label) in _BESIDE.items():
            if of == name and other in columns:
                ax.plot(sigmas, columns[other], color=canvas.INK, linestyle="--", linewidth=1, label=label)
                ax.legend(fontsize=8, frameon=False)
        canvas.style(ax, _PANELS[name][0], "noise level σ (units of the data)", _PANELS[name][1])
        ax.set_ylim(bottom=0)
        canvas.log_axis(ax, "x")
    if title:
        figure.suptitle(title, fontsize=10, color=canvas.INK)
    return canvas.save_figure(figure, path)
