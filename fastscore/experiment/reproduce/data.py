"""What a reproduction is trained on: which data set lies in a folder, and data.json, which says what was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..._core.errors import CheckpointError, DataError
from ...data import Data, ImageData
from ...data.cifar10 import holds_cifar10
from ..build import make_data
from ..config import TrainConfig
from ..sample_folder import check_encodable
from ..terminal import check_readable
from . import folder
from .request import PHOTOS, Request

SHAPE = (3, 32, 32)
_CIFAR100 = ("cifar-100-python", "cifar-100-binary")
_LEAST = 20  # training images: fewer have no distance worth measuring


def place(request: Request) -> tuple[str, str]:
    """The name of the data set that ``request.data`` is, and where it lies.

    Raises:
        DataError: there is nothing of that name. ValueError: its name is no text. OSError: it may not be read.
    """
    if request.data == PHOTOS:
        return PHOTOS, "data"
    path = Path(request.data)
    check_encodable("--data", path.absolute())
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(
                f"--data must be a folder, a .npz file or the word {PHOTOS}, got the file {str(path)!r}"
                + (": unpack it, and name the folder" if ".tar" in path.name or path.suffix == ".tgz" else "")
            )
        check_readable("--data", path)
        return "npz", request.data
    if not path.is_dir():
        raise DataError(
            f"--data must be a folder that holds cifar-10-batches-py or cifar-10-batches-bin, a folder of images, a .npz file, "
            f"or the word {PHOTOS}; there is no {str(path)!r}"
        )
    check_readable("--data", path)
    return ("cifar10" if holds_cifar10(path) else "folder"), request.data


def load(config: TrainConfig) -> tuple[ImageData, Data | None]:
    """The training images, and those held out (None where the data set has none).

    Raises:
        DataError: they are not there, damaged, too few, or not of the recipe's shape; the text says what to put where.
    """
    try:
        train = make_data(config)
    except DataError as error:
        if config.data != "folder":
            raise
        names = [Path(config.data_dir).absolute().name, *(path.name for path in Path(config.data_dir).iterdir())]
        other = " CIFAR-100, which lies there, is another data set." if {*_CIFAR100} & {*names} else ""
        raise DataError(
            f"{error}.{other} CIFAR-10 itself is looked for in {config.data_dir} as cifar-10-batches-py or cifar-10-batches-bin, unpacked "
            "from https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz or cifar-10-binary.tar.gz"
        ) from error
    assert isinstance(train, ImageData)
    if train.shape != SHAPE:
        raise DataError(
            f"--data must hold images of shape {SHAPE}, as the recipe's, got {train.describe()}: a folder of images of any size is "
            "cropped and resized to it; images of another shape train with fastscore train"
        )
    if len(train) < _LEAST:
        raise DataError(f"--data must hold at least {_LEAST} training images, got {train.describe()}")
    return train, make_data(config, heldout=True)


def described(config: TrainConfig, train: ImageData, heldout: Data | None) -> dict[str, Any]:
    """What data.json says."""
    return {
        "train": _about(train),
        "heldout": None if heldout is None else _about(heldout),
        "num_classes": train.num_classes,
        "source": train.source,
        "checksums": "none" if config.data != "cifar10" else "published" if config.checksum else "not checked",
    }


def check_same(found: dict[str, Any], out: Path) -> None:
    """Raise CheckpointError where ``out`` was begun with other data than ``found``."""
    before = folder.read(out / folder.DATA)
    if before is None:
        return
    for half in ("train", "heldout"):
        was, now = before.get(half), found[half]
        was = was if isinstance(was, dict) else None
        if (was or {}).get("fingerprint") != (now or {}).get("fingerprint"):
            raise CheckpointError(
                f"{out} was begun with other data: {_words(was)} in place of {_words(now)} ({half}), from "
                f"{before.get('source')}; put the data back as they were, or choose another folder with --out"
            )


def _about(data: Data) -> dict[str, Any]:
    return {"name": data.name, "count": len(data), "shape": list(data.shape), "fingerprint": data.fingerprint()}


def _words(about: Any) -> str:
    if not isinstance(about, dict):
        return "none"
    return f"{about.get('count')} images of {about.get('name')}, fingerprint {about.get('fingerprint')!s:.12}"
