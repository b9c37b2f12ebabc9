"""What features take: images in [0, 1]."""

from __future__ import annotations

from torch import Tensor

from .._core import checks


def check_unit_images(name: str, images: Tensor) -> Tensor:
    """Floating images [N, C, H, W], N >= 1, with every value in [0, 1]."""
    if checks.floating(name, images).dim() != 4 or images.numel() == 0:
        raise ValueError(f"{name} must be [N, C, H, W] and not empty, got {checks.describe(images)}")
    low, high = (float(value) for value in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        raise ValueError(f"{name} must be in [0, 1] (clamp samples first), got {low:.4g} to {high:.4g}")
    return images.detach()
