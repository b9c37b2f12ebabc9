"""NCSNv2's rules for the number of noise levels (Technique 2) and for the step size (Technique 4).

The package's docstring has the equations. The two searches are a few lines each: this half of fastscore needs torch and
numpy alone, not scipy.
"""

from __future__ import annotations

import math

from .._core import checks

PUBLISHED_OVERLAP = 0.567  # what NCSNv2's schedules for CIFAR-10, CelebA, LSUN bedroom and FFHQ all amount to


def _ndtr(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def level_overlap(gamma: float, dim: int) -> float:
    """How much of one noise level's samples lie where the next larger level's do, of Technique 2.

    ``Phi(sqrt(2D) (gamma - 1) + 3 gamma) - Phi(sqrt(2D) (gamma - 1) - 3 gamma)``

    Args:
        gamma: the ratio of neighbouring levels, at least 1.
        dim: D, the number of elements of a sample.

    Returns:
        From 0 to 1, the less the larger ``gamma`` and D are.
    """
    gap = math.sqrt(2 * dim) * (gamma - 1)
    return _ndtr(gap + 3 * gamma) - _ndtr(gap - 3 * gamma)


def level_ratio(dim: int, overlap: float = PUBLISHED_OVERLAP) -> float:
    """The gamma > 1 at which :func:`level_overlap` of ``dim`` dimensions is ``overlap``, by bisection.

    Raises:
        ValueError: D <= 4, where every ratio overlaps by more than 0.99: sqrt(2D) (gamma - 1) < 3 gamma
            whatever gamma is.
    """
    dim = checks.integer("dim", dim, low=1)
    overlap = checks.positive("overlap", overlap)
    if overlap > 0.99:
        raise ValueError(f"overlap must be at most 0.99 (it is 0.997 at gamma = 1), got {overlap}")
    if dim <= 4:
        raise ValueError(
            f"num_levels must be given for data of {dim} dimensions: up to 4 dimensions, "
            "Technique 2 finds every ratio of noise levels close enough"
        )
    low, high = 1.0, 2.0
    while level_overlap(high, dim) > overlap:
        low, high = high, 2 * high
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if level_overlap(middle, dim) > overlap else (low, middle)
    return 0.5 * (low + high)


def variance_ratio(step_lr: float, sigma_min: float, gamma: float, steps_per_level: int) -> float:
    """s_T^2 / sigma^2 of Technique 4: the samples' variance after a level's T steps, over the level's own.

    Args:
        step_lr: epsilon of the last level, in x + epsilon s + sqrt(2 epsilon) z; less than sigma_L^2.
        sigma_min: sigma_L.
        gamma: the ratio of neighbouring levels, whose square is the ratio before the first step.
        steps_per_level: T.
    """
    step = step_lr / sigma_min**2
    kept = math.exp(2 * steps_per_level * math.log1p(-step))
    stationary = 2 / (2 - step)  # 2 epsilon / (sigma_L^2 - sigma_L^2 (1 - epsilon/sigma_L^2)^2)
    return kept * (gamma**2 - stationary) + stationary


def suggest_step_lr(sigma_min: float, gamma: float, steps_per_level: int) -> tuple[float, float]:
    """The step_lr (epsilon) whose :func:`variance_ratio` is closest to 1, and that ratio (Technique 4).

    The ratio is an average of gamma^2 and the variance that is left after many steps, both at least 1, so the closest
    to 1 is the smallest: a ternary search over the logarithm. For the published CIFAR-10 schedule it finds 6.184e-6; the
    paper has 6.2e-6.

    Args:
        sigma_min: sigma_L, the last level.
        gamma: the ratio of neighbouring levels, greater than 1.
        steps_per_level: T, the Langevin updates at each level.

    Returns:
        ``step_lr`` and the ratio.

    Raises:
        TypeError, ValueError: an argument out of its range.
    """
    sigma_min, gamma = checks.positive("sigma_min", sigma_min), checks.positive("gamma", gamma)
    steps_per_level = checks.integer("steps_per_level", steps_per_level, low=1)
    if not gamma > 1:
        raise ValueError(f"gamma must be greater than 1, got {gamma}")

    def ratio(log_step: float) -> float:
        return variance_ratio(math.exp(log_step) * sigma_min**2, sigma_min, gamma, steps_per_level)

    low, high = math.log(1e-12), math.log(1 - 1e-12)
    for _ in range(200):
        third = (high - low) / 3
        if ratio(low + third) < ratio(high - third):
            high -= third
        else:
            low += third
    step_lr = math.exp(0.5 * (low + high)) * sigma_min**2
    return step_lr, variance_ratio(step_lr, sigma_min, gamma, steps_per_level)
