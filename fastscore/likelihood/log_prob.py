"""log p(x) of samples, with its error bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import NonFiniteSamples
from .._core.options import boolean
from ..paths import RULES, Path
from ..rng import Philox, as_philox
from ..samplers.parts import Levels, Point, check_covariance, check_data, check_decreasing
from ._divergence import Divergence, Exact
from ._flow import Adaptive, Solved, Told, coarser, runge_kutta

SOLVERS = ("rk4", "adaptive")
_STEPS = 30


class LogProb(NamedTuple):
    """What :func:`log_prob` returns; all float64 [B], in nats.

    Attributes:
        value: log p(x).
        probes: the standard error that random probes leave; 0 where the trace is exact.
        solver: how far the solve is from one of half the steps (of ten times the tolerances), of the same probes: an upper
            estimate of its own error, of which RK4 makes a fifteenth where steps are small. Of adaptive solves, whose steps
            differ, the sum of how far the prior's part and the integral are: their difference may be 0 by chance.
        evaluations: of the score and products with its Jacobian, for each sample.
    """

    value: Tensor
    probes: Tensor
    solver: Tensor
    evaluations: int

    @property
    def bar(self) -> Tensor:
        """Half of the width of an interval for log p(x): 2.58 ``probes``, which is 99 % where they are normal, + ``solver``."""
        return 2.58 * self.probes + self.solver


@torch.no_grad()
def log_prob(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    path: Path | Tensor | Sequence[float],
    *,
    steps: int | None = None,
    rule: str | None = None,
    solver: str = "rk4",
    method: str = "auto",
    num_probes: int = 8,
    blocks: int = 2,
    probes: str | None = None,
    divergence: Exact | None = None,
    mean: float | Tensor = 0.0,
    std: float | Tensor = 0.0,
    covariance: Tensor | None = None,
    conditioning: str | None = None,
    interpolate: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    max_steps: int = 1000,
    rng: Philox | None = None,
) -> LogProb:
    """log p(x) at the path's least noise, by the probability-flow ODE (see :mod:`fastscore.likelihood`).

    Args:
        score_fn: ``score_fn(x, c)``, [B, ...] -> [B, ...], each sample by itself; c [B] is what ``conditioning`` says.
        x: [B, ...]; the samples at t_min (the smallest noise level), of float32 or float64.
        path: a path, or the noise levels [L] of a network.
        steps: of ``"rk4"``, at least 2; it asks for the score four times in each, and twice more for ``solver``. None: 30 on a
            path, and of L noise levels L - 1, or where the network knows no others, (L - 1) / 2, whose middles are levels.
        rule: how the points of the steps lie, as for :func:`fastscore.samplers.flow_ode`.
        solver: ``"rk4"``, or ``"adaptive"``: torchode's Dopri5 (``fastscore-torch[ode]``), each sample with steps of its own, to
            ``rtol`` and ``atol``; a network that takes any sigma or t.
        method, num_probes, blocks: how the trace is estimated, as for :func:`fastscore.jacobian_trace`: ``"auto"`` (exact where
            a sample has no more than ``num_probes`` elements), ``"rademacher"``, ``"gaussian"``, ``"probing"`` or ``"exact"``.
        probes: ``"renewed"`` at each evaluation, so that their errors average out along the path, or ``"fixed"`` along the
            solve, which an adaptive solver needs. None: whichever the solver takes best, in that order.
        divergence: divergence(x, c) -> (score [B, ...], trace [B]), exact, in place of all estimates: such as
            :func:`fastscore.mlp_divergence` of an MLP. c is float64 [B].
        mean, std: of the data, numbers or of a sample's shape: the prior is N(alpha_T mean, sigma_T^2 + alpha_T^2 std^2).
        covariance: of the data, [D, D], in place of ``std``, as for :func:`fastscore.samplers.flow_ode`.
        conditioning, interpolate, model_kwargs: as for :func:`fastscore.samplers.flow_ode`.
        rtol, atol: tolerances of a step of ``"adaptive"``, of y and of the integral of the trace.
        max_steps: the most steps that a sample may take there.
        rng: source of the probes. None: seeded from torch's default generator. Sample k alone, with its ``sample_offset``, has
            the probes that it has in a batch.

    Returns:
        :class:`LogProb`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it.
        NonFiniteSamples: the score, its trace or log p is NaN or infinite. NotConverged: ``max_steps`` did not suffice.
        MissingDependency: torchode is not there.

    Example:
        >>> from fastscore import Philox, paths
        >>> path = paths.ve(sigma_min=0.01, sigma_max=30.0)
        >>> score = lambda x, t: -x / (1 + path.sigma(t).to(x)[:, None] ** 2)  # of N(0, I)
        >>> found = log_prob(score, torch.zeros(1, 2), path, std=1.0)
        >>> round(float(found.value), 3)  # -log(2 pi (1 + 0.01^2))
        -1.838
    """
    checks.floating("x", x)
    checks.not_differentiated("x", x)
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"x must be [B, ...] with at least one sample of one element, got {checks.describe(x)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64, in which a log density can be told, got {checks.describe(x)}")
    checks.finite_values("x", x)
    checks.one_of("solver", solver, SOLVERS)
    if solver == "adaptive":
        if steps is not None or rule is not None or probes == "renewed":
            raise ValueError(
                "steps and rule must be None, and probes 'fixed' or None, where solver is 'adaptive', got "
                f"steps={steps}, rule={rule!r}, probes={probes!r}"
            )
        rtol, atol = checks.positive("rtol", rtol, zero_allowed=True), checks.positive("atol", atol)
        max_steps = checks.integer("max_steps", max_steps, low=1)
    mean, std = check_data("mean", mean, x.shape), check_data("std", std, x.shape)
    if covariance is not None:
        covariance = check_covariance(covariance, std, x.shape)
    told = Told(score_fn, path, conditioning, boolean("interpolate", interpolate), model_kwargs, x)
    if divergence is not None and not callable(divergence):
        raise TypeError(f"divergence must be None or a function of (x, c), got {checks.describe(divergence)}")
    points = None if solver == "adaptive" else _points(told, steps, rule)
    rng, probes = as_philox(rng), probes or ("renewed" if points else "fixed")
    trace = Divergence(x, method, num_probes, blocks, probes, rng, divergence)
    if points is None:
        solve = Adaptive(told, trace, x, max_steps)
        fine, ends = solve(rtol, atol), [Point(*_ends(solve.path, t)) for t in (solve.path.t_min, solve.path.t_max)]
        coarse = solve(10 * rtol, 10 * atol)
    else:
        fine, ends = runge_kutta(told, trace, x, points), [points[0], points[-1]]
        coarse = runge_kutta(told, trace, x, coarser(points), steady=True)
    return _bar(fine, coarse, ends, trace, points is None, lambda y, at: _prior(y, at, mean, std, covariance))


def _ends(path: Path, t: float) -> tuple[float, float, float]:
    return float(path.alpha(t)), float(path.sigma(t)), t


def _points(told: Told, steps: int | None, rule: str | None) -> list[Point]:
    """From the least noise to the most."""
    rule = None if rule is None else checks.one_of("rule", rule, RULES)
    if steps is not None:
        steps = checks.integer("steps", steps, low=2)
    elif isinstance(told.where, Levels):
        L = len(told.where.sigmas)
        steps = L - 1
        if not told.where.any_sigma:
            steps = (L - 1) // 2
            if L % 2 == 0 or L < 5:
                raise ValueError(
                    f"path must have an odd number of noise levels, 5 or more, where labels alone name them, got {L}: every "
                    "second is the middle of a step. Give interpolate=True for a network of labels (NCSN), or "
                    "conditioning='sigma' for one that takes any sigma (NCSNv2, ScoreMLP)"
                )
        steps = max(2, steps)
    points = told.where.points(_STEPS if steps is None else steps, rule, False)
    check_decreasing(points)
    return points[::-1]


def _bar(
    fine: Solved,
    coarse: Solved,
    ends: list[Point],
    trace: Divergence,
    adaptive: bool,
    prior: Callable[[Tensor, Point], Tensor],
) -> LogProb:
    first, last = ends
    base = [prior(y, last) - y[0].numel() * math.log(first.alpha) for y in (fine.y, coarse.y)]
    gaps = base[0] - base[1], coarse.steady.mean(0) - fine.steady.mean(0)
    solver = gaps[0].abs() + gaps[1].abs() if adaptive else (gaps[0] + gaps[1]).abs()
    probes = torch.zeros_like(solver)
    value = base[0] - fine.steady.mean(0)
    if not trace.exact and trace.renewed:
        value, probes = base[0] - fine.drawn, fine.variance.sqrt()
    elif not trace.exact:
        probes = fine.steady.std(0) / len(fine.steady) ** 0.5
    if checks.has_values(value) and not bool(torch.isfinite(value).all()):
        raise NonFiniteSamples(
            f"log p is NaN or infinite for {int((~torch.isfinite(value)).sum())} of {len(value)} samples"
        )
    return LogProb(value, probes, solver, trace.products)


def _prior(y: Tensor, at: Point, mean: float | Tensor, std: float | Tensor, covariance: Tensor | None) -> Tensor:
    """log N(y; mean, rho^2 I + covariance), float64 [B]; None: std^2, of each number by itself."""
    mean, std = (torch.as_tensor(value, dtype=torch.float64, device=y.device) for value in (mean, std))
    gap, variance = y.double() - mean, at.rho**2 + std.square()
    if covariance is not None:
        values, axes = torch.linalg.eigh(covariance.to(y.device))
        gap, variance = gap.flatten(1) @ axes, at.rho**2 + values
        if not bool((variance > 0).all()):
            raise ValueError(
                f"covariance must be positive semidefinite, got an eigenvalue of {float(values.min()):.3g}"
            )
    return -(gap.square() / variance + (2 * math.pi * variance).log()).flatten(1).sum(1) / 2
