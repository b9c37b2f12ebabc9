"""The folder of a reproduction is one process's at a time, and where it cannot be written, the text says how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._core import files
from ..._core.errors import CannotWrite, CheckpointError, FastscoreError
from .. import checkpoint
from ..ranks import Ranks
from ..sample_folder import check_folder
from . import folder


@contextmanager
def held(out: Path, ranks: Ranks) -> Iterator[None]:
    """Inside, ``out`` is there and this process's, or these ranks', alone."""
    lock: checkpoint.Lock | None = None
    with ranks.together():
        if ranks.leads:
            check_folder("--out", out)
            if (out / checkpoint.CONFIG).exists():
                raise CheckpointError(f"{out} holds a run of fastscore train: choose another folder with --out")
            try:
                lock = checkpoint.Lock(out / folder.LOCK)
            except CheckpointError:
                raise FastscoreError(
                    f"another process reproduces in {out}: wait until it ends, or choose another folder with --out"
                ) from None
            for place in (out, out / folder.SELECTED, out / folder.MEASURES):
                files.clear_leftovers(place)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def going_on(command: str) -> Iterator[None]:
    """Turn an error of the disk inside into one that says how to go on."""
    try:
        yield
    except CannotWrite as error:
        if command in str(error):
            raise
        raise CannotWrite(
            f"{error}; what was written stays. Once that is mended, go on with: {command}", error.errno, error.filename
        ) from error
