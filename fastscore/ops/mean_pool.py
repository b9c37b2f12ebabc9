"""mean_pool: the mean over a square window around each pixel, at stride 1, with zeros beyond the image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Operator, example
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import declare, direct, inside, wants_grad


def mean_pool(x: Tensor, size: int = 5) -> Tensor:
    """The mean over ``size x size`` pixels around each, zeros taken beyond the image:

    ``out[b, c, h, w] = size^-2 sum_{|i|, |j| <= (size - 1) / 2} x[b, c, h + i, w + j]``,

    which is ``avg_pool2d(x, size, stride=1, padding=size // 2)``. Summed in float32 (float64 for float64), first along
    each row and then over the rows, in an order that depends on nothing; rounded once. It is symmetric, so that its
    derivatives are the operator itself, and nothing is kept for them.

    Args:
        x: [B, C, H, W]; float16, bfloat16, float32 or float64; contiguous or channels_last memory is read as it is.
        size: of the window, odd. The image may be smaller.

    Returns:
        A tensor of ``x``'s shape, dtype and memory format. Backends: reference; native on the CPU; Triton on CUDA devices.

    Raises:
        TypeError: ``x`` is not a floating tensor, or ``size`` not an integer.
        ValueError: ``x`` is not [B, C, H, W], or ``size`` is even or less than 1.

    Source: the chained residual pooling of RefineNet, Lin et al. 2017, arXiv:1611.06612, as NCSN has it.
    """
    checks.floating("x", x)
    if x.dim() != 4:
        raise ValueError(f"x must be [B, C, H, W], got {checks.describe(x)}")
    return checked(x, odd_size("size", size))


def odd_size(name: str, value: Any) -> int:
    """An odd number of pixels, at least 1."""
    size = checks.integer(name, value, low=1)
    if size % 2 == 0:
        raise ValueError(f"{name} must be odd, so that the window has a middle, got {size}")
    return size


def checked(x: Tensor, size: int) -> Tensor:
    """:func:`mean_pool` of arguments that were checked."""
    backend, transformed = backends.serving("mean_pool", x.device)
    if backend == "reference":
        return reference(x, size)
    if transformed or wants_grad(x):
        return _differentiable(backend, x, size)
    return direct("mean_pool", backend)(x, size)


def reference(x: Tensor, size: int) -> Tensor:
    """The mean by torch's pooling."""
    if x.numel() == 0:  # which torch refuses
        return x.clone()
    return F.avg_pool2d(x.to(checks.compute_dtype(x)), size, stride=1, padding=size // 2).to(x.dtype)


def on_images(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    """Examples of an operator on windows."""
    x = example(_image(shape), dtype, device, seed)
    last = x.contiguous(memory_format=torch.channels_last)
    return {"": (x, 5), "channels_last": (last, 5), "size 9": (x, 9)}


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[B, C, H, W] with the elements of [B, ...]: of a row of many, 8 x 8 pixels."""
    if len(shape) == 2 and shape[1] and shape[1] % 64 == 0:
        return (shape[0], shape[1] // 64, 8, 8)
    if len(shape) > 4:
        return (*shape[:3], torch.Size(shape[3:]).numel())
    return (shape[0], *[1] * (4 - len(shape)), *shape[1:])


declare(
    Operator(
        name="mean_pool",
        schema="(Tensor x, int size) -> Tensor",
        maps=("batch", "none"),
        fake=lambda x, size: torch.empty_like(x),
        examples=on_images,
        reference=reference,
        public=mean_pool,
        stream=None,
        backends=ORDINARY,
    )
)


class _MeanPool(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, x: Tensor, size: int) -> Tensor:
        return inside("mean_pool", backend)(x, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, _, ctx.size = inputs

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        return None, _again(ctx.backend, upstream, ctx.size), None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, x_t: Tensor, __: None) -> Tensor:
        return _again(ctx.backend, x_t, ctx.size)


def _again(backend: str, x: Tensor, size: int) -> Tensor:
    if backends.transformed() or wants_grad(x):
        return apply(_MeanPool, backend, x, size)
    return direct("mean_pool", backend)(x, size)


@opaque_to_dynamo
def _differentiable(backend: str, x: Tensor, size: int) -> Tensor:
    return apply(_MeanPool, backend, x, size)
