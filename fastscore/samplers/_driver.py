"""The one loop that every sampler runs: over noise levels, and the updates at each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.errors import caller
from ..rng import Philox
from ._replay import Level, kept_on, replayed
from ._watch import Callback, Trajectory, Watch

Step = Callable[[Tensor, Tensor, Level], Tensor]
Constraint = Callable[[int], Callable[[Tensor], Tensor]]
After = Callable[[Tensor, int, bool], Tensor]


def run_chain(
    score: Callable[[Tensor, Level], Tensor],
    x: Tensor,
    step: Step,
    updates: Sequence[int],
    *,
    recorded: Philox | None = None,
    constraint: Constraint | None = None,
    after: After | None = None,
    kind: Callable[[int], Hashable] | None = None,
    denoise_at: float | None = None,
    clamp: tuple[float, float] | None = None,
    callback: Callback | None = None,
    trajectory: Trajectory | None = None,
    progress: bool = False,
) -> Tensor:
    """For each level i, ``updates[i]`` times: x <- step(x, score(x, i), i).

    What it is given was checked before.

    Args:
        score: score(x, i), the score of ``x``'s shape at level i.
        x: where the chains begin [B, ...]; not changed.
        step: step(x, s, i), the samples after one update at level i, where s = score(x, i).
        updates: how many updates there are at each level; a level with no updates is visited only to denoise.
        recorded: where the updates are to be CUDA graphs, what they draw from; then the level i that score and step are
            given is :class:`Recorded`, and a constraint's projection works on tensors that stay from level to level.
        constraint: constraint(i), called once per level, gives the projection of the samples onto what must hold there;
            it is applied on entering the level and after each of its updates.
        after: after(x, i, last), the samples once an update at level i is done, its last one or not; never in a graph.
        kind: kind(i), equal for levels whose updates may be one graph; None: all are.
        denoise_at: sigma of the last level: end with x + sigma^2 score(x, last). None: end with the last update.
        clamp: (low, high) for the samples returned alone.
        callback, trajectory, progress: as for :func:`annealed_langevin`; what they see is after the projection.

    Returns:
        The samples [B, ...], with a warning where some are not finite.
    """
    with Watch(sum(updates), callback, trajectory, progress) as watch:
        if recorded is not None:
            watch.copies = True
            with kept_on(recorded, x.device, 3 * sum(updates)):
                x = replayed(score, x, step, updates, watch, constraint=constraint, after=after, kind=kind)
        for i, times in enumerate(updates if recorded is None else ()):
            project = None if constraint is None else constraint(i)
            if project is not None:
                x = project(x)
            for k in range(times):
                x = step(x, score(x, i), i)
                if project is not None:
                    x = project(x)
                if after is not None:
                    x = after(x, i, k + 1 == times)
                watch(x)
    if denoise_at is not None:
        x = denoised(x, score(x, len(updates) - 1), denoise_at)
    return finish(x, clamp)


def check_clamp(clamp: tuple[float, float] | None) -> tuple[float, float] | None:
    """None, or (low, high) with low < high, as Python numbers; either may be infinite."""
    if clamp is None:
        return None
    try:
        low, high = map(float, clamp)
    except (TypeError, ValueError):
        low = high = math.nan
    if isinstance(clamp, str) or not low < high:
        raise ValueError(f"clamp must be None or (low, high) with low < high, got {clamp!r}")
    return low, high


def denoised(x: Tensor, score: Tensor, sigma: float) -> Tensor:
    """x + sigma^2 score, the mean of the clean sample given the noisy one; computed and rounded as the operators do."""
    compute = checks.compute_dtype(x)
    return (x.to(compute) + sigma**2 * score.to(compute)).to(x.dtype)


def finish(x: Tensor, clamp: tuple[float, float] | None = None) -> Tensor:
    """The samples as returned: clamped where asked, with a warning where some are not finite.

    Under vmap and torch.compile there is no warning: what the samples hold is not known yet.
    """
    if not backends.transformed():
        bad = int((~torch.isfinite(x).reshape(len(x), x.shape[1:].numel()).all(1)).sum())
        if bad:
            warnings.warn(
                f"{bad} of {x.shape[0]} samples are not finite: the step size may be too large for this score",
                stacklevel=caller(),
            )
    return x if clamp is None else x.clamp(*clamp)
