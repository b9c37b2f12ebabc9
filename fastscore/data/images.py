r"""Images kept as uint8 in memory, and batches of them that are pure functions of (seed, iteration).

Position p = iteration * global batch size + row counts the samples of a run. Its epoch is p // N, its place
there p % N, and an epoch's order is a Philox permutation of (seed, stream SHUFFLE, step = epoch): every image
comes once an epoch, a batch may straddle two, and a resumed run goes on with the very batches of one that was
never interrupted. Dequantisation and flips draw from streams of their own at step = iteration, sample = row
in the whole batch.
"""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor

from .._core import checks
from .._images import ImageBatch, dequantize, to_float
from ..rng import Philox, Stream
from .base import check_batch, fingerprint, wrong_labels

__all__ = ["DEQUANTIZE", "ImageData", "dequantize", "to_float"]

DEQUANTIZE = ("none", "uniform")


class ImageData:
    """uint8 images in memory, with labels if there are any; a :class:`fastscore.data.Data`.

    Args:
        images: uint8 [N, C, H, W], N >= 1, on any device (see :meth:`to`); kept contiguous, copied where they are not.
        labels: int64 [N] from 0 to ``num_classes`` - 1, or None.
        name: a short name, for logs.
        num_values: how many values a pixel can have, for "uniform" dequantisation: 256, or 17 for the digits.
        dequantize: "none" gives X = images / 255 (NCSNv2), "uniform" adds noise (NCSN; see
            :func:`dequantize`).
        flips: whether each image is mirrored left to right with probability 1/2, anew in each batch.
        num_classes: K; None: one more than the largest label (and None without labels).
        source: the folder that the images were read from, if any; kept as an absolute path.
        notes: what else :meth:`describe` says: files that were left out, say.

    Raises:
        TypeError, ValueError: an argument of another type, shape or range.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        name: str = "images",
        num_values: int = 256,
        dequantize: str = "none",
        flips: bool = False,
        num_classes: int | None = None,
        source: str | os.PathLike | None = None,
        notes: str = "",
    ) -> None:
        if checks.tensor("images", images).dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {checks.describe(images)}")
        if images.dim() != 4 or images.numel() == 0:
            raise ValueError(f"images must have shape [N, C, H, W] and not be empty, got {checks.describe(images)}")
        if labels is not None and (
            checks.tensor("labels", labels).dtype != torch.int64 or labels.shape != images.shape[:1]
        ):
            raise ValueError(
                f"labels must be an int64 tensor of shape ({len(images)},), one per image, "
                f"got {checks.describe(labels)}"
            )
        self.images = images.contiguous()
        self.labels = labels
        self.num_classes = _classes(labels, num_classes)
        self.source = None if source is None else os.path.abspath(source)
        self.notes = notes
        self._fingerprint: str | None = None
        self.name = name
        self.num_values = checks.integer("num_values", num_values, low=2, high=256)
        self.dequantize = checks.one_of("dequantize", dequantize, DEQUANTIZE)
        self.flips = bool(flips)
        self._orders: dict[tuple[int, int], Tensor] = {}  # (seed, epoch) -> permutation on the images' device, two

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        labels = "no labels" if self.labels is None else "labels"
        return (
            f"ImageData({self.name!r}, {len(self)} images of {self.shape}, {labels}, "
            f"dequantize={self.dequantize!r}, flips={self.flips})"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])  # type: ignore[return-value]

    def with_options(self, *, dequantize: str | None = None, flips: bool | None = None) -> ImageData:
        """The same images (not copied) with other ``dequantize`` or ``flips``; None keeps what there is."""
        other = copy.copy(self)
        if dequantize is not None:
            other.dequantize = checks.one_of("dequantize", dequantize, DEQUANTIZE)
        if flips is not None:
            other.flips = bool(flips)
        other._orders = {}
        return other

    def to(self, device: torch.device | str) -> ImageData:
        """The same data set with images and labels on ``device``: then a batch is drawn, shuffled and read there.

        Nothing of it crosses from the host in an iteration. Of a data set that is elsewhere, whose bytes are too many
        for the device, say, each batch's bytes are gathered (into pinned memory, for a GPU) and copied without waiting.
        """
        other = copy.copy(self)
        other.images = self.images.to(device)
        other.labels = None if self.labels is None else self.labels.to(device)
        other._orders = {}
        return other

    def indices(
        self,
        iteration: int,
        batch_size: int,
        *,
        seed: int,
        sample_offset: int = 0,
        global_batch_size: int | None = None,
    ) -> Tensor:
        """Which images :meth:`batch` of the same arguments holds: int64 [B] on the CPU.

        Of the same arguments: ``data.labels[data.indices(...)]`` are what :meth:`batch_with_labels` returns.
        """
        return self._rows(*check_batch(iteration, batch_size, seed, sample_offset, global_batch_size)).to(
            "cpu", copy=True
        )

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
        """The batch of ``iteration``: float32 [B, C, H, W] in [0, 1], dequantised and flipped as set.

        Args:
            iteration: from 0 to 2^32 - 1.
            batch_size: B, the rows wanted here; it may exceed N.
            seed: the run's seed.
            sample_offset: the place of the first of them in the whole batch, for a rank that holds a part.
            global_batch_size: the rows of the whole batch, over all ranks; where None, ``batch_size``.
            device: where the batch goes; where None, the images' device.

        Raises:
            TypeError, ValueError: an argument out of its range, or rows beyond the whole batch.
        """
        return self._handle(iteration, batch_size, seed, sample_offset, global_batch_size, device)[0].tensor()

    def batch_handle(
        self,
        iteration: int,
        batch_size: int,
        *,
        seed: int,
        sample_offset: int = 0,
        global_batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> ImageBatch:
        """:meth:`batch` of the same arguments, not read yet: its ``tensor()`` is that batch, bit for bit.

        :func:`fastscore.ops.perturb_images` reads and perturbs it in one pass.
        """
        return self._handle(iteration, batch_size, seed, sample_offset, global_batch_size, device)[0]

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
        """:meth:`batch` of the same arguments, bit for bit, and the labels of its rows.

        Returns:
            float32 [B, C, H, W] in [0, 1], and int64 [B] from 0 to ``num_classes`` - 1 on the same device.

        Raises:
            TypeError, ValueError: as :meth:`batch`, or a data set without labels.
        """
        if self.labels is None:
            raise ValueError(f"the data set {self.name!r} has no labels: use batch()")
        batch, index = self._handle(iteration, batch_size, seed, sample_offset, global_batch_size, device)
        return batch.tensor(), self.labels[index.to(self.labels.device)].to(batch.device)

    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) of the images' and labels' shapes, dtypes and values.

        Computed when first asked for (about half a second for CIFAR-10), then kept: images and labels that are
        written to later are not looked at again.
        """
        if self._fingerprint is None:
            self._fingerprint = fingerprint("images", (self.images, self.labels))
        return self._fingerprint

    def describe(self) -> str:
        """One line: "photos: 812 images of (3, 64, 64), from /data/photos; left out: 3 files ..."."""
        classes = "" if self.num_classes is None else f" in {self.num_classes} classes"
        return (
            f"{self.name}: {len(self):,} image{'s' * (len(self) != 1)} of {self.shape}{classes}"
            + ("" if self.source is None else f", from {self.source}")
            + (f"; {self.notes}" if self.notes else "")
        )

    def _handle(
        self,
        iteration: int,
        batch_size: int,
        seed: int,
        sample_offset: int,
        global_batch_size: int | None,
        device: torch.device | str | None,
    ) -> tuple[ImageBatch, Tensor]:
        """The handle of a batch on ``device``, and which images it holds, int64 [B] where the images are."""
        iteration, batch_size, seed, sample_offset, whole = check_batch(
            iteration, batch_size, seed, sample_offset, global_batch_size
        )
        index = self._rows(iteration, batch_size, seed, sample_offset, whole)
        device = self.images.device if device is None else torch.empty((), device=device).device
        images, where = self.images, index
        if device != images.device:
            images, where = _moved(images, index, device), torch.arange(batch_size, device=device)
        q = self.num_values if self.dequantize == "uniform" else None
        batch = ImageBatch.checked(images, where, seed, iteration, sample_offset, q, self.flips)
        return batch, index

    def _rows(self, iteration: int, batch_size: int, seed: int, sample_offset: int, whole: int) -> Tensor:
        """:meth:`indices` of arguments that were checked, where the images are."""
        start = iteration * whole + sample_offset
        stop, n = start + batch_size, len(self)
        epochs = range(start // n, (stop - 1) // n + 1)
        parts = [self._order(seed, e)[max(start - e * n, 0) : stop - e * n] for e in epochs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, seed: int, epoch: int) -> Tensor:
        if (seed, epoch) not in self._orders:
            rng = Philox(seed, step=epoch)
            order = rng.permutation(len(self), stream=Stream.SHUFFLE, device=self.images.device)
            while len(self._orders) >= 2:
                del self._orders[next(iter(self._orders))]
            self._orders[seed, epoch] = order
        return self._orders[seed, epoch]


def _moved(images: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """The bytes of the images of ``index`` on another device; the host does not wait for a GPU."""
    if images.device.type != "cpu" or device.type != "cuda":
        return images[index].to(device)
    shape = (len(index), *images.shape[1:])
    gathered = torch.empty(shape, dtype=images.dtype, device="cpu", pin_memory=torch.cuda.is_available())
    return torch.index_select(images, 0, index, out=gathered).to(device, non_blocking=True)


def _classes(labels: Tensor | None, num_classes: int | None) -> int | None:
    """How many classes ``labels`` are of, after the check that they are from 0 to one less."""
    if num_classes is not None:
        num_classes = checks.integer("num_classes", num_classes, low=1)
    if labels is None:
        if num_classes is not None:
            raise ValueError(f"num_classes must be None without labels, got {num_classes}")
        return None
    count = max(int(labels.max()) + 1, 1) if num_classes is None else num_classes
    if wrong := wrong_labels(labels, count):
        raise ValueError(f"labels must be from 0 to num_classes - 1, {count - 1}, got {wrong}")
    return count
