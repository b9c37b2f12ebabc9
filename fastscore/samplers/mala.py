"""Langevin dynamics with Metropolis's accept-reject step, for scores that have an energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.registration import per_row
from ..energy import EnergyScore
from ..ops.langevin_step import langevin_step
from ..rng import Philox, Stream, as_philox
from ._driver import finish
from ._score import check_network
from ._steps import given_step_size
from ._watch import Callback, Trajectory, Watch, check_watch
from .predictor_corrector import row_sums

_DECAY = 0.6  # of the adaptation's steps, k^-0.6: they sum to infinity, their squares do not


class Mala(NamedTuple):
    """What :func:`mala` returns.

    Attributes:
        x: the last states [B, ...].
        acceptance: the share of the proposals after the warm-up that each chain accepted, [B].
        step_size: with which they were made, [B].
    """

    x: Tensor
    acceptance: Tensor
    step_size: Tensor


class _State(NamedTuple):
    """Of every chain: x and its score [B, ...], and its energy, float64 [B]."""

    x: Tensor
    score: Tensor
    energy: Tensor


@torch.no_grad()
def mala(
    score_fn: EnergyScore,
    x: Tensor,
    *,
    num_steps: int,
    step_size: float | None = None,
    step_lr: float | None = None,
    warm_up: int = 0,
    target: float = 0.574,
    model_kwargs: Mapping[str, Any] | None = None,
    rng: Philox | None = None,
    callback: Callback | None = None,
    trajectory: Trajectory | None = None,
    progress: bool = False,
) -> Mala:
    """The Metropolis-adjusted Langevin algorithm: samples of p(x) = exp(-E(x)) / Z itself, whatever the step size.

    From x it proposes x' = x + step_size/2 s(x) + sqrt(step_size) z, and goes there with probability min(1, r)::

        log r = E(x) - E(x') + (||x' - x - step_size/2 s(x)||^2 - ||x - x' - step_size/2 s(x')||^2) / (2 step_size)

    and else stays. Where :func:`langevin` tends to the variance s^2 / (1 - step_size / (4 s^2)) of N(0, s^2), this tends to
    s^2. A chain that never moves is no sample: look at ``acceptance``, which is best near 0.574.

    Args:
        score_fn: :func:`fastscore.energy_score` of the energy.
        x: where the chains begin [B, ...]; not changed.
        num_steps: number of proposals after the warm-up.
        step_size: of the proposals; with a warm-up, of the first. Give this or ``step_lr``.
        step_lr: step_size = 2 step_lr.
        warm_up: number of proposals before these, in which each chain's step size is moved until it accepts the share
            ``target``: log step_size += k^-0.6 (min(1, r) - target) after the k-th. Such proposals are no samples of p, so that
            the states they lead to are only where the chain begins. 0: the step size stays as given.
        target: greater than 0 and less than 1.
        model_kwargs: keyword arguments for the energy, the same at each call.
        rng: source of the noise, two steps for each proposal: z, and the uniform number that decides. ``None``: seeded from
            torch's default generator. Chain k alone, with its ``sample_offset``, is chain k of a batch.
        callback, trajectory, progress: as for :func:`langevin`, of the warm-up too.

    Returns:
        :class:`Mala`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; ``score_fn`` has no energy; the energy where a chain
            begins, or its gradient, is NaN or infinite. A proposal of which it is, is refused.

    Source: Roberts & Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete approximations";
    Roberts & Rosenthal 1998 (0.574); Andrieu & Thoms 2008, "A tutorial on adaptive MCMC", algorithm 4 (the warm-up).
    """
    if not isinstance(score_fn, EnergyScore):
        raise TypeError(
            "score_fn must be fastscore.energy_score(energy), whose energy says what to accept (samplers.langevin takes any "
            f"score), got {checks.describe(score_fn)}"
        )
    checks.floating("x", x)
    checks.not_differentiated("x", x)
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"x must have shape [B, D, ...] with one sample at least, got {checks.describe(x)}")
    num_steps, warm_up = checks.integer("num_steps", num_steps, low=1), checks.integer("warm_up", warm_up, low=0)
    target = checks.positive("target", target)
    if target >= 1:
        raise ValueError(f"target must be less than 1, got {target}")
    size = given_step_size(step_size, step_lr)
    check_network(score_fn)
    kwargs = checks.keywords(model_kwargs, score_fn.energy)
    total = warm_up + num_steps
    check_watch(total, x.shape, x.dtype, callback, trajectory, progress)
    rng, step = as_philox(rng), torch.full(x.shape[:1], size, dtype=checks.compute_dtype(x), device=x.device)

    def at(x: Tensor) -> _State:
        score, energy = score_fn.with_energy(x, **kwargs)
        return _State(x, score, energy.double())

    state, accepted = at(x.clone()), torch.zeros(x.shape[:1], dtype=torch.float64, device=x.device)
    for what, value in (("energies", state.energy), ("gradients of the energy", state.score)):
        bad = ~torch.isfinite(value).reshape(len(x), -1).all(1)
        if checks.has_values(bad) and bool(bad.any()):
            raise ValueError(
                f"x must have finite {what} where the chains begin, got {int(bad.sum())} of {len(x)} that are NaN or infinite: such "
                "a chain would never move"
            )
    with Watch(total, callback, trajectory, progress) as watch:
        for k in range(1, total + 1):
            state, rate, moved = _update(at, state, step, rng)
            if k <= warm_up:
                step = step * ((rate - target) * k**-_DECAY).exp().to(step.dtype)
            else:
                accepted = accepted + moved  # not in place, which vmap does not take
            watch(state.x)
    return Mala(finish(state.x), accepted / num_steps, step)


def _update(at: Callable[[Tensor], _State], old: _State, step: Tensor, rng: Philox) -> tuple[_State, Tensor, Tensor]:
    """The state after a proposal, with what probability it was to be accepted, and whether it was; float64 and bool [B]."""
    new = at(langevin_step(old.x, old.score, step, rng))
    u = rng.rand(len(old.x), 1, stream=Stream.LANGEVIN, dtype=torch.float64, device=old.x.device)[:, 0]
    log_r = old.energy - new.energy + _log_density(old, new, step) - _log_density(new, old, step)
    rate = torch.where(new.energy.isfinite(), log_r.exp().clamp(max=1).nan_to_num(0.0), 0.0)
    moved = u < rate
    kept = (torch.where(per_row(moved, a), b, a) for a, b in zip(old, new))
    return _State(*kept), rate, moved


def _log_density(to: _State, start: _State, step: Tensor) -> Tensor:
    """log q(to | start) of the proposal, up to a constant; float64 [B]."""
    compute = step.dtype
    gap = to.x.to(compute) - start.x.to(compute) - per_row(step, start.x) / 2 * start.score.to(compute)
    return -row_sums(gap.square().flatten(1)).double() / (2 * step.double())
