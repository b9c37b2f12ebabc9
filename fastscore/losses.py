"""Score-matching objectives, composed from the operators.

What a ``score_fn`` is called with is said by ``conditioning``:

- ``"none"``: ``score_fn(x)``, a network for one noise level;
- ``"labels"``: ``score_fn(x, labels)``, labels int64 [B], indices into ``sigmas`` (as NCSN and NCSNv2);
- ``"sigma"``: ``score_fn(x, sigma)``, sigma [B] of the dtype of computation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import _check
from ._library import per_row
from .ops import dsm_loss, perturb
from .rng import Philox, Stream, as_philox

REDUCTIONS = ("none", "mean", "sum")
PARAMETRIZATIONS = ("score", "epsilon")


def dsm(score_fn: Callable[..., Tensor], x: Tensor, sigma: float | Tensor, *, rng: Philox | None = None,
        alpha: float | Tensor | None = None, weight: float = 2.0, parametrization: str = "score",
        conditioning: str = "none", reduction: str = "mean") -> Tensor:
    """Denoising score matching at one noise level: E 1/2 sigma^weight || s(x_tilde) + z / sigma ||^2.

    Args:
        score_fn: the network; see the module's text for what it is called with ("none" or "sigma" here).
        x: clean samples [B, ...].
        sigma: standard deviation of the noise, a number or [B].
        rng: source of the noise (one step). ``None``: seeded from torch's default generator.
        alpha: factor on ``x`` in x_tilde = alpha x + sigma z; ``None`` is 1.
        weight: power of sigma. 2 makes the noise levels count alike; 0 is Vincent's unweighted loss.
        parametrization: ``"score"``: the network gives s; ``"epsilon"``: it gives an estimate of z, and
            s = -epsilon / sigma. With ``weight=2`` that is the loss of DDPM, 1/2 || epsilon - z ||^2.
        conditioning: ``"none"`` or ``"sigma"``.
        reduction: over the batch: ``"none"`` [B], ``"mean"`` or ``"sum"``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it.

    Source: Vincent 2011; Ho et al. 2020, equation 14 (epsilon).
    """
    _check.one_of("conditioning", conditioning, ("none", "sigma"))
    return _dsm(score_fn, x, sigma, None, as_philox(rng), alpha, weight, parametrization, conditioning, reduction)


def ncsn(score_fn: Callable[..., Tensor], x: Tensor, sigmas: Tensor, *, rng: Philox | None = None,
         labels: Tensor | None = None, weight: float = 2.0, parametrization: str = "score",
         conditioning: str = "labels", reduction: str = "mean") -> Tensor:
    """The multi-scale objective of NCSN: a noise level i ~ U{0..L-1} a sample, and DSM at sigma_i.

    ``loss_b = 1/2 sigma_i^weight || s(x_b + sigma_i z_b, i) + z_b / sigma_i ||^2``

    Args:
        score_fn: the network; ``score_fn(x, labels)`` or, by ``conditioning``, ``score_fn(x, sigma)``.
        x: clean samples [B, ...].
        sigmas: noise levels [L], strictly decreasing, in the units of ``x``.
        rng: source of labels and noise (two steps). ``None``: seeded from torch's default generator.
        labels: noise level of each sample, int64 [B]; ``None`` draws them uniformly.
        weight, parametrization, reduction: as for :func:`dsm`.
        conditioning: ``"labels"`` or ``"sigma"``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; the message names it.

    Source: Song & Ermon 2019, "Generative modeling by estimating gradients of the data distribution", eq. 6.
    """
    _check.one_of("conditioning", conditioning, ("labels", "sigma"))
    _check.floating("x", x)
    sigmas = _check.sigmas("sigmas", sigmas, device=x.device)
    rng = as_philox(rng)
    if labels is None:
        labels = draw_labels(len(sigmas), x.shape[0], rng, device=x.device)
    labels = _check.labels("labels", labels, x, len(sigmas))
    return _dsm(score_fn, x, sigmas[labels], labels, rng, None, weight, parametrization, conditioning, reduction)


def draw_labels(num_levels: int, batch_size: int, rng: Philox, *, device: torch.device | str | None = None) -> Tensor:
    """Uniform noise-level labels, int64 [B] from 0 to ``num_levels`` - 1; takes one step of ``rng``."""
    return rng.randint(num_levels, batch_size, stream=Stream.LABELS, device=device)


def _dsm(score_fn: Callable[..., Tensor], x: Tensor, sigma: float | Tensor, labels: Tensor | None, rng: Philox,
         alpha: float | Tensor | None, weight: float, parametrization: str, conditioning: str,
         reduction: str) -> Tensor:
    _check.one_of("parametrization", parametrization, PARAMETRIZATIONS)
    _check.one_of("reduction", reduction, REDUCTIONS)
    _check.number("weight", weight)
    _check.floating("x", x)
    sigma = _check.per_sample("sigma", sigma, x)
    x_tilde, noise = perturb(x, sigma, rng, alpha=alpha)
    if conditioning == "none":
        output = score_fn(x_tilde)
    else:
        output = score_fn(x_tilde, labels if conditioning == "labels" else sigma.expand(x.shape[0]))
    _check.like("the output of score_fn", output, "x", x)
    # eps = -sigma s: 1/2 sigma^p ||-eps/sigma + z/sigma||^2 = 1/2 sigma^(p-2) ||eps - z||^2
    score = output if parametrization == "score" else -output / per_row(sigma, x)
    return reduce(dsm_loss(score, noise, sigma, weight), reduction)


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """[B] to [B], or its mean or sum over the batch. The mean of an empty batch is an error, not NaN."""
    _check.one_of("reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return loss
    if reduction == "mean" and loss.numel() == 0:
        raise ValueError("x must have at least one sample where reduction='mean', got an empty batch")
    return loss.mean() if reduction == "mean" else loss.sum()
