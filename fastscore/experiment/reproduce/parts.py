"""Rows of an array in files of some of them each, part after part: what a kill loses is the part that is being made."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..._core import files
from ..._core.errors import CheckpointError

_NAME = "part_{:05d}.npy"


class Parts:
    """The parts in the folder ``where``, part_00000.npy and so on, of which each is written whole or not at all.

    Args:
        where: made with the first part.
        shape: of a row.
        dtype: torch.uint8 or torch.float32.
    """

    def __init__(self, where: Path, shape: tuple[int, ...], dtype: torch.dtype):
        self.where, self.shape, self.dtype = where, shape, dtype

    def count(self) -> int:
        """How many rows there are."""
        return sum(len(part) for part in self._found())

    def read(self) -> Tensor:
        """All rows [N, ...].

        Raises:
            CheckpointError: a file is no part, or one is missing between others; the text says which, and the cure.
        """
        found = self._found()
        return torch.from_numpy(np.concatenate(found)) if found else torch.empty(0, *self.shape, dtype=self.dtype)

    def append(self, rows: Tensor) -> None:
        """Write the next part.

        Raises:
            CannotWrite: the parts before stay.
        """
        with files.naming(self.where):
            self.where.mkdir(parents=True, exist_ok=True)
        files.clear_leftovers(self.where)
        buffer = io.BytesIO()
        np.save(buffer, rows.contiguous().numpy())
        files.write_atomically(self.where / _NAME.format(len(self._names())), buffer.getbuffer())

    def _names(self) -> list[str]:
        if not self.where.is_dir():
            return []
        return sorted(path.name for path in self.where.iterdir() if re.fullmatch(r"part_\d{5,}\.npy", path.name))

    def _found(self) -> list[np.ndarray]:
        """The parts, mapped from the disk."""
        found = []
        for k, name in enumerate(self._names()):
            try:
                if name != _NAME.format(k):
                    raise ValueError(f"{_NAME.format(k)} is missing")
                part = np.load(self.where / name, mmap_mode="r", allow_pickle=False)
                if torch.from_numpy(part[:0].copy()).dtype != self.dtype or part.shape[1:] != self.shape:
                    raise ValueError(f"it must be {self.dtype}, each {self.shape}, got {part.dtype} {part.shape}")
            except (ValueError, TypeError, EOFError) as error:
                raise CheckpointError(
                    f"{self.where / name} is not a part of what was kept there ({error}): delete {self.where} to have it made again"
                ) from error
            found.append(part)
        return found


def size_of(batch_size: int, at_least: int) -> int:
    """Rows of a part that is a whole number of batches, so that those made after a stop are the batches of one without."""
    return math.ceil(at_least / batch_size) * batch_size
