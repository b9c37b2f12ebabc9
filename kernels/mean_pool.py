"""mean_pool: the mean over a square window at stride 1: 8 bytes an element in float32, of what a cache keeps once read.

A thread has a column of ROWS pixels one above another, LANES channels of each (channels_last), or one place of a plane
(contiguous memory, whose planes count as images of one channel). The sums of a row along the window serve all pixels
whose window has that row. The additions are those of ``csrc/cpu/mean_pool.cpp``, in their order.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _kept, _launch, philox

COLUMNS = 128  # of a program
UNROLLED = 7  # the largest window whose code has no loop


UNROLLED_SIZE = tl.constexpr(UNROLLED)


@triton.jit
def _part(row, inside, step, k, SIZE: tl.constexpr, exists, compute: tl.constexpr):
    """The pixels k places along the window, 0 where the image has none."""
    w, width = inside
    at = w + (k - SIZE // 2)
    return tl.load(row + (k - SIZE // 2) * step, mask=exists & (at >= 0) & (at < width), other=0.0).to(compute)


@triton.jit
def _row_sum(first, h, inside, height, pitch, step, exists, compute: tl.constexpr, SIZE: tl.constexpr):
    """The sum along the window in row ``h``; ``first``: where the column's image begins, at its place in a row."""
    row = first + h * pitch
    exists = exists & (h >= 0) & (h < height)
    total = _part(row, inside, step, 0, SIZE, exists, compute)
    if SIZE <= UNROLLED_SIZE:
        for k in tl.static_range(1, SIZE):
            total += _part(row, inside, step, k, SIZE, exists, compute)
    else:
        for k in range(1, SIZE):
            total += _part(row, inside, step, k, SIZE, exists, compute)
    return total


@triton.jit(
    do_not_specialize=[
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
)
def mean_pool_kernel(
    out,
    x,
    columns: tl.int32,
    height: tl.int32,
    width: tl.int32,
    channels: tl.int32,
    groups: tl.int32,
    group_magic: tl.uint32,
    group_shift: tl.uint32,
    across: tl.int32,
    across_magic: tl.uint32,
    across_shift: tl.uint32,
    lane_magic: tl.uint32,
    lane_shift: tl.uint32,
    SCALE: tl.constexpr,
    SIZE: tl.constexpr,
    PLANES: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
):
    """out = SCALE times the sum over the window."""
    compute: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
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
    inside = (w, width)
    sums = ()
    for r in tl.static_range(ROWS + SIZE - 1 if SIZE <= UNROLLED_SIZE else 0):
        sum_of_row = _row_sum(x + at, top + r - SIZE // 2, inside, height, pitch, step, exists, compute, SIZE)
        sums = sums + (sum_of_row,)  # type: ignore[assignment]  # of another length
    for j in tl.static_range(ROWS):
        if SIZE <= UNROLLED_SIZE:
            total = sums[j]  # type: ignore[var-annotated]
            for k in tl.static_range(1, SIZE):
                total += sums[j + k]
        else:  # ROWS is 1
            total = _row_sum(x + at, top - SIZE // 2, inside, height, pitch, step, exists, compute, SIZE)
            for k in range(1, SIZE):
                total += _row_sum(x + at, top + k - SIZE // 2, inside, height, pitch, step, exists, compute, SIZE)
        value = (total * SCALE).to(out.dtype.element_ty)
        tl.store(out + at + (top + j) * pitch, value, mask=exists & (top + j < height))


def launch(x: Tensor, size: int) -> Tensor:
    """The mean over size x size pixels, rounded once.

    Args:
        x: [B, C, H, W], float16, bfloat16, float32 or float64, any layout; contiguous and channels_last memory is read
            as it is. At most 2^31 - 1 elements of an image (contiguous: of a plane), and 2^31 - 1 columns of 4 pixels.
        size: of the window, odd.

    Returns:
        A tensor of x's shape, dtype and memory format.
    """
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    last = not out.is_contiguous() and out.is_contiguous(memory_format=torch.channels_last)
    written = out if last else _launch.contiguous(out)
    grid, numbers, constants = _shares(x.shape, last, size, _launch.interpreted())
    _kept.launch(mean_pool_kernel, grid, x, (written, _launch.memory(written, x), *numbers), constants, _launch.OPTIONS)
    return _launch.finish(out, written)


@lru_cache(maxsize=1024)
def _shares(shape: torch.Size, last: bool, size: int, interpreted: bool) -> tuple[tuple[int, int, int], tuple, tuple]:
    """How the pixels are shared out: the grid, and the kernel's numbers and constants."""
    batch, channels, height, width = shape
    images, channels = (batch, channels) if last else (batch * channels, 1)
    lanes, rows = 4 if channels % 4 == 0 else 1, 4 if height >= 4 else 1
    reach = min(size, 2 * max(height, width) - 1)  # beyond, there are zeros only
    if reach > UNROLLED:
        rows = 1
    groups, across = -(-height // rows), width * channels // lanes
    columns, count = images * groups * across, 1 << 12 if interpreted else COLUMNS
    if max(height * width * channels, columns + count) >= 1 << 31:
        raise ValueError(f"too many elements for one launch: {tuple(shape)}")
    magics = (_launch.reciprocal(divisor) for divisor in (groups, across, channels // lanes))
    (group_magic, group_shift), (across_magic, across_shift), lane = magics
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
    return (-(-columns // count), 1, 1), numbers, (1.0 / size**2, reach, not last, lanes, rows, block, mask)
