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


def check_num_classes(num_classes: int | None) -> int | None:
    """None, or an integer of at least 1."""
    return None if num_classes is None else checks.integer("num_classes", num_classes, low=1)


def classes_of(class_labels: Tensor | None, x: Tensor, num_classes: int | None) -> Tensor | None:
    """int64 [B], ``num_classes`` being "no label", as every sample has where ``class_labels`` is None; None without classes.

    Raises:
        TypeError, ValueError: labels for a network without classes; a wrong shape, dtype or device, or (read on a CPU
            only) a label out of range.
    """
    if num_classes is None:
        if class_labels is not None:
            raise ValueError(
                "class_labels must be None for a network that was made without num_classes=..., got "
                f"{checks.describe(class_labels)}"
            )
        return None
    if class_labels is None:
        return torch.full(x.shape[:1], num_classes, dtype=torch.int64, device=x.device)
    checks.tensor("class_labels", class_labels)
    if class_labels.dtype not in (torch.int64, torch.int32) or class_labels.shape != x.shape[:1]:
        raise ValueError(
            f"class_labels must be an int64 tensor of shape ({len(x)},), one for each sample, got {checks.describe(class_labels)}"
        )
    if class_labels.device != x.device:
        raise ValueError(
            f"class_labels must be on the device of the samples, {x.device}, got {checks.describe(class_labels)}"
        )
    if checks.readable(class_labels) and not bool(((class_labels >= 0) & (class_labels <= num_classes)).all()):
        raise ValueError(
            f"class_labels must be from 0 to {num_classes - 1}, or {num_classes} for no label, got values from "
            f"{int(class_labels.min())} to {int(class_labels.max())}"
        )
    return class_labels.long()
