"""How operators on square windows at stride 1 share out an image's pixels, and read them.

A thread has a column of ROWS pixels one above another, LANES channels of each (channels_last), or one place of a plane
(contiguous memory, whose planes count as images of one channel).
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _launch, philox

COLUMNS = 128  # of a program
UNROLLED = 7  # the largest window whose code has no loop
UNROLLED_SIZE = tl.constexpr(UNROLLED)
INTEGERS = [
    "columns",
    "height",
    "width",
    "channels",
    "groups",
    "group_magic",
    "group_shift",
    "across",
    "across_magic",
    "across_shift",
    "lane_magic",
    "lane_shift",
]


@triton.jit
def columns_of(
    columns,
    height,
    width,
    channels,
    groups,
    group_magic,
    group_shift,
    across,
    across_magic,
    across_shift,
    lane_magic,
    lane_shift,
    PLANES: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
):
    """The columns of a program: which exist [N, 1], their first rows and places in a row [N, 1], where their images begin
    at these places [N, LANES], and how far apart the rows and neighbours in a row are."""
    COUNT: tl.constexpr = 4 * BLOCK // (LANES * ROWS)
    column = tl.program_id(0) * COUNT + tl.arange(0, COUNT)[:, None]
    exists = column < columns if MASK else tl.full([COUNT, 1], 1, tl.int1)
    group = philox.divide(column, across_magic, across_shift)
    place = column - group * across  # in a row: LANES channels of a pixel
    image = philox.divide(group, group_magic, group_shift)
    top = (group - image * groups) * ROWS
    if PLANES:
        w, step = place, 1
    else:
        w, step = philox.divide(place, lane_magic, lane_shift), channels
    if LANES > 1:
        step = step // LANES * LANES  # so that the compiler knows that LANES divides it
    pitch = width * step
    at = image.to(tl.int64) * height * pitch + (place * LANES + tl.arange(0, LANES)[None, :])
    return exists, top, w, at, pitch, step


@triton.jit
def pixel(row, inside, step, k, exists, outside: tl.constexpr, compute: tl.constexpr, SIZE: tl.constexpr):
    """The pixels k places along the window from its first; ``outside`` where the image has none.

    ``row``: where the window's row has the place of the column; ``inside``: that place, and a row's width.
    """
    w, width = inside
    at = w + (k - SIZE // 2)
    return tl.load(row + (k - SIZE // 2) * step, mask=exists & (at >= 0) & (at < width), other=outside).to(compute)


def memory(*results: Tensor) -> tuple[bool, tuple[Tensor, ...]]:
    """Whether results of one layout have their channels last in memory, and where a kernel writes for them."""
    out = results[0]
    last = not out.is_contiguous() and out.is_contiguous(memory_format=torch.channels_last)
    return last, results if last else tuple(map(_launch.contiguous, results))


@lru_cache(maxsize=1024)
def shares(
    shape: torch.Size, last: bool, most: int, interpreted: bool
) -> tuple[tuple[int, int, int], tuple[int, ...], tuple]:
    """How the pixels are shared out: the grid, and the kernel's last numbers (``INTEGERS``) and last constants.

    Args:
        shape: [B, C, H, W].
        last: whether the channels come last in memory.
        most: pixels of a thread.
        interpreted: by Triton's interpreter.
    """
    batch, channels, height, width = shape
    images, channels = (batch, channels) if last else (batch * channels, 1)
    lanes, rows = 4 if channels % 4 == 0 else 1, most if height >= most else 1
    groups, across = -(-height // rows), width * channels // lanes
    columns, count = images * groups * across, 1 << 12 if interpreted else COLUMNS
    if max(height * width * channels, columns + count) >= 1 << 31:
        raise ValueError(f"too many elements for one launch: {tuple(shape)}")
    (group_magic, group_shift), (across_magic, across_shift), lane = (
        _launch.reciprocal(divisor) for divisor in (groups, across, channels // lanes)
    )
    numbers = (
        columns,
        height,
        width,
        channels,
        groups,
        group_magic,
        group_shift,
        across,
        across_magic,
        across_shift,
        *lane,
    )
    block, mask = count * lanes * rows // 4, columns % count != 0
    return (-(-columns // count), 1, 1), numbers, (not last, lanes, rows, block, mask)
