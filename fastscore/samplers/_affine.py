"""x' = a x + sum_k b_k s_k + c z, which every solver's update is, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .._core import checks
from ..rng import Philox, Stream

Number = float | Tensor


def affine_step(
    x: Tensor, scores: Sequence[Tensor], a: Number, b: Sequence[Number], c: Number | None, rng: Philox | None
) -> Tensor:
    """a x + sum_k b_k s_k + c z, computed in float32 (float64 for float64) and rounded once.

    Args:
        x: samples [B, ...]; scores: up to three tensors of its shape; a, b, c: numbers, or [B].
        rng: source of z, one step; where c is None or 0 nothing is drawn.
    """
    compute = checks.compute_dtype(x)

    def row(number: Number) -> Number:
        return number.to(compute).reshape(-1, *[1] * (x.dim() - 1)) if isinstance(number, Tensor) else number

    value = row(a) * x.to(compute)
    for factor, score in zip(b, scores, strict=True):
        value = value + row(factor) * score.to(compute)
    if c is not None and (isinstance(c, Tensor) or c != 0):
        assert rng is not None
        value = value + row(c) * rng.randn(x.shape, stream=Stream.LANGEVIN, dtype=compute, device=x.device)
    return value.to(x.dtype)
