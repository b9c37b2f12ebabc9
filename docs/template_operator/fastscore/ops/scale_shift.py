"""scale_shift: y = scale_c x + shift_c, a number for each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Operator, example
from .._core.private_torch import forward_rule, opaque_to_dynamo
from .._core.registration import declare, raw, wants_grad


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift every channel: ``y_bc = scale_c x_bc + shift_c``, in float32 (float64 for float64), rounded once.

    Args:
        x: [B, C, ...]; float16, bfloat16, float32 or float64.
        scale, shift: [C], or [B, C] for numbers of every sample's own; on ``x``'s device.

    Returns:
        y, of ``x``'s shape and dtype. Backends: reference; native on the CPU; Triton on CUDA devices.

    Raises:
        TypeError: an argument is not a floating tensor.
        ValueError: ``x`` has no channels; ``scale`` or ``shift`` has another shape or device.
    """
    checks.floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x must be [B, C, ...], got {checks.describe(x)}")
    scale, shift = _channels("scale", scale, x), _channels("shift", shift, x)
    backend = backends.choose("scale_shift", x.device)
    if backend == "reference":
        return reference(x, scale, shift)
    if backends.transformed() or wants_grad(x, scale, shift):
        return _differentiable(backend, x, scale, shift)
    return raw("scale_shift", backend)(x, scale, shift)


def reference(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale x + shift in plain torch."""
    return (_along(scale, x) * x.to(scale.dtype) + _along(shift, x)).to(x.dtype)


def _channels(name: str, value: Any, x: Tensor) -> Tensor:
    """A number for each channel, checked, in the dtype of computation and contiguous."""
    checks.floating(name, value)
    if value.shape not in (x.shape[1:2], x.shape[:2]) or value.device != x.device:
        raise ValueError(
            f"{name} must be [C] or [B, C], with the {x.shape[1]} channels of x and on {x.device}, "
            f"got {checks.describe(value)}"
        )
    return value.to(checks.compute_dtype(x)).contiguous()


def _along(value: Tensor, x: Tensor) -> Tensor:
    """[C] or [B, C] in the shape that broadcasts against ``x`` [B, C, ...]."""
    return value.reshape(*value.shape, *[1] * (x.dim() - 2))


def _channel_sum(value: Tensor, like: Tensor) -> Tensor:
    """[B, C, ...] summed to the shape of ``like``, [C] or [B, C]."""
    each = value.reshape(*value.shape[:2], value.shape[2:].numel()).sum(2)
    return each if like.dim() == 2 else each.sum(0)


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    x = example(shape if len(shape) > 1 else (*shape, 1), dtype, device, seed)
    compute = checks.compute_dtype(x)
    one, each = ([example(s, compute, device, seed + i) for i in (1, 2)] for s in (x.shape[1:2], x.shape[:2]))
    return {"": (x, *one), "each sample's own": (x, *each)}


declare(
    Operator(
        name="scale_shift",
        schema="(Tensor x, Tensor scale, Tensor shift) -> Tensor",
        maps=("batch", "channel", "channel"),
        fake=lambda x, *_: torch.empty_like(x),
        examples=_examples,
        reference=reference,
        public=scale_shift,
        stream=None,  # it draws nothing
        backends=ORDINARY,
    )
)


class _ScaleShift(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return raw("scale_shift", backend)(x, scale, shift)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, x, scale, shift = inputs
        ctx.save_for_backward(x, scale, shift)
        ctx.save_for_forward(x, scale, shift)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, scale, shift = ctx.saved_tensors
        g = grad.to(scale.dtype)
        _, needs_x, needs_scale, needs_shift = ctx.needs_input_grad
        return (
            None,
            (g * _along(scale, x)).to(x.dtype) if needs_x else None,
            _channel_sum(g * x, scale) if needs_scale else None,
            _channel_sum(g, shift) if needs_shift else None,
        )

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, x_t: Tensor | None, scale_t: Tensor | None, shift_t: Tensor | None) -> Tensor:
        x, scale, _ = ctx.saved_tensors
        tangent = torch.zeros_like(x, dtype=scale.dtype)
        if x_t is not None:
            tangent = tangent + _along(scale, x) * x_t
        if scale_t is not None:
            tangent = tangent + _along(scale_t, x) * x
        if shift_t is not None:
            tangent = tangent + _along(shift_t, x)
        return tangent.to(x.dtype)


@opaque_to_dynamo
def _differentiable(backend: str, *arguments: Any) -> Tensor:
    return _ScaleShift.apply(backend, *arguments)
