"""What the metrics take: sets of vectors, a row each. They are cast to float64 in blocks, or copied once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._core import checks

_BLOCK = 1 << 23  # numbers that are cast at once: 64 MB of float64


def check_rows(least: int, **named: Tensor) -> list[Tensor]:
    """The named tensors, detached: each [N, D], N >= ``least``, finite, of one width and on one device."""
    first_name, first = next(iter(named.items()))
    for name, value in named.items():
        checks.floating(name, value)
        if value.dim() != 2 or value.shape[0] < least or value.shape[1] < 1:
            raise ValueError(f"{name} must be [N, D] with N >= {least}, D >= 1, got {checks.describe(value)}")
        if value.shape[1] != first.shape[1] or value.device != first.device:
            raise ValueError(
                f"{name} must have the width {first.shape[1]} and the device {first.device} of "
                f"{first_name}, got {checks.describe(value)}"
            )
        bad = sum(int((~torch.isfinite(block)).any(1).sum()) for block in blocks(value))
        if bad:
            raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {len(value)} rows")
    return [value.detach() for value in named.values()]


def mean_row(x: Tensor) -> Tensor:
    """[D] float64: the mean of the rows of ``x``."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for block in blocks(x):
        total += block.double().sum(0)
    return total / len(x)


def centred(x: Tensor, centre: Tensor) -> Tensor:
    """x - centre [N, D] in float64: one copy, and nothing else of its size."""
    return x.to(torch.float64, copy=True).sub_(centre)


def blocks(x: Tensor) -> tuple[Tensor, ...]:
    """The rows of ``x`` [N, D], in blocks of some 8 million numbers."""
    return x.split(max(1, _BLOCK // x.shape[1]))
