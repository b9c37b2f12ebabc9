"""How work on [B, C, pixels] is shared out where every image and channel, an instance, has numbers of its own.

A program works on a tile of two dimensions whose second is contiguous in memory: [instances, pixels] where the channels
are planes, [pixels, channels] where they come last. Which pixels are together, and so the order of every sum, depends on
the size of an image, the number of channels and the memory format, and never on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _kept

TILE = 1 << 14  # bytes of a program: 64 a thread
LINE = 128  # bytes of a pixel's channels that a program has, where channels come last; more where pixels are few
WHOLE = 8192  # a sample of at most so many elements has one program, and is read once
CHUNKS = 1024  # of an instance at most: larger images have larger chunks, which a program walks tile by tile
COMBINED = 2048  # partial results that a program combines at once
CHANNELS = 1 << 15
INTEGERS = ("instances", "pixels", "channels", "chunks")  # new values: no recompile


def power(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def warps(elements: int, a_thread: int = 16) -> int:
    """How many warps share so many elements."""
    return min(max(elements // (32 * a_thread), 1), 16)


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """x with its channels as planes or last, copied where they are neither, and whether they are last."""
    if x.is_contiguous():
        return x, False
    if x.movedim(1, -1).is_contiguous():
        return x, True
    return x.contiguous(), False


def like(x: Tensor, last: bool) -> Tensor:
    """x in the memory format of another tensor, copied where it has another."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def finish(x: Tensor, source: Tensor, written: Tensor) -> Tensor:
    """What a kernel wrote beside ``source``, in the memory format of the x that :func:`dense` made it of."""
    return written if source is x else torch.empty_like(x).copy_(written)


@dataclass(frozen=True)
class Plan:
    """How the elements of x [B, C, ...], dense, are shared out.

    Args:
        grid: of the kernels that walk the elements.
        arguments: theirs.
        chunks: how many an instance has.
        whole: a program has a whole sample.
        warps: of a program.
    """

    grid: tuple[int, int, int]
    arguments: dict[str, int | bool]
    chunks: int
    whole: bool
    warps: int

    @classmethod
    def of(cls, x: Tensor, last: bool) -> Plan:
        return _plan(x.shape, x.element_size(), last)

    @classmethod
    def made(cls, shape: torch.Size, size: int, last: bool) -> Plan:
        """The plan for a shape, and for elements of ``size`` bytes."""
        batch, channels, pixels = shape[0], shape[1], shape[2:].numel()
        if channels > CHANNELS:
            raise ValueError(
                f"x must have at most {CHANNELS} channels in the Triton kernels, got {channels}: call it under "
                'fastscore.use_backend("reference")'
            )
        if pixels >= 1 << 31 or batch * channels >= 1 << 31:
            raise ValueError(
                "x must have less than 2^31 pixels an image, and images times channels in the Triton kernels, got "
                f'{tuple(shape)}: split the batch, or call it under fastscore.use_backend("reference")'
            )
        wide, long, tile, line = power(channels), power(pixels), TILE // size, LINE // size
        whole = wide * long <= WHOLE
        if whole:
            block = (long, wide) if last else (wide, long)
        elif last:
            columns = min(wide, max(line, tile // long))
            block = (min(long, tile // columns), columns)
        else:
            block = (max(tile // long, 1), min(long, tile))
        tiles = -(-pixels // block[0 if last else 1])
        steps = power(-(-tiles // CHUNKS))
        chunks = -(-tiles // steps)
        if whole:
            grid = (batch, 1, 1)
        else:
            grid = (batch, chunks, -(-channels // block[1])) if last else (-(-batch * channels // block[0]), chunks, 1)
        across = (channels if whole else batch * channels) if not last else channels
        along = block[0 if last else 1] * steps
        full = pixels == chunks * along and across % block[1 if last else 0] == 0
        arguments = {
            "instances": batch * channels,
            "pixels": pixels,
            "channels": channels,
            "LAST": last,
            "BLOCK_0": block[0],
            "BLOCK_1": block[1],
            "STEPS": steps,
            "EVEN": gcd(channels if last else pixels, 16 // size),
            "MASK": not full,
        }
        a_thread = 16 if whole else 64 // size
        return cls(grid, arguments, chunks, whole, warps(block[0] * block[1], a_thread))

    @cached_property
    def options(self) -> dict[str, int | bool]:
        """Those of the compiler; one stage: nothing is copied ahead of the step that uses it."""
        return {"num_warps": self.warps, "num_stages": 1, "enable_fp_fusion": False}

    @cached_property
    def _walking(self) -> tuple[tuple, tuple]:
        return _halves(self.arguments)

    @cached_property
    def _combining(self) -> tuple[tuple[int, int, int], tuple, tuple, dict[str, int | bool]]:
        batch = int(self.arguments["instances"]) // int(self.arguments["channels"])
        return (batch, 1, 1), *_halves(self.combining()), self.combining_options()

    def launch(self, kernel: Any, x: Tensor, tensors: tuple, constants: tuple) -> None:
        """A kernel that walks the elements, of its tensors and the constants before :attr:`arguments`."""
        numbers, own = self._walking
        _kept.launch(kernel, self.grid, x, tensors + numbers, constants + own, self.options)

    def combine(self, kernel: Any, x: Tensor, tensors: tuple, constants: tuple) -> None:
        """A kernel with one program a sample, of its tensors and the constants before those of :meth:`combining`."""
        grid, numbers, own, options = self._combining
        _kept.launch(kernel, grid, x, tensors + numbers, constants + own, options)

    def combining(self) -> dict[str, int]:
        """The arguments of a kernel that has one program a sample, and combines the partial results of its chunks."""
        channels, last = int(self.arguments["channels"]), bool(self.arguments["LAST"])
        wide = power(channels)
        along = int(self.arguments["BLOCK_0" if last else "BLOCK_1"]) * int(self.arguments["STEPS"])
        return {
            "instances": int(self.arguments["instances"]),
            "pixels": int(self.arguments["pixels"]),
            "channels": channels,
            "chunks": self.chunks,
            "CHUNK": along,
            "CHANNELS": wide,
            "TOGETHER": min(power(self.chunks), max(COMBINED // wide, 1)),
        }

    def combining_options(self) -> dict[str, int | bool]:
        block = self.combining()
        return {
            "num_warps": warps(block["CHANNELS"] * block["TOGETHER"], 4),
            "num_stages": 1,
            "enable_fp_fusion": False,
        }


@lru_cache(maxsize=1024)
def _plan(shape: torch.Size, size: int, last: bool) -> Plan:
    return Plan.made(shape, size, last)


def _halves(by_name: dict[str, Any]) -> tuple[tuple, tuple]:
    """The numbers, and the constants, whose names are in capitals."""
    numbers = tuple(value for name, value in by_name.items() if name.islower())
    return numbers, tuple(by_name.values())[len(numbers) :]


def parameters(x: Tensor, *values: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The memory of [C] or [B, C] tensors in the dtype of computation, and how far apart a tensor's rows are in it: so many
    times C, 0 for [C]. No copy of what is contiguous, nor of the parts of rows that are cut into parts of C each, as an
    embedding of all three is."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    found = [_rows(value.to(dtype)) for value in values]
    return tuple([memory for memory, _ in found]), tuple([apart for _, apart in found])


def _rows(value: Tensor) -> tuple[Tensor, int]:
    if value.dim() == 1 or value.is_contiguous():
        return value.contiguous(), value.dim() - 1
    rows, channels = value.shape
    apart, rest = divmod(value.stride(0), channels)
    if value.stride(1) != 1 or rest or apart == 0:
        return value.contiguous(), 1
    return value.as_strided(((rows - 1) * value.stride(0) + channels,), (1,)), apart


@triton.jit
def place(
    step,
    instances,
    pixels,
    channels,
    LAST: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    STEPS: tl.constexpr,
    EVEN: tl.constexpr,
    MASK: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Where a program works in its tile ``step``.

    Returns:
        The instance of every line of the tile [BLOCK], which of these exist, the elements (a scalar int64 ``base``,
        offsets from it [BLOCK_0, BLOCK_1], which exist), and how many pixels the tile has.
    """
    one, two = tl.arange(0, BLOCK_0), tl.arange(0, BLOCK_1)
    first = tl.program_id(0).to(tl.int64)
    if LAST:
        pixel = (tl.program_id(1) * STEPS + step) * BLOCK_0
        channel = tl.program_id(2) * BLOCK_1
        width = channels // EVEN * EVEN
        base = (first * pixels + pixel) * width + channel
        instance, there = first * width + channel + two, channel + two < width
        across = there[None, :] & (pixel + one < pixels)[:, None]
        count = tl.minimum(tl.maximum(pixels - pixel, 0), BLOCK_0)
    else:
        pixel = (tl.program_id(1) * STEPS + step) * BLOCK_1
        width = pixels // EVEN * EVEN
        if WHOLE:
            first, limit = first * channels, channels
            there = one < limit
        else:
            first = first * BLOCK_0
            there = first + one < instances
        base = first * width + pixel
        instance = first + one
        across = there[:, None] & (pixel + two < width)[None, :]
        count = tl.minimum(tl.maximum(pixels - pixel, 0), BLOCK_1)
    offset = one[:, None] * width + two[None, :]
    if not MASK:
        there = tl.full(there.shape, 1, tl.int1)
        across = tl.full([BLOCK_0, BLOCK_1], 1, tl.int1)
    return instance, there, base, offset, across, count


@triton.jit
def spread(values, LAST: tl.constexpr):
    """A number for every instance of a tile, [BLOCK], beside its elements."""
    return values[None, :] if LAST else values[:, None]


@triton.jit
def quotient(x, y):
    """x / y, rounded to nearest."""
    if x.dtype == tl.float64:
        result = x / y
    else:
        result = tl.div_rn(x, y)
    return result
