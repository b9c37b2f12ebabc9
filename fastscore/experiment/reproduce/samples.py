"""The samples that are measured, drawn into parts of a few thousand: a kill loses the part that is being drawn."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..._core import files
from ..._core.errors import CheckpointError
from ..sample import batches
from ..trained_run import TrainedRun
from . import folder
from .distances import eight_bit
from .folder import Means, of_leader

_PART = 2000  # images of a part, at most
_NAME = "part_{:05d}.npy"


def draw(trained: TrainedRun, where: Path, num: int, seed: int, means: Means) -> None:
    """Draw what is missing of ``num`` samples of ``seed`` into the folder ``where``.

    Sample k is a function of the seed and of k alone, so parts that are there are gone on from. A part is a whole number of
    batches, so that those of a run that was stopped are the same batches.

    Raises:
        CheckpointError: what is there is no part. CannotWrite: the parts before stay.
    """
    ranks, batch_size = means.ranks, means.batch_size
    there = of_leader(ranks, lambda: sum(map(len, _parts(where, trained.shape))))
    if there >= num:
        return
    parts = batches(
        trained, num - there, seed=seed, batch_size=batch_size, progress=means.progress, ranks=ranks, first=there
    )
    if not ranks.leads:
        for _ in parts:
            pass  # they are drawn, and sent
        return
    with files.naming(where):
        where.mkdir(parents=True, exist_ok=True)
    files.clear_leftovers(where)
    size = max(1, _PART // batch_size) * batch_size
    held: list[Tensor] = []
    for part in parts:
        held.append(eight_bit(part))
        count = sum(map(len, held))
        if count >= size or there + count == num:
            _write(where, torch.cat(held))
            there, held = there + count, []


def read(where: Path, shape: tuple[int, ...]) -> Tensor:
    """All samples of a folder, uint8 [N, C, H, W]."""
    return torch.from_numpy(np.concatenate(_parts(where, shape)))


def _write(where: Path, images: Tensor) -> None:
    """As the next part."""
    buffer = io.BytesIO()
    np.save(buffer, images.numpy())
    files.write_atomically(where / _NAME.format(len(_names(where))), buffer.getbuffer())


def _names(where: Path) -> list[str]:
    if not where.is_dir():
        return []
    return sorted(path.name for path in where.iterdir() if re.fullmatch(r"part_\d{5,}\.npy", path.name))


def _parts(where: Path, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The parts, without gaps, mapped from the disk."""
    found = []
    for k, name in enumerate(_names(where)):
        try:
            if name != _NAME.format(k):
                raise ValueError(f"{_NAME.format(k)} is missing")
            part = np.load(where / name, mmap_mode="r", allow_pickle=False)
            if part.dtype != np.uint8 or part.ndim != 4 or part.shape[1:] != shape:
                raise ValueError(f"it must be uint8 [n, {', '.join(map(str, shape))}], got {part.dtype} {part.shape}")
        except ValueError as error:
            raise CheckpointError(
                f"{where / name} is not a part of samples ({error}): delete {where} to have them drawn again"
            ) from error
        found.append(part)
    return found


def place(out: Path, step: int, weights: str, seed: int) -> Path:
    """Where the samples of a snapshot's weights and a seed are."""
    return out / folder.SAMPLES / folder.stem(step, weights, seed)
