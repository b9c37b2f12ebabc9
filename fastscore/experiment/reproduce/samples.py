"""The samples that are measured, drawn into parts of a few thousand."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..sample import batches
from ..trained_run import TrainedRun
from . import folder
from .folder import Means, of_leader
from .parts import Parts, size_of

_PART = 2000  # images of a part, about


def draw(trained: TrainedRun, kept: Parts, num: int, seed: int, means: Means) -> None:
    """Draw what is missing of ``num`` samples of ``seed`` into ``kept``, 8 bits a value.

    Sample k is a function of the seed and of k alone, so parts that are there are gone on from. A part is a whole number of
    batches, so that those of a run that was stopped are the same batches.

    Raises:
        CheckpointError: what is there is no part. CannotWrite, NonFiniteSamples: the parts before stay.
    """
    ranks = means.ranks
    there = of_leader(ranks, kept.count)
    if there >= num:
        return
    drawn = batches(
        trained,
        num - there,
        seed=seed,
        batch_size=means.batch_size,
        progress=means.progress,
        ranks=ranks,
        first=there,
    )
    held: list[Tensor] = []
    for batch in drawn:  # none but on rank 0
        held.append(eight_bit(batch))
        count = sum(map(len, held))
        if count >= size_of(means.batch_size, _PART) or there + count == num:
            kept.append(torch.cat(held))
            there, held = there + count, []


def kept(out: Path, step: int, weights: str, seed: int, shape: tuple[int, ...]) -> Parts:
    """The samples of a snapshot's weights and a seed, uint8 [N, C, H, W]."""
    return Parts(place(out, step, weights, seed), shape, torch.uint8)


def place(out: Path, step: int, weights: str, seed: int) -> Path:
    """The folder that they are in."""
    return out / folder.SAMPLES / folder.stem(step, weights, seed)


def eight_bit(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded: as they would be on the disk."""
    return images.mul(255).round().clamp(0, 255).to(torch.uint8)
