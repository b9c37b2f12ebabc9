"""DDIM: from point to point along the predicted noise, with as much of it drawn anew as ``eta`` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._core.options import Option
from ..ops.affine_step import affine_step
from ..paths import Path
from ._chain import Chain, How
from ._grid import Point
from ._points import POINTS, fraction, of_points
from ._replay import Level
from ._sampler import Sampler

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.no_grad()
def ddim(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    *,
    eta: float = 0.0,
    **how: Unpack[How],
) -> Tensor:
    """x' = alpha' x_0 + sqrt(sigma'^2 - c^2) e + c z, with c = eta sigma' sqrt(1 - (rho' / rho)^2), rho = sigma / alpha.

    x_0 = (x + sigma^2 s) / alpha and e = -sigma s are what the score says of the clean sample and of its noise. Without
    ``eta`` it is Euler's method for the probability-flow ODE in rho, of order 1, also called DPM-Solver++(1S).

    Args:
        score_fn: the score, by ``conditioning``: ``score_fn(x, labels)`` for noise levels, ``score_fn(x, t)`` for a path.
        shape: of the samples, [B, ...].
        path: noise levels [L], strictly decreasing (alpha is 1), or a :class:`fastscore.paths.Path`.
        eta: from 0, no noise, to 1, that of :func:`ancestral`; where it is not 0, at least 1e-10.
        how: steps, rng, start, mean and others, see :class:`How`.

    Returns:
        The samples [B, ...], after one evaluation an update.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it.
        NonFiniteSamples: the score is NaN or infinite; the message says in which update.

    Source: Song, Meng & Ermon 2021, "Denoising diffusion implicit models", equation 12; in rho, so of any Gaussian path.
    """
    eta = fraction("eta", eta)
    chain = Chain(score_fn, shape, path, **how)
    table = chain.table([coefficients(p, q, eta) for p, q in pairwise(chain.points)])

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        a, b, c = table[i]
        return affine_step(x, [s], a, [b], c, chain.rng)

    return chain.run(step)


def coefficients(p: Point, q: Point, eta: float) -> tuple[float, float, float]:
    """a, b and c of x' = a x + b s + c z, from point p to q."""
    c = eta * q.sigma * math.sqrt(max(0.0, 1 - (q.rho / p.rho) ** 2))
    left = math.sqrt(max(0.0, q.sigma**2 - c**2))
    a = q.alpha / p.alpha
    return a, p.sigma * (a * p.sigma - left), c


DDIM = Sampler(
    name="ddim",
    title="DDIM",
    source="Song, Meng & Ermon 2021",
    summary="one step a level, deterministic but for eta",
    options=(
        Option("eta", float, "Noise drawn anew, of what ancestral sampling draws", fraction, default=0.0),
        *POINTS,
    ),
    **of_points(ddim),
)
