"""The score of samples that are each at a time of their own, for solvers that choose their steps."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import paths
from .._core import checks
from .._core.registration import per_row
from ..ops.affine_step import affine_step
from ..rng import Stream
from ._chain import Chain
from ._grid import Levels, Point
from ._score import Score


class Rows:
    """score(x, t) at the times t [B] of ``path``: the chain's own, or of noise levels the VE path through their ends.

    Args:
        chain: the solver's arguments.
        score_fn: its network.
        points: whether it goes from point to point of a grid; else there is none.

    Raises:
        ValueError: the network of ``chain`` takes labels; or an argument was given that this solver cannot take.
    """

    def __init__(self, chain: Chain, score_fn: object, *, points: bool):
        if chain.recorded:
            raise ValueError(
                "cuda_graph must be False for a solver that chooses its own steps, got True: a graph would choose none"
            )
        for name, value in zip(("steps", "rule"), chain.asked):
            if value is not None and not points:
                raise ValueError(f"{name} must be None for a solver that chooses its own steps, got {value!r:.80}")
        if chain.conditioning == "labels":
            raise ValueError(
                "conditioning must be 'sigma' (NCSNv2, ScoreMLP) or 't' for a solver that chooses its own steps: between "
                "noise levels there are no labels, got 'labels'. A network of labels (NCSN) is for a solver of a grid: "
                "flow_ode with interpolate=True (--sampler ode --interpolate), or reverse_sde"
            )
        levels = isinstance(chain.where, Levels)
        if isinstance(chain.where, Levels):
            sigmas = chain.where.sigmas
            if len(sigmas) < 2:
                raise ValueError(f"path must have two noise levels or more, got {sigmas}")
            self.path = paths.ve(sigma_min=sigmas[-1], sigma_max=sigmas[0])
        else:
            self.path = chain.where.path
        self.chain, self.tells_sigma = chain, levels or chain.conditioning == "sigma"
        self.network = Score(score_fn, chain.kwargs, chain.conditioning)  # type: ignore[arg-type]  # checked by chain

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The score at ``x`` [B, ...] and the times ``t``, float64 [B]."""
        told = self.path.sigma(t) if self.tells_sigma else t
        value = self.network(x, told.to(checks.compute_dtype(x)))
        return self.chain.finite(value, f"at t from {float(t.min()):.6g} to {float(t.max()):.6g}")

    def last(self) -> Point:
        """The point at t_min."""
        t = self.path.t_min
        return Point(float(self.path.alpha(t)), float(self.path.sigma(t)), t)

    def t(self, point: Point) -> float:
        """The time of a point of the chain, of which a noise level has none."""
        return float(self.path.t_of_log_snr(2 * point.log_snr)) if point.t is None else point.t

    def clean(self, x: Tensor, point: Point) -> Tensor:
        """The mean of the clean sample given ``x`` at ``point``, (x + sigma^2 s) / alpha."""
        t = x.new_full(x.shape[:1], self.t(point), dtype=torch.float64)
        return affine_step(x, [self.score(x, t)], 1 / point.alpha, [point.sigma**2 / point.alpha])

    def keep(self, x: Tensor, t: Tensor, moved: Tensor) -> Tensor:
        """``x`` with what is known, at the noise of each sample's time ``t`` [B], in the samples that ``moved``, bool [B]."""
        if self.chain.known is None:
            return x
        image, mask = self.chain.known
        z = self.chain.rng.randn(x.shape, stream=Stream.INPAINT, dtype=x.dtype, device=x.device)
        compute = checks.compute_dtype(x)
        alpha, sigma = (per_row(v.to(compute), x) for v in (self.path.alpha(t), self.path.sigma(t)))
        return torch.where(mask & per_row(moved, x), (alpha * image + sigma * z).to(x.dtype), x)
