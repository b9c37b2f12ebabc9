"""The ranks of a command, started in no time: forked from a process that has imported everything, to be killed often.

What is killed is real: processes of their own, by SIGKILL. What is not here is torchrun, which starts ranks and starts them
again; test_ranks.py has it.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
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
        dies_at: rank 0 kills itself, by SIGKILL, before it changes ``folder`` for this time: before it opens a file to
            write, renames or deletes one, makes or deletes a folder. 0: never.
    """

    def __init__(self, words: str, folder: Path, count: int = 2, dies_at: int = 0):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.words, self.log = words, folder / "log"
        self.log.write_bytes(b"")
        command = shlex.split(words)
        self.ranks = [
            _FORKS.Process(target=_rank, args=(command, folder, rank, count, port, 0 if rank else dies_at))
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


def _rank(words: list[str], folder: Path, rank: int, count: int, port: int, dies_at: int) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    if dies_at:
        sys.addaudithook(_fatal(folder, dies_at))
    from fastscore.experiment import cli

    cli.main(words)


def _fatal(folder: Path, dies_at: int) -> Callable[[str, tuple], None]:
    count = 0

    def hear(event: str, arguments: tuple) -> None:
        nonlocal count
        changes = event in _CHANGES
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not changes or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(arguments[0])
        if path.startswith(str(folder)) or not path.startswith("/"):
            count += 1
            if count == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hear
