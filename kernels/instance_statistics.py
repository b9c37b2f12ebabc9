"""What instance_norm_plus and its gradient share: moments of instances, and the coefficients of the values.

``out = scale (x - mu) + shift`` before the activation, with scale = gamma rstd and shift = gamma alpha t + beta, each
[B, C]; t is the mean of an instance standardized among its sample's channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import philox
from .instances import INTEGERS, Plan, parameters, quotient, spread


@triton.jit
def inverse_root(variance, EPS: tl.constexpr):
    """(variance + eps)^-1/2."""
    return philox.reciprocal(philox.square_root(variance + tl.full([], EPS, variance.dtype)))


@triton.jit
def moments(x, exists, count, LAST: tl.constexpr):
    """The mean of every instance of a tile, and the sum of the squares about it, [BLOCK]."""
    total = tl.sum(tl.where(exists, x, 0.0), axis=0 if LAST else 1)
    mean = quotient(total, tl.maximum(count, 1).to(x.dtype))
    centred = tl.where(exists, x - spread(mean, LAST), 0.0)
    return mean, tl.sum(centred * centred, axis=0 if LAST else 1)


@triton.jit
def standardized(mean, there, channels, EPS: tl.constexpr):
    """t = (mu - m) (q + eps)^-1/2 over a sample's channels, 0 where there is none, and (q + eps)^-1/2."""
    number = channels.to(mean.dtype)
    centre = quotient(tl.sum(tl.where(there, mean, 0.0), axis=0), number)
    centred = tl.where(there, mean - centre, 0.0)
    inverse = inverse_root(quotient(tl.sum(centred * centred, axis=0), number - 1.0), EPS)
    return centred * inverse, inverse


@triton.jit
def parameter(pointer, instance, channel, there, ROWS: tl.constexpr):
    """Each instance's value of a [C] parameter, or of one [B, C] whose rows are ROWS times C apart."""
    at = channel if ROWS == 0 else instance + (ROWS - 1) * (instance - channel)
    return tl.load(pointer + at, mask=there, other=0.0)


@triton.jit
def combined(partial, instance, there, instances, pixels, chunks, CHUNK: tl.constexpr, TOGETHER: tl.constexpr):
    """The mean and the biased variance of instances [CHANNELS] from those of their chunks, in the chunks' order."""
    mean = tl.zeros(instance.shape, partial.dtype.element_ty)
    square = tl.zeros(instance.shape, partial.dtype.element_ty)
    number = pixels.to(mean.dtype)
    for first in range(0, chunks, TOGETHER):
        chunk = first + tl.arange(0, TOGETHER)[:, None]
        place, exists = chunk.to(tl.int64) * instances + instance[None, :], (chunk < chunks) & there[None, :]
        share = tl.minimum(pixels - chunk * CHUNK, CHUNK).to(mean.dtype)
        mean += tl.sum(tl.load(partial + place, mask=exists, other=0.0) * share, axis=0)
    mean = quotient(mean, number)
    squares = partial + chunks.to(tl.int64) * instances
    for first in range(0, chunks, TOGETHER):
        chunk = first + tl.arange(0, TOGETHER)[:, None]
        place, exists = chunk.to(tl.int64) * instances + instance[None, :], (chunk < chunks) & there[None, :]
        share = tl.minimum(pixels - chunk * CHUNK, CHUNK).to(mean.dtype)
        off = tl.where(exists, tl.load(partial + place, mask=exists, other=0.0) - mean[None, :], 0.0)
        square += tl.sum(tl.load(squares + place, mask=exists, other=0.0) + share * off * off, axis=0)
    return mean, quotient(square, number)


@triton.jit(do_not_specialize=INTEGERS)
def instance_norm_plus_scale_shift_kernel(
    out_scale,
    out_shift,
    out_mean,
    out_rstd,
    parts,
    mean,
    rstd,
    gamma,
    alpha,
    beta,
    instances: tl.int32,
    pixels: tl.int32,
    channels: tl.int32,
    chunks: tl.int32,
    EPS: tl.constexpr,
    GAMMA_ROWS: tl.constexpr,
    ALPHA_ROWS: tl.constexpr,
    BETA_ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """A sample's scale and shift [B, C], and its mean and rstd where they are not given, from its chunks' moments."""
    channel = tl.arange(0, CHANNELS)
    there = channel < channels
    instance = tl.program_id(0).to(tl.int64) * channels + channel
    if parts is not None:
        mu, variance = combined(parts, instance, there, instances, pixels, chunks, CHUNK, TOGETHER)
        inverse = inverse_root(variance, EPS)
        tl.store(out_mean + instance, mu, mask=there)
        tl.store(out_rstd + instance, inverse, mask=there)
    else:
        mu = tl.load(mean + instance, mask=there, other=0.0)
        inverse = tl.load(rstd + instance, mask=there, other=0.0)
    t, _ = standardized(mu, there, channels, EPS)
    g = parameter(gamma, instance, channel, there, GAMMA_ROWS)
    a = parameter(alpha, instance, channel, there, ALPHA_ROWS)
    b = parameter(beta, instance, channel, there, BETA_ROWS)
    tl.store(out_scale + instance, g * inverse, mask=there)
    tl.store(out_shift + instance, tl.fma(g * a, t, b), mask=there)


def scale_and_shift(
    plan: Plan,
    x: Tensor,
    gamma: Tensor,
    alpha: Tensor,
    beta: Tensor,
    eps: float,
    *,
    parts: Tensor | None = None,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor]:
    """scale and shift [B, C]; ``mean`` and ``rstd`` [B, C] are written where there are ``parts``, else read.

    Args:
        parts: [2, chunks, B, C]: the mean of every chunk, and the sum of the squares about it.
    """
    scale, shift = torch.empty_like(mean), torch.empty_like(mean)
    given = (None, None, None, mean, rstd) if parts is None else (mean, rstd, parts, None, None)
    own, rows = parameters(x, gamma, alpha, beta)
    plan.combine(instance_norm_plus_scale_shift_kernel, x, (scale, shift, *given, *own), (eps, *rows))
    return scale, shift
