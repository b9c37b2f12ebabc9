"""Langevin dynamics at one noise level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..ops.langevin_step import checked as langevin_step
from ..rng import Philox, as_philox
from ._driver import run_chain
from ._replay import check_graph
from ._score import Score
from ._steps import StepSizes, root, schedule, steps
from ._watch import Callback, Trajectory, check_watch


@torch.no_grad()
def langevin(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    *,
    num_steps: int,
    step_size: StepSizes | None = None,
    step_lr: StepSizes | None = None,
    preconditioner: Tensor | None = None,
    burn_in: int = 0,
    thin: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    rng: Philox | None = None,
    callback: Callback | None = None,
    trajectory: Trajectory | None = None,
    progress: bool = False,
    cuda_graph: bool = False,
) -> Tensor:
    """Unadjusted Langevin dynamics: ``num_steps`` times x <- x + step_size/2 M s(x) + sqrt(step_size M) z.

    M is 1 unless there is a ``preconditioner``.

    Args:
        score_fn: ``score_fn(x)``, the score of the density to sample, of ``x``'s shape. It is evaluated under
            ``torch.no_grad()``: where it is the gradient of an energy, give ``fastscore.energy_score(energy)``.
        x: where the chains begin [B, D, ...]; not changed. One of D numbers is x[None].
        num_steps: number of updates.
        step_size: the paper's alpha: a number, one for each update (a sequence or a tensor [num_steps]), or a
            function of the step, 1 for the first update. All are asked for before the first. Give this or ``step_lr``.
        step_lr: step size in the form x + step_lr s + sqrt(2 step_lr) z, so step_size = 2 step_lr; as ``step_size``.
        preconditioner: a diagonal M > 0, in squared units of ``x``'s coordinates (step_size then has none): of ``x``'s
            shape, or of one sample's, [D, ...]. Near the variances of the density it lets all coordinates mix alike.
        burn_in: how many updates pass before ``thin`` counts.
        thin: return the state after every ``thin``-th update, all of them. ``None``: the last alone.
        model_kwargs: keyword arguments for ``score_fn``, the same at each call.
        rng: source of the noise, one step per update. ``None``: seeded from torch's default generator.
        callback: called with (step, x) after each update; it may not change x.
        trajectory: a :class:`Trajectory` to fill.
        progress: show a progress bar (needs tqdm).
        cuda_graph: as for :func:`annealed_langevin`.

    Returns:
        The last state [B, D, ...]; with ``thin``, those after the updates burn_in + thin, burn_in + 2 thin, ...,
        [(num_steps - burn_in) // thin, B, D, ...]. Of a coordinate that is N(0, s^2) the variance tends to
        s^2 / (1 - step_size M / (4 s^2)), not s^2: there is no Metropolis step.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it. ``score_fn``'s
            network has BatchNorm (or tracked InstanceNorm) in training mode.
        RuntimeError: ``score_fn`` takes a gradient, which ``torch.no_grad()`` does not record.

    Source: Welling & Teh 2011 (decreasing steps); Song & Ermon 2019, equation 4; Girolami & Calderhead 2011, section 5
    (a constant metric).
    """
    checks.floating("x", x)
    checks.not_differentiated("x", x)
    if x.dim() == 1:
        raise ValueError(
            f"x must have shape [B, D, ...], got {checks.describe(x)}: pass x[None] for one sample of "
            f"{len(x)} numbers, or x[:, None] for {len(x)} samples of one"
        )
    num_steps = checks.integer("num_steps", num_steps, low=1)
    burn_in, thin = _kept(num_steps, burn_in, thin)
    check_watch(num_steps, x.shape, x.dtype, callback, trajectory, progress)
    check_graph(cuda_graph, x.device)
    score = Score(score_fn, model_kwargs)
    step_sizes = steps(schedule(step_size, step_lr, num_steps), x.dtype, x.device)
    scale, rng = root(preconditioner, x), as_philox(rng)
    kept = []

    def watch(step: int, x: Tensor) -> None:
        if thin is not None and step > burn_in and (step - burn_in) % thin == 0:
            kept.append(x)
        if callback is not None:
            callback(step, x)

    x = run_chain(  # the "levels" are the updates, which may differ in their step size
        lambda x, _: score(x),
        x,
        lambda x, s, k: _update(x, s, step_sizes[k], scale, rng),
        [1] * num_steps,
        recorded=rng if cuda_graph else None,
        callback=callback if thin is None else watch,
        trajectory=trajectory,
        progress=progress,
    )
    return x if thin is None else torch.stack(kept)


def _update(x: Tensor, score: Tensor, step_size: Tensor, scale: Tensor | None, rng: Philox) -> Tensor:
    """x + step_size/2 M s + sqrt(step_size M) z, M = scale^2, computed as langevin_step does and rounded once."""
    if scale is None:
        return langevin_step(x, score, step_size, rng)
    compute = scale.dtype
    move = langevin_step(torch.zeros_like(x, dtype=compute), scale * score.to(compute), step_size, rng)
    return (x.to(compute) + scale * move).to(x.dtype)


def _kept(num_steps: int, burn_in: int, thin: int | None) -> tuple[int, int | None]:
    """``burn_in`` and ``thin``, checked."""
    burn_in = checks.integer("burn_in", burn_in, low=0)
    if thin is not None:
        thin = checks.integer("thin", thin, low=1)
        if burn_in + thin > num_steps:
            raise ValueError(
                f"num_steps must be at least burn_in + thin, {burn_in} + {thin}, so that a state is kept, "
                f"got {num_steps}"
            )
    elif burn_in:
        raise ValueError(
            f"burn_in must be 0 where thin is None, which returns the last state alone, got {burn_in}: give thin too"
        )
    return burn_in, thin
