"""Ancestral sampling: DDPM's, of any Gaussian path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._core import checks
from .._core.options import choice
from ..ops.affine_step import affine_step
from ..paths import Path
from ._chain import Chain, How
from ._grid import Point
from ._points import POINTS, of_points
from ._replay import Level
from ._sampler import Sampler

if TYPE_CHECKING:
    from typing_extensions import Unpack


VARIANCES = ("posterior", "forward")


@torch.no_grad()
def ancestral(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    *,
    variance: str = "posterior",
    **how: Unpack[How],
) -> Tensor:
    """x' ~ p(x' | x, x_0), at the clean sample x_0 = (x + sigma^2 s) / alpha that the score predicts.

    With r = alpha / alpha' and v = sigma^2 - r^2 sigma'^2, the variance of the forward step from x' to x:
    x' = (x + v s) / r + c z, where c^2 = sigma'^2 v / sigma^2 (``"posterior"``) or v (``"forward"``): DDPM's two choices, right for
    data that are one point and for data N(0, I). The last update, to the clean sample, draws nothing.

    Args:
        variance: ``"posterior"`` or ``"forward"``.
        score_fn, shape, path, how: as for :func:`ddim`.

    Returns:
        The samples [B, ...], after one evaluation an update.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.

    Source: Ho, Jain & Abbeel 2020, algorithm 2 and section 3.2; with alpha = 1 Song et al. 2021 (SDE), appendix F.
    """
    checks.one_of("variance", variance, VARIANCES)
    chain = Chain(score_fn, shape, path, **how)
    table = chain.table([coefficients(p, q, variance) for p, q in pairwise(chain.points)])

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        a, b, c = table[i]
        return affine_step(x, [s], a, [b], c, chain.rng)

    return chain.run(step)


def coefficients(p: Point, q: Point, variance: str) -> tuple[float, float, float]:
    """a, b and c of x' = a x + b s + c z, from point p to q."""
    r = p.alpha / q.alpha
    v = max(0.0, p.sigma**2 - (r * q.sigma) ** 2)
    c = 0.0 if q.sigma == 0 else math.sqrt(v) * (q.sigma / p.sigma if variance == "posterior" else 1.0)
    return 1 / r, v / r, c


ANCESTRAL = Sampler(
    name="ancestral",
    title="ancestral sampling",
    source="Ho, Jain & Abbeel 2020",
    summary="DDPM's, one step a level",
    options=(
        choice(
            "variance",
            VARIANCES,
            "Variance of an update: of the step back given the clean sample (posterior), or of the step forward",
            default="posterior",
        ),
        *POINTS,
    ),
    **of_points(ancestral),
)
