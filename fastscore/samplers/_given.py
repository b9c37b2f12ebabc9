"""What a solver may be given of the data: their mean and spread, and a part of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ._mask import check_mask

Known = tuple[Tensor, Tensor]


def check_data(name: str, value: float | Tensor, shape: torch.Size) -> float | Tensor:
    """A number, or a tensor of a sample's shape, that describes the data."""
    if not isinstance(value, Tensor):
        return checks.number(name, value)
    checks.floating(name, value, batched=False)
    checks.not_differentiated(name, value)
    if value.dim() and value.shape != shape[1:]:
        raise ValueError(
            f"{name} must be a number or have a sample's shape, {tuple(shape[1:])}, got {checks.describe(value)}"
        )
    return value


def check_known(known: Any, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Known:
    if not isinstance(known, (tuple, list)) or len(known) != 2:
        raise TypeError(f"known must be None or (image, mask), got {checks.describe(known)}")
    image, mask = known
    checks.floating("known[0], the image,", image)
    checks.not_differentiated("known[0]", image)
    if image.shape != shape or image.device != device:
        raise ValueError(
            f"known[0], the image, must have shape {tuple(shape)} on {device}, got {checks.describe(image)}"
        )
    return image.to(dtype), check_mask(mask, image)
