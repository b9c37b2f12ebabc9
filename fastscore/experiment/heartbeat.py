"""Signs of life between the ranks of a run: who ended without a word is named, and nobody waits for it for ever."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from .._core.files import lives

_PAUSE = 5.0  # seconds between two signs, at most
_GRACE = 2.0  # seconds in which a process ends that has no more to do
GOING, ENDED, STOPPED = "going", "ended", "stopped"


class Heartbeat:
    """A thread that writes this rank's signs of life into the store of the rendezvous and reads those of the others.

    A rank that is silent is told from one that is slow, however long one iteration or one write to the disk takes, since
    the thread goes on meanwhile. A pause of the whole machine, or of the launcher with all its ranks, is no silence: what
    is counted are this thread's own looks that found nothing new. Where a rank of the others is silent, or has said that
    it stopped, for ``limit`` seconds, and this one has not ended by itself, the process ends with exit code 2 and a line
    on standard error: its main thread waits in a call that cannot be interrupted.

    Args:
        store: of ``torch.distributed``, seen by all ranks and by this run alone.
        rank, count: which rank this is, and of how many.
        limit: seconds.
    """

    def __init__(self, store: Any, rank: int, count: int, limit: float):
        self._store, self._rank, self._limit = store.clone(), rank, limit  # a connection of its own
        self._store.set_timeout(timedelta(seconds=limit))
        self._others = [other for other in range(count) if other != rank]
        self._pause = min(_PAUSE, limit / 6)
        self._number = 0
        self._seen: dict[int, list[str]] = {}
        self._over, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._give(GOING)

    def start(self) -> None:
        """Begin to watch; every rank has made its :class:`Heartbeat` by now."""
        self._look()
        self._thread.start()

    def end(self, word: str) -> None:
        """Say that this rank has ``ENDED`` as it should or has ``STOPPED``, and watch no longer."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(RuntimeError):  # the store may have ended with whoever held it, and all readers
            self._give(word)

    def verdict(self, error: Exception) -> str:
        """Who is missing, where the exchange with the others failed by ``error``; takes no longer than the limit."""
        end = time.monotonic() + self._limit
        while time.monotonic() < end:
            missing = [self._named(other) for other in self._others if self._is_gone(other)]
            if missing:
                return f"{' and '.join(missing)} ended without a word: killed, or out of memory"
            try:
                self._look()
            except RuntimeError:
                return f"the rendezvous is gone, and torchrun or the machine that held it, or rank 0: {error}"
            for other in self._others:
                if self._seen[other][-1] != GOING:
                    return f"rank {other} {self._seen[other][-1]}; its own message says why"
            time.sleep(0.1)
        return f"the other ranks cannot be reached: {error}"

    def _give(self, word: str) -> None:
        self._number += 1
        self._store.set(str(self._rank), f"{platform.node()} {os.getpid()} {self._number} {word}")

    def _look(self) -> list[int]:
        """Read all signs; returns which ranks have given none since they were last read, or have stopped."""
        with self._lock:
            signs = self._store.multi_get([str(other) for other in self._others])
            before, self._seen = self._seen, {o: sign.decode().split() for o, sign in zip(self._others, signs)}
            ended = [other for other in self._others if self._seen[other][-1] == ENDED]
            return [o for o in self._others if o not in ended and self._seen[o] == before.get(o)]

    def _named(self, other: int) -> str:
        host, process, *_ = self._seen[other]
        return f"rank {other} (process {process} on {host})"

    def _is_gone(self, other: int) -> bool:
        """Whether it is known to have ended: a process of this machine that is no more, and has not said that it ends."""
        host, process, _, word = self._seen[other]
        return word == GOING and host == platform.node() and not lives(int(process))

    def _watch(self) -> None:
        silent = dict.fromkeys(self._others, 0)
        while not self._over.wait(self._pause):
            try:
                self._give(GOING)
                quiet = self._look()
            except RuntimeError as error:
                if self._over.wait(_GRACE):  # all had ended, and rank 0, which held the store, was the first to go
                    return
                return self._stop(self.verdict(error))
            for other in self._others:
                silent[other] = silent[other] + 1 if other in quiet else 0
            if missing := [o for o in self._others if silent[o] >= math.ceil(self._limit / self._pause)]:
                stopped = all(self._seen[other][-1] == STOPPED for other in missing)
                return self._stop(
                    f"{' and '.join(map(self._named, missing))} "
                    + (
                        "stopped; its own message says why"
                        if stopped
                        else f"gave no sign of life for {self._limit:g} s"
                    )
                )

    def _stop(self, why: str) -> None:
        print(f"error (rank {self._rank}): {why}", file=sys.stderr, flush=True)
        os._exit(2)
