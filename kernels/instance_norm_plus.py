"""instance_norm_plus: gamma ((x - mu) rstd + alpha t) + beta, and the ELU of it; with its gradient.

A sample of few elements has one program, which reads it once: 8 bytes an element in float32. Of others the first kernel
has the mean of every chunk of every instance and the squares about it, the second what they make of a sample's channels,
the third the values: 12 bytes, and what the chunks have. Sums have a fixed order: within a tile, over the chunks, over the channels. No atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import exponential
from .instance_norm_plus_gradient import launch_gradient as launch_gradient
from .instance_statistics import inverse_root, moments, parameter, scale_and_shift, standardized
from .instances import INTEGERS, Plan, dense, finish, parameters, place, quotient, spread


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_statistics_kernel(
    partial,
    x,
    instances: tl.int32,
    pixels: tl.int32,
    channels: tl.int32,
    LAST: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    STEPS: tl.constexpr,
    EVEN: tl.constexpr,
    MASK: tl.constexpr,
):
    """partial [2, chunks, B, C] = the mean of each chunk of each instance, and the sum of the squares about it."""
    compute: tl.constexpr = partial.dtype.element_ty
    instance, there, base, offset, exists, count = place(
        0, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, False
    )
    v = tl.load(x + base + offset, mask=exists).to(compute)
    mean, square = moments(v, exists, count, LAST)
    seen = count
    for step in range(1, STEPS):
        _, _, base, offset, exists, count = place(
            step, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, False
        )
        v = tl.load(x + base + offset, mask=exists).to(compute)
        own, about_own = moments(v, exists, count, LAST)
        total = seen + count
        share, delta = quotient(count.to(compute), total.to(compute)), own - mean
        mean = tl.fma(delta, tl.broadcast_to(share, delta.shape), mean)
        square += about_own + delta * delta * share * seen.to(compute)
        seen = total
    target = partial + tl.program_id(1).to(tl.int64) * instances + instance
    tl.store(target, mean, mask=there)
    tl.store(target + tl.num_programs(1).to(tl.int64) * instances, square, mask=there)


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_kernel(
    out,
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
    """out = scale (x - mean) + shift, or the ELU of it."""
    for step in range(STEPS):
        instance, there, base, offset, exists, _ = place(
            step, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, False
        )
        v = tl.load(x + base + offset, mask=exists)
        mu = tl.load(mean + instance, mask=there)
        factor = tl.load(scale + instance, mask=there)
        summand = tl.load(shift + instance, mask=there)
        value = values(v, mu, factor, summand, ACTIVATION, LAST)
        tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)


@triton.jit
def values(x, mean, scale, shift, ACTIVATION: tl.constexpr, LAST: tl.constexpr):
    """scale (x - mean) + shift, or the ELU of it, of a tile whose instances have these numbers."""
    centred = x.to(mean.dtype) - spread(mean, LAST)
    factor = tl.broadcast_to(spread(scale, LAST), centred.shape)
    value = tl.fma(factor, centred, tl.broadcast_to(spread(shift, LAST), centred.shape))
    return exponential.elu(value) if ACTIVATION == 1 else value


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_whole_kernel(
    out,
    out_mean,
    out_rstd,
    x,
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
    """A whole sample at once: its values, means and rstd."""
    instance, there, base, offset, exists, count = place(
        0, instances, pixels, channels, LAST, BLOCK_0, BLOCK_1, STEPS, EVEN, MASK, True
    )
    channel = tl.arange(0, BLOCK_1 if LAST else BLOCK_0)
    v = tl.load(x + base + offset, mask=exists).to(out_mean.dtype.element_ty)
    mean, square = moments(v, exists, count, LAST)
    rstd = inverse_root(quotient(square, count.to(v.dtype)), EPS)
    t, _ = standardized(mean, there, channels, EPS)
    g = parameter(gamma, instance, channel, there, GAMMA_ROWS)
    a = parameter(alpha, instance, channel, there, ALPHA_ROWS)
    shift = tl.fma(g * a, t, parameter(beta, instance, channel, there, BETA_ROWS))
    value = values(v, mean, g * rstd, shift, ACTIVATION, LAST)
    tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)
    tl.store(out_mean + instance, mean, mask=there)
    tl.store(out_rstd + instance, rstd, mask=there)


def launch(
    x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor, eps: float, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """gamma ((x - mu) rstd + alpha t) + beta, its ELU where ``activation`` is 1; and mu and rstd.

    Args:
        x: [B, C, ...], float16, bfloat16, float32 or float64; C from 2 to 2^15, two pixels or more. No copy is made where
            it is dense with its channels as planes or last.
        gamma, alpha, beta: [C] or [B, C]; float64 beside a float64 x, else float32.
        eps: added to both variances.
        activation: 0 none, 1 ELU.

    Returns:
        out, of x's shape, dtype and memory format; mu and rstd [B, C], float64 for a float64 x, else float32.
    """
    source, last = dense(x)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, rstd = (x.new_empty(x.shape[:2], dtype=compute) for _ in range(2))
    if x.numel() == 0:
        return torch.empty_like(x), mean, rstd
    plan, out = Plan.of(source, last), torch.empty_like(source)
    if plan.whole:
        given, rows = parameters(x, gamma, alpha, beta)
        tensors = (out, mean, rstd, source, *given)
        plan.launch(instance_norm_plus_whole_kernel, x, tensors, (eps, *rows, activation))
    else:
        partial = mean.new_empty(2, plan.chunks, *mean.shape)
        plan.launch(instance_norm_plus_statistics_kernel, x, (partial, source), ())
        scale, shift = scale_and_shift(plan, x, gamma, alpha, beta, eps, parts=partial, mean=mean, rstd=rstd)
        plan.launch(instance_norm_plus_kernel, x, (out, source, mean, scale, shift), (activation,))
    return finish(x, source, out), mean, rstd
