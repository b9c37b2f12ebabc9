"""Files: written whole or not at all, with the mode that the umask gives; a lock; what a killed writer leaves."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._core import files
from ..._core.errors import CannotWrite, CheckpointError
from ..config import parse_json


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it to ``path``.

    Raises:
        CannotWrite: an ``OSError`` whose text names ``path``; what was there stays.
    """
    temporary = files.temporary(path)
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except CannotWrite:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> str:
    """Write ``data`` and flush it to disk; returns its SHA-256. :class:`CannotWrite` where that fails."""
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error
    return hashlib.sha256(data).hexdigest()


def cannot_write(path: str | Path, error: OSError) -> CannotWrite:
    """``error`` with a text that names ``path``."""
    return CannotWrite(f"{path} cannot be written: {error.strerror or error}", error.errno, str(path))


def flush(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class NoChecksum(ValueError):
    """A file from before there were checksums."""


def signed_json(values: dict[str, Any]) -> str:
    """``values`` and, under "sha256", the checksum of the rest."""
    return json.dumps(values | {"sha256": _checksum(values)}, indent=1) + "\n"


def read_signed_json(text: bytes) -> dict[str, Any]:
    """What :func:`signed_json` was given; ``ValueError`` where it is something else or was altered."""
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError(f"it must hold a JSON object, got {type(values).__name__}")
    if "sha256" not in values:
        raise NoChecksum(
            "it has no checksum: an earlier version of fastscore wrote it, whose runs this one cannot read"
        )
    rest = {name: value for name, value in values.items() if name != "sha256"}
    if values["sha256"] != _checksum(rest):
        raise ValueError("its checksum is wrong: it was altered after it was written")
    return rest


def _checksum(values: dict[str, Any]) -> str:
    try:
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Lock:
    """An exclusive lock on the file ``path``, so that two trainers do not write into one folder.

    Held until :meth:`release`, or until the object or the process ends, however it ends.

    Raises:
        CheckpointError: another trainer holds it.
    """

    def __init__(self, path: Path):
        self.path, self._handle = path, -1  # _handle first: __del__ runs also where open fails
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise CheckpointError(
                f"another process, or another Trainer of this one, trains in {path.parent}: wait "
                "until it ends, or choose another folder with --out (in Python: or close() that "
                "Trainer)"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{path} cannot be locked ({error}): take care that one process alone trains there", stacklevel=3
            )

    @property
    def held(self) -> bool:
        return self._handle >= 0

    def still_there(self) -> bool:
        """Whether ``path`` is the very file that was locked: False where the folder was removed, moved or replaced."""
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    __del__ = release


def clear_unfinished(checkpoints: Path) -> None:
    """Delete the half-written and half-deleted checkpoints of a run that was killed; nobody may be training there."""
    if checkpoints.is_dir():
        for name in os.listdir(checkpoints):
            if re.fullmatch(r"\.(writing_|deleting_step_)[0-9]{8,}", name):
                shutil.rmtree(checkpoints / name)


def is_missing(error: OSError) -> bool:
    """Whether the file is not there, as opposed to there and not readable."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR)
