"""Shared input checks: every message names the argument, what it was, and what it must be.

Values (positive, finite) of tensors are checked on the CPU only: reading them on an accelerator would make the
host wait for the device at every call. Shapes, dtypes and devices are checked everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ._functorch import is_wrapped, peek_interpreter_stack

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def describe(value: Any) -> str:
    """A short text of what ``value`` is, for error messages."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def tensor(name: str, value: Any) -> Tensor:
    """``value`` as it is, if it is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {describe(value)}")
    return value


def floating(name: str, value: Any, *, batched: bool = True) -> Tensor:
    """A real floating-point tensor, with a leading batch dimension where ``batched``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {describe(value)}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {describe(value)}")
    if batched and value.dim() < 1:
        raise ValueError(f"{name} must have a batch dimension, shape [B, ...], got {describe(value)}")
    return value


def like(name: str, value: Any, other_name: str, other: Tensor) -> Tensor:
    """A floating tensor of the same shape and device as ``other``."""
    floating(name, value, batched=False)
    if value.shape != other.shape:
        raise ValueError(f"{name} must have the shape of {other_name}, {tuple(other.shape)}, got {describe(value)}")
    if not (value.is_cpu and other.is_cpu) and value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, got {describe(value)}")
    return value


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of arithmetic on ``x``: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def readable(value: Tensor) -> bool:
    """Whether the values may be read here without a device sync, a graph break or a vmap error."""
    if torch.compiler.is_compiling() or value.device.type != "cpu" or value.is_meta:
        return False
    return not is_wrapped(value)


def positive(name: str, value: Any, *, zero_allowed: bool = False) -> float:
    """A finite Python number greater than zero (or equal, where ``zero_allowed``)."""
    bound = "at least 0" if zero_allowed else "greater than 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number {bound}, got {describe(value)}")
    if not abs(value) < math.inf or value < 0 or (value == 0 and not zero_allowed):
        raise ValueError(f"{name} must be finite and {bound}, got {value}")
    return float(value)


def number(name: str, value: Any) -> float:
    """A finite Python number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {describe(value)}")
    if not abs(value) < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def integer(name: str, value: Any, *, low: int, high: int | None = None) -> int:
    """A Python integer with ``low <= value <= high``."""
    bound = f"at least {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer {bound}, got {describe(value)}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {bound}, got {value}")
    return value


def one_of(name: str, value: Any, allowed: Collection[str]) -> str:
    """One of the given words; the message lists them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def per_sample(name: str, value: Any, x: Tensor, *, zero_allowed: bool = False, values: bool = True) -> Tensor:
    """A number, a 0-dim tensor or a [B] tensor of positive values, as a contiguous tensor [] or [B].

    Returned in the dtype of computation: float64 beside a float64 ``x``, else float32. With ``values=False`` what a
    tensor holds is not looked at: the native operators do that on their way, and then :func:`positive_values` says
    what is wrong.
    """
    compute = compute_dtype(x)
    if not isinstance(value, Tensor):
        number = positive(name, value, zero_allowed=zero_allowed)
        if (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
                or peek_interpreter_stack() is not None):  # what is made there belongs there
            # the number times one: torch.compile then takes it as an input, and does not compile anew for another
            return torch.ones((), dtype=compute, device=x.device) * number
        return constant(number, compute, x.device)
    floating(name, value, batched=False)
    dim, here = value.dim(), (value.is_cpu and x.is_cpu) or value.device == x.device
    if dim and (dim > 1 or value.size(0) != x.size(0)):
        raise ValueError(f"{name} must be a number or have shape ({len(x)},), one a sample, got {describe(value)}")
    if dim and not here:
        raise ValueError(f"{name} must be on the device of the samples, {x.device}, got {describe(value)}")
    if values:
        positive_values(name, value, zero_allowed=zero_allowed)
    if not here or value.dtype != compute:
        value = value.to(device=x.device, dtype=compute)
    return value if value.is_contiguous() else value.contiguous()


def positive_values(name: str, value: Tensor, *, zero_allowed: bool = False) -> None:
    """Raise unless every value is finite and greater than zero (or equal, where ``zero_allowed``)."""
    if not readable(value) or not value.numel():
        return
    good = (value >= 0) if zero_allowed else (value > 0)
    good &= torch.isfinite(value)
    if not bool(good.all()):
        bound = "at least 0" if zero_allowed else "greater than 0"
        bad = value[~good].flatten()[0].item() if value.dim() else value.item()
        raise ValueError(f"{name} must be finite and {bound} everywhere, got {bad} in {describe(value)}")


@lru_cache(maxsize=4096)
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A constant, made once: never written to, never handed to the user."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def sigmas(name: str, value: Any, *, device: torch.device | None = None) -> Tensor:
    """Noise levels as a 1-D floating tensor, finite, positive and strictly decreasing (as in the papers)."""
    if isinstance(value, (list, tuple)):
        value = torch.tensor([positive(f"{name}[{i}]", v) for i, v in enumerate(value)], dtype=torch.float32)
    floating(name, value, batched=False)
    if value.dim() != 1 or value.numel() == 0:
        raise ValueError(f"{name} must have shape (L,) with L >= 1, got {describe(value)}")
    if readable(value):
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"{name} must be finite and greater than 0 everywhere, got {value.tolist()}")
        if not bool((value[1:] < value[:-1]).all()):
            raise ValueError(f"{name} must be strictly decreasing, from the largest noise to the smallest, "
                             f"got {value.tolist()}")
    return value if device is None else value.to(device)


def labels(name: str, value: Any, x: Tensor, num_levels: int) -> Tensor:
    """Integer labels [B], each an index into the noise levels."""
    tensor(name, value)
    if value.dtype not in (torch.int64, torch.int32) or value.shape != x.shape[:1]:
        raise ValueError(f"{name} must be an int64 tensor of shape ({x.shape[0]},), got {describe(value)}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of the samples, {x.device}, got {describe(value)}")
    if readable(value) and value.numel() and (int(value.min()) < 0 or int(value.max()) >= num_levels):
        raise ValueError(f"{name} must be from 0 to {num_levels - 1} (there are {num_levels} noise levels), "
                         f"got values from {int(value.min())} to {int(value.max())}")
    return value.long()
