"""What the first repository has in its ``losses/``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ... import losses
from ..._core import checks
from ...losses import sliced
from ...ops import Probes, fill_probes
from ...rng import Philox, as_philox
from .._common import ScoreNet, annealed_dsm, annealed_sliced, check_levels, check_sliced, score_of_energy

EnergyNet = Callable[[Tensor], Tensor]
Three = tuple[Tensor, Tensor, Tensor]


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
