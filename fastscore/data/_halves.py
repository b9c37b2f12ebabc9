"""Data sets whose two halves, training and test, lie in files of known names: what is said of these files.

All files of a set, those of the other half too, are looked at before anything is made of them: a damaged file, labels
that are none, or halves that do not fit together are found before training and not at its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from .._core.errors import DataError, require
from .base import wrong_labels

MISSING = "missing"
CLASSES = 10
_TOLD = 3  # files of which an error says what is wrong with each

Halves = dict[str, tuple[Tensor, Tensor]]  # "train" and "test": uint8 images [N, C, H, W] and int64 labels [N]
Faults = dict[str, str]  # file name -> what is wrong with it


def downloaded(kind: str, root: str | os.PathLike) -> str | None:
    """Have torchvision fetch the data set of that class into ``root``; what went wrong, or None.

    Raises:
        MissingDependency: torchvision is not installed, or does not match torch.
    """
    cls: Callable[..., Any] = getattr(require("torchvision.datasets", "train"), kind)
    try:
        cls(os.fspath(root), download=True)
    except Exception as error:  # RuntimeError, OSError, URLError, ...; what there is by now is read all the same
        return f"the download failed ({type(error).__name__}: {error})"
    return None


def check(name: str, problem: str | None, folder: Path, faults: Faults, cure: str) -> None:
    """Raise DataError where there are ``faults``: which files are missing, which damaged and how, and the ``cure``.

    ``problem`` is what :func:`downloaded` gave.
    """
    if not faults:
        return
    missing = [file for file, fault in faults.items() if fault == MISSING]
    damaged = [f"{file} ({fault})" for file, fault in faults.items() if fault != MISSING]
    damaged[_TOLD:] = [word.partition(" ")[0] for word in damaged[_TOLD:]]  # of the others their names will do
    state = [
        f"these files are {kind}: {', '.join(files)}"
        for kind, files in (("missing", missing), ("damaged", damaged))
        if files
    ]
    raise DataError(
        f"{name}: {problem or 'the data set does not read'}. In {os.path.abspath(folder)} {'; '.join(state)}. {cure}"
    )


def advice(damaged: bool) -> str:
    """How to have missing files downloaded."""
    return (
        f"; or {'delete what is damaged and ' if damaged else ''}pass download=True to fetch "
        "them, or the root that has them (fastscore train: --download, --data-dir)"
    )


def fault_of_labels(images: Tensor, labels: Tensor) -> str | None:
    """What is wrong with ``labels`` for ``images``, if anything."""
    if len(images) != len(labels):
        return f"it has {len(labels):,} labels, and there are {len(images):,} images"
    if wrong := wrong_labels(labels, CLASSES):
        return f"labels must be from 0 to {CLASSES - 1}, got {wrong}"
    return None
