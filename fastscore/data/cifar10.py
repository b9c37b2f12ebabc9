"""CIFAR-10 from a local folder, in its python version or its binary version; torchvision downloads the former.

Every file is compared with its published checksum before anything is made of it. The python version is pickled: it is
read by an unpickler that builds dicts, lists, strings, numbers and arrays of bytes, and refuses everything else by its
name, so nothing of a file is ever run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._core import files
from ._halves import CLASSES, MISSING, Faults, Halves, advice, check, downloaded, fault_of_labels
from ._unpickle import unpickle
from .images import ImageData

_SHAPE = (3, 32, 32)
_VALUES = 3 * 32 * 32

#: MD5 of the python version's files: as torchvision publishes them.
PYTHON_CHECKSUMS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
#: SHA-1 of the binary version's files: as Apache MXNet's Gluon publishes them.
BINARY_CHECKSUMS = {
    "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
}


class _Version(NamedTuple):
    """One of the two forms that CIFAR-10 is published in."""

    folder: str
    archive: str
    algorithm: str
    checksums: dict[str, str]
    read: Callable[[bytes], tuple[Tensor, Tensor]]


def cifar10(
    root: str | os.PathLike = "data",
    *,
    train: bool = True,
    download: bool = False,
    checksum: bool = True,
    dequantize: str = "none",
    flips: bool = False,
) -> ImageData:
    """CIFAR-10: 50,000 training or 10,000 test images [N, 3, 32, 32], with labels 0 to 9.

    Args:
        root: the folder that holds ``cifar-10-batches-py/`` (the python version, as it is unpacked) or
            ``cifar-10-batches-bin/`` (the binary version), or that folder itself. Where both are there the former is
            read: the images, their labels and their order are the same.
        train, download, dequantize, flips: as for :func:`mnist`.
        checksum: whether a file must be the published one. False takes any files of that form and these names, such as
            other images that were packed in it, of any number.

    Raises:
        DataError: there is no such folder; or a file of either half is missing, is not the published one, is cut
            short, asks to run code (nothing is run), or has labels other than 0 to 9; or the download failed. The text
            names the files, and says what to put where.
        MissingDependency: a download is asked for, and torchvision is not installed, or does not match torch.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    base = Path(root)
    version, folder = _found(base)
    halves, faults = _halves(version, folder, checksum)
    problem = None
    if faults and download:
        problem = downloaded("CIFAR10", root)
        version, folder = _found(base)
        halves, faults = _halves(version, folder, checksum)
    check("cifar10", problem, folder, faults, _cure(base, version, folder, faults, download))
    images, labels = halves["train" if train else "test"]
    return ImageData(
        images,
        labels,
        name="cifar10" if train else "cifar10-test",
        dequantize=dequantize,
        flips=flips,
        num_classes=CLASSES,
        source=root,
    )


def holds_cifar10(root: str | os.PathLike) -> bool:
    """Whether :func:`cifar10` would look for its files in ``root``: some are there, or their folder is, or their archive."""
    base = Path(root)
    return _found(base)[1] == base or any(
        (base / version.folder).is_dir() or (base / version.archive).is_file() for version in _VERSIONS
    )


def _found(root: Path) -> tuple[_Version, Path]:
    """The version that is in ``root`` or is ``root``, and its folder; the python version where there is none."""
    for version in _VERSIONS:
        for folder in (root / version.folder, root):
            if any((folder / name).exists() for name in version.checksums):
                return version, folder
    return _VERSIONS[0], root / _VERSIONS[0].folder


def _cure(root: Path, version: _Version, folder: Path, faults: Faults, download: bool) -> str:
    """What to put where."""
    damaged = any(fault != MISSING for fault in faults.values())
    origins = [f"https://www.cs.toronto.edu/~kriz/{each.archive}" for each in _VERSIONS]
    if not folder.is_dir():
        packed = [each.archive for each in _VERSIONS if (root / each.archive).is_file()]
        text = f"Put them there, unpacked from {origins[0]}, or the binary version, {_VERSIONS[1].folder}, from {origins[1]}"
        if packed:
            text += f"; {packed[0]} is there: unpack it, with tar xzf {packed[0]}"
    else:
        text = f"Put them there, unpacked from {origins[_VERSIONS.index(version)]}"
    if any("checksum" in fault for fault in faults.values()):
        text += "; for files of other images in the same form pass checksum=False (fastscore train: --no-checksum)"
    return (
        text
        + ("" if download else advice(damaged))
        + ". Images of another form: the data sets folder and npz (fastscore train: --data)"
    )


def _halves(version: _Version, folder: Path, checksum: bool) -> tuple[Halves, Faults]:
    """Both halves, and the faults of the files: nothing is made of those whose checksum is wrong."""
    faults: Faults = {}
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "test": []}
    for name, expected in version.checksums.items():
        batch = name != "batches.meta"
        if not batch and not checksum:  # the classes' names, which nothing here needs
            continue
        content = _content(folder / name, version.algorithm, expected if checksum else None, faults)
        if content is None or not batch:
            continue
        try:
            images, labels = version.read(content)
            if fault := fault_of_labels(images, labels):
                raise ValueError(fault)
            parts["test" if name.startswith("test") else "train"].append((images, labels))
        except ValueError as error:
            faults[name] = str(error)
    if faults:
        return {}, faults
    return {
        half: (torch.cat([i for i, _ in of]), torch.cat([labels for _, labels in of])) for half, of in parts.items()
    }, {}


def _content(path: Path, algorithm: str, expected: str | None, faults: Faults) -> bytes | None:
    """A file's bytes where their checksum is right, or None and a fault."""
    try:
        content = files.read(path)
    except OSError as error:
        faults[path.name] = MISSING if isinstance(error, FileNotFoundError) else str(error.strerror)
        return None
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if expected is not None and found != expected:
        faults[path.name] = f"its {algorithm.upper()} checksum is {found}, not {expected}, at {len(content):,} bytes"
        return None
    return content


def _python(content: bytes) -> tuple[Tensor, Tensor]:
    """Images and labels of a pickled batch: a dict with "data", uint8 [N, 3072], and "labels", a list of integers.

    Raises:
        ValueError: it is something else.
    """
    batch = unpickle(content)
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise ValueError("it must hold a dict with 'data' and 'labels'")
    data, labels = batch["data"], batch["labels"]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _VALUES or not len(data):
        shape = f"an array of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"its 'data' must be uint8 of shape [N, {_VALUES}], got {shape}")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise ValueError("its 'labels' must be a list of integers")
    return torch.from_numpy(np.ascontiguousarray(data)).view(-1, *_SHAPE), torch.tensor(labels, dtype=torch.int64)


def _binary(content: bytes) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch of records: one byte of label, then 3,072 of the image, channels first.

    Raises:
        ValueError: it is no whole number of records, at least one.
    """
    record = 1 + _VALUES
    if not content or len(content) % record:
        raise ValueError(f"it must be a whole number of records of {record:,} bytes, got {len(content):,} bytes")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, record)
    return records[:, 1:].reshape(-1, *_SHAPE), records[:, 0].long()


_VERSIONS = (
    _Version("cifar-10-batches-py", "cifar-10-python.tar.gz", "md5", PYTHON_CHECKSUMS, _python),
    _Version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "sha1", BINARY_CHECKSUMS, _binary),
)
