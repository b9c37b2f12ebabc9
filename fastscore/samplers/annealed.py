"""Annealed Langevin dynamics, the sampler of NCSN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..ops.langevin_step import checked as langevin_step
from ..rng import Philox, as_philox
from ._driver import check_clamp, run_chain
from ._levels import LEVELS, chosen, number_of, some
from ._replay import check_graph
from ._sampler import DENOISE, SMALLER_STEP_SIZE, START, STEP_SIZE, STEPS_PER_LEVEL, Options, Sampler
from ._score import conditioned
from ._start import check_device, check_shape, check_start, initial
from ._steps import given_step_size, per_level, steps
from ._watch import Callback, Trajectory, check_watch


@torch.no_grad()
def annealed_langevin(
    score_fn: Callable[[Tensor, Tensor], Tensor],
    shape: Sequence[int],
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
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    trajectory: Trajectory | None = None,
    progress: bool = False,
    cuda_graph: bool = False,
) -> Tensor:
    """Sample from the largest noise level to the smallest, with Langevin dynamics at each.

    For i = 1..L, ``steps_per_level`` times: x <- x + step_size_i/2 s(x, i) + sqrt(step_size_i) z, with
    step_size_i = step_size sigma_i^2 / sigma_L^2; at the end, where ``denoise``, x + sigma_L^2 s(x, L).

    Args:
        score_fn: ``score_fn(x, labels)`` or, by ``conditioning``, ``score_fn(x, sigma)``; any network whose samples do
            not depend on each other. It is evaluated under ``torch.no_grad()``: where it is the gradient of an energy,
            give ``fastscore.energy_score(energy)``.
        shape: shape of the samples, [B, ...]; (D,) is D samples of one number each, one of D numbers is (1, D).
        sigmas: noise levels [L], strictly decreasing.
        step_size: at the smallest noise level, step_size_L, as the paper's alpha (4e-5 for NCSN on CIFAR-10, 1.24e-5
            for NCSNv2). Give this or ``step_lr``.
        step_lr: step_size_L / 2, as in the NCSN code, x + step_lr s + sqrt(2 step_lr) z at the smallest noise level
            (2e-5, 6.2e-6).
        steps_per_level: T, updates at each noise level (100 for NCSN, 5 for NCSNv2).
        rng: source of start and noise. Its ``sample_offset`` is the index of the first sample: sample k is the
            same whatever batch it is drawn in. ``None``: seeded from torch's default generator.
        start: ``"uniform"`` U[0, 1], ``"normal"`` N(0, sigma_1^2 I), or a tensor of ``shape``.
        denoise: end with the mean of the clean sample given the noisy one (NCSNv2).
        clamp: (low, high) for the samples returned. The chain itself is never clamped.
        conditioning: ``"labels"`` (int64 [B]) or ``"sigma"`` ([B], float64 beside float64 samples, else float32).
        model_kwargs: more keyword arguments for ``score_fn``, the same at each call.
        dtype, device: of the samples; by default torch's default dtype and the device of ``sigmas``.
        callback: called with (step, x) after each update, step 1 .. L T; it may not change x.
        trajectory: a :class:`Trajectory` to fill; ``None`` keeps nothing.
        progress: show a progress bar (needs tqdm).
        cuda_graph: record an update as a CUDA graph and replay it, on a CUDA device: the same samples bit for bit, in
            which the host launches one graph an update. ``score_fn`` must read no value on the host, and do the same
            at each call; it is called three times as it is, and the fourth is recorded.

    Returns:
        The samples [B, ...], after the very last update.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it. ``score_fn``'s
            network has BatchNorm (or tracked InstanceNorm) in training mode.
        RuntimeError: ``score_fn`` takes a gradient, which ``torch.no_grad()`` does not record.

    Warns of dropout in training mode, and of samples that are not finite.

    Source: Song & Ermon 2019, algorithm 1; Song & Ermon 2020 (denoising).
    """
    step_size = given_step_size(step_size, step_lr)
    steps_per_level = checks.integer("steps_per_level", steps_per_level, low=1)
    clamp = check_clamp(clamp)
    rng, sigma = as_philox(rng), checks.levels("sigmas", sigmas)
    score = conditioned(score_fn, sigma, conditioning, model_kwargs)
    shape = check_shape(shape)
    dtype = check_start(start, shape, dtype)
    check_watch(len(sigma) * steps_per_level, shape, dtype, callback, trajectory, progress)
    on = check_device(device, sigmas)
    recorded = rng if check_graph(cuda_graph, on) else None
    step_sizes = steps(per_level(step_size, sigma), dtype, on)
    x = initial(start, shape, sigma[0], rng, dtype, on)
    return run_chain(
        score,
        x,
        lambda x, s, i: langevin_step(x, s, step_sizes[i], rng),
        [steps_per_level] * len(sigma),
        recorded=recorded,
        denoise_at=sigma[-1] if denoise else None,
        clamp=clamp,
        callback=callback,
        trajectory=trajectory,
        progress=progress,
    )


def _run(
    score_fn: Callable[[Tensor, Tensor], Tensor], shape: Sequence[int], sigmas: Tensor, options: Options, **how: Any
) -> Tensor:
    score_fn, sigmas, others = some(score_fn, sigmas, options)
    return annealed_langevin(score_fn, shape, sigmas, **others, **how)


def _grids(L: int, options: Options, budget: int, beyond: bool) -> list[dict[str, Any]]:
    """The most steps at all levels that the budget allows, and twice, four times, ... as many at fewer: three ways at most."""
    left = budget - options["denoise"]
    if left < 1:
        return []
    fewest = max(1, left // L)
    steps = [fewest, *(2**k for k in range(left.bit_length()) if 2**k > fewest)]
    grids = {min(L, left // T): T for T in reversed(steps) if left // T > 1 or L == 1}
    return [{"levels": n % L, "steps_per_level": T} for n, T in sorted(grids.items(), reverse=True)[:3]]


ANNEALED = Sampler(
    name="annealed",
    title="annealed Langevin dynamics",
    source="Song & Ermon 2019",
    summary="the run's steps at each noise level",
    cost="levels x steps_per_level, and 1 for denoise",
    options=(STEP_SIZE, STEPS_PER_LEVEL, LEVELS, DENOISE, START),
    run=_run,
    updates=lambda L, options: number_of(L, options) * options["steps_per_level"],
    evaluations=lambda L, options: number_of(L, options) * options["steps_per_level"] + options["denoise"],
    sigma_after=lambda sigmas, options, step: sigmas[
        chosen(len(sigmas), options)[(step - 1) // options["steps_per_level"]]
    ],
    remedy=SMALLER_STEP_SIZE,
    grids=_grids,
    searched=("step_size",),
)
