"""Shared by the tests of the application: ranks of one run, without torchrun."""

import os
import signal
import socket
import threading

import pytest

from fastscore.experiment.ranks import joined


@pytest.fixture
def forked(monkeypatch):
    """forked(work, count): ``work(ranks)`` of rank 0 in this process and of the others in children.

    Afterwards the children have ended well, or by a kill of their own.
    """
    reapers: list = []

    def start(work, count: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("WORLD_SIZE", str(count))
        for rank in range(count):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            if rank and not (child := os.fork()):
                code = 1
                try:
                    with joined() as ranks:
                        work(ranks)
                    code = 0
                finally:
                    os._exit(code)
            if rank:  # reaped at once, as torchrun does
                found: list[int] = []
                thread = threading.Thread(target=lambda child=child, found=found: found.append(os.waitpid(child, 0)[1]))
                thread.start()
                reapers.append((thread, found))
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("LOCAL_RANK", "0")
        with joined() as ranks:
            work(ranks)

    yield start
    for thread, _ in reapers:
        thread.join(60)
    codes = [os.waitstatus_to_exitcode(found[0]) for _, found in reapers]
    assert set(codes) <= {0, -signal.SIGKILL} and codes
