"""Where an update's noise comes from: what draws it, a handle on it, or its values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._core import checks
from ..rng import Noise, Philox, as_philox


def drawn_from(x: Tensor, rng: Any, noise: Any) -> Philox | Noise | Tensor:
    """``rng``, or ``noise`` where it is given: a handle or a tensor of ``x``'s shape and device."""
    if noise is None:
        return as_philox(rng)
    if rng is not None:
        raise ValueError("rng must be None where noise is given: the noise is then not drawn")
    if isinstance(noise, Tensor):
        return checks.like("noise", noise, "x", x)
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a handle, a tensor or None, got {checks.describe(noise)}")
    if not noise.fits(x):
        raise ValueError(
            f"noise must have the shape and device of x, {tuple(x.shape)} on {x.device}, "
            f"got noise of shape {tuple(noise.shape)} on {noise.device}"
        )
    return noise
