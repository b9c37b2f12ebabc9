"""dsm_loss: 1/2 sigma_b^weight || score + z / sigma_b ||^2 per sample, and its gradient in the same pass.

z is drawn again in the kernel: with the gradient 8 bytes per element in float32, without it 4.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _kept, _launch, philox


@triton.jit
def weighting(sigma, loss_factor, row, SIGMA_ROWS: tl.constexpr, LOSS_ROWS: tl.constexpr):
    """loss_factor_b, or sigma_b^2 where there is none."""
    if loss_factor is None:
        s = philox.row_value(sigma, row, SIGMA_ROWS)
        factor = s * s
    else:
        factor = philox.row_value(loss_factor, row, LOSS_ROWS)
    return factor


@triton.jit(do_not_specialize=_launch.INTEGERS)
def dsm_loss_kernel(
    partial,
    grad,
    score,
    sigma,
    loss_factor,
    grad_factor,
    seed: tl.int64,
    step: tl.uint32,
    philox_stream: tl.uint32,
    first: tl.uint32,
    state,
    index,
    rows: tl.int64,
    quads: tl.int32,
    tiles: tl.int32,
    magic: tl.uint32,
    shift: tl.uint32,
    SIGMA_ROWS: tl.constexpr,
    LOSS_ROWS: tl.constexpr,
    GRAD_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """partial[b, tile] = 1/2 loss_factor_b sum r^2 and grad = grad_factor_b r, r = score + z / sigma_b.

    A ``loss_factor`` of None is sigma_b^2, rounded once.
    """
    row, quad, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    inverse = philox.reciprocal(philox.row_value(sigma, row, SIGMA_ROWS))
    s = tl.load(score + base + offset, mask=exists).to(inverse.dtype)
    z = philox.normals(quad, row, seed, step, philox_stream, first, state, index, BLOCK).to(inverse.dtype)
    r = tl.fma(z, tl.broadcast_to(inverse, [BLOCK, 4]), s)
    if grad is not None:
        value = philox.row_value(grad_factor, row, GRAD_ROWS) * r
        tl.store(grad + base + offset, value.to(grad.dtype.element_ty), mask=exists)
    if partial is not None:
        square = tl.sum(tl.where(exists, r * r, 0.0), axis=1)
        if QUADS == BLOCK:
            total = 0.5 * weighting(sigma, loss_factor, row, SIGMA_ROWS, LOSS_ROWS) * tl.sum(square, axis=0)
            tl.store(partial + tl.program_id(0), total)
        else:
            own = tl.program_id(0).to(tl.int64) * (BLOCK // QUADS) + tl.arange(0, BLOCK // QUADS)
            factor = weighting(sigma, loss_factor, tl.minimum(own, rows - 1), SIGMA_ROWS, LOSS_ROWS)
            total = 0.5 * factor * tl.sum(tl.reshape(square, [BLOCK // QUADS, QUADS]), axis=1)
            tl.store(partial + own, total, mask=own < rows)


@triton.jit(do_not_specialize=("rows", "tiles"))
def add_tiles_kernel(out, sums, rows: tl.int64, tiles: tl.int32, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """out[b] = sum over the tiles of sums[b, tile], in an order that their number alone sets."""
    row = tl.program_id(0).to(tl.int64) * (BLOCK // TILES) + tl.arange(0, BLOCK // TILES)
    total = tl.zeros([BLOCK // TILES, TILES], sums.dtype.element_ty)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)[None, :]
        exists = (row < rows)[:, None] & (tile < tiles)
        total += tl.load(sums + row[:, None] * tiles + tile, mask=exists, other=0.0)
    tl.store(out + row, tl.sum(total, axis=1), mask=row < rows)


def launch(
    score: Tensor,
    sigma: Tensor,
    weight: float,
    seed: int,
    step: int,
    stream: int,
    offset: int,
    state: Tensor | None,
    index: Tensor | None,
) -> Tensor:
    """loss_b = 1/2 sigma_b^weight sum_d (score + z / sigma_b)^2, without the gradient."""
    sigma, _ = _launch.row_values(sigma, score)
    factor = None if weight == 2 else _factor(sigma, weight)
    return _run(score, sigma, factor, None, None, _launch.noise(seed, step, stream, offset, state, index))


def launch_and_gradient(
    score: Tensor,
    sigma: Tensor,
    weight: float,
    scale: float,
    seed: int,
    step: int,
    stream: int,
    offset: int,
    state: Tensor | None,
    index: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """loss_b = 1/2 sigma_b^weight sum_d (score + z / sigma_b)^2 and grad = scale sigma_b^weight (score + z / sigma_b).

    Both in one pass. The sum has a fixed order (within a tile, then over the tiles of a sample), set by the number of a
    sample's elements and their dtype alone: the same bits every time, and whatever the batch.

    Args:
        score: [B, ...], float16, bfloat16, float32 or float64, any layout.
        sigma: [] or [B], float64 beside a float64 score, else float32.
        weight, scale: the power of sigma, and a factor on the gradient.
        seed, step, stream, offset, state, index: which noise, see ``_launch.noise``.

    Returns:
        loss [B], float64 for a float64 score, else float32; grad of score's shape, dtype and memory format.
    """
    sigma, _ = _launch.row_values(sigma, score)
    factor, grad = None if weight == 2 else _factor(sigma, weight), torch.empty_like(score)
    scaled = _factor(sigma, weight, sigma.new_full((), scale))
    loss = _run(score, sigma, factor, grad, scaled, _launch.noise(seed, step, stream, offset, state, index))
    return loss, grad


def launch_gradient(
    score: Tensor,
    sigma: Tensor,
    weight: float,
    upstream: Tensor,
    seed: int,
    step: int,
    stream: int,
    offset: int,
    state: Tensor | None,
    index: Tensor | None,
) -> Tensor:
    """upstream_b sigma_b^weight (score + z / sigma_b): the gradient of the loss above under ``upstream`` [] or [B]."""
    sigma, _ = _launch.row_values(sigma, score)
    upstream, _ = _launch.row_values(upstream, score)
    grad = torch.empty_like(score)
    factor, noise = _factor(sigma, weight, upstream), _launch.noise(seed, step, stream, offset, state, index)
    _run(score, sigma, None, grad, factor, noise, loss=False)
    return grad


def _factor(sigma: Tensor, weight: float, upstream: Tensor | None = None) -> Tensor:
    """upstream_b sigma_b^weight, computed in float64 and rounded once, as the native backend has it."""
    wide = sigma.double()
    power = wide * wide if weight == 2 else wide.pow(weight)
    return (power if upstream is None else upstream * power).to(sigma.dtype)


def _run(
    score: Tensor,
    sigma: Tensor,
    loss_factor: Tensor | None,
    grad: Tensor | None,
    grad_factor: Tensor | None,
    noise: tuple,
    *,
    loss: bool = True,
) -> Any:
    """Write ``grad``, where given; return the ``loss`` [B], of the factor sigma_b^2 where none is given, or None."""
    if score.numel() == 0:
        return sigma.new_zeros(score.shape[0])
    written = None if grad is None else _launch.contiguous(grad)
    shares = _launch.shares(*_launch.shape2d(score), whole_rows=loss)
    rows, tiles = score.shape[0], shares.tiles
    partial, score = sigma.new_empty((rows,) if tiles == 1 else (rows, tiles)) if loss else None, score.contiguous()
    if loss:  # the code, and with it the order of the sum, depends on what divides addresses
        score, sigma = _launch.aligned(score), _launch.aligned(sigma)
    given = (partial, written, score, sigma, loss_factor, grad_factor)
    factors = tuple([factor is not None and factor.dim() > 0 for factor in (sigma, loss_factor, grad_factor)])
    _launch.launch(dsm_loss_kernel, score, given + noise, factors, shares)
    if grad is not None and written is not None:
        _launch.finish(grad, written)
    return partial if partial is None or tiles == 1 else _added(partial)


def _added(sums: Tensor) -> Tensor:
    """[rows, tiles] summed to [rows]."""
    rows, tiles = sums.shape
    together = min(triton.next_power_of_2(tiles), _launch.BLOCK)
    out, grid = sums.new_empty(rows), (triton.cdiv(rows, _launch.BLOCK // together), 1, 1)
    constants = (together, _launch.BLOCK)
    _kept.launch(add_tiles_kernel, grid, sums, (out, sums, rows, tiles), constants, _launch.OPTIONS)
    return out
