"""Progress on standard error: a bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .._core.errors import require

_SECONDS = 60.0  # between two lines of a log


class Lines:
    """What is used here of tqdm's bar, as whole lines: one a minute, and one at the end."""

    def __init__(self, total: int | None, desc: str, unit: str, initial: int = 0):
        self.total, self.desc, self.unit, self.n = total, desc, unit, initial
        self.first, self.notes = initial, ""
        self.began = self.told = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.n += n
        if time.monotonic() - self.told >= _SECONDS:
            self._tell()

    def set_postfix(self, **notes: Any) -> None:
        self.notes = "".join(f", {name} {value}" for name, value in notes.items())

    def close(self) -> None:
        self._tell()

    def _tell(self) -> None:
        self.told = time.monotonic()
        pace = (self.n - self.first) / max(self.told - self.began, 1e-9)
        of = share = left = ""
        if self.total:
            of, share = f" of {self.total:,}", f" ({100 * self.n // self.total} %)"
            if pace > 0 and self.n < self.total:
                left = f", {duration((self.total - self.n) / pace)} left"
        print(
            f"{self.desc}: {self.n:,}{of}{share}, {four_digits(pace)} {self.unit}/s{left}{self.notes}",
            file=sys.stderr,
            flush=True,
        )


def progress_bar(total: int | None, *, desc: str, unit: str, initial: int = 0) -> Any:
    """An object with ``update()``, ``set_postfix()`` and ``close()``: tqdm's bar where standard error is a terminal
    or a notebook, else :class:`Lines`, since a bar in a file is thousands of carriage returns. ``total`` None: not known."""
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return require("tqdm", "train").tqdm(total=total, initial=initial, desc=desc, unit=unit)
    return Lines(total, desc, unit, initial)


@contextmanager
def counting(total: int, *, desc: str, unit: str, progress: bool) -> Iterator[Callable[[int], Any]]:
    """What to call with how many more are done; the bar of it, where there is ``progress``, ends with the block however that ends."""
    bar = progress_bar(total, desc=desc, unit=unit) if progress else None
    try:
        yield (lambda n: None) if bar is None else bar.update
    finally:
        if bar is not None:
            bar.close()


def duration(seconds: float) -> str:
    """In the two largest units: "4 h 12 min".

    >>> duration(15130.4), duration(59.6), duration(0.4)
    ('4 h 12 min', '1 min', '0 s')
    """
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            parts.append("")
    return " ".join(part for part in parts[:2] if part)


def four_digits(value: float) -> str:
    """A rate, with no powers of ten.

    >>> four_digits(27.8312), four_digits(26138.0)
    ('27.83', '26,140')
    """
    return f"{value:.4g}" if value < 1000 else f"{float(f'{value:.4g}'):,.0f}"
