r"""Noise levels sigma_1 > ... > sigma_L: two schedules, and NCSNv2's rules for choosing them from the data.

:func:`suggest` follows Song & Ermon, "Improved techniques for training score-based generative models" (2020),
for data of D dimensions:

- Technique 1: sigma_1 is the largest Euclidean distance between two data points;
- Technique 2: a geometric sequence whose ratio gamma = sigma_{i-1} / sigma_i makes neighbours overlap by
      Phi(sqrt(2D) (gamma - 1) + 3 gamma) - Phi(sqrt(2D) (gamma - 1) - 3 gamma) ~= 0.5,
  with Phi the standard normal's distribution function;
- Technique 4: T Langevin steps a level, of the step size epsilon that brings the variance of the samples
  after a level's last step, in units of the level's own, closest to 1:
      s_T^2 / sigma^2 = (1 - epsilon/sigma_L^2)^{2T} (gamma^2 - k) + k,
      k = 2 epsilon / (sigma_L^2 - sigma_L^2 (1 - epsilon/sigma_L^2)^2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ._core import checks
from .rng import Philox, Stream

if TYPE_CHECKING:
    from .data import Data

PUBLISHED_OVERLAP = 0.567  # what NCSNv2's schedules for CIFAR-10, CelebA, LSUN bedroom and FFHQ all amount to


def geometric_sigmas(begin: float, end: float, num_levels: int) -> Tensor:
    """sigma_i = begin (end / begin)^{(i-1)/(L-1)}, i = 1 .. L: the schedule of NCSN and NCSNv2.

    Args:
        begin: the largest noise level.
        end: the smallest, greater than 0 and less than ``begin``.
        num_levels: L; where it is 1, ``begin`` and ``end`` must be equal.

    Returns:
        float32 [L] on the CPU, strictly decreasing, computed in float64; both ends are exact.

    Raises:
        TypeError, ValueError: an argument out of its range, or more levels than float32 can tell apart.

    Example:
        >>> geometric_sigmas(1.0, 0.01, 3)
        tensor([1.0000, 0.1000, 0.0100])
    """
    begin, end, num_levels = _range(begin, end, num_levels)
    logs = torch.linspace(math.log(begin), math.log(end), num_levels, dtype=torch.float64, device="cpu")
    return _levels(logs.exp(), begin, end)


def uniform_sigmas(begin: float, end: float, num_levels: int) -> Tensor:
    """sigma_i = begin + (end - begin) (i-1)/(L-1), i = 1 .. L: equal steps.

    Arguments, returns and errors are those of :func:`geometric_sigmas`.

    Example:
        >>> uniform_sigmas(1.0, 0.5, 3)
        tensor([1.0000, 0.7500, 0.5000])
    """
    begin, end, num_levels = _range(begin, end, num_levels)
    return _levels(torch.linspace(begin, end, num_levels, dtype=torch.float64, device="cpu"), begin, end)


def _range(begin: float, end: float, num_levels: int) -> tuple[float, float, int]:
    begin, end = checks.positive("begin", begin), checks.positive("end", end)
    num_levels = checks.integer("num_levels", num_levels, low=1)
    if num_levels == 1 and begin != end:
        raise ValueError(f"begin and end must be equal where num_levels is 1, got {begin} and {end}")
    if num_levels > 1 and not begin > end:
        raise ValueError(f"begin must be greater than end, got begin {begin} and end {end}")
    return begin, end, num_levels


def _levels(values: Tensor, begin: float, end: float) -> Tensor:
    values[-1], values[0] = end, begin
    sigmas = values.float()
    if not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise ValueError(
            f"num_levels must leave {begin} to {end} in steps that float32 can tell apart, got {len(sigmas)}"
        )
    return sigmas


class Alpha(float):
    """A step size in the form x + alpha/2 s + sqrt(alpha) z: a number that nothing takes for a step_lr."""

    __slots__ = ()


class StepLr(float):
    """A step size in the form x + step_lr s + sqrt(2 step_lr) z: a number that nothing takes for an alpha."""

    __slots__ = ()


def refuse_other_form(name: str, value: Any, form: str) -> None:
    """Raise where ``value``, the argument ``name``, is a suggestion's step size, but not of the ``form`` wanted here,
    "alpha" or "step_lr"."""
    if isinstance(value, StepLr if form == "alpha" else Alpha):
        given, factor = ("step_lr", "twice") if form == "alpha" else ("alpha", "half")
        raise ValueError(
            f"{name} must be {factor} the {given} that suggest found, got that {given} itself, {value}: "
            f"use suggestion.{form}; samplers take **suggestion.sampling() too"
        )


class Suggestion(NamedTuple):
    """What :func:`suggest` found; ``**suggestion.sampling()`` is what ``annealed_langevin`` takes of it.

    Attributes:
        sigma_max: sigma_1, the largest distance between two data points.
        sigma_min: sigma_L, as it was given.
        num_levels: L.
        gamma: the ratio of neighbouring levels, (sigma_max / sigma_min)^{1/(L-1)}.
        sigmas: the levels, float32 [L], strictly decreasing.
        steps_per_level: T.
        step_lr: epsilon of the last level, as the authors' code has it: x + epsilon s + sqrt(2 epsilon) z. A sampler's
            ``step_lr``.
        alpha: 2 epsilon, as the papers have it: x + alpha/2 s + sqrt(alpha) z. A sampler's ``alpha``. Either raises
            where it is given in the other's place.
        variance_ratio: s_T^2 / sigma^2 at that step size; never less than 1.
    """

    sigma_max: float
    sigma_min: float
    num_levels: int
    gamma: float
    sigmas: Tensor
    steps_per_level: int
    step_lr: float
    alpha: float
    variance_ratio: float

    def sampling(self) -> dict[str, Any]:
        """The arguments of ``fastscore.samplers.annealed_langevin`` that it settles: noise levels, step size, steps.

        Example:
            >>> found = suggest(torch.eye(8))
            >>> sorted(found.sampling())
            ['alpha', 'sigmas', 'steps_per_level']
        """
        return {"sigmas": self.sigmas, "alpha": self.alpha, "steps_per_level": self.steps_per_level}


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
    """Noise levels and a Langevin step size for a data set, by NCSNv2's techniques 1, 2 and 4 (see above).

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
    data = _samples(data)
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
    step_lr, variance = step_size(sigma_min, gamma, steps_per_level)
    sigmas = geometric_sigmas(sigma_max, sigma_min, num_levels)
    return Suggestion(
        sigma_max, sigma_min, num_levels, gamma, sigmas, steps_per_level, StepLr(step_lr), Alpha(2 * step_lr), variance
    )


def _samples(data: Tensor | Data) -> Tensor:
    """The samples [N, ...] of a tensor or a data set, checked."""
    if not isinstance(data, Tensor):
        from .data import Data, ImageData

        if not isinstance(data, Data):
            raise TypeError(f"data must be a torch.Tensor or a fastscore.data.Data, got {checks.describe(data)}")
        data = data.images if isinstance(data, ImageData) else data.batch(iteration=0, batch_size=len(data), seed=0)
    if data.dtype != torch.uint8:
        checks.floating("data", data)
    if data.dim() < 2 or data.shape[0] < 2 or data[0].numel() == 0:
        raise ValueError(f"data must have shape [N, ...] with N >= 2 samples, got {checks.describe(data)}")
    return data


@torch.no_grad()
def largest_distance(data: Tensor | Data, *, max_samples: int | None = None, chunk_size: int = 1024) -> float:
    """max_ij ||x_i - x_j||, exactly, in float64 (Technique 1).

    Two points at distances r_i >= r_j from the mean are at most r_i + r_j apart, so the points are taken from
    the outside in, and pairs that cannot beat the best one found are never looked at. Of all pairs that left
    17% for handwritten digits and 69% for Gray-Scott patterns; at worst (Gaussian noise) it leaves N^2/2
    pairs of D products, 4e12 for data of CIFAR-10's size: 7 minutes at the 10^10 a second of two CPU cores.
    Memory, beside the data: in proportion to ``chunk_size`` D, 250 MB for 50,000 uint8 images of 3x32x32.

    Args:
        data: as for :func:`suggest`. The work is done on its device.
        max_samples: look only at that many samples, a random subset that is the same each time; the answer is
            then a lower bound.
        chunk_size: how many samples are compared with how many at once; the answer does not depend on it.

    Raises:
        TypeError, ValueError: data of another form, or not finite.
    """
    data = _samples(data)
    chunk_size = checks.integer("chunk_size", chunk_size, low=1)
    if max_samples is not None and checks.integer("max_samples", max_samples, low=2) < len(data):
        kept = Philox(seed=0).permutation(len(data), stream=Stream.DATA)[:max_samples]
        data = data[kept.to(data.device)]
    chunks = [slice(start, start + chunk_size) for start in range(0, len(data), chunk_size)]
    mean = torch.zeros(data[0].numel(), dtype=torch.float64, device=data.device)
    radius = torch.empty(len(data), dtype=torch.float64, device=data.device)
    for c in chunks:  # into memory that is there: small results kept between large ones would fragment it
        mean += _flat64(data[c]).sum(0) / len(data)
    for c in chunks:
        radius[c] = (_flat64(data[c]) - mean).norm(dim=1)
    if not bool(torch.isfinite(radius).all()):
        raise ValueError("data must be finite everywhere, got a sample that is not")
    radius, order = radius.sort(descending=True, stable=True)
    outer = radius[[c.start for c in chunks]].tolist()  # the largest radius of each chunk

    best = 0.0
    for i, rows in enumerate(chunks):
        if outer[i] + outer[i] <= best:
            break
        a = _flat64(data[order[rows]])
        for j in range(i, len(chunks)):
            if outer[i] + outer[j] <= best:
                break
            b = _flat64(data[order[chunks[j]]])
            best = max(best, _farthest(a - mean, b - mean))
    return best


def _flat64(data: Tensor) -> Tensor:
    return data.flatten(1).double() / 255 if data.dtype == torch.uint8 else data.flatten(1).double()


def _farthest(a: Tensor, b: Tensor) -> float:
    """The largest distance between a row of ``a`` and one of ``b``, found by products, computed directly."""
    squared = torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2)
    row, column = divmod(int(squared.argmax()), len(b))
    return float((a[row] - b[column]).norm())


def _ndtr(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def level_overlap(gamma: float, dim: int) -> float:
    """Phi(sqrt(2D) (gamma - 1) + 3 gamma) - Phi(sqrt(2D) (gamma - 1) - 3 gamma), of Technique 2."""
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


def variance_ratio(epsilon: float, sigma_min: float, gamma: float, steps_per_level: int) -> float:
    """s_T^2 / sigma^2 of Technique 4: the samples' variance after a level's T steps, over the level's own.

    Args:
        epsilon: step_lr of the last level, in x + epsilon s + sqrt(2 epsilon) z; less than sigma_L^2.
        sigma_min: sigma_L.
        gamma: the ratio of neighbouring levels, whose square is the ratio before the first step.
        steps_per_level: T.
    """
    step = epsilon / sigma_min**2
    kept = math.exp(2 * steps_per_level * math.log1p(-step))
    stationary = 2 / (2 - step)  # 2 epsilon / (sigma_L^2 - sigma_L^2 (1 - epsilon/sigma_L^2)^2)
    return kept * (gamma**2 - stationary) + stationary


def step_size(sigma_min: float, gamma: float, steps_per_level: int) -> tuple[float, float]:
    """The epsilon (step_lr) whose :func:`variance_ratio` is closest to 1, and that ratio (Technique 4).

    The ratio averages gamma^2 and k, both at least 1, so the closest to 1 is the smallest: a ternary search
    over its logarithm. For the published CIFAR-10 schedule it finds 6.184e-6; the paper has 6.2e-6.
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
    epsilon = math.exp(0.5 * (low + high)) * sigma_min**2
    return epsilon, variance_ratio(epsilon, sigma_min, gamma, steps_per_level)
