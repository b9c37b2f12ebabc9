"""Solves of the probability-flow ODE from the data to the prior, and the integral of the trace along them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import paths
from .._core import calls, checks
from .._core.errors import NonFiniteSamples, NotConverged, require
from ..samplers.parts import Levels, Point, check_network, source
from ._divergence import At, Divergence


class Solved(NamedTuple):
    """Where a solve ends, y_T = x_T / alpha_T, and its integrals of sigma^2 tr(ds/dx) du."""

    y: Tensor  # [B, ...]
    drawn: Tensor  # [B], by renewed probes
    variance: Tensor  # [B], of ``drawn``
    steady: Tensor  # [H, B], by the probes of the whole solve


class Told:
    """The score as a function of x alone, at a point, or at a time for each sample.

    Args:
        score_fn, path, conditioning, interpolate, model_kwargs: as for :func:`fastscore.likelihood.log_prob`.
        x: the samples.
    """

    def __init__(
        self,
        score_fn: Callable[..., Tensor],
        path: Any,
        conditioning: str | None,
        interpolate: bool,
        model_kwargs: Mapping[str, Any] | None,
        x: Tensor,
    ):
        check_network(score_fn)
        self.where, self.conditioning = source(path, conditioning, interpolate, score_fn)
        self.kwargs = checks.keywords(model_kwargs, score_fn, self.conditioning)
        self.score_fn, self._x = score_fn, x
        self.levels = self.where.sigmas if isinstance(self.where, Levels) else None

    def at(self, point: Point) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """(f, c) at ``point``: the score f(x), and c [B], what the network is told there (float64)."""
        if self.conditioning == "labels":
            assert point.label is not None and self.levels is not None
            c, is_level = self._full(point.label), point.label.is_integer()
            if is_level and point.sigma == self.levels[int(point.label)]:
                return self.told(c.long()), c
            return calls.at_level(self.score_fn, point.label, **self.kwargs), c
        value = point.t if self.conditioning == "t" and point.t is not None else point.sigma
        return self.told(self._full(value)), self._full(value)

    def told(self, c: Tensor) -> Callable[[Tensor], Tensor]:
        """score_fn with ``c`` beside x."""
        given = c if c.dtype == torch.int64 else c.to(checks.compute_dtype(self._x))
        score_fn, kwargs = self.score_fn, self.kwargs  # where the trace looks for networks, which it does not in self
        return lambda x: score_fn(x, given, **kwargs)

    def _full(self, value: float) -> Tensor:
        return torch.full(self._x.shape[:1], value, dtype=torch.float64, device=self._x.device)


def coarser(points: Sequence[Point]) -> list[Point]:
    """Every second point, and the last."""
    return [*points[:-1:2], points[-1]]


def runge_kutta(
    told: Told, divergence: Divergence, x: Tensor, points: Sequence[Point], *, steady: bool = False
) -> Solved:
    """From ``points[0]``, the least noise, to the last, by the classical method of order 4; ``steady`` as for a call of
    :class:`Divergence`. The points are evenly spaced or not; between two the score is asked for at the middle of u."""
    middles = told.where.at([math.sqrt(p.rho * q.rho) for p, q in pairwise(points)])
    y = x.to(checks.compute_dtype(x)) / points[0].alpha
    drawn = variance = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    integral = torch.zeros(1, len(x), dtype=torch.float64, device=x.device)

    def slope(at: Point, y: Tensor) -> tuple[Tensor, At]:
        f, c = told.at(at)
        found = divergence(f, (at.alpha * y).to(x.dtype), c, steady=steady)
        check_finite(found, f"at sigma {at.sigma:.6g}")
        return -(at.sigma**2 / at.alpha) * found.score.to(y.dtype), found

    for (p, q), m in zip(pairwise(points), middles):
        h = math.log(q.rho / p.rho)
        k1, at1 = slope(p, y)
        k2, at2 = slope(m, y + h / 2 * k1)
        k3, at3 = slope(m, y + h / 2 * k2)
        k4, at4 = slope(q, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        for at, point, weight in ((at1, p, 1), (at2, m, 2), (at3, m, 2), (at4, q, 1)):
            w = weight * h / 6 * point.sigma**2
            integral = integral + w * at.steady
            if len(at.drawn):
                drawn = drawn + w * at.drawn.mean(0)
                variance = variance + w**2 * at.drawn.var(0) / len(at.drawn)
    return Solved(y, drawn, variance, integral)


def check_finite(at: At, where: str) -> None:
    """Raise unless the score and its trace are finite (not under vmap, where a NaN is what log p is then)."""
    good = (
        torch.isfinite(at.score).flatten(1).all(1) & torch.isfinite(at.steady).all(0) & torch.isfinite(at.drawn).all(0)
    )
    if checks.has_values(good) and not bool(good.all()):
        raise NonFiniteSamples(
            f"score_fn, or the trace of its Jacobian, is NaN or infinite for {int((~good).sum())} of {len(good)} samples "
            f"{where}: there is no log p of x. x may lie far from all that the network has seen"
        )


class Adaptive:
    """Solves by torchode's Dopri5, each sample with steps of its own, of a network that takes any sigma or t."""

    def __init__(self, told: Told, divergence: Divergence, x: Tensor, max_steps: int):
        self.torchode = require("torchode", "ode")
        if told.conditioning == "labels":
            raise ValueError(
                "conditioning must be 'sigma' or 't' where solver is 'adaptive', which asks between the noise levels, got "
                "'labels': take solver='rk4', with interpolate=True for a network of labels (NCSN)"
            )
        if told.levels is not None and len(told.levels) < 2:
            raise ValueError(f"path must have two noise levels or more, got {told.levels}")
        self.path = told.where.path if told.levels is None else paths.ve(told.levels[-1], told.levels[0])  # type: ignore[union-attr]  # of Continuous
        self.tells_sigma = told.levels is not None or told.conditioning == "sigma"
        self.told, self.divergence, self.x, self.max_steps = told, divergence, x, max_steps
        self.ends = [-float(self.path.log_snr(t)) / 2 for t in (self.path.t_min, self.path.t_max)]

    def __call__(self, rtol: float, atol: float) -> Solved:
        """From the least noise to the most, within these tolerances of a step.

        Raises:
            NotConverged: ``max_steps`` did not suffice.
        """
        ode, x, compute = self.torchode, self.x, checks.compute_dtype(self.x)
        term = ode.ODETerm(self._slope)
        solver = ode.AutoDiffAdjoint(
            ode.Dopri5(term=term), ode.IntegralController(atol=atol, rtol=rtol, term=term), max_steps=self.max_steps
        )
        alpha = float(self.path.alpha(self.path.t_min))
        y = (x.to(compute) / alpha).flatten(1)
        self.rows = None
        first, last = (torch.full(x.shape[:1], end, dtype=torch.float64, device=x.device) for end in self.ends)
        groups = self._traces(y, first).steady.shape[0]
        y = torch.cat([y, y.new_zeros(len(y), groups)], 1)
        found = solver.solve(ode.InitialValueProblem(y0=y, t_start=first, t_end=last))
        if bool((found.status != 0).any()):
            raise NotConverged(
                f"{int((found.status != 0).sum())} of {len(x)} samples were not at the prior after max_steps={self.max_steps} "
                "steps, or took steps too small to count: raise max_steps, rtol or atol"
            )
        end = found.ys[:, -1]
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Solved(end[:, :-groups].reshape(x.shape), zero, zero, end[:, -groups:].T.double())

    def _traces(self, y: Tensor, u: Tensor) -> At:
        t = self.path.t_of_log_snr(-2 * u.double().clamp(*self.ends))
        self._alpha, self._sigma = self.path.alpha(t), self.path.sigma(t)
        c = self._sigma if self.tells_sigma else t
        at = (self._alpha.to(y.dtype)[:, None] * y).to(self.x.dtype).reshape(self.x.shape)
        found = self.divergence(self.told.told(c), at, c, steady=True)
        check_finite(found, f"at sigma from {float(self._sigma.min()):.6g} to {float(self._sigma.max()):.6g}")
        return found

    def _slope(self, u: Tensor, state: Tensor) -> Tensor:
        size = self.x.shape[1:].numel()
        found = self._traces(state[:, :size], u)
        dy = -(self._sigma.square() / self._alpha)[:, None] * found.score.flatten(1).double()
        return torch.cat([dy, (self._sigma.square() * found.steady).T], 1).to(state.dtype)
