"""What a trainer needs of a data set, and the arithmetic of which samples a batch holds."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .. import _check


@runtime_checkable
class Data(Protocol):
    """A source of batches, each a pure function of the seed and the iteration.

    Attributes:
        name: a short name, for logs.
        shape: the shape of one sample, (C, H, W) or (D,).
    """

    name: str

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int:
        """How many samples make one epoch."""
        ...

    def batch(self, iteration: int, batch_size: int, *, seed: int, sample_offset: int = 0,
              global_batch_size: int | None = None, device: torch.device | str | None = None) -> Tensor:
        """The batch of ``iteration``, float32 [``batch_size``, ...]: a pure function of the arguments.

        Args:
            iteration: from 0.
            batch_size: the rows wanted here.
            seed: the run's seed.
            sample_offset: the place of the first of them in the whole batch, for a rank that holds a part.
            global_batch_size: the rows of the whole batch, over all ranks; where None, ``batch_size``.
            device: where the batch goes.
        """
        ...


def check_batch(iteration: int, batch_size: int, seed: int, sample_offset: int,
                global_batch_size: int | None) -> int:
    """The size of the whole batch, after the checks that every data set makes.

    Raises:
        TypeError, ValueError: an argument out of its range, or rows beyond the whole batch.
    """
    _check.integer("iteration", iteration, low=0, high=2**32 - 1)
    _check.integer("batch_size", batch_size, low=1)
    _check.integer("seed", seed, low=0, high=2**64 - 1)
    _check.integer("sample_offset", sample_offset, low=0)
    whole = batch_size
    if global_batch_size is not None:
        whole = _check.integer("global_batch_size", global_batch_size, low=1)
    if sample_offset + batch_size > whole:
        raise ValueError(f"global_batch_size must be at least sample_offset + batch_size, "
                         f"{sample_offset} + {batch_size}, got {global_batch_size}")
    return whole
