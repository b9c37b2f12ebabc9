"""Images packed as CIFAR-10 is published: its python version and its binary version, with checksums of their own."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastscore import data
from fastscore.data import ImageData
from fastscore.rng import Philox

BATCHES = [f"data_batch_{i}" for i in range(1, 6)]


def photos(split: str, count: int) -> tuple[Tensor, Tensor]:
    """``count`` of the photographs' crops, of all classes, in a random order."""
    crops = data.photos(split)
    chosen = Philox(0).permutation(len(crops))[:count]
    assert crops.labels is not None
    return crops.images[chosen], crops.labels[chosen]


def pack_python(root: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, protocol: int = 2) -> Path:
    """``cifar-10-batches-py`` in ``root``: pickled dicts of a uint8 array [N, 3072] and a list of labels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, images, labels in _batches(train, test):
        batch = {
            "batch_label": name,
            "labels": labels.tolist(),
            "data": images.reshape(len(images), -1).numpy(),
            "filenames": [f"{i}.png" for i in range(len(images))],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    names = {"label_names": [f"class {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=protocol))
    return folder


def pack_binary(root: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Path:
    """``cifar-10-batches-bin`` in ``root``: records of a label's byte and 3,072 of the image."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, images, labels in _batches(train, test):
        records = torch.cat([labels[:, None].to(torch.uint8), images.reshape(len(images), -1)], 1)
        (folder / f"{name}.bin").write_bytes(records.numpy().tobytes())
    return folder


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the checksums of the files in ``folder`` those that are looked for."""
    from fastscore.data.cifar10 import BINARY_CHECKSUMS, PYTHON_CHECKSUMS

    python = folder.name.endswith("-py")
    for name in PYTHON_CHECKSUMS if python else BINARY_CHECKSUMS:
        found = hashlib.new("md5" if python else "sha1", (folder / name).read_bytes()).hexdigest()
        monkeypatch.setitem(PYTHON_CHECKSUMS if python else BINARY_CHECKSUMS, name, found)


def assert_holds(found: ImageData, images: Tensor, labels: Tensor) -> None:
    assert found.labels is not None
    assert torch.equal(found.images, images) and torch.equal(found.labels, labels) and found.num_classes == 10


def _batches(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    parts = zip(BATCHES, train[0].tensor_split(5), train[1].tensor_split(5))
    return [*parts, ("test_batch", *test)]
