"""Masks of what is known."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks, masks


def check_mask(mask: Tensor, image: Tensor) -> Tensor:
    """``mask`` of the shape of ``image``, once it is known to say what it means."""
    checks.tensor("mask", mask)
    if mask.dtype != torch.bool or mask.device != image.device:
        raise TypeError(
            f"mask must be a bool tensor on {image.device} (True where image is known), got {checks.describe(mask)}"
        )
    return masks.whole(mask, image, "image")
