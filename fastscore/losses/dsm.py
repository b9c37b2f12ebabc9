"""Denoising score matching: at one noise level (dsm) and at all of them (ncsn)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from ..ops import dsm_loss, perturb
from ..rng import Philox, Stream, as_philox
from ._common import PARAMETRIZATIONS, REDUCTIONS, reduce, score_of
from ._objective import BatchLoss, Objective


def dsm(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    sigma: float | Tensor,
    *,
    rng: Philox | None = None,
    alpha: float | Tensor | None = None,
    weight: float = 2.0,
    parametrization: str = "score",
    conditioning: str = "none",
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Denoising score matching at one noise level: E 1/2 sigma^weight || s(x_tilde) + z / sigma ||^2.

    Args:
        score_fn: the network; see the package's text for what it is called with ("none" or "sigma" here).
        x: clean samples [B, ...].
        sigma: standard deviation of the noise, a number or [B].
        rng: source of the noise (one step). ``None``: seeded from torch's default generator.
        alpha: factor on ``x`` in x_tilde = alpha x + sigma z; ``None`` is 1.
        weight: power of sigma. 2 makes the noise levels count alike; 0 is Vincent's unweighted loss.
        parametrization: ``"score"``: the network gives s; ``"epsilon"``: it gives an estimate of z, and
            s = -epsilon / sigma. With ``weight=2`` that is the loss of DDPM, 1/2 || epsilon - z ||^2.
        conditioning: ``"none"`` or ``"sigma"``.
        model_kwargs: what else ``score_fn`` is called with, by name; each loss passes them at each call.
        reduction: over the batch: ``"none"`` [B], ``"mean"`` or ``"sum"``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it.

    Source: Vincent 2011; Ho et al. 2020, equation 14 (epsilon).
    """
    checks.one_of("conditioning", conditioning, ("none", "sigma"))
    return _dsm(
        score_fn, x, sigma, None, as_philox(rng), alpha, weight, parametrization, conditioning, model_kwargs, reduction
    )


def ncsn(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    rng: Philox | None = None,
    labels: Tensor | None = None,
    weight: float = 2.0,
    parametrization: str = "score",
    conditioning: str = "labels",
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The multi-scale objective of NCSN: a noise level i ~ U{0..L-1} a sample, and DSM at sigma_i.

    ``loss_b = 1/2 sigma_i^weight || s(x_b + sigma_i z_b, i) + z_b / sigma_i ||^2``

    Args:
        score_fn: the network; ``score_fn(x, labels)`` or, by ``conditioning``, ``score_fn(x, sigma)``.
        x: clean samples [B, ...].
        sigmas: noise levels [L], strictly decreasing, in the units of ``x``.
        rng: source of labels and noise (two steps). ``None``: seeded from torch's default generator.
        labels: noise level of each sample, int64 [B]; ``None`` draws them uniformly.
        weight, parametrization, model_kwargs, reduction: as for :func:`dsm`.
        conditioning: ``"labels"`` or ``"sigma"``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it.

    Source: Song & Ermon 2019, "Generative modeling by estimating gradients of the data distribution", eq. 6.
    """
    checks.one_of("conditioning", conditioning, ("labels", "sigma"))
    checks.keywords(model_kwargs, score_fn, conditioning)
    rng = as_philox(rng)
    sigma, labels = noise_levels(x, sigmas, labels, rng)
    return _dsm(score_fn, x, sigma, labels, rng, None, weight, parametrization, conditioning, model_kwargs, reduction)


def noise_levels(x: Tensor, sigmas: Tensor, labels: Tensor | None, rng: Philox) -> tuple[Tensor, Tensor]:
    """(sigma [B], labels [B]) of each sample; labels that are None are drawn, by one step of ``rng``."""
    checks.floating("x", x)
    sigmas = checks.sigmas("sigmas", sigmas, device=x.device)
    if labels is None:
        labels = draw_labels(len(sigmas), x.shape[0], rng, device=x.device, beside=(x, sigmas))
    labels = checks.labels("labels", labels, x, len(sigmas))
    return sigmas[labels], labels


def draw_labels(
    num_levels: int,
    batch_size: int,
    rng: Philox,
    *,
    device: torch.device | str | None = None,
    beside: Sequence[Tensor] | None = None,
) -> Tensor:
    """Uniform noise-level labels, int64 [B] from 0 to ``num_levels`` - 1; takes one step of ``rng``.

    ``beside``: the tensors that they are for, which matter under ``torch.func.vmap``: see :meth:`Philox.noise`.
    """
    return rng.randint(num_levels, batch_size, stream=Stream.LABELS, device=device, beside=beside)


def _dsm(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    sigma: float | Tensor,
    labels: Tensor | None,
    rng: Philox,
    alpha: float | Tensor | None,
    weight: float,
    parametrization: str,
    conditioning: str,
    model_kwargs: Mapping[str, Any] | None,
    reduction: str,
) -> Tensor:
    checks.one_of("parametrization", parametrization, PARAMETRIZATIONS)
    checks.one_of("reduction", reduction, REDUCTIONS)
    weight = checks.number("weight", weight)
    checks.floating("x", x)
    sigma = checks.per_sample("sigma", sigma, x)
    score = score_of(score_fn, sigma, labels, conditioning, parametrization, model_kwargs)
    x_tilde, noise = perturb(x, sigma, rng, alpha=alpha)
    # eps = -sigma s: 1/2 sigma^p ||-eps/sigma + z/sigma||^2 = 1/2 sigma^(p-2) ||eps - z||^2
    return reduce(dsm_loss(score(x_tilde), noise, sigma, weight), reduction)


def _bind(network: nn.Module, sigmas: Tensor, *, weight: float) -> BatchLoss:
    """:func:`ncsn` of each sample; what does not change from batch to batch is checked already."""

    def loss(x: Tensor, labels: Tensor, rng: Philox) -> Tensor:
        sigma = sigmas[labels]
        x_tilde, noise = perturb(x, sigma, rng)
        return dsm_loss(network(x_tilde, labels), noise, sigma, weight)

    return loss


DENOISING = Objective(
    name="dsm",
    title="denoising score matching",
    source="Vincent 2011; Song & Ermon 2019",
    summary="compares the score with the noise that was added",
    bind=_bind,
)
