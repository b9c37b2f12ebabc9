"""What the networks check of their inputs, and the two ways in which a noise level is named: by label and by sigma."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise TypeError where ``x`` is not of the network's dtype and no autocast would make it so."""
    if x.dtype != weight.dtype and (x.is_meta or not torch.is_autocast_enabled(x.device.type)):
        raise TypeError(
            f"x must have the network's dtype, {weight.dtype} (or run under torch.autocast), got {checks.describe(x)}"
        )


def is_sigma(labels: Tensor) -> bool:
    """Whether noise levels are given by their standard deviation (floating) rather than by index."""
    return isinstance(labels, Tensor) and labels.is_floating_point()


def check_sigma(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` [B], positive and finite, on x's device."""
    if sigma.shape != x.shape[:1]:
        raise ValueError(f"sigma must have shape ({x.shape[0]},), one per sample, got {checks.describe(sigma)}")
    if sigma.device != x.device:
        raise ValueError(f"sigma must be on the device of the samples, {x.device}, got {checks.describe(sigma)}")
    checks.positive_values("sigma (labels are integers)", sigma)
    return sigma


def sigma_of(labels: Tensor, sigmas: Tensor, x: Tensor) -> Tensor:
    """The noise level of each sample, [B], from labels (``sigmas[labels]``) or from sigma itself."""
    if is_sigma(labels):
        return check_sigma(labels, x)
    return sigmas[checks.labels("labels", labels, x, len(sigmas))]


def label_of(sigma: Tensor, sigmas: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each ``sigma`` [B] among ``sigmas`` [L], and whether it is one of them, to rounding; both [B].

    Raises:
        ValueError: one of them is not, or half precision cannot tell two levels apart, where values may be read (on a
            CPU, outside torch.func and torch.compile).
    """
    check_sigma(sigma, x)
    coarser = max(torch.finfo(sigma.dtype).eps, torch.finfo(sigmas.dtype).eps)
    if coarser > 1e-4 and len(sigmas) > 1 and checks.readable(sigmas):
        gap = float((1 - sigmas[1:].double() / sigmas[:-1].double()).min())
        if gap < 2 * coarser:
            raise ValueError(
                f"sigma must be float32 or float64, in a network of such levels, to tell apart "
                f"{len(sigmas)} noise levels of which two differ by {100 * gap:.2g} %, got "
                f"{checks.describe(sigma)} and levels in {sigmas.dtype}: pass labels"
            )
    apart, labels = (sigma[:, None] / sigmas - 1).abs().min(dim=1)
    known = apart <= max(1e-5, 2 * coarser)
    if checks.readable(known) and not bool(known.all()):
        nearest = sigmas[labels[~known][0]].item()
        raise ValueError(
            f"sigma must be one of this network's {len(sigmas)} noise levels, whose embeddings it has "
            f"learned, got {sigma[~known][0].item()} (the nearest is {nearest})"
        )
    return labels, known
