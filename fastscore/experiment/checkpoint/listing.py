"""Which checkpoints and snapshots a run has."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..._core.errors import CheckpointError
from .files import CHECKPOINTS, CONFIG, SNAPSHOTS, is_missing

T = TypeVar("T")


def steps(run: Path) -> list[Path]:
    """The whole checkpoints of a run, in the order of their iterations.

    Raises:
        CheckpointError: checkpoints is a link to what is not there. OSError: it is no folder, or cannot be read.
    """
    return _listed(run / CHECKPOINTS)


def snapshots(run: Path) -> list[Path]:
    """The snapshots of a run, weights alone that stay, in the order of their iterations. Raises as :func:`steps`."""
    return _listed(run / SNAPSHOTS)


def _listed(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        if not os.path.lexists(folder) and is_missing(error):
            return []
        if os.path.islink(folder) and is_missing(error):
            raise CheckpointError(
                f"{folder} is a link to {os.readlink(folder)}, which is not there: mount or restore it"
            ) from None
        raise
    return sorted((folder / name for name in names if _number(name) is not None), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The iteration that a checkpoint's name tells."""
    number = _number(checkpoint.name)
    if number is None:
        raise ValueError(f"checkpoint must be named step_00001000, or another number, got {checkpoint.name!r}")
    return number


def _number(name: str) -> int | None:
    found = re.fullmatch(r"step_([0-9]{8,20})", name)
    return int(found[1]) if found and name == f"step_{int(found[1]):08d}" else None


def latest(run: Path) -> Path:
    """The newest checkpoint, or an error that says what to do."""
    found = steps(run)
    if not found:
        cure = (
            "go on with its training: the command that began it and --resume"
            if (run / CONFIG).exists()
            else "it is not a run folder"
        )
        raise CheckpointError(f"{run} has no checkpoint yet; {cure}")
    return found[-1]


def of_iteration(run: Path, iteration: int) -> Path:
    """The checkpoint of that iteration, or where there is none the snapshot; or an error that says which there are."""
    saved, kept = ({step_of(folder): folder for folder in found} for found in (steps(run), snapshots(run)))
    if not kept:
        latest(run)  # raises, and says what to do, if there is no checkpoint either
    if iteration in saved or iteration in kept:
        return saved[iteration] if iteration in saved else kept[iteration]
    there = [
        f"{name} of {', '.join(map(str, found))}" for name, found in (("those", saved), ("snapshots", kept)) if found
    ]
    raise CheckpointError(
        f"{run} has no checkpoint{' or snapshot' if kept else ''} of iteration {iteration} (--checkpoint); "
        f"it has {' and '.join(there)}"
    )


def advice(checkpoint: Path) -> str:
    """What to do about a damaged checkpoint or snapshot."""
    if checkpoint.parent.name == SNAPSHOTS:
        return f"it is a snapshot, without which the run goes on: delete {checkpoint}, and take another iteration's"
    found = steps(checkpoint.parent.parent)
    if found[-1:] != [checkpoint] and checkpoint in found:  # asked for by its iteration: the run does not need it
        return f"the run goes on from {found[-1].name}, without it: delete {checkpoint}, and take another iteration's"
    if found[:1] == [checkpoint]:
        return "there is no checkpoint before it: train again, in another folder"
    return f"delete {checkpoint} to go on from the one before"


def from_latest(run: Path, read: Callable[[Path], T]) -> T:
    """``read`` of the newest checkpoint; of the then newest where a trainer deleted that one meanwhile."""
    while True:
        folder = latest(run)
        try:
            return read(folder)
        except (OSError, CheckpointError):
            if os.path.lexists(folder):
                raise
