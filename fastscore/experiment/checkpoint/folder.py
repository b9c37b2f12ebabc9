"""The run folder: whose it is, what is in it, and what must not be touched."""

from __future__ import annotations

import dataclasses
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._core.errors import CheckpointError
from ..._core.files import read, write_atomically
from ...data import Data
from ..config import TrainConfig, quoted
from .files import (
    CHANGES,
    CHECKPOINTS,
    CONFIG,
    IDENTITY,
    METRICS,
    MOMENTS,
    SAMPLES,
    SNAPSHOTS,
    is_missing,
    read_signed_json,
    signed_json,
)
from .listing import steps
from .lock import Lock

FORMAT = 2  # goes up where a run of an earlier version can be sampled, but its iterations would now be others


@dataclass(frozen=True)
class Identity:
    """What run.json says: the run's random number and the data it is trained on.

    Attributes:
        run: 32 hexadecimal digits, drawn when the run began.
        data: name of the data set.
        count, shape, num_classes, fingerprint: of :class:`fastscore.data.Data`, as it was then; all but the shape None
            where it is not known, of a run that was imported and not trained here yet.
        source: the absolute path of the folder it was read from; None where nothing was read.
        format: 2 since each iteration has a sub-stream of random numbers; 1, or none in the file, before.
    """

    run: str
    data: str
    count: int | None
    shape: tuple[int, ...]
    num_classes: int | None
    fingerprint: str | None
    source: str | None
    format: int = 1

    @classmethod
    def new(cls, data: Data) -> Identity:
        """Of a run that begins now."""
        return cls(
            secrets.token_hex(16),
            data.name,
            len(data),
            tuple(data.shape),
            data.num_classes,
            data.fingerprint(),
            data.source,
            FORMAT,
        )

    @classmethod
    def of_unknown_data(cls, name: str, shape: tuple[int, ...], source: str | None) -> Identity:
        """Of a run that was trained elsewhere, on samples of ``shape``."""
        return cls(secrets.token_hex(16), name, None, shape, None, None, source, FORMAT)

    def with_data(self, data: Data) -> Identity:
        """The same run, with the data that it goes on with."""
        return dataclasses.replace(Identity.new(data), run=self.run, format=self.format)

    def check_format(self, run: Path) -> None:
        """Raise CheckpointError if this version cannot train ``run``, whose identity this is, any further."""
        if type(self.format) is not int or self.format != FORMAT:
            raise CheckpointError(
                f"{run} was begun by another version of fastscore, whose iterations draw other random numbers (format "
                f"{self.format!s:.20} in {IDENTITY}; this version's is {FORMAT}): it can be sampled and evaluated, "
                "and not trained further; train again, in another folder with --out"
            )

    def changes(self, data: Data) -> list[str]:
        """How ``data`` differs from what the run was trained on, as text; where the folder lies does not matter."""
        pairs = {
            "shape of a sample": (self.shape, tuple(data.shape)),
            "number of samples": (self.count, len(data)),
            "number of classes": (self.num_classes, data.num_classes),
        }
        if self.fingerprint is None:
            del pairs["number of samples"], pairs["number of classes"]
        changed = [f"{name} (was {was}, now {now})" for name, (was, now) in pairs.items() if was != now]
        if not changed and self.fingerprint is not None and data.fingerprint() != self.fingerprint:
            changed = ["content: as many samples of the same shape, but other values, labels or another order"]
        return changed

    def check_data(self, data: Data, run: Path) -> None:
        """Raise CheckpointError where ``data`` are not what ``run``, whose identity this is, was trained on."""
        if changes := self.changes(data):
            source = f"; it was read from {self.source}" if self.source else ""
            raise CheckpointError(
                f"{run} was trained on other data: {', '.join(changes)}{source}. What is "
                f"there now is {data.describe()}. Put the data back as it was, or choose another "
                "folder with --out"
            )


def begin(run: Path, identity: Identity) -> None:
    """Write run.json."""
    write_atomically(run / IDENTITY, signed_json(dataclasses.asdict(identity)).encode())


def read_identity(run: Path) -> Identity:
    """What run.json says."""
    path = run / IDENTITY
    try:
        values = read_signed_json(read(path))
        return Identity(**values | {"shape": tuple(values["shape"])})
    except OSError as error:
        if not is_missing(error):
            raise
        raise CheckpointError(
            f"{run} has no {IDENTITY}, which says whose checkpoints it holds: put it back where it "
            "was deleted; a run of an earlier version of fastscore has none and must be trained "
            "again, in another folder"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not the identity of a run: {error}; put it back as it was: it says whose checkpoints {run} holds"
        ) from error


def check_free(run: Path) -> None:
    """Raise unless a new run may be written into ``run`` without touching what is there.

    An empty folder, or none, is free; so is one that holds what a run does not write.

    Raises:
        CheckpointError: it holds a run, or what a run would overwrite and which is of unknown origin.
        OSError: it cannot be looked into.
    """
    if not os.path.lexists(run):
        return
    names = set(os.listdir(run))
    if CONFIG in names:
        raise CheckpointError(
            f"{run} already holds a run: add --resume to go on with it, or choose another folder with --out"
        )
    taken = [name for name in (METRICS, CHANGES, MOMENTS) if name in names]
    taken += [f"{name}/" for name in (CHECKPOINTS, SNAPSHOTS, SAMPLES) if name in names and not _empty(run / name)]
    if IDENTITY in names:  # a valid one is what is left of a run that was killed before it wrote its config
        try:
            read_identity(run)
        except (CheckpointError, OSError):
            taken.append(IDENTITY)
    if taken:
        raise CheckpointError(
            f"{run} has no {CONFIG} but holds {', '.join(taken)}, of unknown origin, which a new run would overwrite: "
            f"choose another folder with --out, or move {'it' if len(taken) == 1 else 'them'} away"
            + (
                f"; where they are a run's whose {CONFIG} is gone, put that back: {_copy_of_config(run)}"
                if f"{CHECKPOINTS}/" in taken
                else ""
            )
        )


def _empty(folder: Path) -> bool:
    """Whether ``folder`` is a folder with nothing in it; a link that leads nowhere is not."""
    return folder.is_dir() and not os.listdir(folder)


def _copy_of_config(run: Path) -> str:
    try:
        found = steps(run)
    except (CheckpointError, OSError):  # of which reading them will say more
        found = []
    return f"the field 'config' of {found[-1] / 'about.json'} is a copy" if found else "no checkpoint has a copy"


def check_there(run: Path, identity: Identity, lock: Lock) -> None:
    """Raise unless ``run`` is still the folder in which this run began: removed, replaced, or another's by now."""
    if not lock.still_there():
        raise CheckpointError(
            f"{run} was removed, moved or replaced while this run trained in it; nothing more was written there"
        )
    if not (run / CONFIG).is_file():
        raise CheckpointError(
            f"{run / CONFIG} was deleted while this run trained there: put it back, and go on with "
            "--resume; nothing more was written there"
        )
    if read_identity(run).run != identity.run:
        raise CheckpointError(f"{run / IDENTITY} is another run's by now; nothing more was written there")


def read_config(run: Path) -> TrainConfig:
    """The config of a run folder."""
    path = run / CONFIG
    try:
        text = read(path)
    except OSError as error:
        if not is_missing(error):
            raise
        found = steps(run)
        cure = (
            f"it holds {found[-1].relative_to(run)}: put the {CONFIG} of that run back, of which {_copy_of_config(run)}"
            if found
            else "make a run in another folder with: fastscore train PRESET --out RUN"
            if run.exists()
            else f"make one with: fastscore train PRESET --out {quoted(run)}"
        )
        raise CheckpointError(f"{run} is not a run folder: it has no {CONFIG}; {cure}") from None
    try:
        return TrainConfig.from_json(text, path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; put it back as it was: {_copy_of_config(run)}") from error


def changed_fields(config: TrainConfig, saved: TrainConfig, names: Any) -> dict[str, tuple[Any, Any]]:
    """field: (saved value, present value) where they differ."""
    return {
        name: (getattr(saved, name), getattr(config, name))
        for name in names
        if getattr(saved, name) != getattr(config, name)
    }
