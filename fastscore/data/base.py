"""What a trainer needs of a data set, and the arithmetic of which samples a batch holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .._core import checks


@runtime_checkable
class Data(Protocol):
    """A source of batches, each a pure function of the seed and the iteration.

    Attributes:
        name: a short name, for logs.
        shape: the shape of one sample, (C, H, W) or (D,).
        num_classes: K, where the samples have labels 0 .. K-1; else None.
        source: the absolute path of the folder that was read; None for what is computed or comes with a package.
    """

    name: str
    num_classes: int | None
    source: str | None

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int:
        """How many samples make one epoch."""
        ...

    def batch(
        self,
        iteration: int,
        batch_size: int,
        *,
        seed: int,
        sample_offset: int = 0,
        global_batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
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

    def batch_with_labels(
        self,
        iteration: int,
        batch_size: int,
        *,
        seed: int,
        sample_offset: int = 0,
        global_batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`batch` of the same arguments, bit for bit, and the labels of its rows, int64 [B] on its device.

        Raises:
            ValueError: the data set has no labels.
        """
        ...

    def fingerprint(self) -> str:
        """64 hexadecimal digits (SHA-256) that change with the samples, their labels, order, count or shape.

        What :meth:`batch` does to them (dequantisation, flips) is not part of it, and neither is ``name`` or
        ``source``: a copy elsewhere has the same.
        """
        ...

    def describe(self) -> str:
        """One line for a person: how many samples, of what shape, from where, and what was left out."""
        ...


def check_batch(
    iteration: int, batch_size: int, seed: int, sample_offset: int, global_batch_size: int | None
) -> tuple[int, int, int, int, int]:
    """The first four, and the size of the whole batch, after the checks that every data set makes.

    Raises:
        TypeError, ValueError: an argument out of its range, or rows beyond the whole batch.
    """
    iteration = checks.integer("iteration", iteration, low=0, high=2**32 - 1)
    batch_size = checks.integer("batch_size", batch_size, low=1)
    seed = checks.integer("seed", seed, low=0, high=2**64 - 1)
    sample_offset = checks.integer("sample_offset", sample_offset, low=0)
    whole = batch_size
    if global_batch_size is not None:
        whole = checks.integer("global_batch_size", global_batch_size, low=1)
    if sample_offset + batch_size > whole:
        raise ValueError(
            f"global_batch_size must be at least sample_offset + batch_size, "
            f"{sample_offset} + {batch_size}, got {global_batch_size}"
        )
    return iteration, batch_size, seed, sample_offset, whole


def sent(values: Tensor, device: torch.device | str | None) -> Tensor:
    """``values`` on ``device``, where None the CPU; from the CPU to a GPU the host does not wait for the copy."""
    device = torch.device(device or "cpu")
    if not values.is_cpu or device.type != "cuda":
        return values.to(device)
    return (values.pin_memory() if torch.cuda.is_available() else values).to(device, non_blocking=True)


def fingerprint(words: str, tensors: Iterable[Tensor | None] = ()) -> str:
    """SHA-256, in hexadecimal, of ``words`` and of the dtype, shape and values of each tensor (or its absence)."""
    digest = hashlib.sha256(words.encode())
    for value in tensors:
        digest.update(b"|none" if value is None else f"|{value.dtype} {tuple(value.shape)}|".encode())
        if value is not None:
            digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def wrong_labels(labels: Tensor, num_classes: int) -> str:
    """Which of ``labels`` are not from 0 to ``num_classes`` - 1: "77 (once), 200 (3 times)"; "" where all are."""
    bad, counts = labels[(labels < 0) | (labels >= num_classes)].unique(return_counts=True)
    shown = [
        f"{value} ({'once' if count == 1 else f'{count:,} times'})"
        for value, count in zip(bad[:5].tolist(), counts[:5].tolist())
    ]
    return ", ".join(shown + ([f"and {len(bad) - 5} other values"] if len(bad) > 5 else []))
