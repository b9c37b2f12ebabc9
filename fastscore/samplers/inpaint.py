"""Inpainting with an arbitrary mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..ops.langevin_step import checked as langevin_step
from ..rng import Philox, Stream, as_philox
from ._driver import check_clamp, run_chain
from ._mask import check_mask
from ._replay import check_graph
from ._score import conditioned
from ._start import check_shape, check_start, initial
from ._steps import given_step_size, per_level, steps
from ._watch import Callback, Trajectory, check_watch


@torch.no_grad()
def inpaint(
    score_fn: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    mask: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    step_size: float | None = None,
    step_lr: float | None = None,
    steps_per_level: int = 100,
    rng: Philox | None = None,
    start: str | Tensor = "uniform",
    denoise: bool = False,
    clamp: tuple[float, float] | None = None,
    conditioning: str = "labels",
    model_kwargs: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    trajectory: Trajectory | None = None,
    progress: bool = False,
    cuda_graph: bool = False,
) -> Tensor:
    """Complete ``image`` where ``mask`` is False, by annealed Langevin dynamics.

    At each level i the known part is y_i = image + sigma_i z (one z per level); before and after every Langevin update
    the known part of x is set to y_i. The result's known part is ``image`` itself.

    Args:
        image: the known values [B, ...]; what it holds where ``mask`` is False does not matter (NaN included).
        mask: bool, True where ``image`` is known; of a shape that broadcasts to ``image``'s: [H, W], or [1, C, H, W]
            for one per channel, or [B, 1, H, W] for one per sample. [B, H, W] is an error: it would act on channels.
        score_fn, sigmas, step_size, step_lr, steps_per_level, rng, start, denoise, clamp, conditioning, model_kwargs,
            callback, trajectory, progress, cuda_graph: as for :func:`annealed_langevin`. ``clamp`` acts on the inpainted part.

    Returns:
        The completed images [B, ...], of ``image``'s dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`annealed_langevin`.

    Source: Song & Ermon 2019, algorithm 2 (appendix B.3).
    """
    checks.floating("image", image)
    checks.not_differentiated("image", image)
    known = check_mask(mask, image)
    step_size = given_step_size(step_size, step_lr)
    steps_per_level = checks.integer("steps_per_level", steps_per_level, low=1)
    clamp = check_clamp(clamp)
    sigma = checks.levels("sigmas", sigmas)
    rng = as_philox(rng)
    score = conditioned(score_fn, sigma, conditioning, model_kwargs)
    dtype = check_start(start, check_shape(image.shape), image.dtype)
    check_watch(len(sigma) * steps_per_level, image.shape, dtype, callback, trajectory, progress)
    recorded = rng if check_graph(cuda_graph, image.device) else None
    kept = None if recorded is None else torch.empty_like(image)
    step_sizes = steps(per_level(step_size, sigma), dtype, image.device)
    x = initial(start, image.shape, sigma[0], rng, dtype, image.device)

    def known_at(i: int) -> Callable[[Tensor], Tensor]:
        y = image + sigma[i] * rng.randn(image.shape, stream=Stream.INPAINT, dtype=image.dtype, device=image.device)
        y = y if kept is None else kept.copy_(y)
        return lambda x: torch.where(known, y, x)

    x = run_chain(
        score,
        x,
        lambda x, s, i: langevin_step(x, s, step_sizes[i], rng),
        [steps_per_level] * len(sigma),
        recorded=recorded,
        constraint=known_at,
        denoise_at=sigma[-1] if denoise else None,
        clamp=clamp,
        callback=callback,
        trajectory=trajectory,
        progress=progress,
    )
    return torch.where(known, image, x)
