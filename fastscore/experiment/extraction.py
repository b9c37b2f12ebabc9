"""Features of many images: in batches, on all ranks of a run, given to rank 0."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from .. import data
from .._core import checks
from ..evaluation.features import Features, make
from .progress import counting
from .ranks import ALONE, Ranks


def make_features(
    feature: str, device: torch.device, *, inception: str | Path | None = None, inception_checksum: bool = True
) -> Features:
    """:func:`fastscore.evaluation.features.make` of "pixels" or "inception", the network of the second on ``device``.

    Args:
        feature: the name.
        device: of this rank.
        inception, inception_checksum: the file of weights, and whether it must be the published one: ``weights`` and
            ``checksum`` of :func:`fastscore.evaluation.inception.inception_features`.

    Raises:
        MissingDependency, DataError: as that function.
    """
    if feature != "inception":
        return make(feature)
    return make(feature, weights=inception, checksum=inception_checksum, device=device)


def extract(
    features: Features,
    images: Tensor | None,
    *,
    ranks: Ranks = ALONE,
    batch_size: int = 500,
    progress: bool = False,
) -> Tensor:
    """The features of ``images``, batch by batch, those of several ranks in turn: the same bits as one process alone.

    All ranks call it together. The images are rank 0's, which gives the others the bytes of theirs as they are needed:
    what is held is the images and the features on rank 0, and some batches elsewhere.

    Args:
        features: from :func:`make_features`, say: vectors [B, D] of images [B, C, H, W] in [0, 1]. Each rank has its own.
        images: uint8 [N, C, H, W], or floating in [0, 1]; of the other ranks whatever, such as None.
        ranks: among which the batches are divided.
        batch_size: images at a time, of a rank.
        progress: show a progress bar.

    Returns:
        float32 [N, D] on the CPU; of the other ranks nothing, [0, 0].

    Raises:
        TypeError, ValueError: on rank 0, images of another dtype, shape or range. RankFailed: another rank has ended, or has
            other weights of Inception.
    """
    batch_size = checks.integer("batch_size", batch_size, low=1)
    ranks.same("the file of Inception's weights (--inception)", str(getattr(features, "sha256", None)))
    about = json.dumps(_about(images)) if ranks.leads else ""
    dtype, shape = json.loads(ranks.told(about))
    parts: list[Tensor] = []
    with counting(shape[0], desc="features", unit="image", progress=progress and ranks.leads) as count:
        for first in range(0, shape[0], batch_size * ranks.count):
            last = min(first + batch_size * ranks.count, shape[0])
            if images is not None and ranks.leads:
                given = images[first:last].detach().cpu()
            else:
                given = torch.empty((last - first, *shape[1:]), dtype=getattr(torch, dtype), device="cpu")
            ranks.copy([given])
            for part in _round(features, given.split(batch_size), ranks):
                parts.append(part)
                count(len(part))
    return torch.cat(parts) if ranks.leads else torch.empty(0, 0)


def _about(images: Tensor | None) -> tuple[str, list[int]]:
    """The dtype and the shape of images that features can be made of."""
    checks.tensor("images", images)
    assert images is not None
    if images.dtype != torch.uint8:
        checks.floating("images", images)
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"images must be [N, C, H, W] and not empty, got {checks.describe(images)}")
    return str(images.dtype).removeprefix("torch."), list(images.shape)


def _round(features: Features, batches: tuple[Tensor, ...], ranks: Ranks) -> list[Tensor]:
    """The features of at most a batch for each rank; rank 0's own tell it how wide the others' are."""

    def of_batch(k: int) -> Tensor:
        batch = batches[k]
        return features(data.to_float(batch) if batch.dtype == torch.uint8 else batch).float().cpu()

    own = of_batch(0) if ranks.leads else torch.empty(0, 0)
    shapes = [(len(batch), own.shape[1]) for batch in batches]
    return list(ranks.in_turn(shapes, lambda k: of_batch(k) if k else own))


def share(count: int, ranks: Ranks) -> None:
    """Say, on rank 0, of how many sets of images it now extracts features: the others :func:`help_out`."""
    ranks.told(str(count))


def help_out(features: Features, ranks: Ranks) -> None:
    """What the other ranks do while rank 0 extracts as many times as it says by :func:`share`."""
    for _ in range(int(ranks.told(""))):
        extract(features, None, ranks=ranks)
