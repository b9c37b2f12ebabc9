"""Predictor and corrector: a step to the next point after Langevin dynamics at this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._core import checks
from .._core.options import Option, choice
from ..ops.affine_step import affine_step
from ..paths import Path
from ._chain import Chain, How
from ._grid import Point
from ._points import POINTS, number_of, of_points, ratio
from ._replay import Level
from ._sampler import MOST, Options, Sampler
from .ancestral import coefficients as of_ancestral
from .ddim import coefficients as of_ddim
from .dpm_solver import coefficients as of_dpm_solver
from .reverse_sde import coefficients as of_reverse_sde

if TYPE_CHECKING:
    from typing_extensions import Unpack


MULTISTEP = {"dpm": 0.0, "dpm_sde": 1.0}  # eta of each
PREDICTORS = ("reverse_sde", "ancestral", "ddim", *MULTISTEP)
NORMS = ("noise", "sample")


@torch.no_grad()
def predictor_corrector(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    *,
    predictor: str = "reverse_sde",
    corrections: int = 1,
    snr: float = 0.16,
    norm: str = "noise",
    **how: Unpack[How],
) -> Tensor:
    """At each point ``corrections`` Langevin updates, x + e s + sqrt(2 e) z with e = 2 (snr |z| / |s|)^2, then a step to the next.

    The original takes both norms as means over the batch (and on VP paths a further factor, of nearly 1). So that no sample
    depends on its batch, |z| is sqrt(D) here, and |s| is sqrt(D) / sigma, the score's norm given the clean sample, so that e = 2
    snr^2 sigma^2; or by ``norm`` = "sample" that of the sample's own score, the original's rule for a batch of one, which in a few
    dimensions is far too small near a mode, and the updates too large.

    Args:
        predictor: the step to the next point: ``"reverse_sde"``, ``"ancestral"``, ``"ddim"``, or :func:`dpm_solver` of order 2,
            ``"dpm"`` or with noise ``"dpm_sde"``, which also takes the score that led here from the point before.
        corrections: Langevin updates at each point, 0 or more.
        snr: the signal-to-noise ratio of those (0.16 for CIFAR-10 on a VE path), from 1e-10 to 1e10.
        norm: ``"noise"`` or ``"sample"``.
        score_fn, shape, path, how: as for :func:`ddim`.

    Returns:
        The samples [B, ...], after 1 + ``corrections`` updates and as many evaluations at each point.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.

    Source: Song et al. 2021, "Score-based generative modeling through stochastic differential equations", algorithms 2 to 5.
    """
    checks.one_of("predictor", predictor, PREDICTORS)
    checks.one_of("norm", norm, NORMS)
    corrections, snr = checks.integer("corrections", corrections, low=0), ratio("snr", snr)
    chain = Chain(score_fn, shape, path, **how)
    visits, rows = list[tuple[int, int]](), list[Any]()
    for i, to_next in enumerate(_to_next(predictor, chain.points, path)):
        if corrections:
            visits.append((i, corrections))
            rows.append(None if norm == "sample" else _langevin(2 * (snr * chain.points[i].sigma) ** 2))
        visits.append((i, 1))
        rows.append(to_next)
    table, before = chain.table(rows), list[Tensor]()

    def step(x: Tensor, s: Tensor, j: Level) -> Tensor:
        row = table[j]
        if row is None:
            size = step_sizes(s, snr)
            return affine_step(x, [s], 1.0, [size], (2 * size).sqrt(), chain.rng)
        a, b, c = row
        if not isinstance(b, list):  # a correction
            return affine_step(x, [s], a, [b], c, chain.rng)
        new = affine_step(x, [s, *before][: len(b)], a, b, c, chain.rng)
        if predictor in MULTISTEP:
            chain.remember(before, [x, s])
        return new

    return chain.run(step, visits)


def _langevin(size: float) -> tuple[float, float, float]:
    """a, b and c of x + e s + sqrt(2 e) z."""
    return 1.0, size, math.sqrt(2 * size)


def _to_next(predictor: str, points: Sequence[Point], path: Any) -> list[tuple[float, list[float], float]]:
    """a, [b_k] and c of each step to the next point, as of :func:`dpm_solver`'s coefficients."""
    if predictor in MULTISTEP:
        return of_dpm_solver(points, 2, MULTISTEP[predictor])
    of_step = {
        "reverse_sde": partial(of_reverse_sde, path=path),
        "ancestral": partial(of_ancestral, variance="posterior"),
        "ddim": partial(of_ddim, eta=0.0),
    }[predictor]
    return [(a, [b], c) for a, b, c in (of_step(p, q) for p, q in pairwise(points))]


def step_sizes(score: Tensor, snr: float) -> Tensor:
    """e of each sample [B]; 0 where its score is 0."""
    squares = row_sums(score.to(checks.compute_dtype(score)).reshape(len(score), -1).square())
    size = 2 * snr**2 * score.shape[1:].numel() / squares
    return torch.where(squares > 0, size, 0.0)


def row_sums(values: Tensor) -> Tensor:
    """[B] of [B, D], in halves: each row's sum is the same bits whatever the batch and the threads."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        rest = values[:, 2 * half :]
        values = torch.cat([values[:, :half] + values[:, half : 2 * half], rest], dim=1)
    return values[:, 0]


def _grids(L: int, options: Options, budget: int, beyond: bool) -> list[dict[str, Any]]:
    """1, 2, 4, ... corrections at as many points as the budget allows, where that spends more than half of it."""
    most = budget if beyond else number_of(L, dict(options) | {"steps": 0})
    corrections = [2**k for k in range(budget.bit_length() - 1)]
    points = {c: min(most, budget // (1 + c)) for c in corrections}
    spent = [c for c, n in points.items() if n > 2 and 2 * n * (1 + c) > budget]
    return [{"steps": points[c], "corrections": c} for c in spent]


PREDICTOR_CORRECTOR = Sampler(
    name="pc",
    title="predictor-corrector sampling",
    source="Song et al. 2021",
    summary="a step to the next level after Langevin updates at each",
    options=(
        choice("predictor", PREDICTORS, "The step to the next level", default="reverse_sde"),
        Option(
            "corrections",
            int,
            "Langevin updates at each level",
            partial(checks.integer, low=0, high=MOST),
            default=1,
        ),
        Option("snr", float, "Signal-to-noise ratio of those updates", ratio, default=0.16),
        choice(
            "norm", NORMS, "The score's norm in those: sqrt(D) / sigma (noise), or the sample's own", default="noise"
        ),
        *POINTS,
    ),
    searched=("predictor", "snr"),
    **of_points(predictor_corrector, a_point=lambda options: 1 + options["corrections"]) | {"grids": _grids},
)
