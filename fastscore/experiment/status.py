"""How far a run is: one screen about a run folder, from what lies in it. ``fastscore status``."""

from __future__ import annotations

import datetime
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from . import checkpoint, history
from .config import TrainConfig
from .presets import command_line
from .progress import duration, four_digits

_LAST = 20  # lines of metrics.jsonl whose pace is taken


@dataclass(frozen=True)
class Status:
    """What is known of a run.

    Attributes:
        run, config: its folder and its settings.
        step: the iteration of the last line of metrics.jsonl, or of the last checkpoint where that is later.
        loss: the mean loss of that line; None before there is one.
        images_per_second: the median of the last lines; None before there is one.
        told: seconds since that line was written; None before there is one.
        checkpoints, snapshots: the iterations of either; saved: seconds since the last checkpoint was written.
        alive: whether a process trains there; None where that cannot be told.
        used, free: bytes that the run takes, and that are left on its disk. of_checkpoints, of_snapshots: those of used that
            these take.
    """

    run: Path
    config: TrainConfig
    step: int
    loss: float | None
    images_per_second: float | None
    told: float | None
    checkpoints: tuple[int, ...]
    snapshots: tuple[int, ...]
    saved: float | None
    alive: bool | None
    used: int
    free: int
    of_checkpoints: int
    of_snapshots: int

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last lines; None where there are none."""
        if not self.images_per_second:
            return None
        return max(0, self.config.iterations - self.step) * self.config.batch_size / self.images_per_second


def status(run: str | Path) -> Status:
    """What a run's folder says of it. Nothing is written.

    Raises:
        CheckpointError: not a run folder. OSError: it cannot be read.
    """
    run = Path(run)
    config, now = checkpoint.read_config(run), time.time()
    records, folders = history.read_metrics(run), checkpoint.steps(run)
    paces = [record["images_per_second"] for record in records[-_LAST:] if record.get("images_per_second", 0) > 0]
    saved = None
    if folders:
        try:
            saved = now - os.stat(folders[-1]).st_mtime
        except FileNotFoundError:  # deleted meanwhile, by a trainer that has a later one
            folders = folders[:-1]
    steps = tuple(map(checkpoint.step_of, folders))
    return Status(
        run,
        config,
        max([record["step"] for record in records[-1:]] + list(steps[-1:]), default=0),
        records[-1]["loss"] if records else None,
        statistics.median(paces) if paces else None,
        now - os.stat(run / checkpoint.METRICS).st_mtime if records else None,
        steps,
        tuple(map(checkpoint.step_of, checkpoint.snapshots(run))),
        saved,
        checkpoint.is_held(run / checkpoint.LOCK),
        bytes_below(run),
        shutil.disk_usage(run).free,
        bytes_below(run / checkpoint.CHECKPOINTS),
        bytes_below(run / checkpoint.SNAPSHOTS),
    )


def screen(found: Status) -> str:
    """The lines that ``fastscore status`` prints."""
    config, done = found.config, found.step >= found.config.iterations
    share = f"{found.step:,} of {config.iterations:,} iterations ({100 * found.step / config.iterations:.1f} %)"
    lines = [("run", f"{found.run}: {config.model} on {config.data}, {share}"), ("state", _state(found, done))]
    if found.loss is not None and found.told is not None:
        pace = "" if found.images_per_second is None else f", {four_digits(found.images_per_second)} images/s"
        lines.append(("last line", f"loss {found.loss:.5g}{pace}, {duration(found.told)} ago"))
    left = found.seconds_left
    if left is not None and not done:
        words = f"{duration(left)} of training, at that pace"
        if found.alive:
            words += f": {datetime.datetime.fromtimestamp(time.time() + left):%a %d %b %H:%M}"
        lines.append(("left", words))
    if found.checkpoints and found.saved is not None:
        several = f"; {len(found.checkpoints)} kept" if len(found.checkpoints) > 1 else ""
        lines.append(("checkpoint", f"iteration {found.checkpoints[-1]:,}, {duration(found.saved)} ago{several}"))
    else:
        lines.append(("checkpoint", "none yet"))
    parts = f"checkpoints {size(found.of_checkpoints)}"
    if found.snapshots:
        several = f" to {found.snapshots[-1]:,}" if len(found.snapshots) > 1 else ""
        lines.append(("snapshots", f"{len(found.snapshots)}, of iteration {found.snapshots[0]:,}{several}"))
        parts += f", snapshots {size(found.of_snapshots)}"
    lines.append(("disk", f"{size(found.used)} in the run folder ({parts}), {size(found.free)} free"))
    return "\n".join(f"{name:<11} {text}" for name, text in lines)


def _state(found: Status, done: bool) -> str:
    if found.alive:
        return "a process trains here now"
    words = "trained" if done else "no process trains here"
    if found.alive is None:
        words = "whether a process trains here cannot be told (.lock cannot be locked)"
    return words if done else f"{words}; go on with: {command_line(found.config, found.run, '--resume')}"


def size(count: float) -> str:
    """Bytes, in the unit that leaves at most four digits before the point.

    >>> size(900), size(123456789)
    ('900 B', '123.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def bytes_below(folder: Path) -> int:
    """Bytes of all files below ``folder``; one that is deleted meanwhile counts for nothing."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(here, name)).st_size
            except FileNotFoundError:
                continue
    return total
