"""What a run recorded of itself (metrics.jsonl, changes.jsonl: one JSON object per line), and what may follow on it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from .._core import files
from .._core.errors import CheckpointError
from . import checkpoint
from .config import CHANGEABLE, MAY_CHANGE, TrainConfig, parse_json

_LAST_STEP = 2**32
_NUMBERS = ("lr", "grad_norm", "images_per_second")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; damaged ones, as after a kill during a write, are left out."""
    return [record for record in map(_record, _lines(run / checkpoint.METRICS)) if record is not None]


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a line to ``path``; an ``OSError`` names it."""
    with files.naming(path), open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def drop_after(run: Path, step: int) -> None:
    """Drop the records of metrics.jsonl after ``step``, which the run will write again, and a line that a kill cut off.

    Every other line stays as it is, even one that fastscore did not write. With nothing to drop, nothing is written.
    """
    path = run / checkpoint.METRICS
    lines = _lines(path)
    kept = [line for line in lines if line.endswith(b"\n") and not _step_of(line) > step]
    if lines[: len(kept)] != kept:
        files.write_atomically(path, b"".join(kept))
    elif len(kept) < len(lines):
        os.truncate(path, sum(map(len, kept)))  # needs no room, which a full disk does not have


def check_continues(config: TrainConfig, saved: TrainConfig, run: Path, change: bool) -> None:
    """Raise where ``config`` is not that of the run: all but MAY_CHANGE, and with ``change`` CHANGEABLE."""
    fixed = [f.name for f in dataclasses.fields(config) if f.name not in MAY_CHANGE]
    if config.decay or saved.decay:
        fixed.append("iterations")  # it sets the decay
    changed = checkpoint.changed_fields(config, saved, fixed)
    if change:
        changed = {name: values for name, values in changed.items() if name not in CHANGEABLE}
    if changed:
        words = ", ".join(
            f"{name} (was {was}, now {now}{'; it sets the decay' if name == 'iterations' else ''})"
            for name, (was, now) in changed.items()
        )
        cure = "leave these as they were, or choose another folder with --out"
        if changed.keys() <= set(CHANGEABLE):
            cure += "; with --change the run goes on with them, and records it"
        raise CheckpointError(f"{run} holds a run with another config: {words}; {cure}")


def check_checkpoints_are_there(run: Path, saved: TrainConfig) -> None:
    """Raise where metrics.jsonl goes beyond the first checkpoint and there is no checkpoint at all.

    A run that went on from iteration 0 then would cut the history of the lost one.
    """
    last = max(map(_step_of, _lines(run / checkpoint.METRICS)), default=0)
    if last > saved.checkpoint_every:
        raise CheckpointError(
            f"{run} has no checkpoint, though its {checkpoint.METRICS} goes to iteration {last}: put "
            f"{checkpoint.CHECKPOINTS}/ back, or train again in another folder with --out"
        )


def record_changes(run: Path, step: int, trained: TrainConfig, config: TrainConfig) -> list[str]:
    """Bring changes.jsonl up to date for a run that goes on at ``step``, which was reached by ``trained``.

    A line is {"step", "field", "old", "new"}: from that iteration on the field had the new value. Lines at or after
    ``step`` are of iterations that are made again, and go.

    Returns: the changes at this step, as text.
    """
    path = run / checkpoint.CHANGES
    changed = checkpoint.changed_fields(config, trained, CHANGEABLE)
    if not config.decay and not trained.decay:
        changed.pop("iterations", None)  # it changes no iteration
    new = [{"step": step, "field": name, "old": old, "new": now} for name, (old, now) in changed.items()]
    old_lines = _lines(path)
    lines = [line for line in old_lines if line.endswith(b"\n") and _step_of(line) < step]
    lines += [json.dumps(change).encode() + b"\n" for change in new]
    if lines != old_lines:
        files.write_atomically(path, b"".join(lines))
    return [f"{name} (was {old}, now {now})" for name, (old, now) in changed.items()]


def _lines(path: Path) -> list[bytes]:
    try:
        return files.read(path).splitlines(keepends=True)
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return []


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line with a valid "step"; None for any other line."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if type(step) is int and 0 <= step <= _LAST_STEP else None


def _step_of(line: bytes) -> int:
    """The iteration that a line records; 0 if it records none."""
    record = _parsed(line)
    return record["step"] if record else 0


def _record(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl, if all its numbers can be plotted."""
    record = _parsed(line)
    if record is None or record["step"] < 1 or not _finite(record.get("loss")):
        return None
    levels = record.get("loss_per_sigma", [])
    if not isinstance(levels, list) or not all(value is None or _finite(value) for value in levels):
        return None
    if not all(type(record[name]) is float or _finite(record[name]) for name in _NUMBERS if name in record):
        return None  # a norm may be infinite
    if record.get("seconds") is not None and not _finite(record["seconds"]):
        return None
    return record


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False
