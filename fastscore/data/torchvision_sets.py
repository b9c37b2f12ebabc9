"""MNIST and CIFAR-10 from a local folder; torchvision downloads them where that is asked for.

All files of a set, those of the other half too, are looked at before anything is made of them: a damaged file, labels
that are none, or halves that do not fit together are found before training and not at its end.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core.errors import DataError, require
from .base import wrong_labels
from .images import ImageData

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_MISSING = "missing"
_CLASSES = 10

Halves = dict[str, tuple[Tensor, Tensor]]  # "train" and "test": uint8 images [N, C, H, W] and int64 labels [N]
Faults = dict[str, str]  # file name -> what is wrong with it


def mnist(
    root: str | os.PathLike = "data",
    *,
    train: bool = True,
    download: bool = False,
    dequantize: str = "none",
    flips: bool = False,
) -> ImageData:
    """MNIST: 60,000 training or 10,000 test images [N, 1, 28, 28], with labels 0 to 9.

    Args:
        root: the folder that holds ``MNIST/raw/`` with the four ``*-ubyte`` files, unpacked.
        train: the training images, or the test images.
        download: whether to fetch the files into ``root`` where they are missing.
        dequantize, flips: see :class:`ImageData`.

    Raises:
        DataError: a file of either half is missing or damaged, has labels other than 0 to 9 or not one per image, the
            halves' images differ in size, or the download failed; the text names the files, and says what to put where.
        MissingDependency: torchvision is not installed, or does not match torch.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    cls = require("torchvision.datasets", "train").MNIST
    folder = Path(root) / "MNIST" / "raw"
    data = _load(
        "mnist",
        cls,
        root,
        folder,
        download,
        lambda: _mnist_halves(folder),
        f"unpacked from the .gz files of the same names at {_MNIST_URL}",
    )
    images, labels = data["train" if train else "test"]
    return ImageData(
        images.clone(),
        labels,
        name="mnist" if train else "mnist-test",
        dequantize=dequantize,
        flips=flips,
        num_classes=_CLASSES,
        source=root,
    )


def cifar10(
    root: str | os.PathLike = "data",
    *,
    train: bool = True,
    download: bool = False,
    dequantize: str = "none",
    flips: bool = False,
) -> ImageData:
    """CIFAR-10: 50,000 training or 10,000 test images [N, 3, 32, 32], with labels 0 to 9.

    Args:
        root: the folder that holds ``cifar-10-batches-py/``, the python version as it is unpacked.
        train, download, dequantize, flips: as for :func:`mnist`.

    Raises:
        DataError, MissingDependency: as for :func:`mnist`; files are compared with their checksums before they are
            unpickled.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    cls = require("torchvision.datasets", "train").CIFAR10
    folder = Path(root) / cls.base_folder
    data = _load(
        "cifar10", cls, root, folder, download, lambda: _cifar10_halves(folder, cls), f"unpacked from {_CIFAR10_URL}"
    )
    images, labels = data["train" if train else "test"]
    return ImageData(
        images,
        labels,
        name="cifar10" if train else "cifar10-test",
        dequantize=dequantize,
        flips=flips,
        num_classes=_CLASSES,
        source=root,
    )


def _load(
    name: str,
    cls: Any,
    root: str | os.PathLike,
    folder: Path,
    download: bool,
    read: Callable[[], tuple[Halves, Faults]],
    origin: str,
) -> Halves:
    """What ``read`` finds in ``folder``, after a download where that is wanted, or an error that names the files."""
    halves, faults = read()
    problem = "the data set does not read"
    if faults and download:
        try:
            cls(os.fspath(root), download=True)
        except Exception as error:  # RuntimeError, OSError, URLError, ...; what there is by now is read below
            problem = f"the download failed ({type(error).__name__}: {error})"
        halves, faults = read()
    if not faults:
        return halves
    missing = [file for file, fault in faults.items() if fault == _MISSING]
    damaged = [f"{file} ({fault})" for file, fault in faults.items() if fault != _MISSING]
    state = [
        f"these files are {kind}: {', '.join(files)}"
        for kind, files in (("missing", missing), ("damaged", damaged))
        if files
    ]
    advice = (
        ""
        if download
        else (
            f"; or {'delete what is damaged and ' if damaged else ''}pass download=True to fetch "
            "them, or the root that has them (fastscore train: --download, --data-dir)"
        )
    )
    raise DataError(
        f"{name}: {problem}. In {os.path.abspath(folder)} {'; '.join(state)}. Put them there, {origin}{advice}"
    )


def _mnist_halves(folder: Path) -> tuple[Halves, Faults]:
    """Both halves, as views of the mapped files, and the faults of the four files."""
    faults: Faults = {}
    halves: Halves = {}
    for half, prefix in (("train", "train"), ("test", "t10k")):
        found = []
        for name, dims in ((f"{prefix}-images-idx3-ubyte", 3), (f"{prefix}-labels-idx1-ubyte", 1)):
            try:
                found.append(_idx(folder / name, dims))
            except FileNotFoundError:
                faults[name] = _MISSING
            except (OSError, ValueError) as error:
                faults[name] = getattr(error, "strerror", None) or str(error)
        if len(found) == 2:
            images, labels = found[0][:, None], found[1].long()
            halves[half] = images, labels
            if fault := _fault(images, labels):
                faults[f"{prefix}-labels-idx1-ubyte"] = fault
    if len(halves) == 2:
        (train, _), (test, _) = halves["train"], halves["test"]
        if train.shape[2:] != test.shape[2:]:
            odd, other = ("train", "t10k") if train.shape[2:] != (28, 28) else ("t10k", "train")
            sizes = {"train": train.shape, "t10k": test.shape}
            faults[f"{odd}-images-idx3-ubyte"] = (
                f"its images are {sizes[odd][2]} x {sizes[odd][3]}, and those of {other}-images-idx3-ubyte "
                f"{sizes[other][2]} x {sizes[other][3]}"
            )
    return halves, faults


def _idx(path: Path, dims: int) -> Tensor:
    """A file of the idx format (magic number, ``dims`` sizes, uint8 values), mapped and not yet read.

    Raises:
        OSError, ValueError: it cannot be read, or is not such a file.
    """
    size, head = path.stat().st_size, 4 + 4 * dims
    with path.open("rb") as file:
        header = file.read(head)
    magic = bytes([0, 0, 8, dims])  # 8: uint8
    if header[:4] != magic or len(header) < head:
        raise ValueError(
            f"it must begin with {magic.hex()} and {dims} size{'s' * (dims > 1)}, got {size:,} bytes that "
            f"begin with {header[:4].hex() or 'nothing'}"
        )
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, head, 4)]
    wanted = head + int(np.prod(shape, dtype=object))
    if size != wanted or not all(shape):
        raise ValueError(
            f"its header says {' x '.join(map(str, shape))} values, {wanted:,} bytes in all, and it has {size:,}"
        )
    values = np.memmap(path, np.uint8, mode="c", offset=head, shape=tuple(shape))  # "c": torch wants it writable
    return torch.from_numpy(values)


def _cifar10_halves(folder: Path, cls: Any) -> tuple[Halves, Faults]:
    """Both halves, and the faults of the files: those whose checksum is wrong are not unpickled."""
    faults: Faults = {}
    halves: Halves = {}
    for half, listed in (("train", cls.train_list), ("test", cls.test_list)):
        parts = [part for name, md5 in listed if (part := _cifar10_batch(folder / name, md5, faults))]
        if len(parts) == len(listed):
            images, labels = (torch.cat(part) for part in zip(*parts))
            halves[half] = images, labels
    _checked(folder / cls.meta["filename"], cls.meta["md5"], faults)
    return halves, faults


def _cifar10_batch(path: Path, md5: str, faults: Faults) -> tuple[Tensor, Tensor] | None:
    """Images and labels of one file, or None and a fault."""
    content = _checked(path, md5, faults)
    if content is None:
        return None
    batch = pickle.load(io.BytesIO(content), encoding="latin1")  # the very bytes that were checked
    images = torch.from_numpy(batch["data"]).view(-1, 3, 32, 32)
    labels = torch.tensor(batch["labels"], dtype=torch.int64)
    if fault := _fault(images, labels):
        faults[path.name] = fault
    return images, labels


def _checked(path: Path, md5: str, faults: Faults) -> bytes | None:
    """A file's bytes where their checksum is right, or None and a fault."""
    try:
        content = path.read_bytes()
    except OSError as error:
        faults[path.name] = _MISSING if isinstance(error, FileNotFoundError) else str(error.strerror)
        return None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        faults[path.name] = f"its MD5 checksum is {found}, not {md5}"
        return None
    return content


def _fault(images: Tensor, labels: Tensor) -> str | None:
    if len(images) != len(labels):
        return f"it has {len(labels):,} labels, and there are {len(images):,} images"
    if wrong := wrong_labels(labels, _CLASSES):
        return f"labels must be from 0 to {_CLASSES - 1}, got {wrong}"
    return None
