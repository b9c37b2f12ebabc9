"""Data sets: uint8 images in memory and 2-D toys, with batches that are pure functions of (seed, iteration).

>>> data = load("digits", split="train", dequantize="uniform")
>>> data.batch(iteration=0, batch_size=128, seed=0).shape
torch.Size([128, 1, 8, 8])
>>> images, labels = data.batch_with_labels(iteration=0, batch_size=128, seed=0)   # the same images
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .base import Data
from .cifar10 import cifar10
from .digits import digits
from .folder import folder
from .gray_scott import gray_scott
from .images import ImageData, dequantize, to_float
from .mnist import mnist
from .npz import npz
from .photos import photos
from .toys import (
    GaussianMixture,
    PointData,
    checkerboard,
    labelled_checkerboard,
    labelled_moons,
    swiss_roll,
    two_moons,
)

__all__ = [
    "DATASETS",
    "Data",
    "GaussianMixture",
    "ImageData",
    "PointData",
    "checkerboard",
    "cifar10",
    "dequantize",
    "digits",
    "folder",
    "gray_scott",
    "load",
    "mnist",
    "npz",
    "photos",
    "swiss_roll",
    "to_float",
    "two_moons",
]


def _mixture(*, size: int = 10_000) -> PointData:
    mixture = GaussianMixture()
    return PointData(
        mixture.sample_with_labels,
        name="mixture",
        size=size,
        num_classes=len(mixture.weights),
        definition=repr(mixture),
    )


def _two_moons(*, noise_std: float = 0.1, size: int = 10_000) -> PointData:
    return PointData(
        lambda n, rng: labelled_moons(n, rng, noise_std=noise_std),
        name="two_moons",
        size=size,
        num_classes=2,
        definition=f"two_moons(noise={noise_std!r})",  # as in the fingerprints of runs that exist
    )


def _checkerboard(*, size: int = 10_000) -> PointData:
    return PointData(labelled_checkerboard, name="checkerboard", size=size, num_classes=8, definition="checkerboard")


def _swiss_roll(*, noise_std: float = 0.05, size: int = 10_000) -> PointData:
    return PointData(
        lambda n, rng: swiss_roll(n, rng, noise_std=noise_std),
        name="swiss_roll",
        size=size,
        definition=f"swiss_roll(noise={noise_std!r})",  # as above
    )


DATASETS: dict[str, Callable[..., Data]] = {
    "checkerboard": _checkerboard,
    "cifar10": cifar10,
    "digits": digits,
    "folder": folder,
    "gray_scott": gray_scott,
    "mixture": _mixture,
    "mnist": mnist,
    "npz": npz,
    "photos": photos,
    "swiss_roll": _swiss_roll,
    "two_moons": _two_moons,
}


def load(name: str, **options: Any) -> Data:
    """The data set of that name.

    Args:
        name: one of ``DATASETS``.
        options: the arguments of the function that makes it: ``load("digits", split="heldout")``,
            ``load("cifar10", root="data", flips=True)``, ``load("folder", root="photos", image_size=64)``.

    Raises:
        ValueError: no data set of that name; the text lists the names.
        TypeError: an option that this data set does not have, or a missing one; the text lists them.
        DataError: the data set is missing, empty or damaged.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(map(repr, DATASETS))}, got {name!r}")
    signature = inspect.signature(DATASETS[name])
    try:
        signature.bind(**options)
    except TypeError as error:
        options_text = ", ".join(signature.parameters)
        raise TypeError(f"data set {name!r}: {error}; its options are {options_text}") from None
    return DATASETS[name](**options)
