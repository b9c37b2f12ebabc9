r"""Images kept as uint8 in memory, and batches of them that are pure functions of (seed, iteration).

Position p = iteration * global batch size + row counts the samples of a run. Its epoch is p // N, its place
there p % N, and an epoch's order is a Philox permutation of (seed, stream SHUFFLE, step = epoch): every image
comes once an epoch, a batch may straddle two, and a resumed run goes on with the very batches of one that was
never interrupted. Dequantisation and flips draw from streams of their own at step = iteration, sample = row
in the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _check
from ..rng import Philox, Stream
from .base import check_batch

DEQUANTIZE = ("none", "uniform")


def to_float(images: Tensor) -> Tensor:
    """X = images / 255: uint8 [..., C, H, W] to float32 in [0, 1]."""
    if _check.tensor("images", images).dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {_check.describe(images)}")
    return images.float() / 255


def dequantize(images: Tensor, noise: Tensor, num_values: int = 256) -> Tensor:
    """(k + U) / q: uniform noise as wide as the gap between two of the q values that a pixel can have.

    With q = 256 this is NCSN's (255/256) X + U/256. Data of fewer values needs wider noise: with noise of
    1/256 on 17-valued digits the density stays a comb of 17 spikes, which a model of small noise levels would
    learn.

    Args:
        images: uint8, value k of q stored as round(255 k / (q - 1)).
        noise: U in [0, 1), float32 of the same shape.
        num_values: q, 2 to 256.

    Returns:
        float32 in [0, 1]: q times it lies in [k, k + 1], up to the rounding of float32.
    """
    if num_values == 256:
        return (images + noise) / 256
    return ((images * ((num_values - 1) / 255)).round() + noise) / num_values


class ImageData:
    """uint8 images in memory, with labels if there are any; a :class:`fastscore.data.Data`.

    Args:
        images: uint8 [N, C, H, W], N >= 1, on any device; batches are gathered where the images are.
        labels: int64 [N], or None.
        name: a short name, for logs.
        num_values: how many values a pixel can have, for "uniform" dequantisation: 256, or 17 for the digits.
        dequantize: "none" gives X = images / 255 (NCSNv2), "uniform" adds noise (NCSN; see
            :func:`dequantize`).
        flips: whether each image is mirrored left to right with probability 1/2, anew in each batch.

    Raises:
        TypeError, ValueError: an argument of another type, shape or range.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None, *, name: str = "images",
                 num_values: int = 256, dequantize: str = "none", flips: bool = False) -> None:
        if _check.tensor("images", images).dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {_check.describe(images)}")
        if images.dim() != 4 or images.numel() == 0:
            raise ValueError("images must have shape [N, C, H, W] and not be empty, "
                             f"got {_check.describe(images)}")
        if labels is not None and (_check.tensor("labels", labels).dtype != torch.int64
                                   or labels.shape != images.shape[:1]):
            raise ValueError(f"labels must be an int64 tensor of shape ({len(images)},), one an image, "
                             f"got {_check.describe(labels)}")
        self.images = images
        self.labels = labels
        self.name = name
        self.num_values = _check.integer("num_values", num_values, low=2, high=256)
        self.dequantize = _check.one_of("dequantize", dequantize, DEQUANTIZE)
        self.flips = bool(flips)
        self._orders: dict[tuple[int, int], Tensor] = {}  # (seed, epoch) -> permutation, the last two

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        labels = "no labels" if self.labels is None else "labels"
        return (f"ImageData({self.name!r}, {len(self)} images of {self.shape}, {labels}, "
                f"dequantize={self.dequantize!r}, flips={self.flips})")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])  # type: ignore[return-value]

    def with_options(self, *, dequantize: str | None = None, flips: bool | None = None) -> ImageData:
        """The same images (not copied) with other ``dequantize`` or ``flips``; None keeps what there is."""
        other = copy.copy(self)
        if dequantize is not None:
            other.dequantize = _check.one_of("dequantize", dequantize, DEQUANTIZE)
        if flips is not None:
            other.flips = bool(flips)
        other._orders = {}
        return other

    def indices(self, iteration: int, batch_size: int, *, seed: int, sample_offset: int = 0,
                global_batch_size: int | None = None) -> Tensor:
        """Which images :meth:`batch` of the same arguments holds: int64 [B] on the CPU.

        ``data.labels[data.indices(...)]`` are the batch's labels.
        """
        whole = check_batch(iteration, batch_size, seed, sample_offset, global_batch_size)
        start = iteration * whole + sample_offset
        stop, n = start + batch_size, len(self)
        epochs = range(start // n, (stop - 1) // n + 1)
        return torch.cat([self._order(seed, e)[max(start - e * n, 0):stop - e * n] for e in epochs])

    def batch(self, iteration: int, batch_size: int, *, seed: int, sample_offset: int = 0,
              global_batch_size: int | None = None, device: torch.device | str | None = None) -> Tensor:
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
        index = self.indices(iteration, batch_size, seed=seed, sample_offset=sample_offset,
                             global_batch_size=global_batch_size)
        images = self.images[index.to(self.images.device)].to(device or self.images.device)

        def uniform(shape: Sequence[int], stream: Stream) -> Tensor:
            rng = Philox(seed, step=iteration, sample_offset=sample_offset)
            return rng.rand(shape, stream=stream, dtype=torch.float32, device=images.device)

        if self.flips:
            mirrored = uniform((batch_size, 1, 1, 1), Stream.FLIPS) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        if self.dequantize == "none":
            return to_float(images)
        return dequantize(images, uniform(images.shape, Stream.DEQUANTIZE), self.num_values)

    def _order(self, seed: int, epoch: int) -> Tensor:
        if (seed, epoch) not in self._orders:
            order = Philox(seed, step=epoch).permutation(len(self), stream=Stream.SHUFFLE)
            while len(self._orders) >= 2:
                del self._orders[next(iter(self._orders))]
            self._orders[seed, epoch] = order
        return self._orders[seed, epoch]
