"""The ranks of a command, started in no time: forked from a process that has imported everything, to be killed often.

What is killed is real: processes of their own, by SIGKILL. What is not here is torchrun, which starts ranks and starts them
again; test_ranks.py has it.
"""

from __future__ import annotations

import errno
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

import torch

_FORKS = multiprocessing.get_context("forkserver")
_LATE = "torch._dynamo tyro matplotlib.pyplot PIL.PngImagePlugin safetensors.torch scipy.linalg sklearn.datasets tqdm"
_FORKS.set_forkserver_preload([__name__, "fastscore.experiment.cli", "fastscore.experiment.train", *_LATE.split()])
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


class Launch:
    """``fastscore`` of these ``words`` on ``count`` ranks, in ``folder``; they are killed where the block ends before them.

    Args:
        words: the command line without its program, as a text for a shell.
        folder: where the ranks are; what they print is in its file ``log``.
        count: of ranks.
        dies_at: (pattern, n): rank 0 kills itself, by SIGKILL, before its n-th change in ``folder`` of a path that fits the
            pattern: before it opens a file to write, renames or deletes one, makes or deletes a folder. None: never.
        full: whether the disk is full: of every file in ``folder`` that is to be written it is said that there is no space.
    """

    def __init__(
        self, words: str, folder: Path, count: int = 2, dies_at: tuple[str, int] | None = None, full: bool = False
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.words, self.log = words, folder / "log"
        self.log.write_bytes(b"")
        command = shlex.split(words)
        self.ranks = [
            _FORKS.Process(target=_rank, args=(command, folder, rank, count, port, None if rank else dies_at, full))
            for rank in range(count)
        ]
        for process in self.ranks:
            process.start()

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def ends(self, seconds: float = 120) -> list[int]:
        """The exit codes of all ranks; -9 for one that was killed."""
        end = time.monotonic() + seconds
        for process in self.ranks:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in self.ranks]
        assert None not in codes, f"{self.words} has not ended after {seconds} s: {self.told()}"
        return [code for code in codes if code is not None]

    def kill(self, *ranks: int) -> None:
        """SIGKILL to these ranks, or to all; some may have ended."""
        for rank in ranks or range(len(self.ranks)):
            self.ranks[rank].kill()

    def waits_for(self, what: Callable[[], bool], seconds: float = 120) -> bool:
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


def run(words: str, folder: Path, count: int = 2) -> str:
    """What the ranks printed of a command that must end well."""
    with Launch(words, folder, count) as launch:
        codes = launch.ends()
    assert codes == [0] * count, launch.told()
    return launch.told()


def _rank(
    words: list[str], folder: Path, rank: int, count: int, port: int, dies_at: tuple[str, int] | None, full: bool
) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    if dies_at is not None or full:
        sys.addaudithook(_hook(folder, dies_at or ("", 0), full))
    from fastscore.experiment import cli

    cli.main(words)


def _hook(folder: Path, dies_at: tuple[str, int], full: bool) -> Callable[[str, tuple], None]:
    (pattern, times), seen = dies_at, 0

    def hear(event: str, arguments: tuple) -> None:
        nonlocal seen
        opens = event == "open" and isinstance(arguments[2], int)
        writes = opens and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not writes and event not in _CHANGES:
            return
        names = arguments[: 2 if event == "os.rename" else 1]
        named = [os.fsdecode(name) for name in names if isinstance(name, (str, bytes, os.PathLike))]
        paths = [os.path.relpath(name, folder) for name in named]
        paths = [path for path in paths if not path.startswith("..")]
        if full and writes and paths and not paths[0].endswith(".lock"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), named[0])
        seen += any(fnmatch(path, pattern) for path in paths)
        if times and seen == times:
            os.kill(os.getpid(), signal.SIGKILL)

    return hear
