"""Images of one's own in a NumPy archive (.npz)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._core.errors import DataError
from .._core.files import check_regular
from .images import ImageData

Half = tuple[Tensor, Tensor | None]  # images and labels
Names = tuple[tuple[str, str], tuple[str, str]]
_LARGEST = 2**31 - 1  # class

# names of (images, labels) in the archive: training, test
_NAMES: tuple[Names, ...] = (
    (("images", "labels"), ("test_images", "test_labels")),
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("arr_0", "arr_1"), ("", "")),
)


def npz(root: str | os.PathLike, *, train: bool = True, dequantize: str = "none", flips: bool = False) -> ImageData:
    """The images of a NumPy archive, as ``numpy.savez`` writes it: uint8 [N, C, H, W], with labels where it has any.

    In the archive are ``images``, uint8 [N, C, H, W], [N, H, W, C] or [N, H, W], with C = 1 or 3, and beside it what
    there is of ``labels`` (integers [N] from 0), ``test_images`` and ``test_labels``. In place of these names it may have
    ``x_train``, ``y_train``, ``x_test``, ``y_test``, or, unnamed, ``arr_0`` and ``arr_1``.

    Args:
        root: the file.
        train: the training images, or the test images.
        dequantize, flips: see :class:`ImageData`.

    Raises:
        DataError: there is no such file, it is damaged, holds pickled objects (which are not read), its arrays are not
            as said, or it has no test images; the text says which. OSError: it cannot be read, for want of the right, say.
    """
    path = Path(root)
    training, test = _halves(path)
    half = training if train else test
    if half is None:
        raise DataError(f"{os.path.abspath(path)} has no test images, 'test_images'")
    images, labels = half
    return ImageData(
        images,
        labels,
        name=path.stem if train else f"{path.stem}-test",
        dequantize=dequantize,
        flips=flips,
        num_classes=None if training[1] is None else int(training[1].max()) + 1,
        source=path,
    )


def has_test_images(root: str | os.PathLike) -> bool:
    """Whether :func:`npz` has test images of that file."""
    return _halves(Path(root))[1] is not None


def _halves(path: Path) -> tuple[Half, Half | None]:
    """The training and the test half.

    Raises:
        DataError: as :func:`npz`.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        raise DataError(
            f"root (fastscore train: --data-dir) must be a .npz file of images; there is no {os.path.abspath(path)!r}"
        ) from None
    except Exception as error:  # zipfile, zlib and numpy each have their own
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # where a damaged file says to seek
            raise OSError(error.errno, f"{os.path.abspath(path)} does not read: {error.strerror}") from error
        raise DataError(f"{os.path.abspath(path)} is not a .npz file of images: {error}") from error


def _read(path: Path) -> tuple[Half, Half | None]:
    check_regular(path)
    opened = np.load(path, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array, with no name; write it by numpy.savez(file, images=...)")
    with opened as archive:
        names = next((names for names in _NAMES if names[0][0] in archive), None)
        if names is None:
            raise ValueError(f"it must have 'images', and has {', '.join(map(repr, archive.files)) or 'nothing'}")
        mixed = [name for pair in _NAMES[:2] if pair is not names for half in pair for name in half if name in archive]
        if mixed:
            raise ValueError(f"it must have one set of names, got {mixed[0]!r} beside {names[0][0]!r}")
        train, test = (_half(archive, image, label) for image, label in names)
    assert train is not None
    if test is not None:
        _check_together(train, test, names)
    return train, test


def _half(archive: np.lib.npyio.NpzFile, image: str, label: str) -> Half | None:
    if image not in archive:
        if label in archive:
            raise ValueError(f"it has {label!r} without {image!r}, whose they are: put both in, or neither")
        return None
    images, labels = _images(image, archive[image]), _labels(label, archive[label]) if label in archive else None
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{label!r} must be one for each of the {len(images):,} {image!r}, got {len(labels):,}")
    return images, labels


def _check_together(train: Half, test: Half, names: Names) -> None:
    """Raise ValueError where the halves do not fit together."""
    (images, labels), (test_images, test_labels) = names
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            f"{images!r} are of shape {tuple(train[0].shape[1:])} and {test_images!r} of {tuple(test[0].shape[1:])}"
        )
    if (train[1] is None) != (test[1] is None):
        raise ValueError(f"it must have both {labels!r} and {test_labels!r}, or neither")
    if train[1] is not None and test[1] is not None and int(test[1].max()) > int(train[1].max()):
        raise ValueError(f"{test_labels!r} has the class {int(test[1].max())}, which {labels!r} has not")


def _images(name: str, values: np.ndarray) -> Tensor:
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or values.size == 0:
        raise ValueError(
            f"{name!r} must be uint8 [N, C, H, W], [N, H, W, C] or [N, H, W], got {values.dtype} {list(values.shape)}"
        )
    if values.ndim == 3:
        values = values[:, None]
    first, last = values.shape[1] in (1, 3), values.shape[3] in (1, 3)
    if first == last:
        raise ValueError(f"one of the axes 1 and 3 of {name!r} must be the channels, 1 or 3, got {list(values.shape)}")
    return torch.from_numpy(np.ascontiguousarray(values if first else values.transpose(0, 3, 1, 2)))


def _labels(name: str, values: np.ndarray) -> Tensor:
    values = values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    if values.dtype.kind not in "iu" or values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name!r} must be integers [N] from 0, got {values.dtype} {list(values.shape)}")
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > _LARGEST:
        raise ValueError(f"{name!r} must be integers from 0 to {_LARGEST}, got {least} to {most}")
    return torch.from_numpy(values.astype(np.int64))
