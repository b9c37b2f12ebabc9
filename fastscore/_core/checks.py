"""Shared input checks: every message names the argument, what it was, and what it must be.

Values (positive, finite) of tensors are checked on the CPU only: reading them on an accelerator would make the
host wait for the device at every call. Shapes, dtypes and devices are checked everywhere.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from .private_torch import break_graph, constant_to_dynamo, dispatch_modes, is_wrapped, peek_interpreter_stack, tracked

FLOAT32 = 3.4e38  # about the largest number that it holds
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # the likeliest first: this is asked often


def describe(value: Any) -> str:
    """A short text of what ``value`` is, for error messages."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    text = _text(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def _text(value: Any) -> str:
    """``repr``, which Python refuses for integers of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return f"of {value.bit_length()} bits" if isinstance(value, int) else "that has no text"


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
    if not isinstance(value, Tensor) or value.dtype not in FLOATS:
        floating(name, value, batched=False)  # which says so
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


def has_values(value: Tensor) -> bool:
    """Whether there are values to be read, be it by a wait for the device: not under torch.compile, nor of a slice of vmap."""
    return not (torch.compiler.is_compiling() or value.is_meta or is_wrapped(value))


def plain(value: Any) -> Any:
    """The Python number of a NumPy scalar, or of a 0-dim array or tensor; anything else as it is.

    A tensor on an accelerator, in a transform, or that requires a gradient is no number: its value cannot be had
    without waiting for the device, or without cutting it off.
    """
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        return value.item()
    if isinstance(value, Tensor) and value.dim() == 0 and not value.requires_grad and readable(value):
        return value.item()
    return value


def _real(name: str, value: Any, what: str, finite: str) -> int | float:
    found = value if type(value) is float else plain(value)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise TypeError(f"{name} must be {what}, got {describe(value)}")
    if not abs(found) <= sys.float_info.max:
        raise ValueError(f"{name} must be {finite}, got {_text(found)}")
    return found


def positive(name: str, value: Any, *, zero_allowed: bool = False) -> float:
    """A finite number greater than zero (or equal, where ``zero_allowed``), as a Python float."""
    bound = "at least 0" if zero_allowed else "greater than 0"
    found = _real(name, value, f"a number {bound}", f"finite and {bound}")
    if found < 0 or (found == 0 and not zero_allowed):
        raise ValueError(f"{name} must be finite and {bound}, got {found}")
    return float(found)


def number(name: str, value: Any, *, largest: float = sys.float_info.max) -> float:
    """A finite number, as a Python float, no further from 0 than ``largest``."""
    found = float(_real(name, value, "a number", "finite"))
    if abs(found) > largest:
        raise ValueError(f"{name} must be from {-largest:g} to {largest:g}, got {found:g}")
    return found


def integer(name: str, value: Any, *, low: int, high: int | None = None) -> int:
    """An integer with ``low <= value <= high``, as a Python int."""
    bound = f"at least {low}" if high is None else f"from {low} to {high}"
    found = value if type(value) is int else plain(value)
    if isinstance(found, bool) or not isinstance(found, int):
        raise TypeError(f"{name} must be an integer {bound}, got {describe(value)}")
    if found < low or (high is not None and found > high):
        raise ValueError(f"{name} must be {bound}, got {_text(found) if type(found) is int else found}")
    return found


def one_of(name: str, value: Any, allowed: Collection[str]) -> str:
    """One of the given words; the message lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def row_numbers(
    name: str, value: Any, x: Tensor, *, zero_allowed: bool = False, signed: bool = False, values: bool = True
) -> Tensor:
    """A number, a 0-dim tensor, or a [B] tensor or array of positive values, as a contiguous tensor [] or [B].

    Returned in the dtype of computation: float64 beside a float64 ``x``, else float32. ``signed``: of any finite values.
    With ``values=False`` what a tensor holds is not looked at: the native operators do that on their way, and then
    :func:`positive_values` or :func:`finite_values` says what is wrong. Not under a transform.
    """
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    if (
        type(value) is float
        and 7.1e-46 < (abs(value) if signed else value) < 3.4e38
        and not (elsewhere() if values else dispatch_modes())
    ):
        return constant(value, compute, x.device)  # what most callers pass, at once
    if not isinstance(value, Tensor):
        if isinstance(value, np.ndarray) and value.ndim == 1:
            numbers = [_row_number(f"{name}[{i}]", v, compute, zero_allowed, signed) for i, v in enumerate(value)]
            value = torch.tensor(numbers, dtype=compute, device=x.device)
        else:
            found = _row_number(name, value, compute, zero_allowed, signed)
            if elsewhere():  # what is made there belongs there
                # the number times one: torch.compile then takes it as an input, and does not compile anew for another
                return torch.ones((), dtype=compute, device=x.device) * found
            return constant(found, compute, x.device)
    other = value.dtype != compute
    if other:
        floating(name, value, batched=False)
    dim, here = value.dim(), (value.is_cpu and x.is_cpu) or value.device == x.device
    if dim and (dim > 1 or value.shape[0] != x.shape[0]):
        raise ValueError(
            f"{name} must be a number or have shape ({len(x)},), one for each sample, got {describe(value)}"
        )
    if dim and not here:
        raise ValueError(f"{name} must be on the device of the samples, {x.device}, got {describe(value)}")
    if values and signed:
        finite_values(name, value)
    elif values:
        positive_values(name, value, zero_allowed=zero_allowed)
    if other or not here:
        value = value.to(device=x.device, dtype=compute)
    return value if value.is_contiguous() else value.contiguous()


def _row_number(name: str, value: Any, compute: torch.dtype, zero_allowed: bool, signed: bool) -> float:
    """A number as :func:`row_numbers` takes it, of which float32 makes neither infinity nor, of a positive one, zero."""
    found = number(name, value) if signed else positive(name, value, zero_allowed=zero_allowed)
    least = 0.0 if signed else 7.1e-46
    if compute == torch.float32 and not is_compiling() and found and not least < abs(found) < 3.4e38:
        bound = "" if signed else " and at least 0" if zero_allowed else " and greater than 0"
        raise ValueError(f"{name} must be finite{bound} as the float32 that is computed with, got {found}")
    return found


def elsewhere() -> bool:
    """Whether tensors that are made now belong to a transform, a mode or a compiled function."""
    return is_compiling() or bool(dispatch_modes()) or peek_interpreter_stack() is not None


def not_differentiated(name: str, x: Any, cure: str = "torch.func.jvp differentiates it") -> None:
    """Raise where a transform of torch.func differentiates backwards in ``x``, of which nothing is recorded here: what it found
    would be 0. (Plain autograd says itself that there is no gradient.)"""
    if isinstance(x, Tensor) and tracked(x):
        raise ValueError(
            f"{name} must not be what torch.func.grad, vjp or jacrev differentiates in, for nothing is recorded here and they would "
            f"find 0: {cure}; pass {name}.detach() where it is a constant"
        )


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


def finite_values(name: str, value: Tensor) -> None:
    """Raise unless every value is finite."""
    if readable(value) and not bool((good := torch.isfinite(value)).all()):
        raise ValueError(f"{name} must be finite everywhere, got {value[~good][0].item()} in {describe(value)}")


@lru_cache(maxsize=4096)
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A constant, made once: never written to, never handed to the user."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def sigmas(name: str, value: Any, *, device: torch.device | None = None) -> Tensor:
    """Noise levels as a 1-D floating tensor, finite, positive and strictly decreasing (as in the papers)."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        value = torch.tensor([positive(f"{name}[{i}]", v) for i, v in enumerate(value)], dtype=torch.float32)
    floating(name, value, batched=False)
    if value.dim() != 1 or value.numel() == 0:
        raise ValueError(f"{name} must have shape (L,) with L >= 1, got {describe(value)}")
    if readable(value) and not _decreasing(value):
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"{name} must be finite and greater than 0 everywhere, got {value.tolist()}")
        raise ValueError(
            f"{name} must be strictly decreasing, from the largest noise to the smallest, got {value.tolist()}"
        )
    return value if device is None else value.to(device)


def levels(name: str, value: Any) -> list[float]:
    """:func:`sigmas` as Python numbers. To a compiled function those of a list are constants; of a tensor it has none."""
    if is_compiling():
        if isinstance(value, (list, tuple)):
            return _constant_levels(name, *value)
        break_graph(
            f"{name} must be a list of numbers inside torch.compile(fullgraph=True), such as sigmas.tolist() made before"
        )
    return sigmas(name, value).tolist()


@constant_to_dynamo
def _constant_levels(name: str, *value: Any) -> list[float]:
    return sigmas(name, value).tolist()


def _decreasing(value: Tensor) -> bool:
    """Whether inf > value_1 > ... > value_L > 0, in as few operations as it takes; NaN is greater than nothing."""
    if not (value[0].item() < float("inf") and value[-1].item() > 0):
        return False
    return value.numel() == 1 or bool((value[1:] < value[:-1]).all())


def labels(name: str, value: Any, x: Tensor, num_levels: int) -> Tensor:
    """Integer labels [B], each an index into the noise levels."""
    tensor(name, value)
    if value.dtype not in (torch.int64, torch.int32) or value.shape != x.shape[:1]:
        raise ValueError(f"{name} must be an int64 tensor of shape ({x.shape[0]},), got {describe(value)}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of the samples, {x.device}, got {describe(value)}")
    if readable(value) and value.numel() and (int(value.min()) < 0 or int(value.max()) >= num_levels):
        raise ValueError(
            f"{name} must be from 0 to {num_levels - 1} (there are {num_levels} noise levels), "
            f"got values from {int(value.min())} to {int(value.max())}"
        )
    return value.long()


def keywords(model_kwargs: Any, score_fn: Callable[..., Any], *condition: str) -> dict[str, Any]:
    """``model_kwargs`` as a dict, once ``score_fn`` is known to take them beside x and its ``condition``.

    A decorator counts by its own signature, not by that of the function in it: it may take more, or less.
    """
    if model_kwargs is None:
        return {}
    if not isinstance(model_kwargs, Mapping) or not all(isinstance(key, str) for key in model_kwargs):
        raise TypeError(
            "model_kwargs must be a mapping from names of score_fn's arguments to values, or None, "
            f"got {describe(model_kwargs)}"
        )
    found = dict(model_kwargs)
    if torch.compiler.is_compiling():
        return found
    try:
        signature = inspect.signature(
            score_fn.forward if isinstance(score_fn, torch.nn.Module) else score_fn, follow_wrapped=False
        )
    except (TypeError, ValueError):  # of built-in functions, which have none
        return found
    try:
        signature.bind("x", *condition, **found)
    except TypeError as error:
        raise TypeError(
            f"model_kwargs must be arguments that score_fn takes beside ({', '.join(('x', *condition))}), "
            f"got {', '.join(map(repr, found))} for score_fn{signature}: {error}"
        ) from None
    return found
