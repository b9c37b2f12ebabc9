"""How long a reproduction has taken so far, over all calls, and whether ``--hours`` has time for more: clock.json."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._core.errors import CheckpointError
from ..ranks import Ranks
from . import folder
from .folder import of_leader

BEFORE, TRAINING, SELECTION, SAMPLES = "before", "training", "selection", "samples"
_MINUTE = 60.0  # between two writes: what a kill makes it forget
_WORSE = 1.1  # times the hours that were told of: then they are told of again


class Clock:
    """Counts seconds while it is entered, by stage, on rank 0; all ranks make the same calls.

    A call that does nothing (:meth:`at` is not called) counts nothing. A thread writes each minute, so that a kill loses no more
    than that, however long an iteration or a batch takes.

    Args:
        out: the folder of the reproduction, which is this process's.
        hours: that there are for all; None: no limit.
        ranks: which share the work.

    Attributes:
        left_out: "seeds" for which there was no time, the "seconds" that they take, and the "command" that goes on with them;
            None where there are none.
    """

    def __init__(self, out: Path, hours: float | None, ranks: Ranks):
        self.hours, self._path, self._ranks = hours, out / folder.CLOCK, ranks
        self._kept: dict[str, float] = {}
        self.left_out: dict[str, Any] | None = None
        self._stage, self._since, self._works = BEFORE, time.monotonic(), False
        self._told = 0.0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._each_minute, name="clock", daemon=True)

    def __enter__(self) -> Clock:
        """Go on from what is kept.

        Raises:
            CheckpointError: that is something else.
        """
        found = of_leader(self._ranks, lambda: folder.read(self._path)) or {}
        with self._ranks.together():
            self._kept, self.left_out = seconds_of(found, self._path), found.get("left_out")
        if self._ranks.leads:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._works and self._ranks.leads:
            with contextlib.suppress(OSError):  # of a full disk the work itself tells
                self._keep()

    def at(self, stage: str) -> None:
        """From now on seconds are this stage's: there is something to do."""
        with self._lock:
            self._count()
            self._stage, self._works = stage, True

    def seconds(self, stage: str | None = None) -> float:
        """Spent so far, in a stage or in all; rank 0's."""
        with self._lock:
            if self._works:
                self._count()
            return sum(self._kept.values()) if stage is None else self._kept.get(stage, 0.0)

    def has_time(self, seconds: float) -> bool:
        """Whether so many seconds more fit into the hours that there are; on all ranks as on rank 0."""
        hours = self.hours
        return hours is None or bool(of_leader(self._ranks, lambda: self.seconds() + seconds <= 3600 * hours))

    def leave_out(self, seeds: Sequence[int] = (), seconds: float = 0.0, command: str = "") -> None:
        """Keep that there is no time for ``seeds``, which take so many seconds, and by which command they are gone on with.

        Of no seeds: that there is time for all.
        """
        self.left_out = {"seeds": [*seeds], "seconds": round(seconds, 3), "command": command} if seeds else None
        with self._ranks.together():
            if self._ranks.leads:
                self._keep()

    def late(self, rest: float) -> str | None:
        """What to say where all that cannot be left out takes ``rest`` seconds more, and that is not in time; rank 0's.

        None where it is in time, or where that was said and has not become worse by a tenth.
        """
        if self.hours is None:
            return None
        end = (self.seconds() + rest) / 3600
        if end <= max(self.hours, self._told * _WORSE):
            return None
        self._told = end
        return (
            f"slower than planned: training, the choice and the samples of the first seed end after about {end:.3g} hours, not "
            f"{self.hours:g}. None of these is cut; of later seeds those are drawn for which there is time. What is planned may not "
            "be made less here: for fewer iterations, plan anew in another folder (--out)"
        )

    def _count(self) -> None:
        now = time.monotonic()
        self._kept[self._stage] = self._kept.get(self._stage, 0.0) + now - self._since
        self._since = now

    def _keep(self) -> None:
        with self._lock:  # the file too: a later write holds later seconds
            if self._works:
                self._count()
            values: dict[str, Any] = {"seconds": {name: round(value, 3) for name, value in self._kept.items()}}
            if self.left_out:
                values["left_out"] = self.left_out
            folder.write(self._path, values)

    def _each_minute(self) -> None:
        while not self._over.wait(_MINUTE):
            if self._works:
                with contextlib.suppress(OSError):
                    self._keep()


def watching(
    clock: Clock, iterations: int, after: float, say: Callable[[str], None]
) -> Callable[[Mapping[str, Any]], None]:
    """What to call with each line of metrics.jsonl, on rank 0: it says where all will not be in time.

    Args:
        iterations: there are to be so many.
        after: seconds that all takes from the end of training to that of the first seed.
        say: is called with the words.
    """
    first: list[tuple[float, int]] = []

    def watch(line: Mapping[str, Any]) -> None:
        now, step = time.monotonic(), line["step"]
        if not first:  # until then things warm up
            first.append((now, step))
            return
        pace = (now - first[0][0]) / (step - first[0][1])
        words = clock.late(pace * (iterations - step) + after)
        if words:
            say(words)

    return watch


def seconds_of(found: Mapping[str, Any], source: Path) -> dict[str, float]:
    """The seconds by stage that clock.json holds.

    Raises:
        CheckpointError: it holds something else.
    """
    kept = found.get("seconds", {})
    numbers = isinstance(kept, dict) and all(
        type(value) in (int, float) and 0 <= value < math.inf for value in kept.values()
    )
    if not numbers:
        raise CheckpointError(
            f"{source} must hold seconds by stage, each a finite number from 0 on, got {kept!r:.60}: put it back as it was, or "
            "delete it, and --hours count from now on"
        )
    return {name: float(value) for name, value in kept.items()}


def hours_for(seconds: float) -> float:
    """Hours into which so many seconds fit, with a twentieth to spare, in two digits.

    >>> hours_for(3600), hours_for(45_000), hours_for(10)
    (1.1, 14.0, 0.003)
    """
    hours = max(seconds, 1e-3) * 1.05 / 3600
    digits = 1 - math.floor(math.log10(hours))
    return round(math.ceil(round(hours * 10**digits, 6)) / 10**digits, max(digits, 0))
