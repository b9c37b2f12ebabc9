"""The gradient of instance_norm_plus, from its input: nothing else of that size was kept.

With d = upstream (of ELU: times its slope, computed again) and h = (x - mu) rstd, the sums s1 = sum d and s2 = sum d h of
every instance give the parameters' gradients, and with them

    to_x = scale d + slope (x - mu) + constant,   slope = -scale rstd s2 / N,   constant = (to_mu - scale s1) / N.

A sample of few elements has one program: 12 bytes an element in float32, of others x and upstream are read twice: 20,
and what the chunks have.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import exponential
from .instance_statistics import parameter, scale_and_shift, standardized
from .instances import INTEGERS, Plan, dense, finish, like, parameters, place, quotient, spread


@triton.jit
def through_elu(upstream, centred, scale, shift, LAST: tl.constexpr):
    """The upstream gradient before the ELU, of a tile whose elements are ``centred``."""
    factor = tl.broadcast_to(spread(scale, LAST), centred.shape)
    value = tl.fma(factor, centred, tl.broadcast_to(spread(shift, LAST), centred.shape))
    return upstream * exponential.elu_slope(value)


@triton.jit
def channel_gradients(s1, s2, t, inverse, rstd, gamma, alpha, there, pixels, channels):
    """to_gamma, to_alpha, and the slope and the constant of to_x, of a sample's channels."""
    to_alpha = gamma * t * s1
    number = channels.to(s1.dtype)
    u = gamma * alpha * s1
    centre = quotient(tl.sum(tl.where(there, u, 0.0), axis=0), number)
    along = quotient(tl.sum(tl.where(there, u * t, 0.0), axis=0), number - 1.0)
    to_mu = inverse * (u - centre - t * along)
    count, scale = pixels.to(s1.dtype), gamma * rstd
    slope, constant = quotient(-scale * rstd * s2, count), quotient(to_mu - scale * s1, count)
    return tl.fma(alpha * t, s1, s2), to_alpha, slope, constant


@triton.jit
def to_input(d, centred, scale, slope, constant, LAST: tl.constexpr):
    """scale d + slope (x - mu) + constant."""
    factor = tl.broadcast_to(spread(scale, LAST), d.shape)
    tilt = tl.broadcast_to(spread(slope, LAST), d.shape)
    return tl.fma(factor, d, tl.fma(tilt, centred, tl.broadcast_to(spread(constant, LAST), d.shape)))


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_gradient_sums_kernel(
    partial,
    upstream,
    x,
    mean,
    scale,
    shift,
    instances: tl.int32,
    pixels: tl.int32,
    channels: tl.int32,
    ACTIVATION: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    STEPS: tl.constexpr,
    EVEN: tl.constexpr,
    MASK: tl.constexpr,
):
    """partial [2, chunks, B, C] = sum d and sum d (x - mu) of each chunk of each instance."""
    compute: tl.constexpr = partial.dtype.element_ty
    instance, there, _, _, _, _ = place(
        0, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, False
    )
    mu = tl.load(mean + instance, mask=there)
    first, second = tl.zeros(instance.shape, compute), tl.zeros(instance.shape, compute)
    for step in range(STEPS):
        _, _, base, offset, exists, _ = place(
            step, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, False
        )
        centred = tl.load(x + base + offset, mask=exists).to(compute) - spread(mu, LAST)
        d = tl.load(upstream + base + offset, mask=exists).to(compute)
        if ACTIVATION == 1:
            factor, summand = tl.load(scale + instance, mask=there), tl.load(shift + instance, mask=there)
            d = through_elu(d, centred, factor, summand, LAST)
        first += tl.sum(tl.where(exists, d, 0.0), axis=0 if LAST else 1)
        second += tl.sum(tl.where(exists, d * centred, 0.0), axis=0 if LAST else 1)
    target = partial + tl.program_id(1).to(tl.int64) * instances + instance
    tl.store(target, first, mask=there)
    tl.store(target + tl.num_programs(1).to(tl.int64) * instances, second, mask=there)


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_gradient_coefficients_kernel(
    to_gamma,
    to_alpha,
    to_beta,
    out_slope,
    out_constant,
    out_scale,
    sums,
    mean,
    rstd,
    gamma,
    alpha,
    instances: tl.int32,
    pixels: tl.int32,
    channels: tl.int32,
    chunks: tl.int32,
    EPS: tl.constexpr,
    GAMMA_ROWS: tl.constexpr,
    ALPHA_ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """The parameters' gradients of a sample, [B, C] each, and the coefficients of to_x, from its chunks' sums."""
    channel = tl.arange(0, CHANNELS)
    there = channel < channels
    instance = tl.program_id(0).to(tl.int64) * channels + channel
    s1, s2 = tl.zeros([CHANNELS], mean.dtype.element_ty), tl.zeros([CHANNELS], mean.dtype.element_ty)
    for first in range(0, chunks, TOGETHER):
        chunk = first + tl.arange(0, TOGETHER)[:, None]
        place, exists = chunk.to(tl.int64) * instances + instance[None, :], (chunk < chunks) & there[None, :]
        s1 += tl.sum(tl.load(sums + place, mask=exists, other=0.0), axis=0)
        s2 += tl.sum(tl.load(sums + chunks.to(tl.int64) * instances + place, mask=exists, other=0.0), axis=0)
    inverse_deviation = tl.load(rstd + instance, mask=there, other=0.0)
    t, inverse = standardized(tl.load(mean + instance, mask=there, other=0.0), there, channels, EPS)
    g = parameter(gamma, instance, channel, there, GAMMA_ROWS)
    a = parameter(alpha, instance, channel, there, ALPHA_ROWS)
    for_gamma, for_alpha, slope, constant = channel_gradients(
        s1, s2 * inverse_deviation, t, inverse, inverse_deviation, g, a, there, pixels, channels
    )
    tl.store(to_gamma + instance, for_gamma, mask=there)
    tl.store(to_alpha + instance, for_alpha, mask=there)
    tl.store(to_beta + instance, s1, mask=there)
    tl.store(out_slope + instance, slope, mask=there)
    tl.store(out_constant + instance, constant, mask=there)
    if out_scale is not None:
        tl.store(out_scale + instance, g * inverse_deviation, mask=there)


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_gradient_kernel(
    to_x,
    upstream,
    x,
    mean,
    scale,
    shift,
    slope,
    constant,
    instances: tl.int32,
    pixels: tl.int32,
    channels: tl.int32,
    ACTIVATION: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    STEPS: tl.constexpr,
    EVEN: tl.constexpr,
    MASK: tl.constexpr,
):
    """to_x = scale d + slope (x - mean) + constant."""
    for step in range(STEPS):
        instance, there, base, offset, exists, _ = place(
            step, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, False
        )
        mu, factor = tl.load(mean + instance, mask=there), tl.load(scale + instance, mask=there)
        centred = tl.load(x + base + offset, mask=exists).to(mu.dtype) - spread(mu, LAST)
        d = tl.load(upstream + base + offset, mask=exists).to(mu.dtype)
        if ACTIVATION == 1:
            d = through_elu(d, centred, factor, tl.load(shift + instance, mask=there), LAST)
        tilt, summand = tl.load(slope + instance, mask=there), tl.load(constant + instance, mask=there)
        value = to_input(d, centred, factor, tilt, summand, LAST)
        tl.store(to_x + base + offset, value.to(to_x.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_gradient_whole_kernel(
    to_x,
    to_gamma,
    to_alpha,
    to_beta,
    upstream,
    x,
    mean,
    rstd,
    gamma,
    alpha,
    beta,
    instances: tl.int32,
    pixels: tl.int32,
    channels: tl.int32,
    EPS: tl.constexpr,
    GAMMA_ROWS: tl.constexpr,
    ALPHA_ROWS: tl.constexpr,
    BETA_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    STEPS: tl.constexpr,
    EVEN: tl.constexpr,
    MASK: tl.constexpr,
):
    """All gradients of a whole sample at once."""
    instance, there, base, offset, exists, _ = place(
        0, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, True
    )
    channel = tl.arange(0, BLOCK_1 if LAST else BLOCK_0)
    mu = tl.load(mean + instance, mask=there, other=0.0)
    inverse_deviation = tl.load(rstd + instance, mask=there, other=0.0)
    g = parameter(gamma, instance, channel, there, GAMMA_ROWS)
    a = parameter(alpha, instance, channel, there, ALPHA_ROWS)
    t, inverse = standardized(mu, there, channels, EPS)
    centred = tl.load(x + base + offset, mask=exists).to(mu.dtype) - spread(mu, LAST)
    d = tl.load(upstream + base + offset, mask=exists).to(mu.dtype)
    if ACTIVATION == 1:
        shift = tl.fma(g * a, t, parameter(beta, instance, channel, there, BETA_ROWS))
        d = through_elu(d, centred, g * inverse_deviation, shift, LAST)
    s1 = tl.sum(tl.where(exists, d, 0.0), axis=0 if LAST else 1)
    s2 = tl.sum(tl.where(exists, d * centred, 0.0), axis=0 if LAST else 1) * inverse_deviation
    for_gamma, for_alpha, slope, constant = channel_gradients(
        s1, s2, t, inverse, inverse_deviation, g, a, there, pixels, channels
    )
    value = to_input(d, centred, g * inverse_deviation, slope, constant, LAST)
    tl.store(to_x + base + offset, value.to(to_x.dtype.element_ty), mask=exists)
    tl.store(to_gamma + instance, for_gamma, mask=there)
    tl.store(to_alpha + instance, for_alpha, mask=there)
    tl.store(to_beta + instance, s1, mask=there)


def launch_gradient(
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
    """The gradient under ``upstream``, of x's shape and dtype.

    Args:
        x, gamma, alpha, beta, eps, activation: as ``launch`` of ``instance_norm_plus`` takes them.
        mean, rstd: [B, C], that it returned.

    Returns:
        to_x, of x's shape, dtype and memory format; to_gamma, to_alpha and to_beta, each [B, C], in the dtype of mean.
    """
    source, last = dense(x)
    to_gamma, to_alpha, to_beta = (torch.empty_like(rstd, memory_format=torch.contiguous_format) for _ in range(3))
    if x.numel() == 0:
        return torch.empty_like(x), to_gamma.zero_(), to_alpha.zero_(), to_beta.zero_()
    plan, to_x, upstream = Plan.of(source, last), torch.empty_like(source), like(upstream, last)
    mean, rstd = mean.contiguous(), rstd.contiguous()
    if plan.whole:
        given, rows = parameters(x, gamma, alpha, beta)
        tensors: tuple = (to_x, to_gamma, to_alpha, to_beta, upstream, source, mean, rstd, *given)
        plan.launch(instance_norm_plus_gradient_whole_kernel, x, tensors, (eps, *rows, activation))
        return finish(x, source, to_x), to_gamma, to_alpha, to_beta
    scale, shift = torch.empty_like(mean), None
    if activation:
        scale, shift = scale_and_shift(plan, x, gamma, alpha, beta, eps, mean=mean, rstd=rstd)
    sums, slope, constant = mean.new_empty(2, plan.chunks, *mean.shape), *(torch.empty_like(mean) for _ in range(2))
    tensors = (sums, upstream, source, mean, scale if activation else None, shift)
    plan.launch(instance_norm_plus_gradient_sums_kernel, x, tensors, (activation,))
    given, rows = parameters(x, gamma, alpha)
    tensors = (to_gamma, to_alpha, to_beta, slope, constant, None if activation else scale, sums, mean, rstd, *given)
    plan.combine(instance_norm_plus_gradient_coefficients_kernel, x, tensors, (eps, *rows))
    tensors = (to_x, upstream, source, mean, scale, shift, slope, constant)
    plan.launch(instance_norm_plus_gradient_kernel, x, tensors, (activation,))
    return finish(x, source, to_x), to_gamma, to_alpha, to_beta
