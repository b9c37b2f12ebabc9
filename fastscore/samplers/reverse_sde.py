"""The reverse SDE by Euler and Maruyama's method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..ops.affine_step import affine_step
from ..paths import Path
from ._chain import Chain, How
from ._grid import Point
from ._points import POINTS, of_points
from ._replay import Level
from ._sampler import Sampler

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.no_grad()
def reverse_sde(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    **how: Unpack[How],
) -> Tensor:
    """dx = (f x - g^2 s) dt + g dw back in time: x' = x - (f x - g^2 s) dt + g sqrt(dt) z, dt = t - t' > 0.

    f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2 at t. Of noise levels time is sigma^2, so that f = 0 and g = 1: x' =
    x + (sigma^2 - sigma'^2) s + sqrt(sigma^2 - sigma'^2) z. The update to the clean sample is x_0 = (x + sigma^2 s) / alpha, without noise.
    Unless ``rule`` says otherwise, points of a path lie evenly in t, and where alpha is 1 in log-SNR: with t = sigma, as in
    :func:`fastscore.paths.edm`, steps even in t would be far longer at the end than the noise that is left.

    Args:
        score_fn, shape, path, how: as for :func:`ddim`.

    Returns:
        The samples [B, ...], after one evaluation an update.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.

    Source: Anderson 1982; Song et al. 2021, "Score-based generative modeling through stochastic differential equations", section 4.1.
    """
    if how.get("rule") is None and isinstance(path, Path) and path.sigmas is None:
        how["rule"] = rule_of(path)
    chain = Chain(score_fn, shape, path, **how)
    table = chain.table([coefficients(p, q, path) for p, q in pairwise(chain.points)])

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        a, b, c = table[i]
        return affine_step(x, [s], a, [b], c, chain.rng)

    return chain.run(step)


def rule_of(path: Path) -> str:
    """How the points of a path lie where nothing else is asked for."""
    return "log_snr" if all(float(path.alpha(t)) == 1 for t in (path.t_min, path.t_max)) else "time"


def coefficients(p: Point, q: Point, path: Any) -> tuple[float, float, float]:
    """a, b and c of x' = a x + b s + c z, from point p to q."""
    if q.sigma == 0:
        return q.alpha / p.alpha, q.alpha * p.sigma**2 / p.alpha, 0.0
    if p.t is None or q.t is None:
        f, variance = 0.0, p.sigma**2 - q.sigma**2
    else:
        dt = p.t - q.t
        f, variance = float(path.drift(p.t)) * dt, float(path.diffusion_squared(p.t)) * dt
    return 1 - f, variance, math.sqrt(variance)


REVERSE_SDE = Sampler(
    name="reverse_sde",
    title="the reverse SDE (Euler-Maruyama)",
    source="Song et al. 2021",
    summary="one step a level, with all its noise",
    options=POINTS,
    **of_points(reverse_sde, rule=rule_of),
)
