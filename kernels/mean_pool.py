"""mean_pool: the mean over a square window at stride 1: 8 bytes an element in float32, of what a cache keeps once read.

``kernels/windows.py`` says which pixels a thread has. The sums of a row along the window serve all of them whose window has
that row. The additions are those of ``csrc/cpu/mean_pool.cpp``, in their order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _kept, _launch
from .windows import INTEGERS, UNROLLED, UNROLLED_SIZE, columns_of, memory, pixel, shares


@triton.jit
def _row_sum(first, h, inside, height, pitch, step, exists, compute: tl.constexpr, SIZE: tl.constexpr):
    """The sum along the window in row ``h``; ``first``: where the column's image begins, at its place in a row."""
    row = first + h * pitch
    exists = exists & (h >= 0) & (h < height)
    total = pixel(row, inside, step, 0, exists, 0.0, compute, SIZE)
    if SIZE <= UNROLLED_SIZE:
        for k in tl.static_range(1, SIZE):
            total += pixel(row, inside, step, k, exists, 0.0, compute, SIZE)
    else:
        for k in range(1, SIZE):
            total += pixel(row, inside, step, k, exists, 0.0, compute, SIZE)
    return total


@triton.jit(do_not_specialize=INTEGERS)
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
    exists, top, w, at, pitch, step = columns_of(
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
        PLANES,
        LANES,
        ROWS,
        BLOCK,
        MASK,
    )
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
    last, (written,) = memory(out)
    reach = min(size, 2 * max(x.shape[2:]) - 1)  # beyond, there are zeros only
    grid, numbers, constants = shares(x.shape, last, 4 if reach <= UNROLLED else 1, _launch.interpreted())
    constants = (1.0 / size**2, reach, *constants)
    _kept.launch(mean_pool_kernel, grid, x, (written, _launch.memory(written, x), *numbers), constants, _launch.OPTIONS)
    return _launch.finish(out, written)
