"""What a command line meets outside its commands: closed streams, strange arguments, and errors reported in one line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .._core import files
from .._core.errors import FastscoreError

_MANY = 1e6  # of what an option counts: so many take memory
_NO_AMOUNTS = ("--seed", "--checkpoint", "--iteration", "--iterations")  # of which more take no more memory
_LONG = 700  # half of the most characters of an error: one of them may quote an argument


def open_streams() -> None:
    """Give /dev/null to standard streams that are closed (``>&-``), before a file of ours takes their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115


class _Output:
    """Standard output, whose errors name it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._named():
            return int(self._stream.write(text))

    def flush(self) -> None:
        with self._named():
            self._stream.flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):  # else the interpreter tries once more as it ends
                self._stream.close()
            if isinstance(error, BrokenPipeError):
                raise
            raise files.cannot_write("standard output", error) from error


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Inside, errors of standard output name it; at the end, also by ``sys.exit``, what was printed is on its way."""
    before = sys.stdout
    sys.stdout = output = _Output(before)
    try:
        try:
            yield
        except SystemExit:
            output.flush()
            raise
        output.flush()
    finally:
        sys.stdout = before


def check_text(arguments: list[str]) -> None:
    """Raise where an argument is empty (a shell variable that is not set; as a path it would mean this folder), or not
    valid UTF-8: a run of such a name could be trained, and then not be read; or an option's value the word None, which tyro
    takes for no value."""
    for i, argument in enumerate(arguments):
        name = arguments[i - 1] if i and arguments[i - 1].startswith("--") else f"argument {i + 1}"
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            raise ValueError(f"{argument.rstrip('=') or name} must not be empty")
        if (argument == "None" and name.startswith("--")) or re.fullmatch("--[^=]*=None", argument):
            raise ValueError(
                f"{argument.split('=')[0] if '=' in argument else name} must not be the word None: leave the option out (a "
                "folder of that name is ./None)"
            )
        try:
            text = argument.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} must be valid UTF-8, got {os.fsencode(argument)!r}") from None
        if b"\0" in text:
            raise ValueError(f"{name} must not hold a zero byte, got {argument!r}")


def check_readable(option: str, folder: Path) -> None:
    """Raise where ``folder`` (or a .npz file) is there and cannot be read; what to put into a missing one, its data set
    says."""
    try:
        folder.open("rb").close() if folder.suffix == ".npz" and folder.is_file() else os.listdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OSError(
            error.errno, f"{option} must be a folder that can be read, got {str(folder)!r}: {error.strerror}"
        ) from error


def report(error: Exception, arguments: list[str]) -> str | None:
    """The line that tells the user of ``error``; None where it is a fault of the program, which wants its traceback."""
    if isinstance(error, (FastscoreError, ValueError, TypeError, OSError)):
        lines = _plain(error, arguments).splitlines()  # a path may hold more than one blank in a row: these stay
        text = " ".join(line.strip() for line in lines if line.strip())
        return text if len(text) < 2 * _LONG else f"{text[:_LONG]} ... {text[-_LONG:]}"
    if not isinstance(error, (ArithmeticError, MemoryError, RuntimeError)):
        return None
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if _out_of_memory(error):
        large = _large_numbers(arguments, _MANY, but=_NO_AMOUNTS)
        smaller = f", or a smaller number than {', '.join(large)}" if large else ""
        batch = "--sampling-batch-size, --batch-size" if arguments[:1] == ["reproduce"] else "--batch-size"
        return f"out of memory: use a smaller {batch}, or train with a smaller --width{smaller} ({reason})"
    if large := _large_numbers(arguments, 2.0**31):
        return f"a number is too large: {', '.join(large)} ({reason})"
    return reason if "Symlink loop" in reason else None  # pathlib's, before Python 3.13


def _out_of_memory(error: Exception) -> bool:
    """Also torch's own: an error of its own kind on a GPU, a plain RuntimeError on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _plain(error: Exception, arguments: list[str]) -> str:
    """The text of ``error``; of one of the system, the option and the path in place of its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if error.filename is None:
        return error.strerror
    path = os.path.abspath(os.fsdecode(error.filename))
    options = [
        name
        for name, value in _options(arguments)
        if name in ("--out", "--data-dir") and Path(path).is_relative_to(os.path.abspath(value))
    ]
    return f"{error.filename}: {error.strerror}" + "".join(f" ({name})" for name in options)


def _options(arguments: list[str]) -> list[tuple[str, str]]:
    """The options and their values, also of ``--name=value``; a flag has what follows."""
    pairs = [
        a.split("=", 1) if "=" in a else [a, b] for a, b in zip(arguments, [*arguments[1:], ""]) if a.startswith("--")
    ]
    return [(name.replace("_", "-"), value) for name, value in pairs]


def _large_numbers(arguments: list[str], most: float, but: tuple[str, ...] = ()) -> list[str]:
    """Which options ask for more than ``most``, ``but`` for some."""
    found = []
    for name, value in _options(arguments):
        try:
            large = abs(float(value)) > most
        except OverflowError:
            large = True
        except ValueError:
            continue
        if large and name not in but:
            found.append(f"{name} {value if len(value) <= 30 else f'({len(value)} digits)'}")
    return found
