"""The stable target field: denoising whose target is averaged over a reference batch by its posterior weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core import calls, checks
from .._core.registration import per_row, rows_of
from ..conversions import condition
from ..ops.perturb import checked as perturb
from ..paths import Path
from ..rng import Philox
from ._objective import BatchLoss, Objective, PathLoss
from ._on_path import weighted
from ._times import Weighting
from .common import reduced, score_of, square
from .conditional import check_on_path


def target_field(x_t: Tensor, references: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The score of the references' own density at x_t: sum_k w_bk (alpha_b r_k - x_t,b) / sigma_b^2, [B, ...].

    ``w_bk`` is proportional to exp(-||x_t,b - alpha_b r_k||^2 / (2 sigma_b^2)), the posterior that r_k was the clean
    sample. Distances are taken in float64, in memory of B K numbers.

    Args:
        x_t: [B, ...].
        references: [K, ...], clean samples, among which each row's own should be: without it the target is not that of
            conditional score matching at small noise.
        alpha, sigma: [B].

    Returns:
        [B, ...] in the dtype of computation.
    """
    wide, flat = rows_of(x_t.double()), rows_of(references.double())
    alpha, sigma = alpha.double(), sigma.double()
    cross = wide @ flat.T
    squared = alpha[:, None].square() * flat.square().sum(1) - 2 * alpha[:, None] * cross  # and x_t^2, alike for all k
    posterior = (-squared / (2 * sigma[:, None].square())).softmax(1)
    mean = per_row(alpha, wide) * (posterior @ flat)
    return ((mean - wide) / per_row(sigma.square(), wide)).reshape(x_t.shape).to(checks.compute_dtype(x_t))


def stf(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    path: Path,
    *,
    references: Tensor | None = None,
    t: float | Tensor | None = None,
    rng: Philox | None = None,
    weighting: Weighting = "sigma^2",
    proposal: str = "uniform",
    conditioning: str = "t",
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Score matching with a stable target: E 1/2 w(t) || s(x_t, t) - sum_k w_k (alpha r_k - x_t) / sigma^2 ||^2.

    The target of :func:`csm`, (alpha x - x_t) / sigma^2, averaged over the references r_k by the posterior weights of
    :func:`target_field`: far less variance where several of them could have been x, for a bias that vanishes as they
    grow in number. The network is evaluated at x_t alone, once.

    Args:
        references: clean samples [K, ...] beside ``x``, whose rows are references too. ``None``: ``x`` alone. A row's loss
            depends on the others: a batch split in two is another loss.
        score_fn, x, path, t, rng, weighting, proposal, conditioning, model_kwargs, reduction: as for :func:`csm`.

    Raises:
        TypeError, ValueError: as :func:`csm`, or references of another shape or device.

    Source: Xu, Tong & Jaakkola 2023, "Stable target field for reduced variance score estimation in diffusion models".
    """
    if references is not None:
        checks.floating("references", references)
        if isinstance(x, Tensor) and (references.shape[1:] != x.shape[1:] or references.device != x.device):
            raise ValueError(
                f"references must be samples of the shape of x's, {tuple(x.shape[1:])} on {x.device}, got "
                f"{checks.describe(references)}"
            )
    keywords, at, rng = check_on_path(
        score_fn, x, path, t, rng, weighting, proposal, conditioning, model_kwargs, reduction
    )
    x_t, _ = perturb(x, at.sigma, rng, at.alpha)
    score = calls.score("score_fn", score_fn, x_t, *condition(path, at.t, conditioning, x_t), **keywords)
    among = x if references is None else torch.cat([x, references.to(x.dtype)])
    return reduced(at.factor * _against_field(score, x_t, among, at.alpha, at.sigma), reduction)


def _against_field(score: Tensor, x_t: Tensor, references: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """[B]: 1/2 sigma^2 || s - target ||^2."""
    with torch.no_grad():
        target = target_field(x_t, references, alpha, sigma)
    return 0.5 * sigma.square() * square(score - target)


def _bind(network: nn.Module, sigmas: Tensor, *, weight: float) -> BatchLoss:
    """:func:`stf` of a batch that is its own reference, times sigma^(weight - 2)."""

    def loss(x: Tensor, labels: Tensor, rng: Philox) -> Tensor:
        sigma = sigmas[labels]
        x_tilde, _ = perturb(x, sigma, rng)
        score = calls.leaving_x("network", score_of(network, {}, labels=labels, conditioning="labels"), x_tilde)
        return sigma ** (weight - 2) * _against_field(score, x_tilde, x, torch.ones_like(sigma), sigma)

    return loss


def _bind_path(score_fn: Callable[..., Tensor], path: Path, *, weight: float) -> PathLoss:
    """:func:`stf` of a batch that is its own reference, times sigma^(weight - 2)."""
    return weighted(score_fn, path, weight, term=_stable)


def _stable(score_fn: Callable[..., Tensor], x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, rng: Philox) -> Tensor:
    x_t, _ = perturb(x, sigma, rng, alpha)
    score = calls.score("score_fn", score_fn, x_t, t)
    return _against_field(score, x_t, x, alpha, sigma)


STABLE = Objective(
    name="stf",
    title="stable target field",
    source="Xu, Tong & Jaakkola 2023",
    summary="averages the target over the batch by its posterior weights; a batch is worked on in one part",
    bind=_bind,
    bind_path=_bind_path,
    first_order=True,
    whole_batch=True,
)
