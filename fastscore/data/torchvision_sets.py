"""MNIST and CIFAR-10, read by torchvision from a local folder; downloaded only where that is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, require
from .images import ImageData

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def mnist(root: str | os.PathLike = "data", *, train: bool = True, download: bool = False,
          dequantize: str = "none", flips: bool = False) -> ImageData:
    """MNIST: 60,000 training or 10,000 test images [N, 1, 28, 28], with labels 0 to 9.

    Args:
        root: the folder that holds ``MNIST/raw/`` with the four ``*-ubyte`` files, unpacked.
        train: the training images, or the test images.
        download: whether to fetch the files into ``root`` where they are missing.
        dequantize, flips: see :class:`ImageData`.

    Raises:
        DataError: files are missing or do not read, or the download failed; the text says what to put where.
        MissingDependency: torchvision is not installed, or does not match torch.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    datasets = require("torchvision.datasets", "train")
    folder = Path(root) / "MNIST" / "raw"
    files = {folder / name.removesuffix(".gz"): None for name, _ in datasets.MNIST.resources}
    data = _read("mnist", datasets.MNIST, root, train, download, files,
                 f"unpacked from the .gz files of the same names at {_MNIST_URL}")
    return ImageData(data.data[:, None].contiguous(), data.targets.long(),
                     name="mnist" if train else "mnist-test", dequantize=dequantize, flips=flips)


def cifar10(root: str | os.PathLike = "data", *, train: bool = True, download: bool = False,
            dequantize: str = "none", flips: bool = False) -> ImageData:
    """CIFAR-10: 50,000 training or 10,000 test images [N, 3, 32, 32], with labels 0 to 9.

    Args:
        root: the folder that holds ``cifar-10-batches-py/``, the python version as it is unpacked.
        train, download, dequantize, flips: as for :func:`mnist`.

    Raises:
        DataError, MissingDependency: as for :func:`mnist`; files are also compared with their checksums.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    datasets = require("torchvision.datasets", "train")
    cls = datasets.CIFAR10
    checksums = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
    files = {Path(root) / cls.base_folder / name: md5 for name, md5 in checksums}
    data = _read("cifar10", cls, root, train, download, files, f"unpacked from {_CIFAR10_URL}")
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageData(images, torch.tensor(data.targets), name="cifar10" if train else "cifar10-test",
                     dequantize=dequantize, flips=flips)


def _read(name: str, cls: Any, root: str | os.PathLike, train: bool, download: bool,
          files: dict[Path, str | None], origin: str) -> Any:
    """torchvision's data set, or a :class:`DataError` that says which of ``files`` (path -> md5) it wants."""
    try:
        return cls(str(root), train=train, download=download)
    except Exception as error:  # torchvision raises RuntimeError, OSError, AssertionError, pickle errors, ...
        check = require("torchvision.datasets.utils", "train").check_integrity
        bad = [file for file, md5 in files.items() if not check(file, md5)]
        state = "missing" if all(not file.exists() for file in bad) and bad else "missing or damaged"
        place = next(iter(files)).parent.resolve()
        problem = "the download failed" if download else "the data set does not read"
        advice = "" if download else ("; or pass download=True to fetch them, or the root that has them "
                                      "(fastscore train: --download, --data-dir)")
        raise DataError(
            f"{name}: {problem} ({type(error).__name__}: {error}). In {place} these files are {state}: "
            f"{', '.join(file.name for file in bad or files)}. Put them there, {origin}{advice}"
        ) from error
