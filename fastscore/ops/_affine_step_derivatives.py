"""Derivatives of affine_step: x' is linear in each tensor, of its coefficient, and in each coefficient, of its tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import inside, per_row, row_sum
from .._noise import regenerated

TERMS = 4  # x and up to three tensors, each with its coefficient; then c


class _AffineStep(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, *arguments: Any) -> Tensor:
        return inside("affine_step", backend)(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, *given = inputs
        tensors, (*ctx.position, state, index) = given[: 2 * TERMS + 1], given[2 * TERMS + 1 :]
        ctx.save_for_backward(*tensors, state, index)
        ctx.save_for_forward(*tensors, state, index)

    @staticmethod
    def _pairs(ctx: Any) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """(tensor, coefficient) of the terms, None where there is none, and c."""
        saved = ctx.saved_tensors
        return list(zip(saved[:TERMS], saved[TERMS : 2 * TERMS])), saved[2 * TERMS]

    @staticmethod
    def _noise(ctx: Any) -> Tensor:
        x, a, *where = (ctx.saved_tensors[i] for i in (0, TERMS, -2, -1))
        return regenerated(ctx.backend, x, a.dtype, (*ctx.position, *where))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        pairs, c = _AffineStep._pairs(ctx)
        x, a = pairs[0]
        g, needs = grad.to(a.dtype), ctx.needs_input_grad[1:]
        tensors = [(g * per_row(b, x)).to(x.dtype) if need else None for (_, b), need in zip(pairs, needs)]
        numbers = [row_sum(g * s, b) if need else None for (s, b), need in zip(pairs, needs[TERMS:])]
        to_c = row_sum(g * _AffineStep._noise(ctx), c) if c is not None and needs[2 * TERMS] else None
        return None, *tensors, *numbers, to_c, *(None,) * (len(needs) - 2 * TERMS - 1)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        pairs, _c = _AffineStep._pairs(ctx)
        x, a = pairs[0]
        tangent = torch.zeros_like(x, dtype=a.dtype)
        for (s, b), s_t, b_t in zip(pairs, tangents, tangents[TERMS:]):
            if s_t is not None:
                tangent = tangent + per_row(b, x) * s_t
            if b_t is not None:
                tangent = tangent + per_row(b_t, x) * s
        c_t = tangents[2 * TERMS]
        if c_t is not None:
            tangent = tangent + per_row(c_t, x) * _AffineStep._noise(ctx)
        return tangent.to(x.dtype)


@opaque_to_dynamo
def differentiable(backend: str, *arguments: Any) -> Tensor:
    return apply(_AffineStep, backend, *arguments)
