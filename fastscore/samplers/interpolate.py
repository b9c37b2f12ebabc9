"""Interpolation between samples, by interpolating the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..ops.langevin_step import reference as langevin_step
from ..rng import Philox, Stream, as_philox
from ._driver import check_clamp, run_chain
from ._replay import Level, check_graph
from ._score import conditioned
from ._start import check_device, check_shape, check_start, initial
from ._steps import given_step_size, per_level, steps
from ._watch import Callback, Trajectory, check_watch


@torch.no_grad()
def interpolate(
    score_fn: Callable[[Tensor, Tensor], Tensor],
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    num_interpolations: int,
    step_size: float | None = None,
    step_lr: float | None = None,
    steps_per_level: int = 100,
    rng: Philox | None = None,
    start: str | Tensor = "uniform",
    denoise: bool = False,
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
    """Rows of samples that pass smoothly from one to another.

    A row's chains share their start and two noise sequences p and q; chain j of n is driven by
    ``z_j = cos(theta_j) p + sin(theta_j) q``, theta_j = pi/2 j/(n - 1): each z_j is standard normal, so each chain
    alone is a right annealed Langevin chain.

    Args:
        shape: shape of the rows [R, ...]: R pairs of ends.
        num_interpolations: n >= 1, chains per row, both ends included; a single chain is driven by p.
        start: as for :func:`annealed_langevin`; one start per row.
        score_fn, sigmas, step_size, step_lr, steps_per_level, rng, denoise, clamp, conditioning, model_kwargs, dtype,
            device, callback, trajectory, progress, cuda_graph: as for :func:`annealed_langevin`; score_fn, callback and trajectory
            see [R n, ...].

    Returns:
        [R, n, ...].

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`annealed_langevin`.

    Source: Song & Ermon 2020, "Improved techniques for training score-based generative models", section 5.
    """
    n = checks.integer("num_interpolations", num_interpolations, low=1)
    step_size = given_step_size(step_size, step_lr)
    steps_per_level = checks.integer("steps_per_level", steps_per_level, low=1)
    clamp = check_clamp(clamp)
    rng, sigma, rows = as_philox(rng), checks.levels("sigmas", sigmas), check_shape(shape)
    score = conditioned(score_fn, sigma, conditioning, model_kwargs)
    dtype = check_start(start, rows, dtype)
    check_watch(len(sigma) * steps_per_level, (n * rows[0], *rows[1:]), dtype, callback, trajectory, progress)
    on = check_device(device, sigmas)
    recorded = rng if check_graph(cuda_graph, on) else None
    step_sizes = steps(per_level(step_size, sigma), dtype, on)
    x = initial(start, rows, sigma[0], rng, dtype, on)
    x = x.repeat_interleave(n, 0)
    compute = checks.compute_dtype(x)
    theta = torch.linspace(0, math.pi / 2, n, dtype=compute, device=x.device).view(n, *[1] * (len(rows) - 1))

    def step(x: Tensor, s: Tensor, i: Level) -> Tensor:
        p, q = (rng.randn(rows, stream=Stream.LANGEVIN, dtype=compute, device=x.device)[:, None] for _ in range(2))
        z = (theta.cos() * p + theta.sin() * q).reshape(x.shape)
        return langevin_step(x, s, step_sizes[i], z)

    x = run_chain(
        score,
        x,
        step,
        [steps_per_level] * len(sigma),
        recorded=recorded,
        denoise_at=sigma[-1] if denoise else None,
        clamp=clamp,
        callback=callback,
        trajectory=trajectory,
        progress=progress,
    )
    return x.reshape(rows[0], n, *rows[1:])
