"""Consistent annealed sampling: annealing in which the noise level is exactly the one the network assumes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..rng import Philox, Stream, as_philox
from ._driver import check_clamp, run_chain
from ._levels import LEVELS, chosen, number_of, some
from ._replay import Level, PerLevel, check_graph
from ._sampler import DENOISE, SMALLER_STEP_SIZE, START, STEP_SIZE, Options, Sampler
from ._score import conditioned
from ._start import check_device, check_shape, check_start, initial
from ._watch import Callback, Trajectory, check_watch


@torch.no_grad()
def consistent_annealed(
    score_fn: Callable[[Tensor, Tensor], Tensor],
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    eta: float,
    steps_per_level: int = 1,
    rng: Philox | None = None,
    start: str | Tensor = "normal",
    denoise: bool = True,
    clamp: tuple[float, float] | None = None,
    conditioning: str = "labels",
    model_kwargs: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    trajectory: Trajectory | None = None,
    progress: bool = False,
    cuda_graph: bool = False,
) -> Tensor:
    """Each update removes a fraction ``eta`` of the noise and adds back what the next, smaller level lacks.

    ``x <- x + eta sigma_i^2 s(x, sigma_i) + beta_i z`` with ``beta_i^2 = sigma_{i+1}^2 - (1 - eta)^2 sigma_i^2``: for a
    single data point and its exact score, the noise after the update has standard deviation sigma_{i+1} exactly.
    (With Langevin dynamics it is larger than the network assumes.) With a geometric schedule of ratio gamma < 1,
    beta_i is sigma_{i+1} sqrt(1 - ((1 - eta) / gamma)^2), as in the paper. At the end, where ``denoise``,
    x + sigma_L^2 s.

    Args:
        eta: fraction of the noise removed by an update, in (0, 1]; at least 1 - sigma_{i+1} / sigma_i for every i.
            The paper's eta is epsilon / sigma_L^2, with epsilon its step size: of the other samplers' step sizes,
            step_lr / sigma_L^2 = step_size / (2 sigma_L^2) moves as far along the score.
        steps_per_level: how many updates lead from one level to the next, with geometric levels in between. More
            than 1 needs ``conditioning="sigma"``: there are no labels for the levels in between.
        score_fn, shape, sigmas, rng, start, denoise, clamp, conditioning, model_kwargs, dtype, device, callback,
            trajectory, progress, cuda_graph: as for :func:`annealed_langevin`.

    Returns:
        The samples [B, ...].

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`annealed_langevin`.

    Source: Jolicoeur-Martineau et al. 2020, "Adversarial score matching and improved sampling for image
    generation", algorithm 2.
    """
    if checks.positive("eta", eta) > 1:
        raise ValueError(f"eta must be greater than 0 and at most 1, got {eta}")
    steps_per_level = checks.integer("steps_per_level", steps_per_level, low=1)
    clamp = check_clamp(clamp)
    levels = checks.levels("sigmas", sigmas)
    if steps_per_level > 1 and conditioning != "sigma":
        raise ValueError(
            f"steps_per_level must be 1 where conditioning is {conditioning!r}: there are no labels for "
            f"the levels in between, got {steps_per_level}; use conditioning='sigma'"
        )
    sigma = _refine(levels, steps_per_level)
    steepest = 1 - min((b / a for a, b in pairwise(sigma)), default=1.0)
    if eta < steepest:
        raise ValueError(
            f"eta must be at least {steepest:.6g} to reach the next level of these sigmas, got {eta}; "
            "raise it, or use more levels"
        )
    rng = as_philox(rng)
    score = conditioned(score_fn, sigma, conditioning, model_kwargs)
    shape = check_shape(shape)
    dtype = check_start(start, shape, dtype)
    check_watch(len(sigma) - 1, shape, dtype, callback, trajectory, progress)
    on = check_device(device, sigmas)
    recorded = rng if check_graph(cuda_graph, on) else None
    x = initial(start, shape, sigma[0], rng, dtype, on)
    compute = checks.compute_dtype(x)
    removed = PerLevel([eta * a**2 for a in sigma], compute, on)
    beta = PerLevel([math.sqrt(max(0.0, b**2 - (1 - eta) ** 2 * a**2)) for a, b in pairwise(sigma)], compute, on)

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        z = rng.randn(x.shape, stream=Stream.LANGEVIN, dtype=compute, device=x.device)
        return (x.to(compute) + removed[i] * s.to(compute) + beta[i] * z).to(x.dtype)

    return run_chain(
        score,
        x,
        step,
        [1] * (len(sigma) - 1) + [0],  # at the last level there is nothing left to remove but by denoising
        recorded=recorded,
        denoise_at=sigma[-1] if denoise else None,
        clamp=clamp,
        callback=callback,
        trajectory=trajectory,
        progress=progress,
    )


def _refine(sigma: list[float], parts: int) -> list[float]:
    """The levels with ``parts`` - 1 more between each two, geometrically."""
    fine = [a * (b / a) ** (j / parts) for a, b in pairwise(sigma) for j in range(parts)]
    return fine + sigma[-1:]


def _run(
    score_fn: Callable[[Tensor, Tensor], Tensor], shape: Sequence[int], sigmas: Tensor, options: Options, **how: Any
) -> Tensor:
    score_fn, sigmas, others = some(score_fn, sigmas, options)
    eta = _eta(others.pop("step_size"), sigmas)
    return consistent_annealed(score_fn, shape, sigmas, eta=eta, **others, **how)


def _grids(L: int, options: Options, budget: int, beyond: bool) -> list[dict[str, Any]]:
    """As many levels as there are evaluations, at least two."""
    n = min(L, budget - options["denoise"] + 1)
    return [{"levels": n % L}] if n > 1 else []


def _eta(step_size: float, sigmas: Tensor) -> float:
    """step_size / (2 sigma_L^2), or where that is larger the least eta that reaches each next level."""
    ratio = float((sigmas[1:] / sigmas[:-1]).min()) if len(sigmas) > 1 else 1.0
    return min(1.0, max(step_size / (2 * float(sigmas[-1]) ** 2), 1 - ratio + 1e-6))


_STEP = dataclasses.replace(
    STEP_SIZE,
    help="Step size: an update removes the fraction step_size / (2 sigma_L^2) of the noise, sigma_L the smallest noise "
    "level; at least what reaches the next level, at most all",
)
CONSISTENT = Sampler(
    name="consistent",
    title="consistent annealed sampling",
    source="Jolicoeur-Martineau et al. 2020",
    summary="one step per level, much faster",
    cost="levels - 1, and 1 for denoise",
    options=(_STEP, LEVELS, DENOISE, START),
    run=_run,
    updates=lambda L, options: number_of(L, options) - 1,
    evaluations=lambda L, options: number_of(L, options) - 1 + options["denoise"],
    sigma_after=lambda sigmas, options, step: sigmas[chosen(len(sigmas), options)[step]],
    remedy=SMALLER_STEP_SIZE,
    grids=_grids,
    searched=("step_size",),
)
