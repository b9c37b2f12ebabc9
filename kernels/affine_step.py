"""affine_step: x' = a x + sum_k b_k s_k + c z, of K tensors s_k: 4 (2 + K) bytes per element; z is drawn in the kernel."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _launch, philox


@triton.jit
def read(pointer, base, offset, exists):
    """Elements in the dtype of computation."""
    value = tl.load(pointer + base + offset, mask=exists)
    return value.to(tl.float64 if value.dtype == tl.float64 else tl.float32)


@triton.jit
def added(value, factor, term, BLOCK: tl.constexpr):
    """value + factor term, rounded once; ``factor`` is a scalar or a column."""
    return tl.fma(tl.broadcast_to(factor, [BLOCK, 4]), term.to(value.dtype), value)


@triton.jit(do_not_specialize=_launch.INTEGERS)
def affine_step_kernel(
    out,
    x,
    s0,
    s1,
    s2,
    a,
    b0,
    b1,
    b2,
    c,
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
    A_ROWS: tl.constexpr,
    B0_ROWS: tl.constexpr,
    B1_ROWS: tl.constexpr,
    B2_ROWS: tl.constexpr,
    C_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out = a x + sum_k b_k s_k + c z, without the terms that are None."""
    row, quad, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    value = read(x, base, offset, exists)
    if s0 is not None:  # all is read before the noise is made, which takes as long
        t0 = read(s0, base, offset, exists)
    if s1 is not None:
        t1 = read(s1, base, offset, exists)
    if s2 is not None:
        t2 = read(s2, base, offset, exists)
    value = philox.row_value(a, row, A_ROWS) * value
    if s0 is not None:
        value = added(value, philox.row_value(b0, row, B0_ROWS), t0, BLOCK)
    if s1 is not None:
        value = added(value, philox.row_value(b1, row, B1_ROWS), t1, BLOCK)
    if s2 is not None:
        value = added(value, philox.row_value(b2, row, B2_ROWS), t2, BLOCK)
    if c is not None:
        z = philox.normals(quad, row, seed, step, philox_stream, first, state, index, BLOCK)
        value = added(value, philox.row_value(c, row, C_ROWS), z, BLOCK)
    tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)


def launch(
    x: Tensor,
    s0: Tensor | None,
    s1: Tensor | None,
    s2: Tensor | None,
    a: Tensor,
    b0: Tensor | None,
    b1: Tensor | None,
    b2: Tensor | None,
    c: Tensor | None,
    seed: int,
    step: int,
    stream: int,
    offset: int,
    state: Tensor | None,
    index: Tensor | None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """a x + sum_k b_k s_k + c z, z ~ N(0, 1), in this order, rounded once.

    Args:
        x: [B, ...], float16, bfloat16, float32 or float64, any layout.
        s0, s1, s2: of x's shape and dtype; None where there is none, each with its b.
        a, b0, b1, b2: [] or [B], float64 beside a float64 x, else float32.
        c: the same; None: no noise, and nothing of what follows is read.
        seed, step, stream, offset, state, index: which noise, see ``_launch.noise``.
        out: where to write, of x's shape, dtype and device; may be x or an s itself.

    Returns:
        ``out`` where given, else a tensor of x's shape, dtype and memory format.
    """
    out = torch.empty_like(x) if out is None else out
    if x.numel() == 0:
        return out
    if c is None:
        state = index = None
    written = _launch.contiguous(out)
    tensors = [written, x.contiguous(), *(s if s is None else s.contiguous() for s in (s0, s1, s2))]
    rows = []
    for value in (a, b0, b1, b2, c):
        factor, many = (None, False) if value is None else _launch.row_values(value, x)
        tensors.append(factor)
        rows.append(many)
    noise = _launch.noise(seed, step, stream, offset, state, index)
    shares = _launch.shares(*_launch.shape2d(x))
    _launch.launch(affine_step_kernel, x, (*tensors, *noise), tuple(rows), shares)
    return _launch.finish(out, written)


def launch_out(
    x: Tensor,
    s0: Tensor | None,
    s1: Tensor | None,
    s2: Tensor | None,
    a: Tensor,
    b0: Tensor | None,
    b1: Tensor | None,
    b2: Tensor | None,
    c: Tensor | None,
    out: Tensor,
    *noise: Any,
) -> None:
    """:func:`launch` into ``out``."""
    launch(x, s0, s1, s2, a, b0, b1, b2, c, *noise, out=out)
