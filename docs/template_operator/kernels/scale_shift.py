"""scale_shift: y = scale_c x + shift_c: 8 bytes an element in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _launch, philox


@triton.jit(do_not_specialize=[*_launch.INTEGERS, "channels", "channel_magic", "channel_shift"])
def scale_shift_kernel(
    out,
    x,
    scales,
    shifts,
    channels: tl.int32,
    channel_magic: tl.uint32,
    channel_shift: tl.uint32,
    rows: tl.int64,
    quads: tl.int32,
    tiles: tl.int32,
    magic: tl.uint32,
    shift: tl.uint32,
    SCALE_ROWS: tl.constexpr,
    SHIFT_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out = scale_c x + shift_c."""
    row, quad, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    element = 4 * quad + tl.arange(0, 4)[None, :]  # of its sample, in logical order
    channel = philox.divide(element, channel_magic, channel_shift)
    of_row = row.to(tl.int64) * channels + channel
    scale = tl.load(scales + (of_row if SCALE_ROWS else channel), mask=exists)
    summand = tl.load(shifts + (of_row if SHIFT_ROWS else channel), mask=exists)
    value = tl.fma(scale, tl.load(x + base + offset, mask=exists).to(scale.dtype), summand)
    tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)


def launch(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale_c x + shift_c, rounded once.

    Args:
        x: [B, C, ...], float16, bfloat16, float32 or float64, any layout; at most 2^31 - 4 elements a sample.
        scale, shift: [C] or [B, C], contiguous; float64 beside a float64 x, else float32.

    Returns:
        y, of x's shape, dtype and memory format.
    """
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    width, pixels = x.shape[1:].numel(), x.shape[2:].numel()
    if width > (1 << 31) - 4:
        raise ValueError(f"a sample may have at most 2^31 - 4 elements, got {width}")
    written = _launch.contiguous(out)
    given = (written, x.contiguous(), scale, shift, x.shape[1], *_launch.reciprocal(pixels))
    constants = (scale.dim() == 2, shift.dim() == 2)
    _launch.launch(scale_shift_kernel, x, given, constants, _launch.shares(*_launch.shape2d(x)))
    return _launch.finish(out, written)
