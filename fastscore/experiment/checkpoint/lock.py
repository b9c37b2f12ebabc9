"""The lock of a run folder: two trainers must not write into one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from ..._core.errors import CheckpointError, require


class Lock:
    """An exclusive lock on the file ``path``, by ``filelock``.

    Held until :meth:`release`, or until the object or the process ends, however it ends: the operating system keeps
    the lock, not the file, so a kill frees the folder. Where the file system has no such locks, a warning says so and
    nothing is locked: a lock that is the existence of a file would outlive a kill.

    Raises:
        CheckpointError: another trainer holds it.
        OSError: ``path`` cannot be opened.
        MissingDependency: filelock is not installed.
    """

    def __init__(self, path: Path):
        filelock = require("filelock", "train")
        # not of one thread: a Trainer may be closed by another thread than the one that made it
        self._lock = filelock.FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise CheckpointError(
                f"another process, or another Trainer of this one, trains in {path.parent}: wait "
                "until it ends, or choose another folder with --out (in Python: or close() that "
                "Trainer)"
            ) from None
        except OSError as error:
            if error.filename is not None:  # it could not be opened; errors of locking name no file
                raise
            warnings.warn(
                f"{path} cannot be locked ({error}): take care that one process alone trains there", stacklevel=3
            )
        self.path, self.held, self._file = path, True, os.stat(path)

    def still_there(self) -> bool:
        """Whether ``path`` is the very file that was locked: False where the folder was removed, moved or replaced."""
        try:
            return os.path.samestat(self._file, os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def release(self) -> None:
        self._lock.release()
        self.held = False


def is_held(path: Path) -> bool | None:
    """Whether a process holds a :class:`Lock` on ``path``; None where that cannot be told.

    The file is not made, and the lock is taken for an instant where it is free.
    """
    if not path.exists():
        return False
    filelock = require("filelock", "train")
    lock = filelock.FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError:  # no right to write, or no locks on this file system
        return None
    lock.release()
    return False
