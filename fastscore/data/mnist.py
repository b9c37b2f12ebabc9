"""MNIST from a local folder; torchvision downloads it where that is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._core import files
from ._halves import CLASSES, MISSING, Faults, Halves, advice, check, downloaded, fault_of_labels
from .images import ImageData

_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


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
        MissingDependency: a download is asked for, and torchvision is not installed, or does not match torch.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    folder = Path(root) / "MNIST" / "raw"
    halves, faults = _halves(folder)
    problem = None
    if faults and download:
        problem = downloaded("MNIST", root)
        halves, faults = _halves(folder)
    damaged = any(fault != MISSING for fault in faults.values())
    origin = f"Put them there, unpacked from the .gz files of the same names at {_URL}"
    check("mnist", problem, folder, faults, origin + ("" if download else advice(damaged)))
    images, labels = halves["train" if train else "test"]
    return ImageData(
        images.clone(),
        labels,
        name="mnist" if train else "mnist-test",
        dequantize=dequantize,
        flips=flips,
        num_classes=CLASSES,
        source=root,
    )


def _halves(folder: Path) -> tuple[Halves, Faults]:
    """Both halves, as views of the mapped files, and the faults of the four files."""
    faults: Faults = {}
    halves: Halves = {}
    for half, prefix in (("train", "train"), ("test", "t10k")):
        found = []
        for name, dims in ((f"{prefix}-images-idx3-ubyte", 3), (f"{prefix}-labels-idx1-ubyte", 1)):
            try:
                found.append(_idx(folder / name, dims))
            except FileNotFoundError:
                faults[name] = MISSING
            except (OSError, ValueError) as error:
                faults[name] = getattr(error, "strerror", None) or str(error)
        if len(found) == 2:
            images, labels = found[0][:, None], found[1].long()
            halves[half] = images, labels
            if fault := fault_of_labels(images, labels):
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
    files.check_regular(path)
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
