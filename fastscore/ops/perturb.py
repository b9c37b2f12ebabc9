"""perturb: x_tilde = alpha x + sigma z, z ~ N(0, I)."""

from __future__ import annotations

from torch import Tensor

from .. import _check
from ..rng import Noise, Philox, Stream, as_philox


def perturb(x: Tensor, sigma: float | Tensor, rng: Philox | None = None, *,
            alpha: float | Tensor | None = None) -> tuple[Tensor, Noise]:
    """Add Gaussian noise: a draw from p(x_tilde | x) = N(alpha x, sigma^2 I).

    ``x_tilde_b = alpha_b x_b + sigma_b z_b``, computed in float32 (float64 for a float64 ``x``) and rounded once.

    Args:
        x: clean samples [B, ...]; float16, bfloat16, float32 or float64.
        sigma: standard deviation of the noise, in the units of ``x``: a number or [B], greater than 0.
        rng: source of the noise; takes one step. ``None``: seeded from torch's default generator.
        alpha: factor on ``x``: a number or [B], at least 0; ``None`` is 1 (variance exploding, as in NCSN).

    Returns:
        ``x_tilde`` [B, ...] of ``x``'s dtype, and the handle of the noise: ``noise.tensor()`` is z [B, ...].

    Raises:
        TypeError: ``x`` is not a floating tensor, ``sigma`` or ``alpha`` not a number or tensor.
        ValueError: no batch dimension; ``sigma`` not positive and finite, or of another shape.

    Source: Vincent 2011, "A connection between score matching and denoising autoencoders".
    """
    _check.floating("x", x)
    sigma = _check.per_sample("sigma", sigma, x)
    alpha = None if alpha is None else _check.per_sample("alpha", alpha, x, zero_allowed=True)
    noise = as_philox(rng).noise(x.shape, stream=Stream.PERTURB, dtype=x.dtype, device=x.device)
    return reference(x, sigma, noise, alpha), noise


def reference(x: Tensor, sigma: Tensor, noise: Noise, alpha: Tensor | None = None) -> Tensor:
    """alpha x + sigma z in plain torch; ``sigma`` and ``alpha`` broadcast against ``x``."""
    compute = _check.compute_dtype(x)
    mean = x.to(compute) if alpha is None else alpha * x.to(compute)
    return (mean + sigma * noise.tensor(compute)).to(x.dtype)
