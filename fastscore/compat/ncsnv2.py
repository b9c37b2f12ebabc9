"""The functions of ermongroup/ncsnv2 (Song and Ermon 2020), by their names, argument order and defaults.

A script of that repository changes its import lines and nothing else (docs/porting.md has them)::

    from fastscore.compat.ncsnv2 import anneal_dsm_score_estimation, anneal_Langevin_dynamics, get_sigmas

The first repository's functions, of other argument orders and defaults, are in :mod:`fastscore.compat.ncsn`, which says
what holds here too: ``step_lr`` is half of the paper's step size, and noise comes from ``rng=`` or from
``torch.manual_seed``.

What is corrected rather than copied: lists of inpainted images hold the state after each update, and the last one the
given half exactly. In between, inpainting draws the known half's noise once a noise level (algorithm 2 of the NCSN
paper), not anew at each update; and ``x_mod`` is not written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .. import samplers, schedules
from .._core import checks
from ..rng import Philox, as_philox
from ._common import UNLIMITED, Meter, ScoreNet, annealed_dsm, annealing, check_levels, inpainted, norm

__all__ = [
    "anneal_Langevin_dynamics",
    "anneal_Langevin_dynamics_inpainting",
    "anneal_Langevin_dynamics_interpolation",
    "anneal_dsm_score_estimation",
    "get_optimizer",
    "get_sigmas",
]


# losses/


def anneal_dsm_score_estimation(
    scorenet: ScoreNet,
    samples: Tensor,
    sigmas: Tensor,
    labels: Tensor | None = None,
    anneal_power: float = 2.0,
    hook: Callable[[Tensor, Tensor], Any] | None = None,
    *,
    rng: Philox | None = None,
) -> Tensor:
    """Mean over the batch of 1/2 sigma^anneal_power || scorenet(x_tilde, labels) + z / sigma ||^2.

    Labels that are None are drawn uniformly. ``hook(loss, labels)`` sees the loss of each sample.
    """
    levels, given = check_levels(samples, labels, sigmas, "(sigmas, labels)", "ncsn")
    power = checks.number("anneal_power", anneal_power)
    loss, labels = annealed_dsm(scorenet, samples, given, levels, power, as_philox(rng))
    if hook is not None:
        hook(loss, labels)
    return loss.mean()


def get_optimizer(config: Any, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The optimizer that ``config.optim`` names: Adam, RMSProp or SGD (momentum 0.9)."""
    optim, kinds = config.optim, ("Adam", "RMSProp", "SGD")
    if optim.optimizer not in kinds:
        raise NotImplementedError(f"config.optim.optimizer must be one of {', '.join(kinds)}, got {optim.optimizer!r}")
    if optim.optimizer == "Adam":
        return torch.optim.Adam(
            parameters,
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            betas=(optim.beta1, 0.999),
            amsgrad=optim.amsgrad,
            eps=optim.eps,
        )
    if optim.optimizer == "RMSProp":
        return torch.optim.RMSprop(parameters, lr=optim.lr, weight_decay=optim.weight_decay)
    return torch.optim.SGD(parameters, lr=optim.lr, momentum=0.9)


# models/__init__.py


def get_sigmas(config: Any) -> Tensor:
    """The noise levels of a configuration: float32 [L] on ``config.device``.

    ``config.model`` has sigma_dist ("geometric" or "uniform"), sigma_begin, sigma_end and num_classes.
    """
    model = config.model
    makers = {"geometric": schedules.geometric_sigmas, "uniform": schedules.uniform_sigmas}
    if model.sigma_dist not in makers:
        raise NotImplementedError(
            f"config.model.sigma_dist must be one of {', '.join(makers)}, got {model.sigma_dist!r}"
        )
    make = makers[model.sigma_dist]
    return make(model.sigma_begin, model.sigma_end, model.num_classes).to(config.device)


@torch.no_grad()
def anneal_Langevin_dynamics(
    x_mod: Tensor,
    scorenet: ScoreNet,
    sigmas: Any,
    n_steps_each: int = 200,
    step_lr: float = 0.000008,
    final_only: bool = False,
    verbose: bool = False,
    denoise: bool = True,
    *,
    rng: Philox | None = None,
) -> list[Tensor]:
    """Annealed Langevin dynamics from ``x_mod``; a list of CPU tensors, one for each update (the denoised one last).

    ``final_only`` keeps the last alone. ``verbose`` prints a line for each update: mean norms of the score and the
    image, the signal-to-noise ratio sqrt(eta / 2) ||s|| / ||z||, and sigma^2 ||mean over the batch of s||^2.
    """
    sigmas, n_steps_each, step_lr = annealing(sigmas, n_steps_each, step_lr)
    trajectory = None if final_only else samplers.Trajectory(max_bytes=UNLIMITED)
    meter = Meter(scorenet, _annealing_line, step_lr, sigmas, n_steps_each) if verbose else None
    last = samplers.annealed_langevin(
        meter.network if meter else scorenet,
        x_mod.shape,
        sigmas,
        step_size=2 * step_lr,
        steps_per_level=n_steps_each,
        start=x_mod,
        denoise=denoise,
        device=x_mod.device,
        rng=rng,
        trajectory=trajectory,
        callback=meter.callback if meter else None,
    )
    if trajectory is None:
        return [last.cpu()]
    return trajectory.frames + ([last.cpu()] if denoise else [])


def _annealing_line(meter: Meter, level: int, eta: float, x: Tensor) -> None:
    assert meter.sigmas is not None
    mean = float(meter.score.mean(0).norm() * meter.sigmas[level]) ** 2
    print(
        f"level: {level}, step_size: {eta}, grad_norm: {meter.grad_norm()}, image_norm: {norm(x)}, "
        f"snr: {meter.snr(eta, x)}, grad_mean_norm: {mean}"
    )


@torch.no_grad()
def anneal_Langevin_dynamics_inpainting(
    x_mod: Tensor,
    refer_image: Tensor,
    scorenet: ScoreNet,
    sigmas: Any,
    image_size: int,
    n_steps_each: int = 100,
    step_lr: float = 0.000008,
    *,
    rng: Philox | None = None,
) -> list[Tensor]:
    """Complete the right half of each ``refer_image`` [R, C, S, S] in every chain of ``x_mod`` [R, N, C, S, S].

    A list of CPU tensors [R N, C, S, S], one for each update; in the last, the left half is the given image. Prints
    the mean and largest |s| at each update, as there. For any other mask use :func:`fastscore.samplers.inpaint`.
    """
    if refer_image.shape[-2:] != (image_size,) * 2:
        raise ValueError(
            f"image_size must be the side of refer_image, got {image_size} and {checks.describe(refer_image)}"
        )
    sigmas, n_steps_each, step_lr = annealing(sigmas, n_steps_each, step_lr)
    meter = Meter(scorenet, _inpainting_line, step_lr, sigmas, n_steps_each)
    return inpainted(x_mod, refer_image, meter.network, sigmas, n_steps_each, step_lr, rng, meter.callback)


def _inpainting_line(meter: Meter, level: int, eta: float, x: Tensor) -> None:
    size = meter.score.abs()
    print(f"class: {level}, step_size: {eta}, mean {size.mean().item()}, max {size.max().item()}")


@torch.no_grad()
def anneal_Langevin_dynamics_interpolation(
    x_mod: Tensor,
    scorenet: ScoreNet,
    sigmas: Any,
    n_interpolations: int,
    n_steps_each: int = 200,
    step_lr: float = 0.000008,
    final_only: bool = False,
    verbose: bool = False,
    *,
    rng: Philox | None = None,
) -> list[Tensor]:
    """Rows of ``n_interpolations`` samples from each start in ``x_mod`` [R, ...]; a list of CPU tensors [R n, ...].

    ``verbose`` prints a line for each update, as :func:`anneal_Langevin_dynamics` (the image's norm is that before it).
    """
    sigmas, n_steps_each, step_lr = annealing(sigmas, n_steps_each, step_lr)
    trajectory = None if final_only else samplers.Trajectory(max_bytes=UNLIMITED)
    meter = Meter(scorenet, _interpolation_line, step_lr, sigmas, n_steps_each) if verbose else None
    last = samplers.interpolate(
        meter.network if meter else scorenet,
        x_mod.shape,
        sigmas,
        num_interpolations=n_interpolations,
        step_size=2 * step_lr,
        steps_per_level=n_steps_each,
        start=x_mod,
        device=x_mod.device,
        rng=rng,
        trajectory=trajectory,
        callback=meter.callback if meter else None,
    )
    return [last.flatten(0, 1).cpu()] if trajectory is None else trajectory.frames


def _interpolation_line(meter: Meter, level: int, eta: float, x: Tensor) -> None:
    print(
        f"level: {level}, step_size: {eta}, image_norm: {norm(meter.x)}, grad_norm: {meter.grad_norm()}, "
        f"snr: {meter.snr(eta, x)}"
    )
