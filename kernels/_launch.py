"""What every launch does before its kernel: layouts, how the work is shared out, and the arguments of the noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _kept, philox

BLOCK = 256  # quads per program: 1024 elements, 2 quads per thread with WARPS warps
WARPS = 4
INTERPRETED_BLOCK = 1 << 14  # the interpreter pays for every program, not for every element
WIDE_FROM = 1 << 31  # quads in one line from which their number needs 64 bits
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}  # no contraction: the contract says which fma there are
INTEGERS = (
    "seed",
    "step",
    "philox_stream",
    "first",
    "rows",
    "quads",
    "tiles",
    "magic",
    "shift",
)  # new values: no recompile


def interpreted() -> bool:
    """Whether the kernels of this process run in Triton's interpreter (``TRITON_INTERPRET=1`` at import)."""
    return type(philox.words).__name__ == "InterpretedFunction"


def reciprocal(d: int) -> tuple[int, int]:
    """(magic, shift) so that ``n // d == (2 n magic >> 32) >> shift`` for 0 <= n < 2^31, 1 <= d < 2^31.

    With 2^(s-1) < d <= 2^s and m = ceil(2^(31+s) / d): m d exceeds 2^(31+s) by less than 2^s, so n m / 2^(31+s)
    exceeds n / d by less than 1 / d, which the floor does not see; and m < 2^32.
    """
    shift = (d - 1).bit_length()
    return -(-(1 << 31 + shift) // d), shift


def plan(rows: int, width: int, *, whole_rows: bool = False) -> tuple[tuple[int], dict[str, int | bool], int]:
    """How [rows, width] elements are shared out among programs: see ``philox.elements``.

    A row gets programs of its own where that idles at most one place in 16, or where sums over rows are wanted
    (``whole_rows``) and a row fills a program; short rows then share a program, and where twice as large programs divide
    a row they are so large: what a sum takes besides its elements is half as much.

    Returns:
        The grid, the kernel's arguments by name, and the number of tiles per row.
    """
    block = INTERPRETED_BLOCK if interpreted() else BLOCK
    quads = -(-width // 4)
    if whole_rows and quads % (2 * block) == 0:
        block *= 2
    if quads > (1 << 31) - block:
        raise ValueError(f"a sample may have at most 2^33 - {4 * block} elements, got {width}")
    tiles, places = -(-quads // block), block
    if whole_rows and quads <= block // 2:
        tiles, places = 1, 1 << (quads - 1).bit_length()
    elif not whole_rows and 16 * tiles * block > 17 * quads:
        tiles, places = 1, 0
    if places:
        programs = -(-rows * tiles * places // block)
        full = quads == tiles * places and rows * tiles * places == programs * block
    else:
        programs = -(-rows * quads // block)
        full = rows * quads == programs * block
    if programs >= 1 << 31:
        raise ValueError(f"too many elements for one launch: {rows} x {width}")
    magic, shift = reciprocal(tiles if places else quads)
    return (
        (programs,),
        {
            "rows": rows,
            "quads": quads,
            "tiles": tiles,
            "magic": magic,
            "shift": shift,
            "BLOCK": block,
            "QUADS": places,
            "PAD": 4 * quads - width,
            "MASK": not full or (whole_rows and places < block),  # there whatever the number of rows
            "WIDE": places == 0 and rows * quads + block > WIDE_FROM,
        },
        tiles,
    )


class Shares(NamedTuple):
    """A :func:`plan` as :func:`launch` takes it: the grid, the last arguments and the last constants of a kernel."""

    grid: tuple[int, int, int]
    arguments: tuple[int, ...]
    constants: tuple[int | bool, ...]
    tiles: int


def shares(rows: int, width: int, *, whole_rows: bool = False) -> Shares:
    """How [rows, width] elements are shared out; :func:`plan`, made once."""
    return _shares(rows, width, whole_rows, INTERPRETED_BLOCK if interpreted() else BLOCK, WIDE_FROM)


@lru_cache(maxsize=4096)
def _shares(rows: int, width: int, whole_rows: bool, *_: int) -> Shares:
    """:func:`shares`, for each state of what a plan depends on."""
    (programs,), by_name, tiles = plan(rows, width, whole_rows=whole_rows)
    values = tuple(by_name.values())
    numbers = sum(name.islower() for name in by_name)
    return Shares((programs, 1, 1), values[:numbers], values[numbers:], tiles)


def launch(kernel: Any, on: Tensor, arguments: tuple, constants: tuple, shares: Shares) -> None:
    """A kernel whose last arguments and constants say how its work is shared out, on the device of ``on``."""
    _kept.launch(kernel, shares.grid, on, arguments + shares.arguments, constants + shares.constants, OPTIONS)


def noise(seed: int, step: int, stream: int, offset: int, state: Tensor | None, index: Tensor | None) -> tuple:
    """The kernel's arguments that name the noise.

    Args:
        seed: the 64-bit seed as a two's complement number, from -2^63 to 2^63 - 1.
        step, stream, offset: 0 to 2^32 - 1; ``offset`` is the global index of row 0.
        state: int64 [2] on the device, (seed, step), read by the kernel in place of the numbers; or None.
        index: int64 [B] on the device, the global index of every row, in place of ``offset`` + row; or None.
    """
    return (
        seed,
        step,
        int(stream),
        offset,
        None if state is None else state.contiguous(),
        None if index is None else index.contiguous(),
    )


def shape2d(x: Tensor) -> tuple[int, int]:
    """(rows, elements per row) of x [B, ...], which is not empty."""
    rows = x.shape[0]
    return rows, x.numel() // rows


def row_values(value: Tensor, x: Tensor) -> tuple[Tensor, bool]:
    """A [] or [B] tensor in the dtype of computation, contiguous, and whether it is [B]."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    if value.dtype != compute:
        value = value.to(compute)
    return (value.contiguous(), True) if value.dim() else (value, False)


def aligned(x: Tensor) -> Tensor:
    """A contiguous tensor, or its copy, at an address that 16 divides: one compiled kernel for all."""
    return x.clone() if x.data_ptr() & 15 else x


def contiguous(out: Tensor) -> Tensor:
    """Where a kernel writes for ``out``: ``out`` itself if it is contiguous, else a tensor for :func:`finish`."""
    return out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)


def finish(out: Tensor, written: Tensor) -> Tensor:
    """``out``, holding what the kernel wrote."""
    return out if written is out else out.copy_(written)


def memory(like: Tensor, x: Tensor) -> Tensor:
    """The elements of ``x`` as those of ``like`` lie, which is without gaps: its own memory, or a copy's."""
    if x.stride() == like.stride():
        return x
    places = zip(x.shape, x.stride(), like.stride())
    laid = x if all(size == 1 or a == b for size, a, b in places) else torch.empty_like(like, dtype=x.dtype).copy_(x)
    return laid.as_strided((x.numel(),), (1,))
