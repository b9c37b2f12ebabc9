"""max_pool: the largest in a square window around each pixel, at stride 1."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Function, Operator, example
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import declare, direct, inside, wants_grad
from .mean_pool import odd_size, on_images

MOST = 15  # the largest window whose places a byte counts


def max_pool(x: Tensor, size: int = 5) -> Tensor:
    """The largest of the ``size x size`` pixels around each that the image has:

    ``out[b, c, h, w] = max_{|i|, |j| <= (size - 1) / 2} x[b, c, h + i, w + j]``,

    which is ``max_pool2d(x, size, stride=1, padding=size // 2)``, bit for bit. The gradient of an output goes to the pixel
    that it is: of equal ones to the first, row by row; of several NaN to the last. For it a byte an element is kept, the
    pixel's place in the window. A pixel's gradient is summed in float32 (float64 for float64) over the windows that hold it,
    in an order that depends on nothing, and rounded once.

    Args:
        x: [B, C, H, W]; float16, bfloat16, float32 or float64; contiguous or channels_last memory is read as it is.
        size: of the window, odd, at most 15. The image may be smaller.

    Returns:
        A tensor of ``x``'s shape, dtype and memory format. Backends: reference; native on the CPU; Triton on CUDA devices.

    Raises:
        TypeError: ``x`` is not a floating tensor, or ``size`` not an integer.
        ValueError: ``x`` is not [B, C, H, W], or ``size`` is even, less than 1 or more than 15.

    Source: the chained residual pooling of RefineNet, Lin et al. 2017, arXiv:1611.06612, as NCSNv2 has it.
    """
    checks.floating("x", x)
    if x.dim() != 4:
        raise ValueError(f"x must be [B, C, H, W], got {checks.describe(x)}")
    size = odd_size("size", size)
    if size > MOST:
        raise ValueError(f"size must be at most {MOST}, so that a byte counts the window's pixels, got {size}")
    return checked(x, size)


def checked(x: Tensor, size: int) -> Tensor:
    """:func:`max_pool` of arguments that were checked."""
    backend, transformed = backends.serving("max_pool", x.device)
    if backend == "reference":
        return reference(x, size)[0]
    if transformed or wants_grad(x):
        return _differentiable(backend, x, size)
    return direct("max_pool", backend)(x, size)[0]


def reference(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The largest by torch's pooling, and its place in the window: row ``index // size``, column ``index % size``."""
    if x.numel() == 0:  # which torch refuses
        return x.clone(), x.to(torch.uint8)
    _, taken = F.max_pool2d(x.detach(), size, stride=1, padding=size // 2, return_indices=True)
    h, w = _places(x)
    width = x.shape[3]
    index = ((taken // width - h + size // 2) * size + (taken % width - w + size // 2)).to(torch.uint8)
    return torch.empty_like(x).copy_(pick(x, index, size)), index


def reference_gradient(upstream: Tensor, index: Tensor, size: int) -> Tensor:
    """The gradients of the outputs, each added where its pixel stands, in plain torch."""
    sums = torch.zeros_like(upstream, dtype=checks.compute_dtype(upstream), memory_format=torch.contiguous_format)
    _in_line(sums).scatter_add_(2, _in_line(_taken(index, size)), _in_line(upstream.to(sums.dtype)))
    return torch.empty_like(upstream).copy_(sums)


def pick(x: Tensor, index: Tensor, size: int) -> Tensor:
    """Of each window of ``x`` the pixel at the place that ``index`` says: what :func:`reference_gradient` is the adjoint of."""
    return _in_line(x).gather(2, _in_line(_taken(index, size))).reshape(x.shape)


def _in_line(x: Tensor) -> Tensor:
    """[B, C, H, W] as [B, C, H W]."""
    return x.reshape(x.shape[0], x.shape[1], x.shape[2] * x.shape[3])


def _places(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [H, 1] and columns [W] of an image's pixels."""
    return torch.arange(x.shape[2], device=x.device)[:, None], torch.arange(x.shape[3], device=x.device)


def _taken(index: Tensor, size: int) -> Tensor:
    """The pixels, h W + w, at the places ``index`` of the windows around each."""
    h, w = _places(index)
    place = index.long()
    return (h + place // size - size // 2) * index.shape[3] + (w + place % size - size // 2)


def _examples_gradient(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    found = {}
    for name, (x, size) in on_images(shape, dtype, device, seed).items():
        upstream = example(x.shape, dtype, device, seed + 1).to(memory_format=torch.preserve_format)
        found[name] = (torch.empty_like(x).copy_(upstream), reference(x, size)[1], size)
    return found


declare(
    Operator(
        name="max_pool",
        schema="(Tensor x, int size) -> (Tensor, Tensor)",
        maps=("batch", "none"),
        fake=lambda x, size: (torch.empty_like(x), torch.empty_like(x, dtype=torch.uint8)),
        examples=on_images,
        reference=reference,
        public=max_pool,
        stream=None,
        backends=ORDINARY,
        variants=(
            Function(
                name="max_pool_gradient",
                schema="(Tensor upstream, Tensor index, int size) -> Tensor",
                maps=("batch", "batch", "none"),
                fake=lambda upstream, index, size: torch.empty_like(upstream),
                examples=_examples_gradient,
                reference=reference_gradient,
            ),
        ),
    )
)


class _MaxPool(torch.autograd.Function):
    """The output and the places of what was taken, of which it is a linear function: :class:`_Pick`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return inside("max_pool", backend)(x, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.backend, _, ctx.size = inputs
        _, index = output
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: None) -> tuple:
        (index,) = ctx.saved_tensors
        return None, _gradient(ctx.backend, upstream, index, ctx.size), None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, x_t: Tensor, __: None) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return apply(_Pick, ctx.backend, x_t, index, ctx.size), None


class _Gradient(torch.autograd.Function):
    """The adjoint of :class:`_Pick`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, upstream: Tensor, index: Tensor, size: int) -> Tensor:
        return inside("max_pool_gradient", backend)(upstream, index, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, _, index, ctx.size = inputs
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple:
        (index,) = ctx.saved_tensors
        return None, apply(_Pick, ctx.backend, bar, index, ctx.size), None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, upstream_t: Tensor, *rest: None) -> Tensor:
        (index,) = ctx.saved_tensors
        return _gradient(ctx.backend, upstream_t, index, ctx.size)


class _Pick(torch.autograd.Function):
    """:func:`pick`, whose gradient is the compiled one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, x: Tensor, index: Tensor, size: int) -> Tensor:
        return pick(x, index, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, _, index, ctx.size = inputs
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        (index,) = ctx.saved_tensors
        return None, _gradient(ctx.backend, upstream, index, ctx.size), None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, x_t: Tensor, *rest: None) -> Tensor:
        (index,) = ctx.saved_tensors
        return apply(_Pick, ctx.backend, x_t, index, ctx.size)


def _gradient(backend: str, upstream: Tensor, index: Tensor, size: int) -> Tensor:
    if backends.transformed() or wants_grad(upstream):
        return apply(_Gradient, backend, upstream, index, size)
    return direct("max_pool_gradient", backend)(upstream, index, size)


@opaque_to_dynamo
def _differentiable(backend: str, x: Tensor, size: int) -> Tensor:
    return apply(_MaxPool, backend, x, size)[0]
