"""What every method gets, and how independent estimates become a value and its error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import Coloring
from ..rng import Philox


class Plan(NamedTuple):
    """The checked arguments of one estimate."""

    method: str
    num_probes: int
    blocks: int
    coloring: Coloring | None
    shift: Tensor | None  # [] or [B]
    receptive_field: int | None
    rng: Philox


def mean_and_error(estimates: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [B] of independent estimates [n, B], and its standard error sqrt(s^2 / n): NaN where n = 1."""
    n, mean = estimates.shape[0], estimates.mean(0)
    if n == 1:
        return mean, torch.full_like(mean, float("nan"))
    return mean, estimates.std(0) / n**0.5
