"""What the metrics take: sets of vectors, a row each."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._core import checks


def check_rows(least: int, **named: Tensor) -> list[Tensor]:
    """The named tensors as float64: each [N, D], N >= ``least``, finite, of one width and on one device."""
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
        bad = int((~torch.isfinite(value)).any(1).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {len(value)} rows")
    return [value.detach().double() for value in named.values()]
