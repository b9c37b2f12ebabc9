"""Heun's method for the probability-flow ODE, with EDM's churn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._core import checks
from .._core.options import Option
from ..ops.affine_step import affine_step
from ..paths import Path
from ._chain import Chain, How
from ._grid import Point
from ._points import POINTS, number_of, of_points
from ._replay import Level
from ._sampler import Sampler

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.no_grad()
def heun(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    noise_scale: float = 1.0,
    **how: Unpack[How],
) -> Tensor:
    """EDM's sampler: dy/drho = -sigma s, with y = x / alpha and rho = sigma / alpha, by the trapezoidal rule.

    From a point to the next, with s' the score at what Euler's step (:func:`ddim`) gives::

        y' = y - (rho' - rho) (sigma s + sigma' s') / 2

    of order 2; the step to the clean sample is Euler's. With ``churn`` the noise first grows by the factor 1 + gamma, gamma =
    min(churn / N, sqrt(2) - 1) of N steps, but not beyond the first point's: y + noise_scale sqrt(rho^2 (1 + gamma)^2 - rho^2) z.
    On a path the points are those of ``rule="karras"`` unless another is given.

    Args:
        churn: EDM's S_churn, 0 or more. More than 0 asks for points between noise levels.
        churn_min, churn_max: it is done where rho is from the one to the other (S_tmin, S_tmax).
        noise_scale: S_noise.
        score_fn, shape, path, how: as for :func:`ddim`.

    Returns:
        The samples [B, ...], after two evaluations an update, and one in the last where ``denoise``.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.

    Source: Karras et al. 2022, algorithm 2.
    """
    churn = checks.positive("churn", churn, zero_allowed=True)
    noise_scale = checks.positive("noise_scale", noise_scale)
    if not 0 <= churn_min <= churn_max:
        raise ValueError(f"churn_max must be at least churn_min, {churn_min}, which is 0 or more, got {churn_max}")
    if how.get("rule") is None and isinstance(path, Path) and path.sigmas is None:
        how["rule"] = "karras"
    chain = Chain(score_fn, shape, path, **how)
    ends = chain.points
    gamma = min(churn / max(1, len(ends) - 1), math.sqrt(2) - 1)

    grows = [gamma > 0 and i > 0 and p.sigma > 0 and churn_min <= p.rho <= churn_max for i, p in enumerate(ends)]
    grown = iter(chain.between([min(ends[0].rho, p.rho * (1 + gamma)) for p, does in zip(ends, grows) if does]))
    starts = [next(grown) if does else p for p, does in zip(ends, grows)]  # after the churn
    chain.points = starts
    table = chain.table([coefficients(p, q, to, noise_scale) for p, q, to in zip(starts, ends[1:], starts[1:])])
    at_next = chain.ask(ends[1:])

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        (a, b), corrected = table[i]
        euler = affine_step(x, [s], a, [b], None, None)
        if corrected is None:
            return euler
        a, b, c = corrected
        return affine_step(x, [s, at_next(euler, i)], a, b, c, chain.rng)

    return chain.run(step)


def coefficients(p: Point, q: Point, to: Point, noise_scale: float) -> tuple[tuple, tuple | None]:
    """Of Euler's step from p to q, a and b; of Heun's, with the noise that leads on from q to ``to``, a, [b, b'] and c."""
    a, b = q.alpha / p.alpha, -q.alpha * (q.rho - p.rho)
    euler = a, b * p.sigma
    if q.sigma == 0:
        return euler, None
    scale = to.alpha / q.alpha
    c = noise_scale * to.alpha * math.sqrt(max(0.0, to.rho**2 - q.rho**2))
    b *= scale / 2
    return euler, (a * scale, [b * p.sigma, b * q.sigma], c)


HEUN = Sampler(
    name="heun",
    title="Heun's method (EDM)",
    source="Karras et al. 2022",
    summary="second order, two evaluations a level",
    options=(
        Option(
            "churn",
            float,
            "Noise that is added before each step, EDM's S_churn; needs a network that takes any sigma, or --interpolate",
            partial(checks.positive, zero_allowed=True),
            default=0.0,
        ),
        *POINTS,
    ),
    **of_points(
        heun,
        lambda L, options: 2 * number_of(L, options) - options["denoise"],
        between=lambda options: options["churn"] > 0,
        rule="karras",
    ),
)
