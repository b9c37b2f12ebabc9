"""langevin_step: x' = x + alpha/2 score + sqrt(alpha) z, z ~ N(0, I)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _check
from ..rng import Noise, Philox, Stream, as_philox


def langevin_step(x: Tensor, score: Tensor, alpha: float | Tensor, rng: Philox | None = None, *,
                  noise: Noise | Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """One step of (unadjusted) Langevin dynamics, uphill along the score.

    ``x'_b = x_b + alpha_b/2 score_b + sqrt(alpha_b) z_b``. In the form x + tau s + sqrt(2 tau) z, alpha = 2 tau;
    the ``step_lr`` of the NCSN code is a tau. Computed in float32 (float64 for float64) and rounded once.

    Args:
        x: samples [B, ...]; float16, bfloat16, float32 or float64.
        score: the score at ``x``, of its shape and device.
        alpha: step size, in squared units of ``x``: a number or [B], at least 0.
        rng: source of the noise; takes one step. ``None``: seeded from torch's default generator.
        noise: noise to use in place of a draw from ``rng``: a handle or a tensor of ``x``'s shape.
        out: where to write the result, of ``x``'s shape, dtype and device; may be ``x`` itself. Not differentiable.

    Returns:
        x' [B, ...] of ``x``'s dtype (``out`` where given).

    Raises:
        TypeError: ``x`` or ``score`` is not a floating tensor.
        ValueError: shapes or devices differ; ``alpha`` negative or not finite; ``out`` while gradients are recorded.

    Source: Welling & Teh 2011; Song & Ermon 2019, algorithm 1.
    """
    _check.floating("x", x)
    _check.like("score", score, "x", x)
    alpha = _check.per_sample("alpha", alpha, x, zero_allowed=True)
    if out is not None:
        _check_out(out, x, score, alpha)
    if noise is None:
        noise = as_philox(rng).noise(x.shape, stream=Stream.LANGEVIN, dtype=x.dtype, device=x.device)
    elif rng is not None:
        raise ValueError("rng must be None where noise is given: the noise is then not drawn")
    elif isinstance(noise, Tensor):
        _check.like("noise", noise, "x", x)
    elif not isinstance(noise, Noise) or noise.shape != x.shape or noise.device != x.device:
        raise ValueError(f"noise must be a handle or a tensor of shape {tuple(x.shape)} on {x.device}, "
                         f"got {_check.describe(noise)}")
    value = reference(x, score, alpha, noise)
    return value if out is None else out.copy_(value)


def _check_out(out: Any, *inputs: Tensor) -> None:
    x = inputs[0]
    _check.like("out", out, "x", x)
    if out.dtype != x.dtype:
        raise TypeError(f"out must have the dtype of x, {x.dtype}, got {_check.describe(out)}")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*inputs, out)):
        raise ValueError("out must be None where gradients are recorded: leave it out, or use torch.no_grad()")


def reference(x: Tensor, score: Tensor, alpha: Tensor, noise: Noise | Tensor) -> Tensor:
    """x + alpha/2 score + sqrt(alpha) z in plain torch; ``alpha`` broadcasts against ``x``."""
    compute = _check.compute_dtype(x)
    z = noise.tensor(compute) if isinstance(noise, Noise) else noise.to(compute)
    return (x.to(compute) + alpha / 2 * score.to(compute) + alpha.sqrt() * z).to(x.dtype)
