"""Noise levels sigma_1 > ... > sigma_L between two ends: a geometric and a uniform sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks


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
