"""dsm_loss: l_b = 1/2 sigma_b^weight || score_b + z_b / sigma_b ||^2."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Function, Operator, Stream, example, example_row
from .._core.private_torch import forward_rule, is_wrapped, opaque_to_dynamo
from .._core.registration import declare, per_row, raw, row_sum, wants_grad
from ..rng import Noise, Philox, regenerated


def dsm_loss(score: Tensor, noise: Noise | Tensor, sigma: float | Tensor, weight: float = 2.0) -> Tensor:
    """Denoising score matching, one loss per sample.

    The score of N(alpha x, sigma^2 I) at x_tilde = alpha x + sigma z is -z / sigma, whatever alpha, so
    ``loss_b = 1/2 sigma_b^weight sum_d (score_bd + z_bd / sigma_b)^2``.

    Args:
        score: the network's score at x_tilde, [B, ...]; float16, bfloat16, float32 or float64.
        noise: what :func:`fastscore.perturb` returned, or z itself [B, ...] (which the reference serves).
        sigma: standard deviation of the noise: a number or [B], greater than 0.
        weight: the power p of sigma. 2 makes every noise level count alike (Song & Ermon 2019); 0 is Vincent's loss.

    Returns:
        [B]; float64 for a float64 ``score``, else float32.

    Raises:
        TypeError: ``score`` is not a floating tensor, ``noise`` neither handle nor tensor.
        ValueError: ``noise`` has another shape or device than ``score``; ``sigma`` not positive and finite.

    Source: Vincent 2011, equation 9; Song & Ermon 2019, equations 5 and 6.
    """
    checks.floating("score", score)
    if not isinstance(noise, Noise):
        if not isinstance(noise, Tensor):
            raise TypeError(
                f"noise must be the handle that perturb returned, or a tensor, got {checks.describe(noise)}"
            )
        checks.like("noise", noise, "score", score)
    elif noise.shape != score.shape or noise.device != score.device:
        raise ValueError(
            f"noise must have the shape and device of score, {tuple(score.shape)} on {score.device}, "
            f"got noise of shape {tuple(noise.shape)} on {noise.device}"
        )
    weight = checks.number("weight", weight)
    transformed = backends.transformed()
    backend = "reference" if isinstance(noise, Tensor) else backends.choose("dsm_loss", score.device)
    fast = backend == "native" and not transformed  # which looks at the values itself
    sigma = checks.row_numbers("sigma", sigma, score, values=not fast)
    return _served(backend, transformed, score, noise, sigma, weight)


def checked(score: Tensor, noise: Noise, sigma: Tensor, weight: float) -> Tensor:
    """:func:`dsm_loss` of arguments that were checked, ``noise`` a handle and ``sigma`` [] or [B]."""
    sigma = sigma.to(checks.compute_dtype(score))
    return _served(backends.choose("dsm_loss", score.device), backends.transformed(), score, noise, sigma, weight)


def _served(
    backend: str, transformed: bool, score: Tensor, noise: Noise | Tensor, sigma: Tensor, weight: float
) -> Tensor:
    if backend == "reference":
        return reference(score, sigma, weight, noise)
    try:
        if transformed or wants_grad(sigma):
            return _differentiable(backend, score, sigma, weight, *noise.arguments())
        if wants_grad(score):
            return _OnePass.apply(backend, score, sigma, weight, *noise.arguments())
        return raw("dsm_loss", backend)(score, sigma, weight, 1.0, False, *noise.arguments())[0]
    except RuntimeError:
        checks.positive_values("sigma", sigma)
        raise


def reference(score: Tensor, sigma: Tensor, weight: float, noise: Noise | Tensor) -> Tensor:
    """1/2 sigma^weight || score + z / sigma ||^2 in plain torch; ``sigma`` is [] or [B]."""
    compute = checks.compute_dtype(score)
    z = noise.tensor(compute) if isinstance(noise, Noise) else noise.to(compute)
    residual = (score.to(compute) + z / per_row(sigma, score)).reshape(score.shape[0], score.shape[1:].numel())
    return 0.5 * sigma**weight * residual.square().sum(1)


def _reference_pair(
    score: Tensor, sigma: Tensor, weight: float, scale: float, with_gradient: bool, noise: Noise | Tensor
) -> tuple[Tensor, Tensor]:
    upstream = sigma.new_full((), scale)
    gradient = reference_gradient(score, sigma, weight, upstream, noise) if with_gradient else score.new_empty(0)
    return reference(score, sigma, weight, noise), gradient


def reference_gradient(score: Tensor, sigma: Tensor, weight: float, upstream: Tensor, noise: Noise | Tensor) -> Tensor:
    """upstream sigma^weight (score + z / sigma) in plain torch; ``upstream`` is [] or [B]."""
    z = noise.tensor(sigma.dtype) if isinstance(noise, Noise) else noise.to(sigma.dtype)
    residual = score.to(sigma.dtype) + z / per_row(sigma, score)
    return (per_row(upstream * sigma**weight, score) * residual).to(score.dtype)


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    score, sigma = example(shape, dtype, device, seed), example_row(shape, dtype, device, seed + 1)
    one = torch.full_like(sigma[:1], 0.7).squeeze()
    return {
        "": (score, sigma, 2.0, 1.0, False),
        "and gradient": (score, sigma, 2.0, 0.3, True),
        "weight 1.5": (score, sigma, 1.5, 0.3, True),
        "one sigma": (score, one, 2.0, 0.3, True),
    }


def _examples_gradient(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    score, sigma = example(shape, dtype, device, seed), example_row(shape, dtype, device, seed + 1)
    upstream = example_row(shape, dtype, device, seed + 2)
    return {
        "": (score, sigma, 1.5, upstream),
        "one upstream": (score, sigma, 2.0, torch.full_like(sigma[:1], 0.7).squeeze()),
    }


def _call(score: Tensor, sigma: Tensor, weight: float, scale: float, with_gradient: bool, rng: Philox) -> Tensor:
    noise = rng.noise(score.shape, stream=Stream.PERTURB, dtype=score.dtype, device=score.device, beside=(score,))
    return dsm_loss(score, noise, sigma, weight)


declare(
    Operator(
        name="dsm_loss",
        # with_gradient: also scale sigma^weight (score + z / sigma), in the same pass; else an empty tensor in its place
        schema="(Tensor score, Tensor sigma, float weight, float scale, bool with_gradient) -> (Tensor, Tensor)",
        maps=("batch", "row", "none", "none", "none"),
        fake=lambda score, sigma, weight, scale, with_gradient, *_: (
            sigma.new_empty(score.shape[0]),
            torch.empty_like(score) if with_gradient else score.new_empty(0),
        ),
        examples=_examples,
        reference=_reference_pair,
        public=dsm_loss,
        call=_call,
        stream=Stream.PERTURB,
        backends=ORDINARY,
        variants=(
            Function(
                name="dsm_loss_gradient",  # upstream_b sigma_b^weight (score_b + z_b / sigma_b)
                schema="(Tensor score, Tensor sigma, float weight, Tensor upstream) -> Tensor",
                maps=("batch", "row", "none", "row"),
                fake=lambda score, *_: torch.empty_like(score),
                examples=_examples_gradient,
                reference=reference_gradient,
            ),
        ),
    )
)


@lru_cache(maxsize=64)
def _mean_factor(batch: int, dtype: torch.dtype) -> float:
    """1 / B as a mean's backward has it, rounded to ``dtype``."""
    return (torch.ones((), dtype=dtype) / max(batch, 1)).item()


class _OnePass(torch.autograd.Function):
    """Loss and gradient in one pass, for a plain ``backward()``: the noise is made once and nothing is read twice.

    The pass writes the gradient of the mean over the batch, 1/B sigma^weight r. Where the loss then is that mean (on
    the CPU, where one may look) it is returned as it is; else scaled in place. It is given away once: a second
    backward (``retain_graph``) makes it again, in the same way and so with the same bits. A differentiable backward
    (``create_graph``) and half-precision scores, which would be rounded twice, have a pass of their own.
    """

    @staticmethod
    def forward(ctx: Any, backend: str, score: Tensor, sigma: Tensor, weight: float, *noise: Any) -> Tensor:
        ctx.backend, ctx.weight, ctx.arguments = backend, weight, noise
        ctx.save_for_backward(score, sigma)
        ctx.scale, ctx.gradient = _mean_factor(score.shape[0], sigma.dtype), None
        if score.dtype != sigma.dtype:
            return raw("dsm_loss", backend)(score, sigma, weight, 1.0, False, *noise)[0]
        loss, ctx.gradient = raw("dsm_loss", backend)(score, sigma, weight, ctx.scale, True, *noise)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        nothing = (None,) * (2 + len(ctx.arguments))
        score, sigma = ctx.saved_tensors
        if torch.is_grad_enabled() or score.dtype != sigma.dtype or is_wrapped(upstream):
            return None, _gradient(ctx.backend, score, sigma, ctx.weight, upstream, *ctx.arguments), *nothing
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = raw("dsm_loss", ctx.backend)(score, sigma, ctx.weight, ctx.scale, True, *ctx.arguments)[1]
        n = upstream.numel()
        constant = upstream.is_cpu and (n == 1 or (n > 1 and upstream.stride(0) == 0))
        if constant and upstream[0].item() == ctx.scale:
            return None, gradient, *nothing
        return None, gradient.mul_(per_row(upstream / ctx.scale, score)), *nothing


class _DsmLoss(torch.autograd.Function):
    """The loss with every derivative that may be asked for, under any transform."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, score: Tensor, sigma: Tensor, weight: float, *noise: Any) -> Tensor:
        return raw("dsm_loss", backend)(score, sigma, weight, 1.0, False, *noise)[0]

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
        return raw("dsm_loss_gradient", backend)(score, sigma, weight, upstream, *noise)

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
def _differentiable(backend: str, *arguments: Any) -> Tensor:
    return _DsmLoss.apply(backend, *arguments)


def _gradient(backend: str, score: Tensor, sigma: Tensor, weight: float, upstream: Tensor, *noise: Any) -> Tensor:
    upstream = upstream.to(sigma.dtype).contiguous()
    if backends.transformed() or wants_grad(score, sigma, upstream):
        return _DsmLossGradient.apply(backend, score, sigma, weight, upstream, *noise)
    return raw("dsm_loss_gradient", backend)(score, sigma, weight, upstream, *noise)
