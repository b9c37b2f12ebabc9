"""elu: y = x where x > 0, else exp(x) - 1: 8 bytes an element in float32, and 12 for the gradient, of the output."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _launch, exponential, philox


@triton.jit(do_not_specialize=_launch.INTEGERS)
def elu_kernel(
    out,
    x,
    upstream,
    rows: tl.int64,
    quads: tl.int32,
    tiles: tl.int32,
    magic: tl.uint32,
    shift: tl.uint32,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out = elu(x), or, where ``upstream`` is given, upstream (x > 0 ? 1 : x + 1) for an x that is an output."""
    _, _, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    value = tl.load(x + base + offset, mask=exists)
    value = value.to(tl.float64 if value.dtype == tl.float64 else tl.float32)
    if upstream is None:
        value = exponential.elu(value)
    else:
        g = tl.load(upstream + base + offset, mask=exists).to(value.dtype)
        value = g * tl.where(value > 0, 1.0, value + 1.0)
    tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)


def launch(x: Tensor) -> Tensor:
    """elu(x), rounded once; x of float16, bfloat16, float32 or float64, of any shape and layout."""
    return _launched(x, None)


def launch_gradient(upstream: Tensor, out: Tensor) -> Tensor:
    """upstream (out > 0 ? 1 : out + 1), rounded once; both of one shape and dtype, of any layout."""
    return _launched(out, upstream)


def _launched(x: Tensor, upstream: Tensor | None) -> Tensor:
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    given = (out, _launch.memory(out, x), None if upstream is None else _launch.memory(out, upstream))
    _launch.launch(elu_kernel, x, given, (), _launch.shares(1, x.numel()))  # one line of memory, whatever the strides
    return out
