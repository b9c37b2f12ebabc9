"""The functions of ermongroup/ncsn (Song and Ermon 2019), by their names, argument order and defaults.

Those of its ``losses/`` need a changed import line; its samplers are methods of its runners, and the runner calls
these in their place (docs/porting.md has every line). The second repository's are in :mod:`fastscore.compat.ncsnv2`.

**Step sizes** ``step_lr`` are the original's: the update is x + eta s + sqrt(2 eta) z with
eta = step_lr (sigma_i / sigma_L)^2. The rest of fastscore has the paper's step size, which is 2 eta:
``annealed_langevin(step_size=2 * step_lr)``. ``lr`` of the toy samplers is ``step_size`` itself, as there.

**Noise** comes from :class:`fastscore.Philox`: pass ``rng=`` (last argument, ours) for an explicit source, or
``torch.manual_seed`` governs as it did before. Of the sliced losses, particle k of every sample is drawn by step k, so
that a batch split over calls draws what the whole batch would have drawn.

**Energies**: an ``energy_net`` maps [B, ...] to [B] (or [B, 1]), and the score is s = -dE/dx.

What is corrected rather than copied: lists of images hold the state after each update, on the CPU and clamped to [0, 1]
(the original appended before it updated, and so never returned its last one); inpainting takes images of any size, not
of 3 x 32 x 32 alone, and its last frame holds the given half exactly; ``samples`` are not made to require a gradient;
directions of images are of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import losses, samplers
from .._core import checks
from ..losses import sliced
from ..ops import Probes, fill_probes
from ..rng import Philox, as_philox
from ._common import (
    UNLIMITED,
    Meter,
    ScoreNet,
    annealed_dsm,
    annealed_sliced,
    annealing,
    check_levels,
    check_sliced,
    checked_step_size,
    inpainted,
    score_of_energy,
)

__all__ = [
    "Langevin_dynamics",
    "anneal_Langevin_dynamics",
    "anneal_Langevin_dynamics_inpainting",
    "anneal_dsm_score_estimation",
    "anneal_langevin_dynamics",
    "anneal_sliced_score_estimation_vr",
    "baseline_Langevin_dynamics",
    "dsm",
    "dsm_score_estimation",
    "langevin_dynamics",
    "partial_sliced_score_matching",
    "single_sliced_score_matching",
    "sliced_score_estimation",
    "sliced_score_estimation_vr",
    "sliced_score_matching",
    "sliced_score_matching_vr",
]

EnergyNet = Callable[[Tensor], Tensor]
Three = tuple[Tensor, Tensor, Tensor]
_LABEL = 9  # of AnnealRunner.Langevin_dynamics: the smallest of ten noise levels


# losses/dsm.py


def dsm(energy_net: EnergyNet, samples: Tensor, sigma: float = 1, *, rng: Philox | None = None) -> Tensor:
    """Mean over the batch of 1/2 sigma^4 || s(x_tilde) + z / sigma ||^2, s = -dE/dx."""
    return losses.dsm(score_of_energy(energy_net), samples, sigma, weight=4.0, rng=rng)


def dsm_score_estimation(
    scorenet: ScoreNet, samples: Tensor, sigma: float = 0.01, *, rng: Philox | None = None
) -> Tensor:
    """Mean over the batch of 1/2 || scorenet(x_tilde) + (x_tilde - x) / sigma^2 ||^2, without a weight."""
    return losses.dsm(scorenet, samples, sigma, weight=0.0, rng=rng)


def anneal_dsm_score_estimation(
    scorenet: ScoreNet,
    samples: Tensor,
    labels: Tensor,
    sigmas: Tensor,
    anneal_power: float = 2.0,
    *,
    rng: Philox | None = None,
) -> Tensor:
    """Mean over the batch of 1/2 sigma^anneal_power || scorenet(x_tilde, labels) + z / sigma ||^2."""
    levels, given = check_levels(samples, labels, sigmas, "(labels, sigmas)", "ncsnv2")
    power = checks.number("anneal_power", anneal_power)
    loss, _ = annealed_dsm(scorenet, samples, given, levels, power, as_philox(rng))
    return loss.mean()


# losses/sliced_sm.py


def single_sliced_score_matching(
    energy_net: EnergyNet,
    samples: Tensor,
    noise: Tensor | None = None,
    detach: bool = False,
    noise_type: str = "radermacher",
    *,
    rng: Philox | None = None,
) -> Three:
    """(loss, s, J^T v): the mean over the batch of 1/2 (v^T s)^2 + v^T J v, s = -dE/dx [B, ...] and J^T v [B, ...].

    Args:
        noise: v [B, ...]; None: one direction for each sample, by ``noise_type``: "radermacher" (signs), "gaussian", or
            "sphere" (of length sqrt(D)).
        detach: cut the loss, not the other two, off from the network.
    """
    kinds = ("radermacher", "sphere", "gaussian")
    score, pulled, v = _one_direction(energy_net, samples, noise, noise_type, kinds, rng)
    along = (score * v).flatten(1).sum(1)
    loss = (0.5 * along.square() + (pulled * v).flatten(1).sum(1)).mean()
    return loss.detach() if detach else loss, score, pulled


def partial_sliced_score_matching(
    energy_net: EnergyNet,
    samples: Tensor,
    noise: Tensor | None = None,
    detach: bool = False,
    noise_type: str = "radermacher",
    *,
    rng: Philox | None = None,
) -> Three:
    """(loss, s, J^T v) with reduced variance: 1/2 ||s||^2 + v^T J v; else as :func:`single_sliced_score_matching`.

    ``noise_type`` is "radermacher" or "gaussian".
    """
    kinds = ("radermacher", "gaussian")
    score, pulled, v = _one_direction(energy_net, samples, noise, noise_type, kinds, rng)
    loss = (0.5 * score.flatten(1).square().sum(1) + (pulled * v).flatten(1).sum(1)).mean()
    return loss.detach() if detach else loss, score, pulled


def _one_direction(
    energy_net: EnergyNet,
    samples: Tensor,
    noise: Tensor | None,
    noise_type: str,
    allowed: tuple[str, ...],
    rng: Philox | None,
) -> Three:
    """s(x), J^T v and v, where s = -dE/dx."""
    checks.floating("samples", samples)
    if noise is None:
        if noise_type not in ("radermacher", "rademacher"):  # the original's spelling, and the man's
            checks.one_of("noise_type", noise_type, allowed)
        kind = noise_type.replace("radermacher", "rademacher")
        noise = fill_probes(Probes(samples, 1, rng, distribution=kind))[0]
    checks.like("noise", noise, "samples", samples)
    with torch.enable_grad():
        x = samples if samples.requires_grad else samples.detach().requires_grad_()
        score = score_of_energy(energy_net)(x)
        return score, torch.autograd.grad((score * noise).sum(), x, create_graph=True)[0], noise


def sliced_score_matching(
    energy_net: EnergyNet, samples: Tensor, n_particles: int = 1, *, rng: Philox | None = None
) -> Three:
    """:func:`sliced_score_estimation` of the energy's score, s = -dE/dx."""
    return sliced_score_estimation(score_of_energy(energy_net), samples, n_particles, rng=rng)


def sliced_score_matching_vr(
    energy_net: EnergyNet, samples: Tensor, n_particles: int = 1, *, rng: Philox | None = None
) -> Three:
    """:func:`sliced_score_estimation_vr` of the energy's score, s = -dE/dx."""
    return sliced_score_estimation_vr(score_of_energy(energy_net), samples, n_particles, rng=rng)


def sliced_score_estimation(
    score_net: ScoreNet, samples: Tensor, n_particles: int = 1, *, rng: Philox | None = None
) -> Three:
    """(loss, loss1, loss2) of sliced score matching, v on the unit sphere: 1/2 (v^T s)^2 + v^T grad(v^T s).

    With d dimensions its expectation is 1/d of the implicit score matching objective: all three are those of
    :func:`fastscore.losses.ssm` with ``projection="sphere"``, whose directions have length sqrt(d), divided by d.
    """
    dots, traces = sliced.sliced_terms(check_sliced(score_net, samples, n_particles, rng, "sphere"))
    d = max(1, samples.shape[1:].numel())
    loss1, loss2 = 0.5 * dots.square() / d, traces / d
    return (loss1 + loss2).mean(), loss1.mean(), loss2.mean()


def sliced_score_estimation_vr(
    score_net: ScoreNet, samples: Tensor, n_particles: int = 1, *, rng: Philox | None = None
) -> Three:
    """(loss, loss1, loss2) of sliced score matching with reduced variance, v normal: 1/2 ||s||^2 + v^T grad(v^T s).

    Its expectation is the implicit score matching objective: :func:`fastscore.losses.ssm_vr` with
    ``projection="gaussian"``.
    """
    half, traces = sliced.reduced_terms(check_sliced(score_net, samples, n_particles, rng, "gaussian"))
    return (half + traces).mean(), half.mean(), traces.mean()


def anneal_sliced_score_estimation_vr(
    scorenet: ScoreNet,
    samples: Tensor,
    labels: Tensor,
    sigmas: Tensor,
    n_particles: int = 1,
    *,
    rng: Philox | None = None,
) -> Tensor:
    """Mean over the batch of sigma^2 (1/2 ||s||^2 + v^T grad(v^T s)) at x_tilde = x + sigma z, v normal."""
    levels, given = check_levels(samples, labels, sigmas, "(labels, sigmas)", "ncsnv2")
    return annealed_sliced(scorenet, samples, given, levels, n_particles, rng)


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
