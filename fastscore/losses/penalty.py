"""The squared Frobenius norm of a score's Jacobian, from its products with random directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..rng import Philox
from ..trace.products import DEFAULT_MODE
from .common import check_sliced, products, reduced, square


def gradient_penalty(
    score_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    rng: Philox | None = None,
    projection: str = "rademacher",
    n_particles: int = 1,
    mode: str = DEFAULT_MODE,
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """An unbiased estimate of ||ds/dx||_F^2, which keeps a score smooth where it is added to a loss.

    With J = ds/dx and E[v v^T] = I, E ||J v||^2 = tr(J E[v v^T] J^T) = ||J||_F^2, and so is E ||J^T v||^2::

        penalty_b = mean over v of ||J^T v||^2   (mode "vjp"),   of ||J v||^2   (mode "jvp")

    For s = A x its expectation is ||A||_F^2. The two modes have one expectation, and the same values where J is
    symmetric, as that of a true score is.

    Args:
        score_fn: the network, ``score_fn(x)``, [B, ...] to [B, ...]; evaluated once.
        x: samples [B, ...].
        rng: source of the directions; takes ``n_particles`` steps. ``None``: seeded from torch's default generator.
        projection, n_particles, mode, model_kwargs, reduction: as for :func:`fastscore.losses.ssm`.

    Returns:
        A number, or [B]; float64 for a float64 ``x``, else float32. Differentiable in the network's parameters.

    Raises:
        As :func:`fastscore.losses.ssm`.

    Source: Hutchinson 1990 (the estimator, of tr J J^T); Drucker & Le Cun 1992, "Improving generalization performance
    using double backpropagation" (the penalty).
    """
    along = check_sliced(score_fn, x, rng, projection, n_particles, mode, model_kwargs, reduction)
    _, rows = products(along)
    return reduced(square(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).mean(0), reduction)
