"""fill: normals, uniforms, signs or raw words by the contract of :mod:`fastscore.rng`; only the result is moved."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastscore._core.sequence import KINDS

from . import _launch, philox


@triton.jit(do_not_specialize=_launch.INTEGERS)
def fill_kernel(
    out,
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
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out = the numbers of KIND at their places in the contract."""
    row, quad, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    if KIND == "normal":
        value = philox.normals(quad, row, seed, step, philox_stream, first, state, index, BLOCK)
    elif KIND == "rademacher":
        # 32 quads share a block, whose 128 bits each of them draws again: dearer than an exchange between threads
        # would be in arithmetic, but the stores stay whole and bound by memory
        r0, r1, r2, r3 = philox.words(quad >> 5, row, seed, step, philox_stream, first, state, index)
        word = (quad >> 3) & 3
        r = tl.where(word < 2, tl.where(word == 0, r0, r1), tl.where(word == 2, r2, r3))
        bit = (quad & 7) * 4 + tl.arange(0, 4)[None, :]
        sign = (r >> bit.to(tl.uint32)) << 31
        value = (sign | 0x3F800000).to(tl.float32, bitcast=True)
    else:
        r0, r1, r2, r3 = philox.words(quad, row, seed, step, philox_stream, first, state, index)
        value = philox.interleave(r0, r1, r2, r3, BLOCK)
        if KIND == "uniform":
            value = (value >> 8).to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-24
    tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)


def launch(
    out: Tensor, kind: str, seed: int, step: int, stream: int, offset: int, state: Tensor | None, index: Tensor | None
) -> Tensor:
    """Fill ``out`` [B, ...], in its logical (contiguous) order, and return it.

    Args:
        out: float16, bfloat16, float32 or float64, any layout; int64 for ``words``.
        kind: "normal", N(0, 1); "uniform", multiples of 2^-24 in [0, 1); "rademacher", -1 or +1; "words", 32 bits.
        seed, step, stream, offset, state, index: which numbers, see ``_launch.noise``.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be 'normal', 'uniform', 'rademacher' or 'words', got {kind!r}")
    if out.numel() == 0:
        return out
    written = _launch.contiguous(out)
    noise = _launch.noise(seed, step, stream, offset, state, index)
    _launch.launch(fill_kernel, out, (written, *noise), (kind,), _launch.shares(*_launch.shape2d(out)))
    return _launch.finish(out, written)


def launch_like(like: Tensor, kind: int, *noise: Any) -> Tensor:
    """The operator ``fill``: a new contiguous tensor of the form of ``like``; ``kind`` counts ``KINDS``."""
    return launch(torch.empty(like.shape, dtype=like.dtype, device=like.device), KINDS[kind], *noise)
