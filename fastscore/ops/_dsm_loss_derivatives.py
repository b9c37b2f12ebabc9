"""The derivatives of dsm_loss, on its compiled functions: in one pass with the loss, and all that may be asked for."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core import backends, checks
from .._core.private_torch import apply, forward_rule, is_wrapped, opaque_to_dynamo
from .._core.registration import inside, per_row, row_sum, wants_grad
from .._noise import regenerated


@lru_cache(maxsize=64)
def _mean_factor(batch: int, dtype: torch.dtype) -> float:
    """1 / B as a mean's backward has it, rounded to ``dtype``."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    return float(kind(1) / kind(max(batch, 1)))


class OnePass(torch.autograd.Function):
    """Loss and gradient in one pass, for a plain ``backward()``: the noise is made once and nothing is read twice.

    The pass writes the gradient of the mean over the batch, 1/B sigma^weight r. Where the loss then is that mean it is
    returned as it is; else scaled in place. It is given away once: a second backward (``retain_graph``) makes it again,
    in the same way and so with the same bits. The gradient has a pass of its own in a differentiable backward
    (``create_graph``), for half-precision scores, which would be rounded twice, and elsewhere than on the CPU, where one
    may not look whether the loss is that mean: to read the score again moves less than to scale the gradient.
    """

    @staticmethod
    def forward(ctx: Any, backend: str, score: Tensor, sigma: Tensor, weight: float, *noise: Any) -> Tensor:
        ctx.backend, ctx.weight, ctx.arguments = backend, weight, noise
        ctx.save_for_backward(score, sigma)
        ctx.scale, ctx.gradient = _mean_factor(score.shape[0], sigma.dtype), None
        ctx.apart = score.dtype != sigma.dtype or not checks.readable(score)
        if ctx.apart:
            return inside("dsm_loss", backend)(score, sigma, weight, *noise)
        loss, ctx.gradient = inside("dsm_loss_and_gradient", backend)(score, sigma, weight, ctx.scale, *noise)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        nothing = (None,) * (2 + len(ctx.arguments))
        score, sigma = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.apart or is_wrapped(upstream):
            return None, _gradient(ctx.backend, score, sigma, ctx.weight, upstream, *ctx.arguments), *nothing
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            again = inside("dsm_loss_and_gradient", ctx.backend)
            _, gradient = again(score, sigma, ctx.weight, ctx.scale, *ctx.arguments)
        n = upstream.numel()
        constant = n == 1 or (n > 1 and upstream.stride(0) == 0)
        if constant and upstream[0].item() == ctx.scale:
            return None, gradient, *nothing
        return None, gradient.mul_(per_row(upstream / ctx.scale, score)), *nothing


class _DsmLoss(torch.autograd.Function):
    """The loss with every derivative that may be asked for, under any transform."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, score: Tensor, sigma: Tensor, weight: float, *noise: Any) -> Tensor:
        return inside("dsm_loss", backend)(score, sigma, weight, *noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, score, sigma, ctx.weight, *ctx.position, state, index = inputs
        ctx.save_for_backward(score, sigma, state, index)
        ctx.save_for_forward(score, sigma, state, index)

    @staticmethod
    def _slope(ctx: Any) -> Tensor:
        """d loss_b / d sigma_b = weight/2 sigma^(weight-1) ||r||^2 - sigma^(weight-2) <r, z>, r = score + z / sigma."""
        score, sigma, state, index = ctx.saved_tensors
        z = regenerated(ctx.backend, score, sigma.dtype, (*ctx.position, state, index))
        r, p, rows = score + z / per_row(sigma, score), ctx.weight, score.new_empty(score.shape[0])
        return p / 2 * sigma ** (p - 1) * row_sum(r * r, rows) - sigma ** (p - 2) * row_sum(r * z, rows)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        score, sigma, state, index = ctx.saved_tensors
        _, needs_score, needs_sigma, *rest = ctx.needs_input_grad
        grad_score = grad_sigma = None
        if needs_score:
            grad_score = _gradient(ctx.backend, score, sigma, ctx.weight, upstream, *ctx.position, state, index)
        if needs_sigma:
            grad_sigma = row_sum(upstream * _DsmLoss._slope(ctx), sigma)
        return None, grad_score, grad_sigma, *(None for _ in rest)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, score_t: Tensor | None, sigma_t: Tensor | None, *rest: None) -> Tensor:
        score, sigma, state, index = ctx.saved_tensors
        tangent = sigma.new_zeros(score.shape[0])
        if score_t is not None:
            ones = torch.ones_like(tangent)
            gradient = _gradient(
                ctx.backend, score.to(sigma.dtype), sigma, ctx.weight, ones, *ctx.position, state, index
            )
            tangent = tangent + row_sum(gradient * score_t, ones)
        if sigma_t is not None:
            tangent = tangent + sigma_t * _DsmLoss._slope(ctx)
        return tangent


class _DsmLossGradient(torch.autograd.Function):
    """G_b = upstream_b sigma_b^weight (score_b + z_b / sigma_b), itself differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, score: Tensor, sigma: Tensor, weight: float, upstream: Tensor, *noise: Any) -> Tensor:
        return inside("dsm_loss_gradient", backend)(score, sigma, weight, upstream, *noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, score, sigma, ctx.weight, upstream, *ctx.position, state, index = inputs
        ctx.save_for_backward(score, sigma, upstream, state, index)
        ctx.save_for_forward(score, sigma, upstream, state, index)

    @staticmethod
    def _parts(ctx: Any) -> tuple[Tensor, Tensor, Tensor]:
        """sigma^weight as it broadcasts, the residual r, and d (sigma^weight r) / d sigma."""
        score, sigma, _, state, index = ctx.saved_tensors
        z = regenerated(ctx.backend, score, sigma.dtype, (*ctx.position, state, index))
        s, p = per_row(sigma, score), ctx.weight
        r = score + z / s
        return s**p, r, p * s ** (p - 1) * r - s ** (p - 2) * z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        score, sigma, upstream, _, _ = ctx.saved_tensors
        _, needs_score, needs_sigma, _, needs_upstream, *rest = ctx.needs_input_grad
        factor, r, slope = _DsmLossGradient._parts(ctx)
        u = per_row(upstream, score)
        return (
            None,
            (grad * u * factor).to(score.dtype) if needs_score else None,
            row_sum(grad * u * slope, sigma) if needs_sigma else None,
            None,
            row_sum(grad * factor * r, upstream) if needs_upstream else None,
            *(None for _ in rest),
        )

    @staticmethod
    @forward_rule
    def jvp(
        ctx: Any,
        _: None,
        score_t: Tensor | None,
        sigma_t: Tensor | None,
        __: None,
        upstream_t: Tensor | None,
        *rest: None,
    ) -> Tensor:
        score, _, upstream, _, _ = ctx.saved_tensors
        factor, r, slope = _DsmLossGradient._parts(ctx)
        u, tangent = per_row(upstream, score), torch.zeros_like(r)
        if score_t is not None:
            tangent = tangent + u * factor * score_t
        if sigma_t is not None:
            tangent = tangent + u * per_row(sigma_t, score) * slope
        if upstream_t is not None:
            tangent = tangent + per_row(upstream_t, score) * factor * r
        return tangent.to(score.dtype)


@opaque_to_dynamo
def differentiable(backend: str, *arguments: Any) -> Tensor:
    """The loss, of ``score, sigma, weight`` and the noise's arguments."""
    return apply(_DsmLoss, backend, *arguments)


def _gradient(backend: str, score: Tensor, sigma: Tensor, weight: float, upstream: Tensor, *noise: Any) -> Tensor:
    upstream = upstream.to(sigma.dtype).contiguous()
    if backends.transformed() or wants_grad(score, sigma, upstream):
        return apply(_DsmLossGradient, backend, score, sigma, weight, upstream, *noise)
    return inside("dsm_loss_gradient", backend)(score, sigma, weight, upstream, *noise)
