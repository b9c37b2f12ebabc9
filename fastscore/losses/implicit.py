"""Implicit score matching: the objective that the sliced losses estimate, with the trace itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..rng import Philox
from ..trace import modules
from ..trace.jacobian_trace import check_x, estimate
from ..trace.messages import OF_ISM
from ..trace.products import AUTOMATIC, DEFAULT_MODE
from .common import check_reduction, half_square, reduced, score_of


def ism(
    score_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    method: str = "exact",
    num_probes: int = 1,
    blocks: int = 1,
    mode: str = DEFAULT_MODE,
    chunk_size: int | None = None,
    rng: Philox | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
    **options: Any,
) -> Tensor:
    """Implicit score matching: 1/2 E ||s - grad log p||^2 up to a constant, by integration by parts.

    ``loss_b = 1/2 ||s(x_b)||^2 + tr (ds/dx)(x_b)``

    For s = -a x and x ~ N(0, c^2 I_D) its mean is D (a^2 c^2 / 2 - a), least at the true score, a = 1 / c^2.

    Args:
        score_fn: the network, ``score_fn(x)``, [B, ...] to [B, ...].
        x: samples [B, ...].
        method: how the trace is found; ``"exact"`` (D Jacobian products per sample), or an estimator of
            :func:`fastscore.trace.jacobian_trace`: ``"rademacher"``, ``"gaussian"``, ``"sphere"``, ``"probing"``, ...
            All are unbiased, and so is the gradient. ``"rademacher"`` with one probe is :func:`ssm_vr`.
        num_probes, blocks, chunk_size, options: as for :func:`fastscore.trace.jacobian_trace`; ``"exact"`` needs none.
        mode: ``"vjp"`` or ``"jvp"``, as for :func:`ssm`.
        rng: source of the estimators' directions. ``None``: seeded from torch's default generator.
        model_kwargs, reduction: as for :func:`ssm`.

    Returns:
        A number, or [B]; float64 for a float64 ``x``, else float32. Differentiable in the network's parameters, at a
        memory that grows with the number of products.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`ssm` and :func:`fastscore.trace.jacobian_trace`.

    Source: Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching", theorem 1.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> float(ism(lambda x: -x, x))  # 1/2 (1 + 4) - 2
        0.5
    """
    layers = modules.check(score_fn, mode, "score_fn")
    checks.one_of("mode", mode, AUTOMATIC)
    keywords = checks.keywords(model_kwargs, score_fn)
    check_x(x)
    check_reduction(reduction, x)
    found = estimate(
        OF_ISM,
        layers,
        score_of(score_fn, keywords),
        x,
        method=method,
        num_probes=num_probes,
        blocks=blocks,
        mode=mode,
        chunk_size=chunk_size,
        rng=rng,
        create_graph=torch.is_grad_enabled(),
        **options,
    )
    return reduced(half_square(found.output) + found.value, reduction)
