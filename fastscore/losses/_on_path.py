"""What the objectives are on a path of continuous t: times that are drawn, a loss there, and what each time counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from .._core import checks
from ..ops.dsm_loss import checked as dsm_loss
from ..ops.perturb import checked as perturb
from ..paths import Path
from ..rng import Philox
from ._objective import PathLoss
from ._times import Weighting, draw_times, relative

#: times(x, rng) -> (t float64 [B], the uniform density there over that which t was drawn from, [B], or None for 1)
Times = Callable[[Tensor, Philox], tuple[Tensor, Tensor | None]]
#: term(score_fn, x, t, alpha, sigma, rng) -> [B], the loss with the weight sigma^2
Term = Callable[..., Tensor]


def denoised(
    score_fn: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, rng: Philox
) -> Tensor:
    """[B]: 1/2 sigma^2 || s(alpha x + sigma z, t) + z / sigma ||^2."""
    x_t, noise = perturb(x, sigma, rng, alpha)
    score = checks.like("the output of score_fn", score_fn(x_t, t), "x", x)
    return dsm_loss(score, noise, sigma, 2.0)


def bound(
    score_fn: Callable[[Tensor, Tensor], Tensor],
    path: Path,
    weight: float,
    *,
    factor: Callable[[Tensor], Tensor],
    times: Times,
    term: Term = denoised,
) -> PathLoss:
    """The loss sigma^(weight - 2) factor(t) term, at ``times``."""

    def loss(x: Tensor, rng: Philox) -> tuple[Tensor, Tensor]:
        t, ratio = times(x, rng)
        alpha, sigma = path.alpha(t), path.sigma(t)
        counts = factor(t) * sigma ** (weight - 2)
        counts = counts if ratio is None else counts * ratio
        counts, alpha, sigma = (v.to(checks.compute_dtype(x)).contiguous() for v in (counts, alpha, sigma))
        return counts * term(score_fn, x, t, alpha, sigma, rng), t

    return loss


def weighted(
    score_fn: Callable[[Tensor, Tensor], Tensor],
    path: Path,
    weight: float,
    *,
    weighting: Weighting = "sigma^2",
    proposal: str = "uniform",
    term: Term = denoised,
) -> PathLoss:
    """:func:`bound` with a weighting, at times by a proposal, both as for :func:`fastscore.losses.csm`."""
    factor = partial(relative, path, weighting)
    times = partial(_drawn, path=path, weighting=weighting, proposal=proposal)
    return bound(score_fn, path, weight, factor=factor, times=times, term=term)


def _drawn(x: Tensor, rng: Philox, path: Path, weighting: Weighting, proposal: str) -> tuple[Tensor, Tensor | None]:
    return draw_times(path, weighting, proposal, x, rng)
