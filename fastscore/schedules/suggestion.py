"""Noise levels and a step size for a data set: what NCSNv2's techniques 1, 2 and 4 find."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from .._core import checks
from .distances import check_samples, largest_distance
from .levels import geometric_sigmas
from .step_sizes import StepLr, StepSize
from .techniques import PUBLISHED_OVERLAP, level_ratio, suggest_step_lr

if TYPE_CHECKING:
    from ..data import Data


class Suggestion(NamedTuple):
    """What :func:`suggest` found; ``**suggestion.sampling()`` is what ``annealed_langevin`` takes of it.

    Attributes:
        sigma_max: sigma_1, the largest distance between two data points.
        sigma_min: sigma_L, as it was given.
        num_levels: L.
        gamma: the ratio of neighbouring levels, (sigma_max / sigma_min)^{1/(L-1)}.
        sigmas: the levels, float32 [L], strictly decreasing.
        steps_per_level: T.
        step_lr: of the last level, in x + step_lr s + sqrt(2 step_lr) z: the authors' epsilon. A sampler's ``step_lr``.
        step_size: 2 step_lr, in x + step_size/2 s + sqrt(step_size) z: the papers' alpha. A sampler's ``step_size``.
            Either raises where it is given in the other's place.
        variance_ratio: s_T^2 / sigma^2 at that step size; never less than 1.
    """

    sigma_max: float
    sigma_min: float
    num_levels: int
    gamma: float
    sigmas: Tensor
    steps_per_level: int
    step_lr: float
    step_size: float
    variance_ratio: float

    def sampling(self) -> dict[str, Any]:
        """The arguments of ``fastscore.samplers.annealed_langevin`` that it settles: noise levels, step size, steps.

        Example:
            >>> import torch
            >>> found = suggest(torch.eye(8))
            >>> sorted(found.sampling())
            ['sigmas', 'step_size', 'steps_per_level']
        """
        return {"sigmas": self.sigmas, "step_size": self.step_size, "steps_per_level": self.steps_per_level}


def suggest(
    data: Tensor | Data,
    *,
    sigma_min: float = 0.01,
    sigma_max: float | None = None,
    num_levels: int | None = None,
    steps_per_level: int = 5,
    overlap: float = PUBLISHED_OVERLAP,
    max_samples: int | None = None,
    chunk_size: int = 1024,
) -> Suggestion:
    """Noise levels and a Langevin step size for a data set, by NCSNv2's techniques 1, 2 and 4.

    The paper says that the overlap should be about 0.5. Its published schedules (CIFAR-10 50 -> 0.01 in 232
    levels, CelebA 90 in 500, LSUN bedroom 190 in 1086, FFHQ 348 in 2311) all have 0.567, so that is the
    default: it gives 232, 500, 1087 and 2311 levels. 0.5 gives about 6% fewer (219 for CIFAR-10).

    Args:
        data: [N, ...] of N >= 2 samples, floating (as the network sees it) or uint8 (then divided by 255); or a
            :class:`fastscore.data.Data`: of images those it holds, of others its first epoch.
        sigma_min: sigma_L, the smallest level.
        sigma_max: sigma_1; where None, :func:`largest_distance` of the data, which says what it costs.
        num_levels: L; where None, by Technique 2. Data of D <= 4 dimensions needs it given.
        steps_per_level: T, the Langevin steps that each level will get.
        overlap: the right-hand side of Technique 2, greater than 0 and at most 0.99; the number of levels is
            the nearest to it.
        max_samples, chunk_size: see :func:`largest_distance`.

    Returns:
        a :class:`Suggestion`: ``annealed_langevin(score_fn, shape, **suggestion.sampling())``. ``step_lr`` is what
        the authors' code and ``fastscore.compat.ncsn`` take.

    Raises:
        TypeError, ValueError: an argument out of its range, or ``sigma_min`` not below ``sigma_max``.
    """
    data = check_samples(data)
    sigma_min = checks.positive("sigma_min", sigma_min)
    if sigma_max is None:
        sigma_max = largest_distance(data, max_samples=max_samples, chunk_size=chunk_size)
    sigma_max = checks.positive("sigma_max", sigma_max, zero_allowed=True)
    if not sigma_max > sigma_min:
        raise ValueError(
            "sigma_min must be less than sigma_max (by default the largest distance between two "
            f"samples), {sigma_max}; got {sigma_min}"
        )
    if num_levels is None:
        ratio = level_ratio(data[0].numel(), overlap)
        num_levels = max(2, 1 + round(math.log(sigma_max / sigma_min) / math.log(ratio)))
    num_levels = checks.integer("num_levels", num_levels, low=2)
    gamma = (sigma_max / sigma_min) ** (1 / (num_levels - 1))
    step_lr, variance = suggest_step_lr(sigma_min, gamma, steps_per_level)
    sigmas = geometric_sigmas(sigma_max, sigma_min, num_levels)
    return Suggestion(
        sigma_max,
        sigma_min,
        num_levels,
        gamma,
        sigmas,
        steps_per_level,
        StepLr(step_lr),
        StepSize(2 * step_lr),
        variance,
    )
