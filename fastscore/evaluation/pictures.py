"""Pictures of samples as PNG files: grids, trajectories, neighbours, bars. Curves and fields are in plots.py.

Every function renders in memory, then puts the file in place in one step: a reader never meets half a
picture. Missing folders are made. matplotlib is used through its objects, without pyplot: no global state,
no display. The same input gives the same bytes. All return the path, and raise TypeError or ValueError for
wrong input (before anything is written), OSError where the file cannot be written, MissingDependency without
matplotlib or Pillow.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._core import checks, files
from .._core.errors import MissingDependency, require

_TILE = 48  # pixels: small images are enlarged to at least this
_COLUMNS = 12  # the most noise levels a trajectory shows
_ROWS = 10  # the most samples under each other beside their neighbours
_DPI = 150
_GAP = 0.85  # the grey between tiles, to be told from black and from white
_INK, _ACCENT = "#333333", "#3b6fb6"
_BARS = ("#9aa5b1", "#3b6fb6", "#e08e45", "#4f9d69", "#b05a7a", "#7a68b3")

PathLike = str | os.PathLike[str]


def _target(path: PathLike) -> Path:
    """``path`` as a Path that ends in .png: checked before anything is drawn."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    return path


def _write(path: Path, data: bytes) -> Path:
    """Put ``data`` at ``path`` in one step, by way of a hidden file in the same folder."""
    temporary = files.temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:  # its number picks the subclass: PermissionError stays one
        raise OSError(error.errno, f"cannot write the picture {path}: {error.strerror}") from error
    return path


def _rgb(name: str, images: Tensor) -> Tensor:
    """[N, 3, H, W'] float32 on the CPU in [0, 1]; channels other than 1 or 3 lie side by side in grey."""
    if checks.floating(name, images).dim() != 4 or images.numel() == 0:
        raise ValueError(f"{name} must be [N, C, H, W] and not empty, got {checks.describe(images)}")
    images = images.detach().float().cpu()
    bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {len(images)} images")
    if images.shape[1] not in (1, 3):
        images = torch.cat(images.unbind(1), 2).unsqueeze(1)
    return images.clamp(0, 1).expand(-1, 3, -1, -1)


def _enlarge(images: Tensor, scale: int | None = None) -> Tensor:
    """Each pixel ``scale`` times as wide and high; by default so that the smaller side has _TILE pixels."""
    scale = math.ceil(_TILE / min(images.shape[-2:])) if scale is None else scale
    return images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def _grid(images: Tensor, columns: int, padding: int, value: float) -> Tensor:
    """torchvision's ``make_grid`` of [N, 3, H, W]; the same in torch where torchvision does not import."""
    try:
        return require("torchvision.utils", "train").make_grid(images, columns, padding, pad_value=value)
    except MissingDependency:
        pass
    n, _, h, w = images.shape
    if n == 1:
        return images[0]
    columns, h, w = min(columns, n), h + padding, w + padding
    grid = images.new_full((3, math.ceil(n / columns) * h + padding, columns * w + padding), value)
    for i, image in enumerate(images):
        y, x = i // columns * h, i % columns * w
        grid[:, y + padding : y + h, x + padding : x + w] = image
    return grid


def save_grid(images: Tensor, path: PathLike, columns: int | None = None, scale: int | None = None) -> Path:
    """A grid of images, row by row, each pixel a crisp square.

    Args:
        images: [N, C, H, W], any floating dtype and device, in [0, 1] (clamped). 1 channel is grey, 3 are
        RGB,
            other numbers are shown side by side in grey.
        path: a .png file.
        columns: images in a row; by default ceil(sqrt(N)).
        scale: how many pixels wide and high each pixel becomes; by default enough for 48 pixels an image.

    Returns: the path.
    Raises: TypeError, ValueError: not [N, C, H, W], not finite, columns or scale below 1, not .png. OSError.
    """
    path, images = _target(path), _rgb("images", images)
    columns = math.ceil(len(images) ** 0.5) if columns is None else checks.integer("columns", columns, low=1)
    if scale is not None:
        scale = checks.integer("scale", scale, low=1)
    grid = _grid(_enlarge(images, scale), columns, padding=3, value=_GAP)
    pixels = grid.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    require("PIL.Image", "train").fromarray(pixels).save(buffer, format="PNG")
    return _write(path, buffer.getvalue())


def _figure(width: float, height: float) -> Any:
    """A matplotlib Figure of that many inches that belongs to no global state."""
    figure = require("matplotlib.figure", "train").Figure
    return figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _save_figure(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return _write(path, buffer.getvalue())


def _inches(text: str, size: float) -> float:
    """How wide ``text`` is in a font of ``size`` points, without a figure to draw it in."""
    path = require("matplotlib.textpath", "train").TextPath
    return path((0, 0), text, size=size).get_extents().width / 72 if text.strip() else 0.0


def _wrapped(text: str, inches: float, size: float = 10) -> str:
    """``text`` in lines that are no wider than ``inches``."""
    lines = []
    for line in text.split("\n"):
        characters = max(1, int(len(line) * inches / max(_inches(line, size), 1e-9)))
        lines += textwrap.wrap(line, characters) if characters < len(line) else [line]
    return "\n".join(lines)


def _style(ax: Any, title: str, x: str = "", y: str = "") -> None:
    ax.set_title(title, loc="left", fontsize=10, color=_INK)
    ax.set_xlabel(x, fontsize=9, color=_INK)
    ax.set_ylabel(y, fontsize=9, color=_INK)
    ax.tick_params(which="both", labelsize=8, colors=_INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)


def _log(ax: Any, which: str) -> None:
    """A log axis ("x" or "y") with plain numbers, where the data spans a factor of 3 or more."""
    axis = getattr(ax, f"{which}axis")
    low, high = axis.get_data_interval()
    if high >= 3 * low:
        ax.set(**{f"{which}scale": "log"})
        _plain(axis, (1, 2, 5) if high < 100 * low else (1,))


def _plain(axis: Any, marks: Sequence[int]) -> None:
    """1,000 instead of 10^3 on a log axis, at ``marks`` in each decade."""
    ticker = require("matplotlib.ticker", "train")
    axis.set_major_locator(ticker.LogLocator(subs=marks))
    axis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    axis.set_minor_formatter(ticker.NullFormatter())


def _mosaic(tiles: Tensor, labels: Sequence[str], gaps: Sequence[int], path: Path, title: str) -> Path:
    """Tiles [R, K, 3, h, w] as a table, a label over each column, ``gaps[j]`` pixels left of column j."""
    rows, _, _, h, w = tiles.shape
    lefts = [sum(gaps[: j + 1]) + j * w for j in range(len(gaps))]
    canvas = torch.full((3, rows * (h + 3) - 3, lefts[-1] + w), _GAP)
    for i, row in enumerate(tiles):
        for left, tile in zip(lefts, row):
            canvas[:, i * (h + 3) : i * (h + 3) + h, left : left + w] = tile
    margin, top = 12, 48
    height = canvas.shape[1] + top + margin
    width = max(canvas.shape[2], math.ceil(1.07 * _DPI * _inches(title, 7))) + 2 * margin
    figure = _figure(width / _DPI, height / _DPI)
    figure.set_facecolor((_GAP,) * 3)
    figure.set_layout_engine("none")  # one pixel of the canvas is one of the picture
    ax = figure.add_axes((margin / width, margin / height, canvas.shape[2] / width, canvas.shape[1] / height))
    ax.imshow(canvas.permute(1, 2, 0).numpy(), interpolation="none", aspect="auto")
    ax.set_axis_off()
    for left, label in zip(lefts, labels):
        ax.annotate(
            label,
            (left + w / 2, 0),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=5.5,
            color=_INK,
            annotation_clip=False,
        )
    figure.text(margin / width, 1 - 6 / height, title, va="top", fontsize=7, color=_INK)
    return _save_figure(figure, path)


def save_trajectory(frames: Sequence[Tensor], sigmas: Tensor | Sequence[float], path: PathLike) -> Path:
    """A few samples (rows) as the noise goes down (columns, labelled with sigma).

    Args:
        frames: for each noise level the samples after it, [n, C, H, W] floating (clamped to [0, 1]). One
        frame
            more than levels is taken for the final, denoised one. Of many, 12 spread evenly are shown.
        sigmas: the noise levels [L], decreasing, in the units of the data.
        path: a .png file.

    Returns: the path.
    Raises: TypeError, ValueError: wrong numbers or shapes of frames, not finite, not .png. OSError.
    """
    path, levels = _target(path), checks.sigmas("sigmas", sigmas).tolist()
    if len(frames) not in (len(levels), len(levels) + 1):
        raise ValueError(
            f"frames must be one a noise level ({len(levels)}), or one more, got {len(frames)}: of T "
            "updates at each level, Trajectory(every=T) keeps the last"
        )
    labels = [f"{level:.3g}" for level in levels] + ["denoised"] * (len(frames) - len(levels))
    count = min(len(frames), _COLUMNS)
    chosen = [round(i * (len(frames) - 1) / max(1, count - 1)) for i in range(count)]
    shown = [_enlarge(_rgb(f"frames[{i}]", frames[i])) for i in chosen]
    for i in chosen:
        if frames[i].shape != frames[0].shape:
            raise ValueError(
                f"frames[{i}] must have the shape of frames[0], {tuple(frames[0].shape)}, got "
                f"{checks.describe(frames[i])}"
            )
    title = f"From σ = {levels[0]:.3g} to σ = {levels[-1]:.3g} in {len(levels)} noise levels"
    return _mosaic(torch.stack(shown, 1), [labels[i] for i in chosen], [0] + [3] * (count - 1), path, title)


def save_neighbours(samples: Tensor, neighbours: Tensor, path: PathLike) -> Path:
    """Each sample beside its nearest training images: do the samples copy?

    Args:
        samples: [n, C, H, W] floating in [0, 1] (clamped).
        neighbours: [n, k, C, H, W], for instance ``train[nearest_neighbours(samples, train, k).indices]``.
        path: a .png file.

    Returns: the path.
    Raises: TypeError, ValueError: shapes that do not agree, not finite, not .png. OSError.
    """
    path, left = _target(path), _enlarge(_rgb("samples", samples))
    shape = checks.floating("neighbours", neighbours).shape
    if len(shape) != 5 or (shape[0], *shape[2:]) != tuple(samples.shape) or shape[1] == 0:
        raise ValueError(
            f"neighbours must be [n, k, C, H, W] with the n, C, H, W of samples, "
            f"{tuple(samples.shape)}, got {checks.describe(neighbours)}"
        )
    right = _enlarge(_rgb("neighbours", neighbours.flatten(0, 1))).unflatten(0, shape[:2])
    tiles = torch.cat([left[:, None], right], 1)
    rows, k = min(len(tiles), _ROWS), shape[1]
    blocks = math.ceil(len(tiles) / rows)
    blank = tiles.new_full((blocks * rows - len(tiles), *tiles.shape[1:]), _GAP)
    tiles = torch.cat([tiles, blank]).unflatten(0, (blocks, rows)).transpose(0, 1).flatten(1, 2)
    labels = (["sample", "nearest"] + [f"{i}." for i in range(2, k + 1)]) * blocks
    gaps = ([36, 14] + [3] * (k - 1)) * blocks
    return _mosaic(tiles, labels, [0] + gaps[1:], path, "Samples and their nearest training images")


def save_bars(histograms: Mapping[str, Sequence[float]], path: PathLike, title: str = "Classes") -> Path:
    """Histograms of counts as bars side by side: shares of each one's total, with one standard error.

    Args:
        histograms: name -> counts [K], at least 0 with a total above 0, the same K. The first one is grey:
        make
            it the real data's.
        path: a .png file.
        title: over the picture.

    Returns: the path.
    Raises: TypeError, ValueError: no histogram, different K, negative or not finite, not .png. OSError.
    """
    path = _target(path)
    if not histograms:
        raise ValueError("histograms must hold at least one histogram, got none")
    counts = {
        name: [checks.positive(f"histograms[{name!r}][{i}]", v, zero_allowed=True) for i, v in enumerate(values)]
        for name, values in histograms.items()
    }
    classes = len(next(iter(counts.values())))
    for name, values in counts.items():
        if len(values) != classes or sum(values) == 0:
            raise ValueError(f"histograms[{name!r}] must have {classes} counts, not all zero, got {values}")
    labels = {name: f"{name} (n = {sum(values):g})" for name, values in counts.items()}
    head = 1.1 + _inches(title, 10) + sum(_inches(label, 8) + 0.55 for label in labels.values())  # in one row
    figure = _figure(max(4.5, 0.35 * classes * len(counts), head), 3)
    ax, width = figure.add_subplot(), 0.8 / len(counts)
    for j, (name, values) in enumerate(counts.items()):
        total = sum(values)
        shares = [v / total for v in values]
        ax.bar(
            [i + (j - (len(counts) - 1) / 2) * width for i in range(classes)],
            shares,
            0.92 * width,
            yerr=[math.sqrt(p * (1 - p) / total) for p in shares],
            color=_BARS[j % len(_BARS)],
            label=labels[name],
            error_kw={"elinewidth": 0.8, "ecolor": _INK},
        )
    _style(ax, title, "class", "share")
    ax.grid(False, axis="x")
    ax.set_xticks(range(classes))
    ax.legend(fontsize=8, frameon=False, ncols=len(counts), loc="lower right", bbox_to_anchor=(1, 1))
    return _save_figure(figure, path)
