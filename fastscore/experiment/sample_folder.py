"""A folder of samples: samples.npy (all of them), samples.png (the first hundred), samples.json (how they were drawn).

What lies there is replaced as a whole, once everything new is on the disk and finite; samples that were drawn otherwise
are replaced only on request. Where sampling ends early, the samples drawn so far are kept.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import platform
import stat
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from .._core import files
from .._core.errors import CannotWrite, FastscoreError, NonFiniteSamples, require
from . import checkpoint

ARRAY, PICTURE, SETTINGS, KEPT = "samples.npy", "samples.png", "samples.json", "samples.partial{}.npy"
_SHOWN = 100
_NOT_SETTINGS = ("versions", "shape", "run")  # a run is identified by its weights, not by its path


def versions() -> dict[str, str]:
    """What drew the samples."""
    return {"fastscore": __version__, "torch": torch.__version__, "python": platform.python_version()}


def check_folder(name: str, folder: Path, *, make: bool = True) -> None:
    """Raise now, not after an hour of work, where ``folder`` cannot be written; make it, or only look.

    Raises:
        ValueError: its name is not valid UTF-8.
        CheckpointError: it is among the files that a run needs.
        OSError: another reason. All texts begin with ``name``.
    """
    check_encodable(name, folder)
    checkpoint.check_not_of_a_run(name, folder)
    probe = files.temporary(folder / "probe")
    try:
        there = _nearest(folder)
        if not stat.S_ISDIR(os.stat(there).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{there} may not be written")
        if make:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise OSError(
            error.errno, f"{name} must be a folder that can be written, got {str(folder)!r}: {error.strerror}"
        ) from error


def _nearest(folder: Path) -> Path:
    """``folder`` or the first above it that is there."""
    for path in (folder, *folder.absolute().parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
            return path
    return Path("/")


def check_encodable(name: str, path: Path) -> None:
    """Raise ValueError where ``path`` is no text: it could be neither written into JSON nor printed."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be valid UTF-8, got {os.fsencode(path)!r}: choose another name") from None


def check_replaceable(folder: Path, settings: dict[str, Any], *, tell: bool = True) -> None:
    """Raise where ``folder`` holds samples that were drawn otherwise than ``settings`` say.

    The same samples may be drawn again, more of them, and (with a warning where ``tell``) those of a later iteration
    of the run.

    Raises:
        FastscoreError: it holds others, or samples of unknown settings; the text says what differs and both ways on.
    """
    if not (folder / ARRAY).exists() and not (folder / SETTINGS).exists():
        return
    ways = "choose another folder with --out, or replace them with --overwrite"
    try:
        before = json.loads(files.read(folder / SETTINGS))
        if not isinstance(before, dict):
            raise ValueError("it must hold a JSON object")
        before = {"precision": "fp32", "levels": 0} | before  # there was nothing else
    except (FileNotFoundError, ValueError, RecursionError):
        raise FastscoreError(
            f"{folder} holds samples without a readable {SETTINGS}, so of unknown settings: {ways}"
        ) from None
    changed = [name for name, value in settings.items() if name not in _NOT_SETTINGS and before.get(name) != value]
    if "sha256" not in changed:  # the very same weights: a copy of the run, say
        changed = [name for name in changed if name not in ("identity", "step")]
    elif {"identity", "step"} & set(changed):
        changed.remove("sha256")  # which follows from these
    more = {"num", "step"} & set(changed)
    if len(changed) == len(more) == 1 and _is_more(before.get(changed[0]), settings[changed[0]]):
        if changed == ["step"] and tell:
            warnings.warn(f"the samples of iteration {before['step']} in {folder} will be replaced", stacklevel=2)
        return
    if changed:
        differs = ", ".join(_difference(name, before, settings) for name in changed)
        raise FastscoreError(f"{folder} holds samples of other settings: {differs}; {ways}")


def _difference(name: str, before: dict[str, Any], settings: dict[str, Any]) -> str:
    was, now = (said.get("run" if name == "identity" else name) for said in (before, settings))
    if name == "identity" and was == now:
        now = "another one in that place"
    return f"{name if name != 'identity' else 'run'} (was {was}, now {now})"


def _is_more(before: Any, now: int) -> bool:
    return isinstance(before, int) and before < now


def write_samples(
    parts: Iterable[Tensor], folder: Path, settings: dict[str, Any], *, overwrite: bool = False
) -> list[Path]:
    """Draw ``parts``, and put them in ``folder``: the paths of picture and array.

    Args:
        parts: batches [b, ...] of ``settings["num"]`` samples in all, each of shape ``settings["shape"]``; float32,
            on the CPU. The place on the disk is taken before the first is asked for.
        folder: made where it does not exist.
        settings: what samples.json is to say; see :func:`check_replaceable`.
        overwrite: replace samples of other settings.

    Raises:
        FastscoreError: another process put samples of other settings there meanwhile; those drawn here are kept.
        NonFiniteSamples: from ``parts``; nothing is replaced.
        OSError: the disk is full, say, and the text names ``folder``; or one from ``parts``, as it is. After this, Ctrl-C, or any other end, a warning names the file that keeps the
            samples that were drawn before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.clear_leftovers(folder)
    shape, done, shown = (settings["num"], *settings["shape"]), 0, []
    require("PIL.Image" if len(shape) == 4 else "matplotlib.figure", "train")  # the picture, later
    array, picture = (files.temporary(folder / name) for name in (ARRAY, PICTURE))
    drawn = _Drawn(parts)
    try:
        with open(array, "wb") as file:
            file.write(_header(shape))
            _reserve(file, 4 * math.prod(shape))
            for part in drawn:
                file.write(np.ascontiguousarray(part.numpy(), dtype="<f4").data)
                file.flush()
                shown += [part] if done < _SHOWN else []
                done += len(part)
            os.fsync(file.fileno())
        _draw_picture(torch.cat(shown)[:_SHOWN] if len(shape) == 4 else _read(array), picture)
        if not overwrite:
            check_replaceable(folder, settings, tell=False)  # again: another process may have drawn into it meanwhile
        _settle(folder, array, picture, settings)
    except NonFiniteSamples:
        raise
    except BaseException as error:
        if done:
            _keep(array, folder, done, settings)
        if isinstance(error, OSError) and error is not drawn.error:
            reason = os.strerror(error.errno) if isinstance(error, CannotWrite) and error.errno else error.strerror
            raise OSError(error.errno, f"the samples cannot be written into {folder}: {reason or error}") from error
        raise
    finally:
        array.unlink(missing_ok=True)
        picture.unlink(missing_ok=True)
    return [folder / PICTURE, folder / ARRAY]


class _Drawn:
    """``parts``, one after the other; ``error`` is what ended them: a file that could not be read, say, and was not written."""

    def __init__(self, parts: Iterable[Tensor]):
        self._parts = parts
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Tensor]:
        try:
            yield from self._parts
        except Exception as error:
            self.error = error
            raise


def read_samples(folder: Path) -> Tensor:
    """All samples of a folder, float32 on the CPU."""
    return _read(folder / ARRAY)


def _settle(folder: Path, array: Path, picture: Path, settings: dict[str, Any]) -> None:
    """Rename the new files into place. samples.json goes first and comes last: it never describes other samples."""
    text = files.temporary(folder / SETTINGS)
    try:
        files.write_flushed(text, _json(settings))
        (folder / SETTINGS).unlink(missing_ok=True)
        files.replace(array, folder / ARRAY)
        files.replace(picture, folder / PICTURE)
        files.replace(text, folder / SETTINGS)
    finally:
        text.unlink(missing_ok=True)


def _json(settings: dict[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


def _draw_picture(samples: Tensor, path: Path) -> None:
    from ..evaluation.pictures import save_grid
    from ..evaluation.plots import save_points

    if samples.dim() == 4:
        save_grid(samples, path)
    else:
        save_points(samples, path)


def _keep(array: Path, folder: Path, done: int, settings: dict[str, Any]) -> None:
    """Make the begun ``array`` a whole file of its first ``done`` samples, under a name that is free."""
    shape = (done, *settings["shape"])
    names = (folder / KEPT.format(f"-{i}" if i > 1 else "") for i in itertools.count(1))
    kept = next(path for path in names if not path.exists())
    try:
        with open(array, "r+b") as file:
            file.write(_header(shape))
            file.truncate(file.tell() + 4 * math.prod(shape))
            os.fsync(file.fileno())
        files.replace(array, kept)
        warnings.warn(f"the first {done} of {settings['num']} samples are kept in {kept}", stacklevel=3)
        files.write_atomically(kept.with_suffix(".json"), _json(settings | {"num": done}))
    except OSError as error:
        warnings.warn(
            f"{kept if kept.exists() else 'what was drawn so far'} could not be kept whole: {error}", stacklevel=3
        )


def _header(shape: tuple[int, ...]) -> bytes:
    """The head of a .npy file of float32, 128 bytes for any shape, so that :func:`_keep` can write another over it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117) + b"\n"


def _reserve(file: BinaryIO, size: int) -> None:
    """Take ``size`` bytes of the disk from here on, so that a full one is an error before anything is drawn."""
    file.flush()
    try:
        os.posix_fallocate(file.fileno(), file.tell(), size)
    except OverflowError:
        raise OSError(errno.EFBIG, f"{size} bytes are more than a file can hold") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # else this file system cannot say
            raise


def _read(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path))
