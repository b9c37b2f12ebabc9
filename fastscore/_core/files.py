"""Files written whole or not at all: first under a temporary name, flushed to the disk, then renamed.

:func:`write_atomically` does all of it. Where several files must change together, each is written under its
:func:`temporary` name, and :func:`replace` puts one after another in place. :func:`read` reads no other than regular files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import CannotWrite

_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # of a folder: network file systems, or one not to be listed


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Make ``data`` the content of ``path`` in one step, with the mode that the umask gives.

    Whoever reads ``path``, or finds it after a kill or a power cut, meets the old content or the new, never a part.

    Raises:
        CannotWrite: an ``OSError`` whose text names ``path``; what was there stays.
    """
    beside = temporary(path)
    with naming(path):
        try:
            _write(beside, data)
            replace(beside, path)
        finally:
            with contextlib.suppress(OSError):  # the folder may be what is missing
                beside.unlink()


def read(path: Path) -> bytes:
    """The content of ``path``.

    Raises:
        OSError: it cannot be read, or is a device, a pipe or a socket, whose content has no end, or is waited for without one.
    """
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Raise ``OSError`` where ``path`` is not there, or is a device, a pipe or a socket; a folder, an own error's, passes."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it must be a file, and is a device, a pipe or a socket", str(path))


def write_flushed(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` and wait until it is on the disk; :class:`CannotWrite` where that fails."""
    with naming(path):
        _write(path, data)


def replace(source: Path, target: Path) -> None:
    """Rename ``source``, which is on the disk, to ``target``, and wait until that is on the disk too."""
    os.replace(source, target)
    flush_folder(target.parent)


def flush_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk, on file systems that can wait for it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def _write(path: Path, data: bytes | memoryview) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into :class:`CannotWrite` that names ``path``."""
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | Path, error: OSError) -> CannotWrite:
    """``error`` with a text that names ``path``."""
    return CannotWrite(f"{path} cannot be written: {error.strerror or error}", error.errno, str(path))


def temporary(path: Path) -> Path:
    """A hidden name beside ``path`` with the same ending, unique to this call; it tells the machine and the process.

    By these :func:`clear_leftovers` knows the files of writers that no longer run.
    """
    return path.with_name(f".{uuid.uuid4().hex}.{platform.node()}.{os.getpid()}.tmp{path.suffix}")


def clear_leftovers(folder: Path) -> None:
    """Delete the temporary files whose process, one of this machine, has ended: they would fill the disk for good."""
    ours = re.compile(rf"\.[0-9a-f]{{32}}\.{re.escape(platform.node())}\.(\d+)\.tmp(\.\w+)?")
    for path in folder.glob(".*.tmp*"):
        writer = ours.fullmatch(path.name)
        if writer and not lives(int(writer[1])):
            path.unlink(missing_ok=True)


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
