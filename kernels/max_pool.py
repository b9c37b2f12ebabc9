"""max_pool: the largest of a square window at stride 1 and its place there, and the gradient, without atomics: 9 bytes an
element in float32 each, of what a cache keeps once read.

``kernels/windows.py`` says which pixels a thread has. The largest along a row of the window serves all of them whose window
has that row; the gradient of a pixel is summed over the windows that hold it, in their order, which is that of
``csrc/cpu/max_pool.cpp``.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _kept, _launch
from .windows import INTEGERS, UNROLLED, UNROLLED_SIZE, columns_of, memory, pixel, shares


@triton.jit
def _larger(v, code, best, best_code):
    """The larger and its code; of equal ones the first, and the later one where it is NaN."""
    take = (v > best) | (v != v)
    return tl.where(take, v, best), tl.where(take, code, best_code)


@triton.jit
def _row_largest(first, h, code, inside, height, pitch, step, exists, compute: tl.constexpr, SIZE: tl.constexpr):
    """The largest along the window in row ``h``, and ``code`` + its place there; -infinity where the image has none.

    ``first``: where the column's image begins, at its place in a row; ``inside``: that place, and a row's width.
    """
    row = first + h * pitch
    exists = exists & (h >= 0) & (h < height)
    best = pixel(row, inside, step, 0, exists, float("-inf"), compute, SIZE)
    place = tl.full(first.shape, code, tl.int32)
    for k in tl.static_range(1, SIZE):
        best, place = _larger(pixel(row, inside, step, k, exists, float("-inf"), compute, SIZE), code + k, best, place)
    return best, place


@triton.jit(do_not_specialize=INTEGERS)
def max_pool_kernel(
    out,
    out_index,
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
    SIZE: tl.constexpr,
    PLANES: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
):
    """out = the largest in the window, out_index = its place there, row by row."""
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
    half = SIZE // 2
    largest, codes = (), ()
    for r in tl.static_range(ROWS + SIZE - 1 if SIZE <= UNROLLED_SIZE else 1):
        v, code = _row_largest(x + at, top + r - half, r * SIZE, inside, height, pitch, step, exists, compute, SIZE)
        largest, codes = largest + (v,), codes + (code,)  # type: ignore[assignment]  # of another length
    for j in tl.static_range(ROWS):
        best, code = largest[j], codes[j]  # type: ignore[var-annotated]
        if SIZE <= UNROLLED_SIZE:
            for k in tl.static_range(1, SIZE):
                best, code = _larger(largest[j + k], codes[j + k], best, code)
        else:  # ROWS is 1
            for k in range(1, SIZE):
                v, place = _row_largest(
                    x + at, top + k - half, k * SIZE, inside, height, pitch, step, exists, compute, SIZE
                )
                best, code = _larger(v, place, best, code)
        first = tl.maximum(half - (top + j), 0) * SIZE + tl.maximum(half - w, 0)  # that the image has
        code = tl.where(best == float("-inf"), first, code - j * SIZE)
        here, there = at + (top + j) * pitch, exists & (top + j < height)
        tl.store(out + here, best.to(out.dtype.element_ty), mask=there)
        tl.store(out_index + here, code.to(tl.uint8), mask=there)


@triton.jit
def _read_row(upstream, index, h, inside, height, pitch, step, exists, compute: tl.constexpr, SIZE: tl.constexpr):
    """Along the window in row ``h`` the outputs' gradients, and then the places of what they were; 255 where there is none."""
    w, width = inside
    exists = exists & (h >= 0) & (h < height)
    values, places = (), ()
    for k in tl.static_range(SIZE):
        there = exists & (w + (k - SIZE // 2) >= 0) & (w + (k - SIZE // 2) < width)
        by = h * pitch + (k - SIZE // 2) * step
        values = values + (tl.load(upstream + by, mask=there, other=0.0).to(compute),)  # type: ignore[assignment]
        places = places + (tl.load(index + by, mask=there, other=255).to(tl.int32),)  # type: ignore[assignment]
    return values + places


@triton.jit
def _add_row(total, row, k, SIZE: tl.constexpr):
    """``total`` and the gradients of row k of the outputs around a pixel, of those that took it."""
    for i in tl.static_range(SIZE):
        total += tl.where(row[SIZE + i] == (SIZE - 1 - k) * SIZE + (SIZE - 1 - i), row[i], 0.0)
    return total


@triton.jit(do_not_specialize=INTEGERS)
def max_pool_gradient_kernel(
    out,
    upstream,
    index,
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
    SIZE: tl.constexpr,
    PLANES: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
):
    """out = the sum of the gradients of those outputs that took the pixel."""
    compute: tl.constexpr = tl.float64 if upstream.dtype.element_ty == tl.float64 else tl.float32
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
    upstream, index, half = upstream + at, index + at, SIZE // 2
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros(at.shape, compute),)  # type: ignore[assignment]  # of another length
    if SIZE <= UNROLLED_SIZE:
        for r in tl.static_range(ROWS + SIZE - 1):
            row = _read_row(upstream, index, top + r - half, inside, height, pitch, step, exists, compute, SIZE)
            before, sums = sums, ()
            for j in tl.static_range(ROWS):
                if r >= j and r < j + SIZE:
                    sums = sums + (_add_row(before[j], row, r - j, SIZE),)  # type: ignore[assignment]
                else:
                    sums = sums + (before[j],)  # type: ignore[assignment]
    else:  # ROWS is 1
        total = sums[0]  # type: ignore[misc]
        for k in range(SIZE):
            row = _read_row(upstream, index, top + k - half, inside, height, pitch, step, exists, compute, SIZE)
            total = _add_row(total, row, k, SIZE)
        sums = (total,)  # type: ignore[assignment]
    for j in tl.static_range(ROWS):
        value = sums[j].to(out.dtype.element_ty)  # type: ignore[var-annotated]
        tl.store(out + at + (top + j) * pitch, value, mask=exists & (top + j < height))


def launch(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The largest of size x size pixels, and its place in the window.

    Args:
        x: [B, C, H, W], float16, bfloat16, float32 or float64, any layout; contiguous and channels_last memory is read
            as it is. At most 2^31 - 1 elements of an image (contiguous: of a plane), and 2^31 - 1 columns of 4 pixels.
        size: of the window, odd, at most 15.

    Returns:
        A tensor of x's shape, dtype and memory format, and one in uint8, whose k is row k // size, place k % size of the
        window.
    """
    out = torch.empty_like(x)
    index = torch.empty_like(out, dtype=torch.uint8)
    if x.numel() == 0:
        return out, index
    last, (written, places) = memory(out, index)
    given = (written, places, _launch.memory(written, x))
    _launch_windows(max_pool_kernel, written, last, size, given)
    return _launch.finish(out, written), _launch.finish(index, places)


def launch_gradient(upstream: Tensor, index: Tensor, size: int) -> Tensor:
    """The gradient of x.

    Args:
        upstream: the gradient of the output, as x in :func:`launch`.
        index: what :func:`launch` gave.
        size: of the window.

    Returns:
        A tensor of upstream's shape, dtype and memory format.
    """
    out = torch.empty_like(upstream)
    if upstream.numel() == 0:
        return out
    last, (written,) = memory(out)
    given = (written, _launch.memory(written, upstream), _launch.memory(written, index))
    _launch_windows(max_pool_gradient_kernel, written, last, size, given)
    return _launch.finish(out, written)


def _launch_windows(kernel: Any, on: Tensor, last: bool, size: int, given: tuple[Tensor, ...]) -> None:
    grid, numbers, constants = shares(on.shape, last, 4 if size <= UNROLLED else 1, _launch.interpreted())
    _kept.launch(kernel, grid, on, (*given, *numbers), (size, *constants), _launch.OPTIONS)
