"""Masks of what is known."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks


def check_mask(mask: Tensor, image: Tensor) -> Tensor:
    """``mask`` of the shape of ``image``, once it is known to say what it means."""
    checks.tensor("mask", mask)
    if mask.dtype != torch.bool or mask.device != image.device:
        raise TypeError(
            f"mask must be a bool tensor on {image.device} (True where image is known), got {checks.describe(mask)}"
        )
    cures = "pass mask[:, None] for one per sample, alike for its channels, or mask[None] for one alike for all samples"
    many = mask.dim() > 1 and mask.dim() == image.dim() - 1 and mask.shape[0] > 1
    if many and mask.shape[0] == image.shape[0] == image.shape[1]:
        raise ValueError(
            f"mask must say what its first {len(mask)} are, where image of shape {tuple(image.shape)} has "
            f"as many samples as channels, got {checks.describe(mask)}: {cures}"
        )
    try:
        return mask.broadcast_to(image.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to the shape of image, {tuple(image.shape)}, got "
            f"{checks.describe(mask)}{': ' + cures if many else ''}"
        ) from None
