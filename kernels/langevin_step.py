"""langevin_step: x' = x + step_size_b/2 score + sqrt(step_size_b) z, z drawn in the kernel: 12 bytes per element."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _launch, affine_step, philox


@triton.jit(do_not_specialize=_launch.INTEGERS)
def langevin_step_kernel(
    out,
    x,
    score,
    step_size,
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
    STEP_SIZE_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out = x + step_size_b/2 score + sqrt(step_size_b) z, by affine_step's terms: the same bits as with a = 1."""
    row, quad, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    a = philox.row_value(step_size, row, STEP_SIZE_ROWS)
    start = affine_step.read(x, base, offset, exists)
    slope = affine_step.read(score, base, offset, exists)
    z = philox.normals(quad, row, seed, step, philox_stream, first, state, index, BLOCK)
    value = affine_step.added(start, a * 0.5, slope, BLOCK)
    value = affine_step.added(value, philox.square_root(a), z, BLOCK)
    tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)


def launch(
    x: Tensor,
    score: Tensor,
    step_size: Tensor,
    seed: int,
    step: int,
    stream: int,
    offset: int,
    state: Tensor | None,
    index: Tensor | None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """x + step_size_b/2 score + sqrt(step_size_b) z, z ~ N(0, 1), rounded once.

    Args:
        x, score: [B, ...] of one dtype (float16, bfloat16, float32 or float64), any layout.
        step_size: [] or [B], float64 beside a float64 x, else float32.
        seed, step, stream, offset, state, index: which noise, see ``_launch.noise``.
        out: where to write, of x's shape, dtype and device; may be x itself.

    Returns:
        ``out`` where given, else a tensor of x's shape, dtype and memory format.
    """
    out = torch.empty_like(x) if out is None else out
    if x.numel() == 0:
        return out
    step_size, step_size_rows = _launch.row_values(step_size, x)
    written = _launch.contiguous(out)
    given = (written, x.contiguous(), score.contiguous(), step_size)
    noise = _launch.noise(seed, step, stream, offset, state, index)
    shares = _launch.shares(*_launch.shape2d(x))
    _launch.launch(langevin_step_kernel, x, given + noise, (step_size_rows,), shares)
    return _launch.finish(out, written)


def launch_out(x: Tensor, score: Tensor, step_size: Tensor, out: Tensor, *noise: Any) -> None:
    """:func:`launch` into ``out``."""
    launch(x, score, step_size, *noise, out=out)
