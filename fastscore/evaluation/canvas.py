"""What every picture of fastscore is drawn on: figures, colours, fonts, axes, and how a file is put in place.

matplotlib is used through its objects, without pyplot: no global state, no display. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._core import files
from .._core.errors import require

DPI = 150
INK, ACCENT = "#333333", "#3b6fb6"
SERIES = ("#9aa5b1", "#3b6fb6", "#e08e45", "#4f9d69", "#b05a7a", "#7a68b3")

PathLike = str | os.PathLike[str]


def target(path: PathLike) -> Path:
    """``path`` as a Path that ends in .png: checked before anything is drawn."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    return path


def write(path: Path, data: bytes) -> Path:
    """Put ``data`` at ``path`` in one step; missing folders are made. :class:`CannotWrite` where that fails."""
    with files.naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, data)
    return path


def figure(width: float, height: float) -> Any:
    """A matplotlib Figure of that many inches that belongs to no global state."""
    figure = require("matplotlib.figure", "train").Figure
    return figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save_figure(figure: Any, path: Path) -> Path:
    """Render ``figure`` and put it at ``path``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return write(path, buffer.getvalue())


def text_width(text: str, size: float) -> float:
    """How many inches wide ``text`` is in a font of ``size`` points, without a figure to draw it in."""
    path = require("matplotlib.textpath", "train").TextPath
    return path((0, 0), text, size=size).get_extents().width / 72 if text.strip() else 0.0


def wrapped(text: str, width: float, size: float = 10) -> str:
    """``text`` in lines that are no wider than ``width`` inches."""
    lines: list[str] = []
    for line in text.split("\n"):
        characters = max(1, int(len(line) * width / max(text_width(line, size), 1e-9)))
        lines += textwrap.wrap(line, characters) if characters < len(line) else [line]
    return "\n".join(lines)


def style(ax: Any, title: str, x: str = "", y: str = "") -> None:
    """Title and labels of the axes, in the fonts and colours of all pictures."""
    ax.set_title(title, loc="left", fontsize=10, color=INK)
    ax.set_xlabel(x, fontsize=9, color=INK)
    ax.set_ylabel(y, fontsize=9, color=INK)
    ax.tick_params(which="both", labelsize=8, colors=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)


def log_axis(ax: Any, which: str) -> None:
    """A log axis ("x" or "y") with plain numbers, where the data spans a factor of 3 or more."""
    axis = getattr(ax, f"{which}axis")
    low, high = axis.get_data_interval()
    if high >= 3 * low:
        ax.set(**{f"{which}scale": "log"})
        plain_numbers(axis, (1, 2, 5) if high < 100 * low else (1,))


def plain_numbers(axis: Any, marks: Sequence[int]) -> None:
    """1,000 instead of 10^3 on a log axis, at ``marks`` in each decade."""
    ticker = require("matplotlib.ticker", "train")
    axis.set_major_locator(ticker.LogLocator(subs=marks))
    axis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    axis.set_minor_formatter(ticker.NullFormatter())
