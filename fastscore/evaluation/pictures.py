"""Pictures of samples as PNG files: grids, trajectories, neighbours, bars. Curves and fields are in plots.py.

Every function renders in memory and then puts the file in place in one step, so that a reader never meets half a
picture. Missing folders are made, and the same input gives the same bytes. All return the path, and raise TypeError or
ValueError for wrong input (before anything is written), :class:`fastscore.CannotWrite` (an OSError) where the file
cannot be written, and MissingDependency without matplotlib or Pillow.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import MissingDependency, require
from . import canvas
from .canvas import PathLike

_TILE = 48  # pixels: small images are enlarged to at least this
_COLUMNS = 12  # the most noise levels a trajectory shows
_ROWS = 10  # the most samples under each other beside their neighbours
_GAP = 0.85  # the grey between tiles, which is neither black nor white


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
        images: [N, C, H, W], any floating dtype and device, in [0, 1] (clamped). One channel is grey, three are RGB;
            of other numbers each is shown in grey, side by side.
        path: a .png file.
        columns: images in a row; by default ceil(sqrt(N)).
        scale: how many pixels wide and high each pixel becomes; by default enough for 48 pixels an image.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        TypeError, ValueError: not [N, C, H, W], not finite, columns or scale below 1, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path, images = canvas.target(path), _rgb("images", images)
    columns = math.ceil(len(images) ** 0.5) if columns is None else checks.integer("columns", columns, low=1)
    if scale is not None:
        scale = checks.integer("scale", scale, low=1)
    grid = _grid(_enlarge(images, scale), columns, padding=3, value=_GAP)
    pixels = grid.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    require("PIL.Image", "train").fromarray(pixels).save(buffer, format="PNG")
    return canvas.write(path, buffer.getvalue())


def _mosaic(tiles: Tensor, labels: Sequence[str], gaps: Sequence[int], path: Path, title: str) -> Path:
    """Tiles [R, K, 3, h, w] as a table, a label over each column, ``gaps[j]`` pixels left of column j."""
    rows, _, _, h, w = tiles.shape
    lefts = [sum(gaps[: j + 1]) + j * w for j in range(len(gaps))]
    table = torch.full((3, rows * (h + 3) - 3, lefts[-1] + w), _GAP)
    for i, row in enumerate(tiles):
        for left, tile in zip(lefts, row):
            table[:, i * (h + 3) : i * (h + 3) + h, left : left + w] = tile
    margin, top = 12, 48
    height = table.shape[1] + top + margin
    width = max(table.shape[2], math.ceil(1.07 * canvas.DPI * canvas.text_width(title, 7))) + 2 * margin
    figure = canvas.figure(width / canvas.DPI, height / canvas.DPI)
    figure.set_facecolor((_GAP,) * 3)
    figure.set_layout_engine("none")  # one pixel of the table is one of the picture
    ax = figure.add_axes((margin / width, margin / height, table.shape[2] / width, table.shape[1] / height))
    ax.imshow(table.permute(1, 2, 0).numpy(), interpolation="none", aspect="auto")
    ax.set_axis_off()
    for left, label in zip(lefts, labels):
        ax.annotate(
            label,
            (left + w / 2, 0),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=5.5,
            color=canvas.INK,
            annotation_clip=False,
        )
    figure.text(margin / width, 1 - 6 / height, title, va="top", fontsize=7, color=canvas.INK)
    return canvas.save_figure(figure, path)


def save_trajectory(frames: Sequence[Tensor], sigmas: Tensor | Sequence[float], path: PathLike) -> Path:
    """A few samples (rows) as the noise goes down (columns, labelled with sigma).

    Args:
        frames: for each noise level the samples after it, [n, C, H, W] floating (clamped to [0, 1]). If there is one
            frame more than levels, the last is the final, denoised one. At most 12 are shown, evenly spread.
        sigmas: the noise levels [L], decreasing, in the units of the data.
        path: a .png file.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        TypeError, ValueError: wrong numbers or shapes of frames, not finite, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path, levels = canvas.target(path), checks.sigmas("sigmas", sigmas).tolist()
    if len(frames) not in (len(levels), len(levels) + 1):
        raise ValueError(
            f"frames must hold one for each noise level ({len(levels)}), or one more, got {len(frames)}: of T "
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

    Returns:
        ``path``, as a ``Path``.

    Raises:
        TypeError, ValueError: shapes that do not agree, not finite, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path, left = canvas.target(path), _enlarge(_rgb("samples", samples))
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
        histograms: name -> counts [K], at least 0 with a total above 0, the same K. The first one is drawn in grey:
            give the real data's first.
        path: a .png file.
        title: over the picture.

    Returns:
        ``path``, as a ``Path``.

    Raises:
        TypeError, ValueError: no histogram, different K, negative or not finite, or a path that does not end in .png.
        CannotWrite: the file cannot be written.
    """
    path = canvas.target(path)
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
    head = (
        1.1 + canvas.text_width(title, 10) + sum(canvas.text_width(label, 8) + 0.55 for label in labels.values())
    )  # in one row
    figure = canvas.figure(max(4.5, 0.35 * classes * len(counts), head), 3)
    ax, width = figure.add_subplot(), 0.8 / len(counts)
    for j, (name, values) in enumerate(counts.items()):
        total = sum(values)
        shares = [v / total for v in values]
        ax.bar(
            [i + (j - (len(counts) - 1) / 2) * width for i in range(classes)],
            shares,
            0.92 * width,
            yerr=[math.sqrt(p * (1 - p) / total) for p in shares],
            color=canvas.SERIES[j % len(canvas.SERIES)],
            label=labels[name],
            error_kw={"elinewidth": 0.8, "ecolor": canvas.INK},
        )
    canvas.style(ax, title, "class", "share")
    ax.grid(False, axis="x")
    ax.set_xticks(range(classes))
    ax.legend(fontsize=8, frameon=False, ncols=len(counts), loc="lower right", bbox_to_anchor=(1, 1))
    return canvas.save_figure(figure, path)
