"""Where the chains begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import checks
from ..rng import Philox, Stream

STARTS = ("uniform", "normal")


def check_shape(shape: Sequence[int]) -> torch.Size:
    """[B, ...] with B >= 1."""
    try:
        shape = torch.Size(shape)
    except TypeError:
        raise TypeError(f"shape must be a sequence of integers [B, ...], got {checks.describe(shape)}") from None
    if len(shape) == 0 or min(shape) < 1:
        raise ValueError(f"shape must be [B, ...] with every size at least 1, got {tuple(shape)}")
    return shape


def check_device(device: torch.device | str | None, sigmas: object) -> torch.device:
    """The device of the samples, once it is known to be one that tensors can be made on; None: that of ``sigmas``, or where
    they are no tensor torch's default."""
    if device is None:
        return sigmas.device if isinstance(sigmas, Tensor) else torch.empty(0).device
    if torch.compiler.is_compiling():
        return torch.device(device)
    try:
        return torch.empty(0, device=device).device  # of "cuda" with its index, as tensors have it
    except Exception as error:  # each backend of torch has its own: RuntimeError, AssertionError, ImportError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"device must be None or a device of this machine, such as 'cpu' or 'cuda:0', got {checks.describe(device)} "
            f"({reason:.200})"
        ) from None


def check_start(start: str | Tensor, shape: Sequence[int], dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of the samples, once ``start`` and ``dtype`` are known to be right for ``shape`` [B, ...]."""
    if dtype is not None and dtype not in checks.FLOATS:
        raise TypeError(f"dtype must be torch.float16, bfloat16, float32 or float64, or None, got {dtype}")
    if isinstance(start, Tensor):
        checks.floating("start", start)
        if start.shape != shape:
            raise ValueError(f"start must have shape {tuple(shape)}, got {checks.describe(start)}")
        return dtype or start.dtype
    if not isinstance(start, str) or start not in STARTS:
        raise ValueError(f"start must be 'uniform', 'normal' or a tensor, got {checks.describe(start)}")
    return dtype or torch.get_default_dtype()


def initial(
    start: str | Tensor, shape: Sequence[int], sigma_1: float, rng: Philox, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Where the chains begin: U[0, 1] ("uniform"), N(0, sigma_1^2 I) ("normal"), or the tensor given.

    Of arguments that were checked: the first of ``rng``'s steps may not be taken before the whole call is known to be
    right.
    """
    if isinstance(start, Tensor):
        return start.to(device=device, dtype=dtype, copy=True)
    if start == "uniform":
        return rng.rand(shape, stream=Stream.INIT, dtype=dtype, device=device)
    return sigma_1 * rng.randn(shape, stream=Stream.INIT, dtype=dtype, device=device)
