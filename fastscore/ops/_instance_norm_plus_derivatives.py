"""The derivatives of instance_norm_plus, on its compiled functions.

The first derivative in reverse and in forward mode is the compiled gradient; what is differentiated again is a formula
in plain torch. Mean and rstd are results like the output, with derivatives of their own: the compiled gradient reads
them, so that its derivative has parts through them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import backends
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import inside, wants_grad


def along(value: Tensor, x: Tensor) -> Tensor:
    """[C] or [B, C] in the shape that broadcasts against ``x`` [B, C, ...]."""
    return value.reshape(*value.shape, *[1] * (x.dim() - 2))


def shares(mean: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """t [B, C] and r [B, 1]: t = r (mean - m), r = (q + eps)^-1/2, m and q mean and unbiased variance over C."""
    centred = mean - mean.mean(1, keepdim=True)
    r = (centred.square().sum(1, keepdim=True) / (mean.shape[1] - 1) + eps).rsqrt()
    return centred * r, r


def reference_gradient(
    upstream: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    alpha: Tensor,
    beta: Tensor,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient of x, and of gamma, alpha and beta for each sample [B, C], in plain torch."""
    compute, pixels, count = mean.dtype, tuple(range(2, x.dim())), x.shape[2:].numel()
    t, r = shares(mean, eps)
    h = (x.to(compute) - along(mean, x)) * along(rstd, x)
    d = upstream.to(compute)
    if activation:
        a = along(gamma, x) * h + along(gamma * alpha * t + beta, x)
        d = d * torch.where(a > 0, 1.0, torch.where(a > 0, 0.0, a).exp())
    s1, s2 = d.sum(pixels), (d * h).sum(pixels)
    u = gamma * alpha * s1
    to_mean = r * (u - u.mean(1, keepdim=True) - t * (u * t).sum(1, keepdim=True) / (x.shape[1] - 1))
    to_x = along(gamma * rstd, x) * (d - along(s1 / count, x) - h * along(s2 / count, x)) + along(to_mean / count, x)
    return to_x.to(x.dtype), s2 + alpha * t * s1, gamma * t * s1, s1


def _for(gradient: Tensor, parameter: Tensor) -> Tensor:
    """[B, C] in the shape of the parameter."""
    return gradient if parameter.dim() == 2 else gradient.sum(0)


class _InstanceNormPlus(torch.autograd.Function):
    """out, mean and rstd."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        return inside("instance_norm_plus", backend)(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.backend, x, gamma, alpha, beta, ctx.eps, ctx.activation = inputs
        _, mean, rstd = output
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, mean, rstd, gamma, alpha, beta)
        ctx.save_for_forward(x, mean, rstd, gamma, alpha, beta)  # torch's rule for vmap wants the same as for backward

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, to_mean: Tensor | None, to_rstd: Tensor | None) -> tuple:
        x, mean, rstd, gamma, alpha, beta = ctx.saved_tensors
        to_x: Tensor | None = None
        to_gamma: Tensor | None = None
        to_alpha: Tensor | None = None
        to_beta: Tensor | None = None
        if upstream is not None:
            given = (upstream, x, mean, rstd, gamma, alpha, beta)
            to_x, to_gamma, to_alpha, to_beta = _gradient(ctx.backend, *given, ctx.eps, ctx.activation)
            needs = ctx.needs_input_grad
            to_gamma = _for(to_gamma, gamma) if needs[2] else None
            to_alpha = _for(to_alpha, alpha) if needs[3] else None
            to_beta = _for(to_beta, beta) if needs[4] else None
        count = x.shape[2:].numel()
        if to_mean is not None:
            part = along(to_mean / count, x).expand(x.shape).to(x.dtype)
            to_x = part if to_x is None else to_x + part
        if to_rstd is not None:
            part = (along(to_rstd * rstd**3 / -count, x) * (x.to(mean.dtype) - along(mean, x))).to(x.dtype)
            to_x = part if to_x is None else to_x + part
        return None, to_x, to_gamma, to_alpha, to_beta, None, None

    @staticmethod
    @forward_rule
    def jvp(
        ctx: Any,
        _: None,
        x_t: Tensor | None,
        gamma_t: Tensor | None,
        alpha_t: Tensor | None,
        beta_t: Tensor | None,
        *rest: None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The Jacobian by x of h is self-adjoint: the gradient at x's tangent, with alpha = 0, is gamma h's tangent."""
        x, mean, rstd, gamma, alpha, beta = ctx.saved_tensors
        count, wide = x.shape[2:].numel(), x.to(mean.dtype)
        t, r = shares(mean, ctx.eps)
        shift = torch.zeros_like(mean)  # the part of the tangent that is constant over the pixels
        mean_t, rstd_t, tangent = torch.zeros_like(mean), torch.zeros_like(rstd), torch.zeros_like(wide)
        if x_t is not None:
            none = torch.zeros_like(gamma)
            at = (x_t.to(mean.dtype), wide, mean, rstd, gamma, none, none)
            tangent, h_sum, _none, plain_sum = _gradient(ctx.backend, *at, ctx.eps, 0)
            mean_t, rstd_t = plain_sum / count, rstd.square() * h_sum / -count
            shift = shift + gamma * alpha * _shares_tangent(mean_t, t, r)
        if alpha_t is not None:
            shift = shift + gamma * alpha_t * t
        if beta_t is not None:
            shift = shift + beta_t
        if gamma_t is not None:
            shift = shift + gamma_t * alpha * t
            tangent = tangent + along(gamma_t, x) * ((wide - along(mean, x)) * along(rstd, x))
        tangent = tangent + along(shift, x)
        if ctx.activation:
            out = apply(_InstanceNormPlus, ctx.backend, wide, gamma, alpha, beta, ctx.eps, ctx.activation)[0]
            tangent = tangent * torch.where(out > 0, 1.0, out + 1)
        return tangent.to(x.dtype), mean_t, rstd_t


def _shares_tangent(mean_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """r (mean' - its mean over C - t sum_C(t mean') / (C - 1))."""
    centred = mean_t - mean_t.mean(1, keepdim=True)
    return r * (centred - t * (t * mean_t).sum(1, keepdim=True) / (t.shape[1] - 1))


class _Gradient(torch.autograd.Function):
    """The compiled gradient, itself differentiable: by the derivatives of its formula in plain torch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return inside("instance_norm_plus_gradient", backend)(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, *tensors, ctx.eps, ctx.activation = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, x_bar: Tensor, *bars: Tensor) -> tuple:
        """The second derivatives are symmetric: the gradient of <bar, gradient> is the gradient's tangent along bar.

        Mean and rstd move with x there, so that all of it is x's, and they have no part of their own.
        """
        tensors = ctx.saved_tensors
        wide = [t.to(tensors[2].dtype) for t in tensors]
        _, x, mean, rstd, *parameters = wide
        pixels, moved = tuple(range(2, x.dim())), x_bar.to(x.dtype)
        rstd_t = -(rstd**3) * ((x - along(mean, x)) * moved).mean(pixels)
        tangents = [None, moved, moved.mean(pixels), rstd_t, *bars]
        to_g, to_x, *others = _tangent_of_gradient(wide, tangents, ctx.eps, ctx.activation)
        each = map(_for, others, parameters)
        return None, to_g.to(tensors[0].dtype), to_x.to(tensors[1].dtype), None, None, *each, None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, *tangents: Any) -> tuple:
        tensors = ctx.saved_tensors
        wide = [t.to(tensors[2].dtype) for t in tensors]
        moved = [torch.zeros_like(t) if d is None else d.to(t.dtype) for t, d in zip(wide, tangents)]
        _out, to_x, *others = _tangent_of_gradient(wide, moved, ctx.eps, ctx.activation)
        return to_x.to(tensors[1].dtype), *others


def _tangent_of_gradient(tensors: list[Tensor], tangents: list[Any], eps: float, activation: int) -> tuple:
    """The tangents of the output and of the gradients: the lines of ``reference_gradient``, differentiated one by one.

    A name with _t is the tangent of the other. The first, the upstream's, may be None: none.
    """
    g, x, mean, rstd, gamma, alpha, beta = tensors
    g_t, x_t, mean_t, rstd_t, gamma_t, alpha_t, beta_t = tangents
    pixels, count, others = tuple(range(2, x.dim())), x.shape[2:].numel(), x.shape[1] - 1
    centred, centred_t = mean - mean.mean(1, keepdim=True), mean_t - mean_t.mean(1, keepdim=True)
    r = (centred.square().sum(1, keepdim=True) / others + eps).rsqrt()
    r_t = -(r**3) * (centred * centred_t).sum(1, keepdim=True) / others
    t, t_t = centred * r, centred_t * r + centred * r_t
    away, scale = x - along(mean, x), along(rstd, x)
    h, h_t = away * scale, (x_t - along(mean_t, x)) * scale + away * along(rstd_t, x)
    shift_t = gamma_t * alpha * t + gamma * alpha_t * t + gamma * alpha * t_t + beta_t
    out_t = along(gamma_t, x) * h + along(gamma, x) * h_t + along(shift_t, x)
    d, d_t = g, torch.zeros_like(g) if g_t is None else g_t
    if activation:
        a = along(gamma, x) * h + along(gamma * alpha * t + beta, x)
        e = torch.where(a > 0, 0.0, a).exp()  # 1 where the slope is 1
        d, d_t = g * e, g * torch.where(a > 0, 0.0, e) * out_t
        d_t = d_t if g_t is None else d_t + g_t * e
        out_t = out_t * e
    s1, s1_t = d.sum(pixels), d_t.sum(pixels)
    s2, s2_t = (d * h).sum(pixels), (d_t * h + d * h_t).sum(pixels)
    u, u_t = gamma * alpha * s1, gamma_t * alpha * s1 + gamma * alpha_t * s1 + gamma * alpha * s1_t
    w, w_t = ((v).sum(1, keepdim=True) / others for v in (u * t, u_t * t + u * t_t))
    inner, inner_t = u - u.mean(1, keepdim=True) - t * w, u_t - u_t.mean(1, keepdim=True) - t_t * w - t * w_t
    to_mean_t = r_t * inner + r * inner_t
    rest = d - along(s1 / count, x) - h * along(s2 / count, x)
    rest_t = d_t - along(s1_t / count, x) - h_t * along(s2 / count, x) - h * along(s2_t / count, x)
    to_x_t = along(gamma_t * rstd + gamma * rstd_t, x) * rest + along(gamma * rstd, x) * rest_t
    to_gamma_t = s2_t + alpha_t * t * s1 + alpha * t_t * s1 + alpha * t * s1_t
    to_alpha_t = gamma_t * t * s1 + gamma * t_t * s1 + gamma * t * s1_t
    return out_t, to_x_t + along(to_mean_t / count, x), to_gamma_t, to_alpha_t, s1_t


def _gradient(backend: str, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of ``upstream, x, mean, rstd, gamma, alpha, beta, eps, activation``."""
    if backends.transformed() or wants_grad(*arguments[:7]):
        return apply(_Gradient, backend, *arguments)
    return inside("instance_norm_plus_gradient", backend)(*arguments)


def recorded(backend: str, *arguments: Any) -> Tensor:
    """The output, of ``x, gamma, alpha, beta, eps, activation``, with its derivatives."""
    return apply(_InstanceNormPlus, backend, *arguments)[0]


@opaque_to_dynamo
def differentiable(backend: str, *arguments: Any) -> Tensor:
    """:func:`recorded`, for torch.compile too."""
    return apply(_InstanceNormPlus, backend, *arguments)[0]
