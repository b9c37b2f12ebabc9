"""The energy distance of two sets of vectors, and the test that it makes of whether they are of one distribution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._core import checks
from ...rng import Philox
from ._rows import check_rows


class TwoSampleTest(NamedTuple):
    """The energy distance, and the share of random divisions of all vectors that have one as large: in (0, 1]."""

    distance: float
    p_value: float


def two_sample_test(a: Tensor, b: Tensor, *, permutations: int = 199, rng: Philox | None = None) -> TwoSampleTest:
    """The energy distance 2 E||a - b|| - E||a - a'|| - E||b - b'||, and how often chance alone makes it as large.

    The means are over all pairs, of equal ones too, so that it is at least 0, and 0 of equal sets alone. Where both
    sets are of one distribution the p value is uniform: below 0.05 in one of twenty cases.

    Args:
        a: [N, D], any floating dtype, N >= 2.
        b: [M, D], on the same device. (N + M)^2 distances are held at once: 32 MB for 1,000 and 1,000.
        permutations: random divisions of the N + M vectors into N and M; the least p value is 1 / (permutations + 1).
        rng: which divisions; ``None``: ``Philox(0)``.

    Returns:
        ``distance`` and ``p_value``, (1 + divisions with at least this distance) / (1 + permutations).

    Raises:
        TypeError, ValueError: not floating, not [N, D] of one width, fewer than two rows, permutations < 1, not finite.

    Source: Szekely & Rizzo 2013, "Energy statistics: a class of statistics based on distances".
    """
    permutations = checks.integer("permutations", permutations, low=1)
    a, b = (value.double() for value in check_rows(2, a=a, b=b))
    both, rng = torch.cat([a, b]), Philox(0) if rng is None else rng
    weights = torch.full((permutations + 1, len(both)), -1 / len(b), dtype=both.dtype, device=both.device)
    weights[0, : len(a)] = 1 / len(a)
    for row in weights[1:]:
        row[rng.permutation(len(both), device=both.device)[: len(a)]] = 1 / len(a)
    # with w = 1/N on the one set and -1/M on the other, the distance is -w^T D w
    distances = -(weights @ torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist") * weights).sum(1)
    distance = float(distances[0])
    as_large = int((distances[1:] >= distance - 1e-12 * distances.abs().amax()).sum())
    return TwoSampleTest(max(0.0, distance), (1 + as_large) / (1 + permutations))
