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

from ..ops import Coloring

DECAY = 1.5
_MANY = 128  # colours beyond which only a = 1 is tried


def box(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of a sample: [W], [H, W], [C, H, W]; what leads more dimensions counts as channels."""
    height = shape[-2] if len(shape) > 1 else 1
    return math.prod(shape[:-2]), height, shape[-1]


@lru_cache(maxsize=256)
def lattice(shape: tuple[int, ...], colors: int) -> Coloring:
    """The best lattice of ``colors`` colours for samples of ``shape``, a tuple without the batch dimension.

    Example:
        >>> lattice((8, 8), 2)
        Coloring(colors=2, width=8, height=8, a=1, b=1, e=0)
    """
    channels, height, width = box(shape)
    m = colors
    apart = max(math.sqrt(m), m / min(height, width))  # about how far pairs of one colour can be
    dx, dy = _offsets(width, 2 * math.ceil(apart) + 2), _offsets(height, 2 * math.ceil(apart) + 2)
    squared = dy[:, None] ** 2 + dx ** 2
    pairs = (height - np.abs(dy))[:, None] * (width - np.abs(dx))
    same = np.exp(-DECAY * np.sqrt(squared)) * pairs * channels
    same[squared == 0] = 0  # an element and itself
    other = np.exp(-DECAY * np.sqrt(squared + 1)) * pairs
    dc = _offsets(channels, channels)
    dc_bins = np.bincount(dc % m, (channels - np.abs(dc)) * (dc != 0), m)  # pairs of channels by their offset mod m
    dc = np.flatnonzero(dc_bins)
    half = np.arange(m // 2 + 1)
    e_values = half if len(dc) else half[:1]
    e_index = -e_values[:, None] * dc % m
    best, found = math.inf, Coloring(m, width, height, 1)
    for a in [d for d in range(1, m + 1) if m % d == 0 and (d == 1 or m <= _MANY)]:
        rows = a * dx % m
        same_rows = np.stack([np.bincount(rows, row, m) for row in same])
        other_rows = np.stack([np.bincount(rows, row, m) for row in other])
        for b in half if height > 1 else half[:1]:
            shift = -b * dy % m
            cost = same_rows[np.arange(len(dy)), shift].sum()
            if len(dc):
                bins = sum(np.roll(row, -s) for row, s in zip(other_rows, shift))
                costs = cost + bins[e_index] @ dc_bins[dc]
            else:
                costs = np.array([cost])
            e = int(costs.argmin())
            if costs[e] < best * (1 - 1e-12):
                best, found = float(costs[e]), Coloring(m, width, height, a % m, int(b), int(e_values[e]))
    return found


def _offsets(size: int, reach: int) -> np.ndarray:
    reach = min(size - 1, reach)
    return np.arange(-reach, reach + 1)
