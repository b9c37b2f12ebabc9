"""The samplers of the first repository's ``runners/``, as functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import samplers
from ..._core import checks
from ...rng import Philox
from .._common import UNLIMITED, Meter, ScoreNet, annealing, checked_step_size, inpainted

_LABEL = 9  # of AnnealRunner.Langevin_dynamics: the smallest of ten noise levels


# runners/anneal_runner.py and baseline_runner.py


def Langevin_dynamics(
    x_mod: Tensor, scorenet: ScoreNet, n_steps: int = 200, step_lr: float = 0.00005, *, rng: Philox | None = None
) -> list[Tensor]:
    """``AnnealRunner.Langevin_dynamics``: plain Langevin dynamics at label 9, the smallest of ten noise levels.

    A list of CPU tensors clamped to [0, 1], one for each update; prints the mean and largest |s| at each, as there. For
    another number of levels use :func:`baseline_Langevin_dynamics` with a function that sets the label.
    """

    def at_the_last_level(x: Tensor) -> Tensor:
        return scorenet(x, torch.full(x.shape[:1], _LABEL, dtype=torch.int64, device=x.device))

    return baseline_Langevin_dynamics(x_mod, at_the_last_level, n_steps, step_lr, rng=rng)


@torch.no_grad()
def baseline_Langevin_dynamics(
    x_mod: Tensor, scorenet: ScoreNet, n_steps: int = 1000, step_lr: float = 0.00002, *, rng: Philox | None = None
) -> list[Tensor]:
    """``BaselineRunner.Langevin_dynamics``: plain Langevin dynamics with a network that takes x alone.

    A list of CPU tensors clamped to [0, 1], one for each update; prints the mean and largest |s| at each, as there.
    """
    step_lr, n_steps = checked_step_size("step_lr", step_lr), checks.integer("n_steps", n_steps, low=1)
    meter = Meter(scorenet, _modulus, step_lr)
    trajectory = samplers.Trajectory(max_bytes=UNLIMITED)
    samplers.langevin(
        meter.network,
        x_mod,
        num_steps=n_steps,
        step_size=2 * step_lr,
        rng=rng,
        callback=meter.callback,
        trajectory=trajectory,
    )
    return _clamped(trajectory.frames)


def _modulus(meter: Meter, level: int, eta: float, x: Tensor) -> None:
    size = meter.score.abs()
    print(f"modulus of grad components: mean {size.mean().item()}, max {size.max().item()}")


@torch.no_grad()
def anneal_Langevin_dynamics(
    x_mod: Tensor,
    scorenet: ScoreNet,
    sigmas: Any,
    n_steps_each: int = 100,
    step_lr: float = 0.00002,
    *,
    rng: Philox | None = None,
) -> list[Tensor]:
    """``AnnealRunner.anneal_Langevin_dynamics``: a list of CPU tensors clamped to [0, 1], one for each update."""
    sigmas, n_steps_each, step_lr = annealing(sigmas, n_steps_each, step_lr)
    trajectory = samplers.Trajectory(max_bytes=UNLIMITED)
    samplers.annealed_langevin(
        scorenet,
        x_mod.shape,
        sigmas,
        step_size=2 * step_lr,
        steps_per_level=n_steps_each,
        start=x_mod,
        device=x_mod.device,
        rng=rng,
        trajectory=trajectory,
    )
    return _clamped(trajectory.frames)


@torch.no_grad()
def anneal_Langevin_dynamics_inpainting(
    x_mod: Tensor,
    refer_image: Tensor,
    scorenet: ScoreNet,
    sigmas: Any,
    n_steps_each: int = 100,
    step_lr: float = 0.000008,
    *,
    rng: Philox | None = None,
) -> list[Tensor]:
    """``AnnealRunner.anneal_Langevin_dynamics_inpainting``: complete the right half of each image.

    Args:
        x_mod: where the chains begin [R, N, C, H, W], N for each of the R images.
        refer_image: [R, C, H, W]; its left half is known, with new noise at each noise level (the paper's algorithm 2).

    Returns:
        A list of CPU tensors [R N, C, H, W] clamped to [0, 1], one for each update; in the last, the left half is the
        given image. For any other mask use :func:`fastscore.samplers.inpaint`.
    """
    return _clamped(inpainted(x_mod, refer_image, scorenet, sigmas, n_steps_each, step_lr, rng))


def _clamped(frames: list[Tensor]) -> list[Tensor]:
    return [frame.clamp(0.0, 1.0) for frame in frames]


# runners/toy_runner.py


def langevin_dynamics(
    score: ScoreNet, init: Tensor, lr: float = 0.1, step: int = 1000, *, rng: Philox | None = None
) -> Tensor:
    """``ToyRunner.langevin_dynamics``: ``step`` times x + lr/2 s(x) + sqrt(lr) z; the last state."""
    step, lr = checks.integer("step", step, low=1), checked_step_size("lr", lr)
    return samplers.langevin(score, init, num_steps=step, step_size=lr, rng=rng)


def anneal_langevin_dynamics(
    score: ScoreNet, init: Tensor, sigmas: Any, lr: float = 0.1, n_steps_each: int = 100, *, rng: Philox | None = None
) -> Tensor:
    """``ToyRunner.anneal_langevin_dynamics``: x + step_size_i/2 s(x, sigma_i) + sqrt(step_size_i) z; the last state.

    step_size_i = lr (sigma_i / sigma_L)^2. ``score(x, sigma)`` is called with a number, one of ``sigmas``.
    """
    levels, n_steps_each, lr = annealing(sigmas, n_steps_each, lr, "lr")
    calls = iter(sigma for sigma in levels.tolist() for _ in range(n_steps_each))
    return samplers.annealed_langevin(
        lambda x, labels: score(x, next(calls)),
        init.shape,
        levels,
        step_size=lr,
        steps_per_level=n_steps_each,
        start=init,
        device=init.device,
        rng=rng,
    )
