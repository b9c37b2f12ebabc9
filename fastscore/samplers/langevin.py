"""Langevin dynamics at one noise level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _check
from ..ops import langevin_step
from ..rng import Philox, as_philox
from ._common import Callback, Trajectory, Watch, finish


@torch.no_grad()
def langevin(score_fn: Callable[[Tensor], Tensor], x: Tensor, *, num_steps: int, alpha: float | None = None,
             tau: float | None = None, rng: Philox | None = None, callback: Callback | None = None,
             trajectory: Trajectory | None = None, progress: bool = False) -> Tensor:
    """Unadjusted Langevin dynamics: ``num_steps`` times x <- x + alpha/2 s(x) + sqrt(alpha) z.

    Args:
        score_fn: ``score_fn(x)``, the score of the density to sample, of ``x``'s shape.
        x: where the chains begin [B, ...]; not changed.
        num_steps: number of updates.
        alpha: step size in the paper's form. Give this or ``tau``, not both.
        tau: step size in the form x + tau s + sqrt(2 tau) z, so alpha = 2 tau.
        rng: source of the noise, one step an update. ``None``: seeded from torch's default generator.
        callback: called with (step, x) after each update.
        trajectory: a :class:`Trajectory` to fill.
        progress: show a progress bar (needs tqdm).

    Returns:
        The last state [B, ...]. On N(0, s^2) its variance tends to s^2 / (1 - alpha / (4 s^2)), not s^2:
        there is no Metropolis step.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it.

    Source: Welling & Teh 2011; Song & Ermon 2019, equation 4.
    """
    _check.floating("x", x)
    _check.integer("num_steps", num_steps, low=1)
    if not callable(score_fn):
        raise TypeError(f"score_fn must be callable, got {_check.describe(score_fn)}")
    if (alpha is None) == (tau is None):
        raise ValueError(f"give one of alpha and tau (alpha = 2 tau), got alpha={alpha}, tau={tau}")
    step_size = _check.positive("alpha", alpha) if tau is None else 2 * _check.positive("tau", tau)
    rng = as_philox(rng)
    with Watch(num_steps, x, callback, trajectory, progress) as watch:
        for _ in range(num_steps):
            score = _check.like("the output of score_fn", score_fn(x), "x", x)
            x = langevin_step(x, score, step_size, rng)
            watch(x)
    return finish(x)
