"""Checks of what fixes a draw: the words of the key and the counter, and the form of the numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import checks

STEPS = 1 << 32


def seed(value: Any) -> int:
    """The key."""
    return checks.integer("seed", value, low=0, high=2**64 - 1)


def word(name: str, value: Any) -> int:
    """A word of the counter."""
    return checks.integer(name, value, low=0, high=STEPS - 1)


def rows(sample_offset: int, count: int) -> None:
    """The global indices of the samples, each a word."""
    if sample_offset + count > STEPS:
        raise ValueError(f"sample_offset + batch size must be at most 2^32, got {sample_offset} + {count}")


def first(value: Any, device: torch.device, count: int) -> Tensor:
    """The global index of the first of ``count`` samples, int64 [], in place of the number."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.dim():
        raise TypeError(f"first must be an int64 tensor of shape () or None, got {checks.describe(value)}")
    _on(device, "first", value)
    if checks.readable(value) and not 0 <= int(value) <= STEPS - count:
        raise ValueError(f"first must be from 0 to 2^32 - {count}, for as many samples, got {int(value)}")
    return value


def state(value: Any, device: torch.device | None = None, *, values: bool = True) -> Tensor:
    """Seed and step in place of the numbers, int64 [2]; on ``device``, where given. ``values``: look at the step."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (2,) or not value.is_contiguous():
        raise TypeError(
            "state must be a contiguous int64 tensor of shape (2,), the seed and the step, or None, "
            f"got {checks.describe(value)}"
        )
    if values and checks.readable(value) and not 0 <= int(value[1]) < STEPS:
        raise ValueError(f"state[1], the step, must be from 0 to {STEPS - 1}, got {int(value[1])}")
    if device is not None:
        _on(device, "state", value)
    return value


def _on(device: torch.device, name: str, value: Tensor) -> None:
    if value.device != device:
        raise ValueError(f"{name} must be on the device of the noise, {device}, got {checks.describe(value)}")


def shape(value: Any) -> torch.Size:
    """The shape of the numbers, [B, ...]."""
    try:
        if not is_compiling() and bool in map(type, value):
            raise TypeError
        found = torch.Size(value)
    except TypeError:
        raise TypeError(f"shape must be integers [B, ...], got {checks.describe(value)}") from None
    if len(found) == 0 or min(found) < 0:
        raise ValueError(f"shape must be [B, ...], with a batch dimension and no negative size, got {tuple(found)}")
    return found


def indexed(device: torch.device | str) -> torch.device:
    """The device as its tensors name it, "cuda:0" for "cuda", so that handles and tensors compare."""
    try:
        device = torch.device(device)
    except (TypeError, ValueError, RuntimeError) as error:
        if is_compiling():
            raise
        raise type(error)(f"device must be a torch.device or the name of one, got {checks.describe(device)}") from None
    if device.index is not None or device.type in ("cpu", "meta") or is_compiling():
        return device
    return torch.empty((), device=device).device


def dtype(value: Any) -> torch.dtype:
    """The dtype of the numbers."""
    if value not in checks.FLOATS:
        raise TypeError(f"dtype must be torch.float16, bfloat16, float32 or float64, got {checks.describe(value)}")
    return value


def signed(seed: int) -> int:
    """The 64 bits of a seed as an int64."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed
