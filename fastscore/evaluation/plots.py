"""Plots of a run as PNG files: training curves, score fields and clouds of points.

Returns, errors and how files are written are those of :mod:`fastscore.evaluation.pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import require
from . import canvas
from .canvas import PathLike

_BINS = 60  # training curves of more records are summarised

Field = Callable[[Tensor], Tensor]


def _history(history: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor, float]:
    """Steps [T], loss [T], loss at each level [T, L] (NaN where none; L may be 0), median images per second."""
    if not history or any("step" not in row or "loss" not in row for row in history):
        raise ValueError(f"history must hold records with 'step' and 'loss', got {checks.describe(history)}")
    rows = sorted(history, key=lambda row: row["step"])
    levels = [[math.nan if v is None else v for v in row.get("loss_per_sigma") or ()] for row in rows]
    lengths = {len(row) for row in levels}
    width = max(lengths)
    if lengths - {0, width}:
        raise ValueError(f"history must have 'loss_per_sigma' of one length, got lengths {sorted(lengths)}")
    numbers = torch.tensor(
        [
            [max(1, row["step"]), row["loss"], row.get("images_per_second") or math.nan, *(level or [math.nan] * width)]
            for row, level in zip(rows, levels)
        ],
        dtype=torch.float64,
    )
    numbers.nan_to_num_(math.nan, math.nan, math.nan)  # infinite losses are left out like missing ones
    return numbers[:, 0], numbers[:, 1], numbers[:, 3:], float(numbers[:, 2].nanmedian())


def _spread(values: Tensor) -> Tensor:
    """[3, ...]: the quantiles 0.1, 0.5 and 0.9 over the first dimension, without NaN."""
    return values.nanquantile(torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype), 0)


def _bins(steps: Tensor, values: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """Centres [b] and quantiles [3, b, ...] of ``values`` [T, ...] in at most _BINS bins of (log) steps."""
    position, count = steps.log() if log else steps, min(_BINS, len(steps))
    position = position - position[0]
    index = (position / (float(position[-1]) or 1.0) * count).long().clamp(max=count - 1)
    used = index.unique()
    centres = torch.stack([steps[index == i].median() for i in used])
    return centres, torch.stack([_spread(values[index == i]) for i in used], 1)


def save_training_curves(
    history: Sequence[Mapping[str, Any]], path: PathLike, *, sigmas: Tensor | Sequence[float] | None = None
) -> Path:
    """The loss over the steps, in all and at each noise level, and the last tenth's loss against the level.

    Args:
        history: records {"step": int, "loss": float, "loss_per_sigma": list[float | None] (one for each
            level, None where no sample had it; may be missing), "images_per_second": float (may be missing)}.
        path: a .png file.
        sigmas: the noise levels [L], decreasing, in the units of the data: they set the colours and the last panel's
            axis. Without them the levels are numbered.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        TypeError, ValueError: no records, lists of different lengths, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path, (steps, loss, levels, speed) = canvas.target(path), _history(history)
    if sigmas is not None and levels.shape[1] not in (0, len(checks.sigmas("sigmas", sigmas))):
        raise ValueError(f"sigmas must be as many as 'loss_per_sigma' has values, {levels.shape[1]}, got {len(sigmas)}")
    panels = 3 if levels.shape[1] else 1
    figure = canvas.figure(4.6 * panels + 0.4, 3.4)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    log_steps, many = float(steps[-1] / steps[0]) >= 100, len(steps) > _BINS
    centres, (low, middle, high) = _bins(steps, loss, log_steps)
    if many:
        axes[0].plot(steps, loss, color=canvas.ACCENT, alpha=0.25, linewidth=0.6)
        axes[0].fill_between(centres, low, high, color=canvas.ACCENT, alpha=0.2, linewidth=0, label="10 % to 90 %")
    axes[0].plot(
        centres,
        middle,
        color=canvas.ACCENT,
        linewidth=1.8,
        marker="o" if len(steps) < 3 else "",
        label="median" if many else "loss",
    )
    axes[0].legend(fontsize=8, frameon=False)
    pace = f", {speed:,.0f} samples/s" if math.isfinite(speed) else ""
    canvas.style(axes[0], f"Loss ({int(steps[-1]):,} steps{pace})", "step", "loss per sample")
    if panels == 3:
        _level_panels(figure, axes, steps, levels, sigmas, log_steps)
    for ax, values in zip(axes, (loss, levels, levels)):
        if bool((values > 0).any()) and not bool((values <= 0).any()):
            canvas.log_axis(ax, "y")
    for ax in axes[:2] if log_steps else ():
        canvas.log_axis(ax, "x")
    return canvas.save_figure(figure, path)


def _level_panels(
    figure: Any, axes: Any, steps: Tensor, levels: Tensor, sigmas: Tensor | Sequence[float] | None, log_steps: bool
) -> None:
    """The loss of each level over the steps, coloured by the level, and its last tenth against the level."""
    matplotlib, colors, cm = (require(f"matplotlib{part}", "train") for part in ("", ".colors", ".cm"))
    noise, name = torch.arange(1, levels.shape[1] + 1.0), "noise level (1: the most noise)"
    if sigmas is not None:
        noise, name = checks.sigmas("sigmas", sigmas).double().cpu(), "noise level σ (units of the data)"
    scale = colors.Normalize if sigmas is None else colors.LogNorm
    viridis = matplotlib.colormaps["viridis"](torch.linspace(0, 0.93, 256).numpy())  # its end is too light
    shade = cm.ScalarMappable(
        scale(float(noise.min()), float(noise.max()) * (1 + 1e-6)), colors.ListedColormap(viridis)
    )
    centres, (_, middle, _) = _bins(steps, levels, log_steps)
    for j in range(len(noise)):
        seen = middle[:, j].isfinite()
        axes[1].plot(centres[seen], middle[seen, j], color=shade.to_rgba(float(noise[j])), linewidth=1.2)
    canvas.style(axes[1], "Loss at each noise level (median)", "step", "loss per sample")
    if len(noise) > 1:
        bar = figure.colorbar(shade, ax=axes[1])
        bar.set_label(name, fontsize=9, color=canvas.INK)
        bar.ax.tick_params(which="both", labelsize=8, colors=canvas.INK)
        if sigmas is not None:
            canvas.plain_numbers(bar.ax.yaxis, (1, 2, 5) if noise[0] < 100 * noise[-1] else (1,))
    low, middle, high = _spread(levels[-max(1, len(levels) // 10) :])
    axes[2].fill_between(noise, low, high, color=canvas.ACCENT, alpha=0.2, linewidth=0)
    axes[2].plot(
        noise, middle, color=canvas.ACCENT, linewidth=1.2, marker="o" if len(noise) <= 40 else "", markersize=3
    )
    canvas.style(axes[2], "Loss against the noise level (last tenth)", name, "loss per sample")
    if sigmas is not None:
        canvas.log_axis(axes[2], "x")


def save_score_field(
    learned: Field,
    exact: Field,
    path: PathLike,
    *,
    samples: Mapping[str, Tensor] | None = None,
    limits: tuple[float, float] = (-8, 8),
    log_density: Field | None = None,
    modes: Tensor | None = None,
) -> Path:
    """Learned and exact score of a 2-D density, the length of their difference, and samples of it below.

    Arrows point along the score s and are as long as log(1 + |s|), on one scale: the large scores far out
    leave room for the small ones near the modes.

    Args:
        learned, exact: points [N, 2] float32 -> scores [N, 2].
        path: a .png file.
        samples: up to three sets of points [N, 2], by the titles of their panels.
        limits: of both axes, in the units of the data.
        log_density: [N, 2] -> [N], up to a constant: shades both fields.
        modes: [K, 2], the centres of the modes: titles give the share of samples nearest to each.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        TypeError, ValueError: wrong shapes, scores that are not finite, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path = canvas.target(path)
    if not limits[0] < limits[1]:
        raise ValueError(f"limits must be (low, high) with low < high, got {limits}")
    clouds = dict(samples or {})
    if len(clouds) > 3:
        raise ValueError(f"samples must be at most three sets of points, got {len(clouds)}")
    for name, value in {**{f"samples[{title!r}]": cloud for title, cloud in clouds.items()}, "modes": modes}.items():
        if value is not None and (checks.floating(name, value).dim() != 2 or value.shape[1:] != (2,)):
            raise ValueError(f"{name} must have shape [N, 2], got {checks.describe(value)}")
    figure = canvas.figure(11, 7.4 if clouds else 3.8)
    axes = figure.subplots(2 if clouds else 1, 3, squeeze=False)
    _field_panels(figure, axes[0], learned, exact, limits, log_density)
    for ax, (title, value) in zip(axes[1:].flat, clouds.items()):
        _cloud_panel(ax, title, value, limits, modes)
    for ax in axes[1:].flat[len(clouds) :]:
        ax.set_axis_off()
    for ax in axes.flat:
        ax.set(xlim=limits, ylim=limits, aspect="equal")
    return canvas.save_figure(figure, path)


def _centres(limits: tuple[float, float], n: int) -> Tensor:
    """The centres of n equal cells between the limits."""
    return limits[0] + (limits[1] - limits[0]) * (torch.arange(n) + 0.5) / n


@torch.no_grad()
def _field_panels(
    figure: Any, axes: Any, learned: Field, exact: Field, limits: tuple[float, float], log_density: Field | None
) -> None:
    """Arrows of both fields on one scale, and a map of the length of their difference."""

    def lattice(name: str, function: Field, n: int, *shape: int) -> Tensor:
        values = function(torch.cartesian_prod(*[_centres(limits, n)] * 2)).detach().float().cpu()
        if values.shape != (n * n, *shape) or not bool(values.isfinite().all()):
            raise ValueError(
                f"{name} must give finite values of shape {(n * n, *shape)} for {n * n} points, "
                f"got {checks.describe(values)}"
            )
        return values.unflatten(0, (n, n)).transpose(0, 1)  # [y, x], as matplotlib has it

    coarse, fine = _centres(limits, 22).numpy(), _centres(limits, 120).numpy()
    fields = lattice("learned", learned, 22, 2), lattice("exact", exact, 22, 2)
    longest = float(fields[1].norm(dim=-1).max().log1p()) or 1.0
    pitch = 1.25 * float(coarse[1] - coarse[0])
    for ax, field, title in zip(axes, fields, ("Learned score", "Exact score")):
        if log_density is not None:
            density = lattice("log_density", log_density, 120)
            shade = (density - density.max()).clamp(min=-12).numpy()
            ax.contourf(fine, fine, shade, 13, cmap="Blues", vmin=-12, vmax=8)
        length = field.norm(dim=-1, keepdim=True)
        arrow = field / length.clamp(min=1e-12) * length.log1p() / longest * pitch
        ax.quiver(
            coarse,
            coarse,
            *arrow.unbind(-1),
            angles="xy",
            scale_units="xy",
            scale=1,
            pivot="mid",
            color=canvas.INK,
            width=0.004,
        )
        canvas.style(ax, title)
    error = (lattice("learned", learned, 120, 2) - lattice("exact", exact, 120, 2)).norm(dim=-1)
    top = float(error.max()) or 1.0
    norm = require("matplotlib.colors", "train").LogNorm(1e-3 * top, top, clip=True)
    image = axes[2].pcolormesh(fine, fine, error.numpy(), cmap="magma", shading="nearest", norm=norm)
    canvas.style(axes[2], "Length of learned − exact")
    figure.colorbar(image, ax=axes[2], shrink=0.85).ax.tick_params(which="both", labelsize=8, colors=canvas.INK)


def _cloud_panel(ax: Any, title: str, samples: Tensor, limits: tuple[float, float], modes: Tensor | None) -> None:
    """Samples as points; the title gives each mode's share and how many lie outside the picture."""
    samples = samples.detach().float().cpu()
    inside = ((samples >= limits[0]) & (samples <= limits[1])).all(1)  # NaN is outside
    if modes is not None:
        distances = torch.cdist(samples[samples.isfinite().all(1)], modes.detach().float().cpu())
        counts = torch.bincount(distances.argmin(1), minlength=len(modes))
        title += "\nmode weights " + " / ".join(f"{n / max(1, len(samples)):.2f}" for n in counts.tolist())
    if not bool(inside.all()):
        title += f"\n{int((~inside).sum())} of {len(samples)} outside the picture"
    ax.scatter(samples[:, 0], samples[:, 1], s=4, color=canvas.ACCENT, alpha=0.35, linewidths=0)
    canvas.style(ax, canvas.wrapped(title, 3.2))


def save_points(points: Tensor, path: PathLike, *, title: str = "Samples") -> Path:
    """A scatter plot of the first two coordinates of points.

    Args:
        points: [N, D], N >= 1 and D >= 2.
        path: a .png file.
        title: what stands above the plot, before N.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        TypeError, ValueError: another shape, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path = canvas.target(path)
    if checks.floating("points", points).dim() != 2 or points.shape[1] < 2 or len(points) == 0:
        raise ValueError(f"points must have shape [N, D] with N >= 1 and D >= 2, got {checks.describe(points)}")
    figure = canvas.figure(5, 5)
    ax = figure.subplots()
    ax.scatter(*points[:, :2].detach().float().cpu().unbind(1), s=4, color=canvas.ACCENT, alpha=0.35, linewidths=0)
    canvas.style(ax, canvas.wrapped(f"{title} ({len(points):,})", 4.4))
    ax.set_aspect("equal", adjustable="datalim")
    return canvas.save_figure(figure, path)
