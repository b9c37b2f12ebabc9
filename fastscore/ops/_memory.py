"""What may be written to: memory that overlaps no other argument, or is exactly that argument."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .._core import checks
from .._core.registration import wants_grad


def check_out(out: Any, x: Tensor, *, transformed: bool, noise: Any = None, **read: Tensor | None) -> None:
    """Raise unless ``out`` is a tensor like ``x`` that may be written while ``x`` and the tensors ``read`` are read.

    ``noise`` is read too, where it is a tensor. Numbers, whose tensors are nobody else's, are left out of ``read``.
    """
    checks.like("out", out, "x", x)
    if out.dtype != x.dtype:
        raise TypeError(f"out must have the dtype of x, {x.dtype}, got {checks.describe(out)}")
    if wants_grad(x, out, *read.values()):
        raise ValueError("out must be None where gradients are recorded: leave it out, or use torch.no_grad()")
    noise = noise if isinstance(noise, Tensor) else None
    if transformed or not plainly_apart(out, x, *read.values(), noise):
        check_written("out", out, x=x, **read, noise=noise)


def plainly_apart(out: Tensor, *read: Tensor | None) -> bool:
    """Whether :func:`check_written` has nothing to find, where that shows at once: all are contiguous, and each tensor is
    ``out``, or ends before it, or begins behind it."""
    try:
        start, size = out.data_ptr(), out.nbytes
        for other in read:
            if other is None or other is out:
                continue
            gap = other.data_ptr() - start
            if not other.is_contiguous() or (gap < size and gap > -other.nbytes):
                return False
    except RuntimeError:  # one has no address
        return False
    return out.is_contiguous()


def check_written(name: str, out: Tensor, **read: Tensor | None) -> None:
    """Raise unless ``out`` can be written while the tensors ``read`` are read.

    No two elements of ``out`` may share memory, and each tensor must lie in ``out``'s place exactly (same address,
    shape, strides and dtype), where an element is read before it is written, or share nothing with it. Interleaved
    tensors share nothing. Tensors without an address (under torch.compile and torch.func) are let through: the
    operators do not write in place there.
    """
    if is_compiling() or _address(out) is None:
        return
    if _overlaps_itself(out):
        raise ValueError(
            f"{name} must have memory of its own for every element, got {checks.describe(out)} with "
            f"strides {out.stride()}: use {name}.contiguous(), or leave {name} out"
        )
    for other_name, other in read.items():
        if other is None or other is out or _address(other) is None:
            continue
        if not out.numel() or not other.numel():
            continue
        if _same_place(out, other) or not _overlap(out, other):
            continue
        raise ValueError(
            f"{name} must be {other_name} itself or share no memory with it, got {checks.describe(out)} "
            f"that overlaps {other_name} partly: give {name} memory of its own, or leave it out"
        )


def _address(t: Tensor) -> int | None:
    try:
        return None if t.is_meta else t.data_ptr()
    except RuntimeError:  # a tensor of a transform, or a fake one
        return None


def _same_place(a: Tensor, b: Tensor) -> bool:
    if a.data_ptr() != b.data_ptr() or a.dtype != b.dtype:
        return False
    return _dims(a) == _dims(b)


def _dims(t: Tensor) -> list[tuple[int, int]]:
    """(size, stride) of the dimensions that say something."""
    return [(size, stride) for size, stride in zip(t.shape, t.stride()) if size > 1]


def _span(t: Tensor) -> tuple[int, int]:
    """The first byte, and the one past the last."""
    elements = sum((size - 1) * stride for size, stride in _dims(t)) + 1
    return t.data_ptr(), t.data_ptr() + elements * t.element_size()


def _overlap(a: Tensor, b: Tensor) -> bool:
    (a_low, a_high), (b_low, b_high) = _span(a), _span(b)
    low, high = min(a_low, b_low), max(a_high, b_high)
    if a_high <= b_low or b_high <= a_low:
        return False
    if a.is_contiguous() and b.is_contiguous():
        return True
    touched = torch.zeros(high - low, dtype=torch.bool, device="cpu")
    _bytes(touched, a, a_low - low).fill_(True)
    return bool(_bytes(touched, b, b_low - low).any())


def _bytes(memory: Tensor, t: Tensor, first: int) -> Tensor:
    """The bytes of ``t`` in a picture of memory; what is expanded, once."""
    dims, width = [(size, stride) for size, stride in _dims(t) if stride], t.element_size()
    return memory.as_strided([*(size for size, _ in dims), width], [*(stride * width for _, stride in dims), 1], first)


def _overlaps_itself(t: Tensor) -> bool:
    dims, reach, certain = sorted((stride, size) for size, stride in _dims(t)), 0, True
    if t.is_contiguous() or not t.numel():
        return False
    for stride, size in dims:
        if stride == 0:
            return True
        certain &= stride > reach
        reach += stride * (size - 1)
    if certain:
        return False
    touched = torch.zeros(reach + 1, dtype=torch.bool, device="cpu")
    touched.as_strided([size for _, size in dims], [stride for stride, _ in dims]).fill_(True)
    return int(touched.sum()) < t.numel()
