"""The mean over 2x2 pixels, with a gradient that is fast on CUDA devices too.

torch's own gradient of it takes many times as long there as reading and writing it does, where channels come last.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.private_torch import apply, forward_rule, opaque_to_dynamo


def halved(x: Tensor) -> Tensor:
    """``avg_pool2d(x, 2)``, and its derivatives, bit for bit: x [B, C, H, W] -> [B, C, H // 2, W // 2]. An odd last row or
    column is dropped."""
    return _halved(x) if x.is_cuda else F.avg_pool2d(x, 2)


@opaque_to_dynamo
def _halved(x: Tensor) -> Tensor:
    return apply(_Halved, x)


class _Halved(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.height, ctx.width = inputs[0].shape[2:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return apply(_Spread, upstream, ctx.height, ctx.width)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, x_t: Tensor) -> Tensor:
        return apply(_Halved, x_t)


class _Spread(torch.autograd.Function):
    """The adjoint: a quarter of each number to each of its four pixels; 4 divides all but the smallest without rounding."""

    generate_vmap_rule = True

    @staticmethod
    def forward(upstream: Tensor, height: int, width: int) -> Tensor:
        spread = F.interpolate(upstream * 0.25, scale_factor=2, mode="nearest")
        return F.pad(spread, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else spread

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.height, ctx.width = inputs

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple:
        return apply(_Halved, bar), None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, upstream_t: Tensor, _: None, __: None) -> Tensor:
        return apply(_Spread, upstream_t, ctx.height, ctx.width)
