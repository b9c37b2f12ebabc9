"""DPM-Solver++: the exact solution of the linear part, and of the predicted clean sample a polynomial in log-SNR."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._core import checks
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
def dpm_solver(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    *,
    order: int = 2,
    eta: float = 0.0,
    **how: Unpack[How],
) -> Tensor:
    """DPM-Solver++: ``order`` 1 is 1S, 2 the multistep 2M; ``eta`` = 1 is SDE-DPM-Solver++, which draws noise.

    With lambda = log(alpha / sigma), h = lambda' - lambda, the clean sample x_0 = (x + sigma^2 s) / alpha of this point and x_0-, that
    of the point before, from which lambda had come h- nearer::

        D = x_0 + h / (2 h-) (x_0 - x_0-)                                          order 2, but x_0 in the first update
        x' = sigma'/sigma e^(-eta h) x + alpha' (1 - e^(-(1 + eta) h)) D + sigma' sqrt(1 - e^(-2 eta h)) z

    The update to the clean sample is x' = x_0. Without noise the order of convergence is ``order``, and order 1 is :func:`ddim`.

    Args:
        order: 1 or 2.
        eta: noise, from 0, none (the probability-flow ODE), to 1, the reverse SDE's.
        score_fn, shape, path, how: as for :func:`ddim`.

    Returns:
        The samples [B, ...], after one evaluation an update.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.

    Source: Lu et al. 2022, "DPM-Solver++", algorithm 2 and section 5 (eta between 0 and 1: as in k-diffusion).
    """
    order, eta = checks.integer("order", order, low=1, high=2), fraction("eta", eta)
    chain = Chain(score_fn, shape, path, **how)
    table = chain.table(coefficients(chain.points, order, eta))
    before: list[Tensor] = []

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        a, b, c = table[i]
        new = affine_step(x, [s, *before][: len(b)], a, b, c, chain.rng)
        chain.remember(before, [x, s])
        return new

    return chain.run(step)


def coefficients(points: Sequence[Point], order: int, eta: float) -> list[tuple[float, list[float], float]]:
    """a, [b_k] and c of each update: x' = a x + b_1 s + b_2 x- + b_3 s- + c z, x- and s- of the update before."""
    table = []
    for i, (p, q) in enumerate(pairwise(points)):
        if q.sigma == 0:
            table.append((q.alpha / p.alpha, [q.alpha * p.sigma**2 / p.alpha], 0.0))
            continue
        h = q.log_snr - p.log_snr
        a, of_clean = q.sigma / p.sigma * math.exp(-eta * h), -q.alpha * math.expm1(-(1 + eta) * h)
        c = q.sigma * math.sqrt(-math.expm1(-2 * eta * h))
        part = 0.0 if order == 1 or i == 0 else h / (2 * (p.log_snr - points[i - 1].log_snr))
        now = (1 + part) * of_clean / p.alpha
        b = [now * p.sigma**2]
        if part:
            o = points[i - 1]
            old = -part * of_clean / o.alpha
            b += [old, old * o.sigma**2]
        table.append((a + now, b, c))
    return table


def _entry(name: str, title: str, summary: str, eta: float) -> Sampler:
    return Sampler(
        name=name,
        title=title,
        source="Lu et al. 2022",
        summary=summary,
        options=(
            Option(
                "order",
                int,
                "Order of DPM-Solver++: 1 (1S) or 2, which takes the point before too (2M)",
                partial(checks.integer, low=1, high=2),
                default=2,
            ),
            Option("eta", float, "Noise drawn anew: 0 none, 1 that of the reverse SDE", fraction, default=eta),
            *POINTS,
        ),
        **of_points(dpm_solver),
    )


DPM = _entry("dpm", "DPM-Solver++(2M)", "deterministic, second order, one step a level", 0.0)
DPM_SDE = _entry("dpm_sde", "SDE-DPM-Solver++(2M)", "the same with noise, the best of few steps", 1.0)
