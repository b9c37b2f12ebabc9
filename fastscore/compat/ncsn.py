"""The functions of ermongroup/ncsn and ermongroup/ncsnv2, by their names and argument order.

An existing script changes its import line and nothing else::

    from fastscore.compat.ncsn import anneal_dsm_score_estimation, anneal_Langevin_dynamics

**Step sizes** here are the originals' ``step_lr``: the update is x + eta s + sqrt(2 eta) z with
eta = step_lr (sigma_i / sigma_L)^2. The rest of fastscore speaks the paper's alpha, which is 2 eta:
``annealed_langevin(alpha=2 * step_lr)``.

**Noise** comes from :class:`fastscore.Philox`: pass ``rng=`` (last argument, ours) for an explicit source, or
``torch.manual_seed`` governs as it did before. Of the sliced losses, particle k of every sample is drawn by step k, so
that a batch split over calls draws what the whole batch would have drawn.

What is mended rather than copied: lists of images hold the state after each update (NCSN appended before it
updated, and so never returned its last one), and the inpainted known half is the given image exactly at the end.
In between, inpainting draws the known half's noise once a noise level (algorithm 2 of the NCSN paper), not anew at each
update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _check, losses, samplers
from ..losses import sliced
from ..losses._common import probes_for, score_of
from ..ops import Probes
from ..rng import Philox, as_philox

__all__ = [
    "anneal_Langevin_dynamics", "anneal_Langevin_dynamics_inpainting", "anneal_Langevin_dynamics_interpolation",
    "anneal_dsm_score_estimation", "anneal_sliced_score_estimation_vr", "dsm_score_estimation",
    "sliced_score_estimation", "sliced_score_estimation_vr",
]

ScoreNet = Callable[..., Tensor]
_UNLIMITED = 1 << 62  # the originals keep every step; their users know


def dsm_score_estimation(scorenet: ScoreNet, samples: Tensor, sigma: float = 0.01, *,
                         rng: Philox | None = None) -> Tensor:
    """Mean over the batch of 1/2 || scorenet(x_tilde) + (x_tilde - x) / sigma^2 ||^2, without a weight."""
    return losses.dsm(scorenet, samples, sigma, weight=0.0, rng=rng)


def anneal_dsm_score_estimation(scorenet: ScoreNet, samples: Tensor, third: Tensor | None = None,
                                fourth: Tensor | None = None, anneal_power: float = 2.0,
                                hook: Callable[[Tensor, Tensor], Any] | None = None, *, labels: Tensor | None = None,
                                sigmas: Tensor | None = None, rng: Philox | None = None) -> Tensor:
    """Mean over the batch of 1/2 sigma^anneal_power || scorenet(x_tilde, labels) + z / sigma ||^2.

    NCSN's order is (labels, sigmas), NCSNv2's (sigmas, labels=None, ..., hook). Both work, by place (``third`` and
    ``fourth``, told apart by dtype) and by name. Labels that are None are drawn uniformly. ``hook(loss, labels)`` sees
    the loss of each sample.
    """
    labels, sigmas = _in_order(third, fourth, labels, sigmas)
    rng = as_philox(rng)
    if labels is None:
        labels = losses.draw_labels(len(sigmas), samples.shape[0], rng, device=samples.device,
                                    beside=(samples, sigmas))
    labels = _check.labels("labels", labels, samples, len(sigmas))
    loss = losses.dsm(lambda x: scorenet(x, labels), samples, sigmas.to(samples.device)[labels], weight=anneal_power,
                      reduction="none", rng=rng)
    if hook is not None:
        hook(loss, labels)
    return losses.reduce(loss, "mean")


def sliced_score_estimation(score_net: ScoreNet, samples: Tensor, n_particles: int = 1, *,
                            rng: Philox | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, loss1, loss2) of sliced score matching, v on the unit sphere: 1/2 (v^T s)^2 + v^T grad(v^T s).

    With d dimensions its expectation is 1/d of the implicit score matching objective: all three are those of
    :func:`fastscore.losses.ssm` with ``projection="sphere"``, whose directions have length sqrt(d), divided by d.
    """
    along, traces = sliced.sliced_terms(*_sliced(score_net, samples, n_particles, rng, "sphere"), "vjp")
    d = max(1, samples.shape[1:].numel())
    loss1, loss2 = 0.5 * along.square() / d, traces / d
    return (loss1 + loss2).mean(), loss1.mean(), loss2.mean()


def sliced_score_estimation_vr(score_net: ScoreNet, samples: Tensor, n_particles: int = 1, *,
                               rng: Philox | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, loss1, loss2) of sliced score matching with reduced variance, v normal: 1/2 ||s||^2 + v^T grad(v^T s).

    Its expectation is the implicit score matching objective: :func:`fastscore.losses.ssm_vr` with
    ``projection="gaussian"``.
    """
    half, traces = sliced.reduced_terms(*_sliced(score_net, samples, n_particles, rng, "gaussian"), "vjp")
    return (half + traces).mean(), half.mean(), traces.mean()


def anneal_sliced_score_estimation_vr(scorenet: ScoreNet, samples: Tensor, third: Tensor | None = None,
                                      fourth: Tensor | None = None, n_particles: int = 1, *,
                                      labels: Tensor | None = None, sigmas: Tensor | None = None,
                                      rng: Philox | None = None) -> Tensor:
    """Mean over the batch of sigma^2 (1/2 ||s||^2 + v^T grad(v^T s)) at x_tilde = x + sigma z, v normal.

    (labels, sigmas) and (sigmas, labels) both work, as for :func:`anneal_dsm_score_estimation`.
    """
    labels, sigmas = _in_order(third, fourth, labels, sigmas)
    rng = as_philox(rng)
    if labels is None:
        labels = losses.draw_labels(len(sigmas), samples.shape[0], rng, device=samples.device,
                                    beside=(samples, sigmas))
    labels = _check.labels("labels", labels, samples, len(sigmas))
    _check.integer("n_particles", n_particles, low=1)
    return sliced.noisy_reduced(scorenet, samples, sigmas.to(samples.device)[labels], labels, rng, 2.0,
                                "gaussian", n_particles).mean()


@torch.no_grad()
def anneal_Langevin_dynamics(x_mod: Tensor, scorenet: ScoreNet, sigmas: Any, n_steps_each: int = 200,
                             step_lr: float = 0.000008, final_only: bool = False, verbose: bool = False,
                             denoise: bool = True, *, rng: Philox | None = None) -> list[Tensor]:
    """Annealed Langevin dynamics from ``x_mod``; a list of CPU tensors, one an update (and the denoised one last).

    ``final_only`` keeps the last alone. ``verbose`` prints a line a noise level.
    """
    sigmas, step_lr = _as_sigmas(sigmas), _positive(step_lr)
    trajectory = None if final_only else samplers.Trajectory(max_bytes=_UNLIMITED)
    last = samplers.annealed_langevin(
        scorenet, x_mod.shape, sigmas, alpha=2 * step_lr, steps_per_level=n_steps_each, start=x_mod, denoise=denoise,
        device=x_mod.device, rng=rng, trajectory=trajectory,
        callback=_report(sigmas, n_steps_each, step_lr) if verbose else None)
    if trajectory is None:
        return [last.cpu()]
    return trajectory.frames + ([last.cpu()] if denoise else [])


@torch.no_grad()
def anneal_Langevin_dynamics_inpainting(x_mod: Tensor, refer_image: Tensor, scorenet: ScoreNet, sigmas: Any,
                                        image_size: int, n_steps_each: int = 100, step_lr: float = 0.000008, *,
                                        rng: Philox | None = None) -> list[Tensor]:
    """Complete the right half of each ``refer_image`` [R, C, S, S] in every chain of ``x_mod`` [R, N, C, S, S].

    A list of CPU tensors [R N, C, S, S], one an update; in the last, the left half is the given image.
    For any other mask use :func:`fastscore.samplers.inpaint`.
    """
    if x_mod.dim() != 5 or x_mod.shape[:1] + x_mod.shape[2:] != refer_image.shape or x_mod.shape[-1] != image_size:
        raise ValueError(f"x_mod must be [R, N, C, {image_size}, {image_size}] beside refer_image "
                         f"[R, C, {image_size}, {image_size}], got {_check.describe(x_mod)} and "
                         f"{_check.describe(refer_image)}")
    step_lr = _positive(step_lr)
    image = refer_image.repeat_interleave(x_mod.shape[1], 0)
    left = torch.arange(image_size, device=image.device) < image_size // 2
    trajectory = samplers.Trajectory(max_bytes=_UNLIMITED)
    last = samplers.inpaint(scorenet, image, left, _as_sigmas(sigmas), alpha=2 * step_lr,
                            steps_per_level=n_steps_each, start=x_mod.reshape(image.shape), rng=rng,
                            trajectory=trajectory)
    return trajectory.frames[:-1] + [last.cpu()]


@torch.no_grad()
def anneal_Langevin_dynamics_interpolation(x_mod: Tensor, scorenet: ScoreNet, sigmas: Any, n_interpolations: int,
                                           n_steps_each: int = 200, step_lr: float = 0.000008,
                                           final_only: bool = False, verbose: bool = False, *,
                                           rng: Philox | None = None) -> list[Tensor]:
    """Rows of ``n_interpolations`` samples from each start in ``x_mod`` [R, ...]; a list of CPU tensors [R n, ...].

    ``verbose`` (NCSNv2's) prints a line a noise level.
    """
    sigmas, step_lr = _as_sigmas(sigmas), _positive(step_lr)
    trajectory = None if final_only else samplers.Trajectory(max_bytes=_UNLIMITED)
    last = samplers.interpolate(scorenet, x_mod.shape, sigmas, num_interpolations=n_interpolations,
                                alpha=2 * step_lr, steps_per_level=n_steps_each, start=x_mod, device=x_mod.device,
                                rng=rng, trajectory=trajectory,
                                callback=_report(sigmas, n_steps_each, step_lr) if verbose else None)
    return [last.flatten(0, 1).cpu()] if trajectory is None else trajectory.frames


def _in_order(third: Tensor | None, fourth: Tensor | None, labels: Tensor | None,
              sigmas: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """(labels, sigmas) from either order or by name: noise levels are floating, labels are integers."""
    for value in (third, fourth):
        if isinstance(value, Tensor) and value.is_floating_point():
            sigmas = _once("sigmas", sigmas, value)
        elif value is not None:
            labels = _once("labels", labels, value)
    return labels, _check.floating("sigmas", sigmas)


def _once(name: str, before: Tensor | None, value: Tensor) -> Tensor:
    if before is not None:
        raise TypeError(f"labels (integers) and sigmas (floating) must be given once each, got a second {name}: "
                        f"{_check.describe(value)}")
    return value


def _positive(step_lr: Any) -> float:
    """``step_lr`` as a Python number; one of numpy or torch is as good."""
    return _check.positive("step_lr", step_lr.item() if hasattr(step_lr, "item") else step_lr)


def _as_sigmas(sigmas: Sequence[float] | Tensor) -> Tensor:
    """float32 noise levels from a tensor, a numpy array or a list."""
    return torch.as_tensor(sigmas).float()


def _sliced(score_net: ScoreNet, samples: Tensor, n_particles: int, rng: Philox | None, projection: str
            ) -> tuple[ScoreNet, Tensor, Probes]:
    """The score, the samples and ``n_particles`` directions for each, as the losses take them."""
    _check.floating("samples", samples)
    return score_of(score_net), samples, probes_for(samples, n_particles, rng, projection)


def _report(sigmas: Tensor, n_steps_each: int, step_lr: float) -> Callable[[int, Tensor], None]:
    """A callback that prints a line at the end of each noise level."""
    def report(step: int, x: Tensor) -> None:
        if step % n_steps_each == 0:
            level = step // n_steps_each - 1
            step_size = step_lr * float(sigmas[level] / sigmas[-1]) ** 2
            norm = float(x.flatten(1).norm(dim=1).mean())
            print(f"level: {level}, sigma: {float(sigmas[level]):.4g}, step_size: {step_size:.4g}, "
                  f"image_norm: {norm:.4g}")
    return report
