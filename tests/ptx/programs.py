"""Small Triton kernels for the interpreter's tests."""

import triton
import triton.language as tl


@triton.jit
def add(out, x, y, n: tl.int32, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask=exists) + tl.load(y + offsets, mask=exists), mask=exists)


@triton.jit
def softmax(out, x, width: tl.int32, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    start, exists = tl.program_id(0) * width, columns < width
    value = tl.load(x + start + columns, mask=exists, other=-float("inf"))
    power = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + start + columns, power / tl.sum(power, axis=0), mask=exists)


@triton.jit
def layer_norm(out, x, width: tl.int32, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    start, exists = tl.program_id(0) * width, columns < width
    value = tl.load(x + start + columns, mask=exists, other=0.0).to(tl.float32)
    centred = tl.where(exists, value - tl.sum(value, axis=0) / width, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / width + 1e-5)
    tl.store(out + start + columns, (centred * scale).to(out.dtype.element_ty), mask=exists)
