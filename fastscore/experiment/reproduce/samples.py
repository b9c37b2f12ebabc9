"""The samples that are measured, drawn into parts of a few thousand."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from ..._core import files
from ..._core.errors import CheckpointError
from ..sample import batches
from ..trained_run import TrainedRun
from . import folder
from .folder import Means, of_leader
from .parts import Parts, size_of

_PART = 2000  # images of a part, about
NOT_FINITE = "not_finite.json"


def draw(trained: TrainedRun, kept: Parts, num: int, seed: int, means: Means) -> None:
    """Draw what is missing of ``num`` samples of ``seed`` into ``kept``, 8 bits a value.

    Sample k is a function of the seed and of k alone, so parts that are there are gone on from. A part is a whole number of
    batches, so that those of a run that was stopped are the same batches. One that is not finite is kept as zeros, and is one of
    :func:`not_finite`.

    Raises:
        CheckpointError: what is there is no part. CannotWrite: the parts before stay.
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
        broken="sample",
    )
    held: list[Tensor] = []
    for batch in drawn:  # none but on rank 0
        held.append(batch)
        count = sum(map(len, held))
        if count >= size_of(means.batch_size, _PART) or there + count == num:
            part = torch.cat(held)
            _keep_not_finite(kept, there, part)
            kept.append(eight_bit(part))
            there, held = there + count, []


def _keep_not_finite(kept: Parts, there: int, part: Tensor) -> None:
    """Note which samples of the next ``part``, before whose first there are ``there``, are not finite; before it is kept."""
    bad = (~part.isfinite().flatten(1).all(1)).nonzero().flatten() + there
    before = [k for k in _noted(kept) if k < there]  # those after it are of a part that was not kept
    if len(bad) or before != _noted(kept):
        with files.naming(kept.where):
            kept.where.mkdir(parents=True, exist_ok=True)
        folder.write(kept.where / NOT_FINITE, {"samples": [*before, *bad.tolist()]})


def not_finite(kept: Parts) -> list[int]:
    """Which of the samples that are kept were not finite: there they are zeros.

    Raises:
        CheckpointError: what lies there does not say it.
    """
    count = kept.count()
    return [k for k in _noted(kept) if k < count]


def _noted(kept: Parts) -> list[int]:
    path, noted = kept.where / NOT_FINITE, None
    if not path.exists():
        return []
    with contextlib.suppress(CheckpointError):
        noted = (folder.read(path) or {}).get("samples")
    if not isinstance(noted, list) or any(type(k) is not int or k < 0 for k in noted):
        raise CheckpointError(
            f"{path} does not say which samples are not finite: put it back as it was, or delete {kept.where} to have them drawn again"
        )
    return noted


def kept(out: Path, step: int, weights: str, seed: int, shape: tuple[int, ...]) -> Parts:
    """The samples of a snapshot's weights and a seed, uint8 [N, C, H, W]."""
    return Parts(place(out, step, weights, seed), shape, torch.uint8)


def place(out: Path, step: int, weights: str, seed: int) -> Path:
    """The folder that they are in."""
    return out / folder.SAMPLES / folder.stem(step, weights, seed)


def eight_bit(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded: as they would be on the disk; 0 where they are not finite."""
    return images.nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)
