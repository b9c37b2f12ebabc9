"""read_images: images by their indices, mirrored, dequantised and perturbed: 1 byte read and 4 written in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _launch, philox

DEQUANTIZE, FLIPS = tl.constexpr(5), tl.constexpr(7)  # streams: fastscore.Stream


@triton.jit
def mirrored_place(place, mirrored, line, magic, shift):
    """The place, counted along an image's lines of ``line`` places each, from which ``place`` is read."""
    inside = place - philox.divide(place, magic, shift) * line
    return tl.where(mirrored, place + line - 1 - 2 * inside, place)


@triton.jit(do_not_specialize=(*_launch.INTEGERS, "data_seed", "data_step", "line", "line_magic", "line_shift"))
def read_images_kernel(
    out,
    images,
    indices,
    sigma,
    data_seed: tl.int64,
    data_step: tl.uint32,
    line: tl.int32,
    line_magic: tl.uint32,
    line_shift: tl.uint32,
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
    INDEX_ROWS: tl.constexpr,
    SIGMA_ROWS: tl.constexpr,
    NUM_VALUES: tl.constexpr,
    MIRROR: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out = x_b, or x_b + sigma_b z. WORDS: four bytes are read at once, and ``line`` is in quads."""
    row, quad, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    lane = tl.arange(0, 4)[None, :]
    image = philox.row_value(indices, row, INDEX_ROWS)
    mirrored = row < 0
    if MIRROR:
        r0, _, _, _ = philox.words(
            row * 0, row, data_seed, data_step, tl.full([], FLIPS, tl.uint32), first, None, index
        )
        mirrored = (r0 >> 31) == 0
    if WORDS:
        place = mirrored_place(tl.minimum(quad, quads - 1), mirrored, line, line_magic, line_shift)
        word = tl.load(images + (image * quads + place)).to(tl.uint32, bitcast=True)
        byte = ((word >> (8 * tl.where(mirrored, 3 - lane, lane)).to(tl.uint32)) & 255).to(tl.int32)
    else:
        place = mirrored_place(4 * quad + lane, mirrored, line, line_magic, line_shift)
        byte = tl.load(images + (image * (4 * quads.to(tl.int64) - PAD) + place), mask=exists, other=0).to(tl.int32)
    if NUM_VALUES == 0:
        x = tl.div_rn(byte.to(tl.float32), 255.0)
    else:
        if NUM_VALUES == 256:
            value = byte.to(tl.float32)
        else:  # value k of q is stored as round(255 k / (q - 1)); there are no ties
            value = (byte.to(tl.float32) * ((NUM_VALUES - 1) / 255) + 0.5).to(tl.int32).to(tl.float32)
        r0, r1, r2, r3 = philox.words(
            quad, row, data_seed, data_step, tl.full([], DEQUANTIZE, tl.uint32), first, None, index
        )
        u = (philox.interleave(r0, r1, r2, r3, BLOCK) >> 8).to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-24
        x = value + u
        if NUM_VALUES == 256:
            x = x * 2.0**-8
        else:
            x = tl.div_rn(x, NUM_VALUES * 1.0)
    if sigma is not None:
        s = philox.row_value(sigma, row, SIGMA_ROWS)
        z = philox.normals(quad, row, seed, step, philox_stream, first, state, index, BLOCK).to(s.dtype)
        x = tl.fma(tl.broadcast_to(s, [BLOCK, 4]), z, x.to(s.dtype))
    tl.store(out + base + offset, x.to(out.dtype.element_ty), mask=exists)


def launch(
    like: Tensor,
    images: Tensor,
    indices: Tensor,
    sigma: Tensor | None,
    num_values: int,
    flips: bool,
    data_seed: int,
    data_step: int,
    seed: int,
    step: int,
    stream: int,
    offset: int,
    state: Tensor | None,
    index: Tensor | None,
) -> Tensor:
    """x_b, or x_b + sigma_b z, rounded once; x in float32.

    Args:
        like: [B, ...], says the form of the result: float16, bfloat16, float32 or float64.
        images: uint8 [N, ...]; indices: int64 [B] or [], whose values are not checked.
        sigma: [] or [B], float64 beside a float64 ``like``, else float32; None for x itself.
        num_values: q of the uniform noise, or 0 for none of it; flips: whether rows are mirrored.
        data_seed, data_step: of those two draws.
        seed, step, stream, offset, state, index: which noise, see ``_launch.noise``; the samples of all draws.

    Returns:
        A new contiguous tensor of the form of ``like``.
    """
    out = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    if out.numel() == 0:
        return out
    sigma, sigma_rows = (None, False) if sigma is None else _launch.row_values(sigma, like)
    rows, width = _launch.shape2d(out)
    line = out.shape[-1] if out.dim() > 1 else 1
    images = images.contiguous()
    words = line % 4 == 0 and images.data_ptr() % 4 == 0 and images.storage_offset() % 4 == 0
    if words:
        images, line = images.view(torch.int32), line // 4
    elif width >= 1 << 31:
        raise ValueError(f"an image whose lines 4 does not divide may have at most 2^31 - 1 elements, got {width}")
    given = (out, images, indices.contiguous(), sigma, data_seed, data_step, line, *_launch.reciprocal(line))
    given += _launch.noise(seed, step, stream, offset, state, index)
    constants = (indices.dim() == 1, sigma_rows, num_values, flips, words)
    _launch.launch(read_images_kernel, out, given, constants, _launch.shares(rows, width))
    return out
