"""The probability-flow ODE by fourth-order Runge-Kutta steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
def flow_ode(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    **how: Unpack[How],
) -> Tensor:
    """dy/du = -rho sigma s, with y = x / alpha, rho = sigma / alpha and u = log rho, by the classical Runge-Kutta method.

    Of order 4. The score is asked for between two points too, at the geometric mean of their rho; the step to the clean
    sample is x_0 = (x + sigma^2 s) / alpha.

    Args:
        score_fn, shape, path, how: as for :func:`ddim`. A network that takes any sigma or t; of labels, with ``interpolate``, or
            a grid of every second of geometric noise levels.

    Returns:
        The samples [B, ...], after four evaluations an update, and one in the last where ``denoise``.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.

    Source: Song et al. 2021, "Score-based generative modeling through stochastic differential equations", section 4.3.
    """
    chain = Chain(score_fn, shape, path, **how)
    middles = chain.between([math.sqrt(p.rho * q.rho) for p, q in pairwise(chain.points) if q.sigma])
    at_middle, at_next = chain.ask(middles), chain.ask(chain.points[1:])
    pairs = zip_longest(pairwise(chain.points), middles)
    table = chain.table([coefficients(p, q, m) for (p, q), m in pairs])

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        first, *others = table[i]
        half = affine_step(x, [s], *first)
        if not others:
            return half
        second, third, most, fourth = others
        s2 = at_middle(half, i)
        s3 = at_middle(affine_step(x, [s2], *second), i)
        s4 = at_next(affine_step(x, [s3], *third), i)
        return affine_step(affine_step(x, [s, s2, s3], *most), [s4], *fourth)

    return chain.run(step)


def coefficients(p: Point, q: Point, m: Point | None) -> list[tuple[float, list[float]]]:
    """a and [b] of the five affine steps from point p by m to q; of the one where q is the clean end."""
    if m is None:
        return [(q.alpha / p.alpha, [q.alpha * p.rho * p.sigma])]
    h = math.log(p.rho / q.rho)
    at_p, at_m, at_q = (h * point.rho * point.sigma for point in (p, m, q))

    def moved(to: Point, *slopes: float) -> tuple[float, list[float]]:
        return to.alpha / p.alpha, [to.alpha * slope for slope in slopes]

    steps = [moved(m, at_p / 2), moved(m, at_m / 2), moved(q, at_m), moved(q, at_p / 6, at_m / 3, at_m / 3)]
    return [*steps, (1.0, [q.alpha * at_q / 6])]


FLOW_ODE = Sampler(
    name="ode",
    title="the probability-flow ODE (RK4)",
    source="Song et al. 2021",
    summary="deterministic, fourth order, four evaluations a level; needs a network that takes any sigma, or --interpolate",
    options=POINTS,
    **of_points(
        flow_ode, lambda L, options: 4 * number_of(L, options) - 3 * options["denoise"], between=lambda options: True
    ),
)
