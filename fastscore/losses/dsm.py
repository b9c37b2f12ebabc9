"""Denoising score matching: at one noise level (dsm) and at all of them (ncsn)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._images import ImageBatch
from .._images import checked as perturb_images
from ..ops.dsm_loss import checked as dsm_loss
from ..ops.perturb import checked as perturb
from ..paths import Path
from ..rng import Philox, Stream, as_philox
from ._objective import BatchLoss, Objective, PathLoss
from ._on_path import weighted
from .common import PARAMETRIZATIONS, Score, check_reduction, reduced, score_of


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
    keywords, weight = _check(
        score_fn, x, weight, parametrization, conditioning, ("none", "sigma"), model_kwargs, reduction
    )
    sigma = checks.row_numbers("sigma", sigma, x)
    if alpha is not None:
        alpha = checks.row_numbers("alpha", alpha, x, zero_allowed=True)
    score = score_of(score_fn, keywords, sigma=sigma, conditioning=conditioning, parametrization=parametrization)
    return reduced(denoising(score, x, sigma, as_philox(rng), weight, alpha), reduction)


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
    """The multi-scale objective of NCSN: a noise level i ~ U{0..L-1} for each sample, and DSM at sigma_i.

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
    keywords, weight = _check(
        score_fn, x, weight, parametrization, conditioning, ("labels", "sigma"), model_kwargs, reduction
    )
    sigmas, labels = check_levels(x, sigmas, labels)
    rng = as_philox(rng)
    sigma, labels = noise_levels(x, sigmas, labels, rng)
    score = score_of(
        score_fn,
        keywords,
        sigma=sigma,
        labels=labels,
        conditioning=conditioning,
        parametrization=parametrization,
    )
    return reduced(denoising(score, x, sigma, rng, weight), reduction)


def check_levels(x: Tensor, sigmas: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The noise levels [L], on the device of ``x`` in the dtype of computation, and labels [B] that are given."""
    sigmas = checks.sigmas("sigmas", sigmas)
    if labels is not None:
        labels = checks.labels("labels", labels, x, len(sigmas))
    return sigmas.to(x.device, checks.compute_dtype(x)), labels


def noise_levels(x: Tensor, sigmas: Tensor, labels: Tensor | None, rng: Philox) -> tuple[Tensor, Tensor]:
    """(sigma [B], labels [B]) of each sample; labels that are None are drawn, by one step of ``rng``."""
    if labels is None:
        labels = draw_labels(len(sigmas), x.shape[0], rng, device=x.device, beside=(x, sigmas))
    return sigmas[labels], labels


def draw_labels(
    num_levels: int,
    batch_size: int,
    rng: Philox,
    *,
    device: torch.device | str | None = None,
    beside: Sequence[Tensor] | None = None,
) -> Tensor:
    """A noise level for each sample, uniform: labels int64 [B] from 0 to ``num_levels`` - 1.

    Args:
        num_levels: L.
        batch_size: B.
        rng: where they come from; takes one step, of the stream LABELS.
        device: of the labels. ``None``: torch's default device.
        beside: the tensors that they are for, which matter under ``torch.func.vmap``: see :meth:`Philox.noise`.
    """
    return rng.randint(num_levels, batch_size, stream=Stream.LABELS, device=device, beside=beside)


def drop_labels(class_labels: Tensor, num_classes: int, probability: float, rng: Philox) -> Tensor:
    """Class labels of which each is dropped with a probability, for a network that is to know "no label" too.

    Classifier-free guidance needs both scores of one network, which learns the second from the samples whose label is lost.

    Args:
        class_labels: int64 [B], from 0 to ``num_classes`` - 1.
        num_classes: K, which a dropped label becomes.
        probability: from 0 to 1; with 0 nothing is drawn.
        rng: where it is drawn from; takes one step, of the stream DROP.

    Returns:
        int64 [B].

    Raises:
        TypeError, ValueError: an argument is not as said.

    Source: Ho & Salimans 2022, "Classifier-free diffusion guidance", algorithm 1 (10 to 20 %).

    Example:
        >>> drop_labels(torch.tensor([3, 1, 4, 1]), 10, 1.0, Philox(0))
        tensor([10, 10, 10, 10])
    """
    if checks.tensor("class_labels", class_labels).dtype != torch.int64 or class_labels.dim() != 1:
        raise ValueError(f"class_labels must be an int64 tensor of shape (B,), got {checks.describe(class_labels)}")
    num_classes = checks.integer("num_classes", num_classes, low=1)
    if checks.positive("probability", probability, zero_allowed=True) > 1:
        raise ValueError(f"probability must be from 0 to 1, got {probability}")
    if probability == 0:
        return class_labels
    u = rng.rand((len(class_labels), 1), stream=Stream.DROP, device=class_labels.device)[:, 0]
    return torch.where(u < probability, num_classes, class_labels)


def denoising(
    score: Score, x: Tensor | ImageBatch, sigma: Tensor, rng: Philox, weight: float, alpha: Tensor | None = None
) -> Tensor:
    """[B]: 1/2 sigma^weight || s(alpha x + sigma z) + z / sigma ||^2, of arguments that were checked.

    Of a handle ``x``, with ``alpha`` None, the clean samples are never made.
    """
    if isinstance(x, ImageBatch):
        x_tilde, noise = perturb_images(x, sigma, rng)
    else:
        x_tilde, noise = perturb(x, sigma, rng, alpha)
    # eps = -sigma s: 1/2 sigma^p ||-eps/sigma + z/sigma||^2 = 1/2 sigma^(p-2) ||eps - z||^2
    return dsm_loss(score(x_tilde), noise, sigma, weight)


def _check(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    weight: float,
    parametrization: str,
    conditioning: str,
    conditionings: tuple[str, ...],
    model_kwargs: Mapping[str, Any] | None,
    reduction: str,
) -> tuple[dict[str, Any], float]:
    """``model_kwargs`` as a dict and ``weight`` as a number, once these arguments are known to be right."""
    if not callable(score_fn):
        raise TypeError(f"score_fn must be a function of x, [B, ...] -> [B, ...], got {checks.describe(score_fn)}")
    checks.floating("x", x)
    checks.one_of("conditioning", conditioning, conditionings)
    checks.one_of("parametrization", parametrization, PARAMETRIZATIONS)
    check_reduction(reduction, x)
    keywords = checks.keywords(model_kwargs, score_fn, *([] if conditioning == "none" else [conditioning]))
    return keywords, checks.number("weight", weight)


def _bind(network: nn.Module, sigmas: Tensor, *, weight: float) -> BatchLoss:
    """:func:`ncsn` of each sample; what does not change from batch to batch is checked already."""

    def loss(x: Tensor | ImageBatch, labels: Tensor, rng: Philox) -> Tensor:
        score = score_of(network, {}, labels=labels, conditioning="labels")
        return denoising(score, x, sigmas[labels], rng, weight)

    return loss


def _bind_path(score_fn: Callable[..., Tensor], path: Path, *, weight: float) -> PathLoss:
    """:func:`dsm` of each sample at its time, alpha being the path's."""
    return weighted(score_fn, path, weight)


DENOISING = Objective(
    name="dsm",
    title="denoising score matching",
    source="Vincent 2011; Song & Ermon 2019",
    summary="compares the score with the noise that was added",
    bind=_bind,
    bind_path=_bind_path,
    first_order=True,
    reads_images=True,
    as_good_in_bf16=True,
)
