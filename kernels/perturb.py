"""perturb: x_tilde = alpha_b x + sigma_b z, with z drawn in the kernel: 8 bytes per element in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _launch, philox


@triton.jit(do_not_specialize=_launch.INTEGERS)
def perturb_kernel(
    out,
    x,
    alpha,
    sigma,
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
    ALPHA_ROWS: tl.constexpr,
    SIGMA_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out = alpha_b x + sigma_b z."""
    row, quad, base, offset, exists = philox.elements(
        tl.program_id(0), rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    s = philox.row_value(sigma, row, SIGMA_ROWS)
    mean = tl.load(x + base + offset, mask=exists).to(s.dtype)
    if alpha is not None:
        mean = philox.row_value(alpha, row, ALPHA_ROWS) * mean
    z = philox.normals(quad, row, seed, step, philox_stream, first, state, index, BLOCK).to(s.dtype)
    value = tl.fma(tl.broadcast_to(s, [BLOCK, 4]), z, mean)
    tl.store(out + base + offset, value.to(out.dtype.element_ty), mask=exists)


def launch(
    x: Tensor,
    alpha: Tensor | None,
    sigma: Tensor,
    seed: int,
    step: int,
    stream: int,
    offset: int,
    state: Tensor | None,
    index: Tensor | None,
) -> Tensor:
    """alpha_b x + sigma_b z, z ~ N(0, 1), rounded once.

    Args:
        x: [B, ...], float16, bfloat16, float32 or float64, any layout.
        alpha: [] or [B], or None for 1; sigma: [] or [B]. float64 beside a float64 x, else float32.
        seed, step, stream, offset, state, index: which noise, see ``_launch.noise``.

    Returns:
        x_tilde, of x's shape, dtype and memory format.
    """
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    written = _launch.contiguous(out)
    sigma, sigma_rows = _launch.row_values(sigma, x)
    alpha, alpha_rows = (None, False) if alpha is None else _launch.row_values(alpha, x)
    given = (written, x.contiguous(), alpha, sigma)
    noise = _launch.noise(seed, step, stream, offset, state, index)
    shares = _launch.shares(*_launch.shape2d(x))
    _launch.launch(perturb_kernel, x, given + noise, (alpha_rows, sigma_rows), shares)
    return _launch.finish(out, written)
