"""Masks of what is known, of the shape of what they are for."""

from __future__ import annotations

from torch import Tensor

from . import checks


def whole(mask: Tensor, x: Tensor, name: str) -> Tensor:
    """``mask`` broadcast to the shape of ``x`` [B, ...], an argument called ``name``.

    Raises:
        ValueError: it does not broadcast, or would act on channels where it may be meant for samples: [B, H, W], B channels.
    """
    cures = "pass mask[:, None] for one per sample, alike for its channels, or mask[None] for one alike for all samples"
    many = mask.dim() > 1 and mask.dim() == x.dim() - 1 and mask.shape[0] > 1
    if many and mask.shape[0] == x.shape[0] == x.shape[1]:
        raise ValueError(
            f"mask must say what its first {len(mask)} are, where {name} of shape {tuple(x.shape)} has "
            f"as many samples as channels, got {checks.describe(mask)}: {cures}"
        )
    try:
        return mask.broadcast_to(x.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to the shape of {name}, {tuple(x.shape)}, got "
            f"{checks.describe(mask)}{': ' + cures if many else ''}"
        ) from None
