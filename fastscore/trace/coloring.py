"""The colouring that :mod:`~fastscore.trace.probing` uses: a lattice, chosen for the shape of the sample.

Element (c, y, x) gets the colour (a x + b y + e c) mod m. What probing leaves of the variance are the pairs of one
colour, so (a, b, e) minimises, over such pairs, the sum of a fixed prior of how strongly two elements of a score
network's Jacobian are coupled: exp(-1.5 distance), distance^2 = dx^2 + dy^2 + [channels differ], in pixels.

The pairs of a box depend on their offset (dx, dy, dc) alone, (W - |dx|) (H - |dy|) (C - |dc|) of each, and an offset
has one colour difference a dx + b dy + e dc mod m. So the search never looks at pairs: for each a, the prior's
offsets are summed by a dx mod m (a histogram of m bins a row dy), the rows are shifted by b dy and added, and e reads
off one bin a channel offset. Multiplying (a, b, e) by a unit mod m renames the colours, so a runs over the divisors of
m; reflections let b and e stop at m / 2.

Source: Tang & Saad 2012, "A probing method for computing the diagonal of a matrix inverse" (probing by distance).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .._core.private_torch import constant_to_dynamo
from ..ops import Coloring

DECAY = 1.5
_TIE = 1e-9  # costs that differ by less are equal, and the first wins: rounding must not choose
_MANY = 128  # colours beyond which only a = 1 is tried
_AT_ONCE = 1 << 18  # elements of a temporary


def box(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of a sample: [W], [H, W], [C, H, W]; what leads more dimensions counts as channels."""
    height = shape[-2] if len(shape) > 1 else 1
    return math.prod(shape[:-2]), height, shape[-1]


def coloring_for(coloring: str | Coloring, shape: tuple[int, ...], colors: int) -> Coloring:
    """``coloring`` itself, checked, or the lattice that it names."""
    if isinstance(coloring, Coloring):
        if coloring.colors != colors:
            raise ValueError(f"coloring must have num_probes / blocks = {colors} colors, got {coloring}")
        return coloring
    if coloring != "lattice":
        raise ValueError(f"coloring must be 'lattice' or a fastscore.Coloring, got {coloring!r}")
    return lattice(shape, colors)


@constant_to_dynamo
def lattice(shape: tuple[int, ...], colors: int) -> Coloring:
    """The best lattice of ``colors`` colours for samples of ``shape``, a tuple without the batch dimension.

    Example:
        >>> lattice((8, 8), 2)
        Coloring(colors=2, width=8, height=8, a=1, b=1, e=0)
    """
    return _search(*box(shape), colors)


@lru_cache(maxsize=256)
def _search(channels: int, height: int, width: int, m: int) -> Coloring:
    apart = max(math.sqrt(m), m / min(height, width))  # about how far pairs of one colour can be
    dx, dy = _offsets(width, 2 * math.ceil(apart) + 2), _offsets(height, 2 * math.ceil(apart) + 2)
    squared = dy[:, None] ** 2 + dx**2
    pairs = (height - np.abs(dy))[:, None] * (width - np.abs(dx))
    same = np.exp(-DECAY * np.sqrt(squared)) * pairs * channels
    same[squared == 0] = 0  # an element and itself
    other = np.exp(-DECAY * np.sqrt(squared + 1)) * pairs
    dc = _offsets(channels, channels)
    dc_bins = np.bincount(dc % m, (channels - np.abs(dc)) * (dc != 0), m)  # pairs of channels by their offset mod m
    half = np.arange(m // 2 + 1)
    b_values, e_values = half if height > 1 else half[:1], half if channels > 1 else half[:1]
    best, found = math.inf, Coloring(m, width, height, 1)
    for a in [d for d in range(1, m + 1) if m % d == 0 and (d == 1 or m <= _MANY)]:
        same_rows, other_rows = (np.stack([np.bincount(a * dx % m, row, m) for row in each]) for each in (same, other))
        for b in np.array_split(b_values, len(b_values) * len(dy) * m // _AT_ONCE + 1):
            costs = _costs(same_rows, other_rows, dy, dc_bins, b, e_values)
            if costs.min() < best * (1 - _TIE):
                best = costs.min()
                i, j = np.argwhere(costs <= best * (1 + _TIE))[0]
                found = Coloring(m, width, height, a % m, int(b[i]), int(e_values[j]))
    return found


def _costs(
    same_rows: np.ndarray, other_rows: np.ndarray, dy: np.ndarray, dc_bins: np.ndarray, b: np.ndarray, e: np.ndarray
) -> np.ndarray:
    """The prior's sum over pairs of one colour for every (b, e), from its rows [dy, colour difference of dx]."""
    m, row = same_rows.shape[1], np.arange(len(dy))
    shift = -b[:, None] * dy % m  # the difference of dx that makes up for b dy
    costs = same_rows[row, shift].sum(1)[:, None]
    dc = np.flatnonzero(dc_bins)
    if len(dc) == 0:
        return costs
    bins = other_rows[row[:, None], (shift[:, :, None] + np.arange(m)) % m].sum(1)  # [b, colour difference]
    return costs + bins[:, -e[:, None] * dc % m] @ dc_bins[dc]


def _offsets(size: int, reach: int) -> np.ndarray:
    reach = min(size - 1, reach)
    return np.arange(-reach, reach + 1)
