"""Processes to be killed often, the ranks of a command first of all: forked from one that has imported everything.

What is killed is real: processes of their own, by SIGKILL. What is not here is torchrun, which starts ranks and starts them
again; test_ranks.py has it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

_FORKS = multiprocessing.get_context("forkserver")
_LATE = (
    "torch._dynamo tyro typeguard matplotlib.pyplot PIL.PngImagePlugin safetensors.torch scipy.linalg sklearn.datasets"
)
_OURS = [f"fastscore.experiment.{name}" for name in ("cli", "train", "reproduce.stages")]
_FORKS.set_forkserver_preload([__name__, *_OURS, *_LATE.split()])
DISK = "disk"  # the folder, beside the log, that may be a file system of its own
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def forked(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """A started process that calls ``target``, a function of a module, in no time."""
    process = _FORKS.Process(target=target, args=arguments)
    process.start()
    return process


def event() -> Any:
    """What a process that was forked can set, for this one to wait for."""
    return _FORKS.Event()


class Launch:
    """``fastscore`` of these ``words`` on ``count`` ranks, in ``folder``; they are killed where the block ends before them.

    Args:
        words: the command line without its program, as a text for a shell.
        folder: where the ranks are; what they print is in its file ``log``.
        count: of ranks.
        dies_at: (pattern, n): rank 0 kills itself, by SIGKILL, before its n-th change in ``folder`` of a path that fits the
            pattern: before it opens a file to write, renames or deletes one, makes or deletes a folder. None: never.
        full_at: (pattern, n): from before that change on, ``folder / DISK`` is full. Where that is a file system of its own
            it is filled, by the file ``filler``; elsewhere each file that is to be written in it fails as if it were.
        constants: values of constants of modules, for the ranks: {"module.name": value}.
        program: a function of a module that takes the words in place of ``fastscore``.
    """

    def __init__(
        self,
        words: str,
        folder: Path,
        count: int = 2,
        *,
        dies_at: tuple[str, int] | None = None,
        full_at: tuple[str, int] | None = None,
        constants: dict[str, Any] | None = None,
        program: Callable[[list[str]], None] | None = None,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.words, self.log = words, folder / "log"
        self.log.write_bytes(b"")
        self.ranks = [
            forked(
                _rank,
                shlex.split(words),
                folder,
                constants or {},
                {} if rank else {"kill": dies_at, "fill": full_at},
                {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port},
                program,
            )
            for rank in range(count)
        ]

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def ends(self, seconds: float = 400) -> list[int]:
        """The exit codes of all ranks; -9 for one that was killed."""
        end = time.monotonic() + seconds
        for process in self.ranks:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in self.ranks]
        assert None not in codes, f"{self.words} has not ended after {seconds} s: {self.told()}"
        return [code for code in codes if code is not None]

    def kill(self, *ranks: int) -> None:
        """SIGKILL to these ranks, or to all; some may have ended. They stop first, so that none sees another gone."""
        chosen = [self.ranks[rank] for rank in ranks or range(len(self.ranks))]
        for process in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
        for process in chosen:
            process.kill()

    def waits_for(self, what: Callable[[], bool], seconds: float = 400) -> bool:
        """Wait until ``what()``; False where all ranks have ended without."""
        end = time.monotonic() + seconds
        while not what():
            if not any(process.is_alive() for process in self.ranks):
                return what()
            assert time.monotonic() < end, f"{self.words}: {self.told()}"
            time.sleep(0.002)
        return True

    def told(self) -> str:
        """What the ranks printed, on both streams."""
        return self.log.read_text()


def run(words: str, folder: Path, count: int = 2, **how: Any) -> str:
    """What the ranks printed of a command that must end well; see ``Launch``."""
    with Launch(words, folder, count, **how) as launch:
        codes = launch.ends()
    assert codes == [0] * count, launch.told()
    return launch.told()


def _rank(
    words: list[str],
    folder: Path,
    constants: dict[str, Any],
    moments: dict[str, tuple[str, int] | None],
    environment: dict[str, object],
    program: Callable[[list[str]], None] | None,
) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in environment.items()}
    torch.set_num_threads(1)
    for path, value in constants.items():
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
        setattr(importlib.import_module(module), name, value)
    for what, moment in moments.items():
        if moment is not None:
            sys.addaudithook(_hook(folder, *moment, what))
    from fastscore.experiment import cli

    (program or cli.main)(words)


def _hook(folder: Path, pattern: str, times: int, what: str) -> Callable[[str, tuple], None]:
    """Hears what is about to be opened and changed; at the moment it kills the process, or fills the disk."""
    seen = 0

    def hear(event: str, arguments: tuple) -> None:
        nonlocal seen
        opens = event == "open" and isinstance(arguments[2], int)
        writes = opens and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not writes and event not in _CHANGES:
            return
        names = [
            os.fsdecode(name) for name in arguments[: 2 if event == "os.rename" else 1] if not isinstance(name, int)
        ]
        paths = [path for name in names if not (path := os.path.relpath(name, folder)).startswith("..")]
        before, seen = seen, seen + (any(fnmatch(path, pattern) for path in paths) if seen < times else 0)
        if seen < times:
            return
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif os.path.ismount(folder / DISK):
            if before < times:
                fill(folder / DISK)
        elif writes and paths and paths[0].startswith(f"{DISK}/") and not paths[0].endswith(".lock"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), names[0])

    return hear


def fill(folder: Path) -> None:
    """Leave no space on the file system ``folder``, by the file ``filler`` in it."""
    with contextlib.suppress(OSError), open(folder / "filler", "ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
