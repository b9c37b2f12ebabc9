"""The files of a run: JSON that carries its own checksum, and what a killed writer leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ..._core.errors import CheckpointError
from ..config import parse_json

CONFIG, IDENTITY, METRICS, CHANGES = "config.json", "run.json", "metrics.jsonl", "changes.jsonl"
CHECKPOINTS, SNAPSHOTS, SAMPLES = "checkpoints", "snapshots", "samples"
MOMENTS, LOCK, CLASSIFIER = "moments.safetensors", ".lock", "classifier"
_OWN = frozenset({CONFIG, IDENTITY, METRICS, CHANGES, CHECKPOINTS, SNAPSHOTS, MOMENTS, LOCK, CLASSIFIER})


class NoChecksum(ValueError):
    """A file from before there were checksums."""


def signed_json(values: dict[str, Any]) -> str:
    """``values`` and, under "sha256", the checksum of the rest."""
    return json.dumps(values | {"sha256": _checksum(values)}, indent=1) + "\n"


def read_signed_json(text: bytes) -> dict[str, Any]:
    """What :func:`signed_json` was given; ``ValueError`` where it is something else or was altered."""
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError(f"it must hold a JSON object, got {type(values).__name__}")
    if "sha256" not in values:
        raise NoChecksum(
            "it has no checksum: an earlier version of fastscore wrote it, whose runs this one cannot read"
        )
    rest = {name: value for name, value in values.items() if name != "sha256"}
    if values["sha256"] != _checksum(rest):
        raise ValueError("its checksum is wrong: it was altered after it was written")
    return rest


def _checksum(values: dict[str, Any]) -> str:
    try:
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def clear_unfinished(folder: Path) -> None:
    """Delete what a kill left half-written and half-deleted in ``folder``, of checkpoints or snapshots; nobody may be training."""
    if folder.is_dir():
        for name in os.listdir(folder):
            if re.fullmatch(r"\.(writing_|deleting_step_)[0-9]{8,}", name):
                shutil.rmtree(folder / name)


def check_not_of_a_run(name: str, path: Path) -> None:
    """Raise :class:`CheckpointError` where ``path``, the argument ``name``, is or lies in what a run keeps.

    That are its weights, its config and its records, which nobody but the run itself may write; the run folder may be.
    """
    there = Path(os.path.realpath(path))  # a link may lead into a run; this does not raise where it leads nowhere
    for inside in (there, *there.parents):
        if inside.name in _OWN and os.path.lexists(inside.parent / IDENTITY):
            raise CheckpointError(
                f"{name} must not be among the files that the run {inside.parent} needs, got {str(path)!r}, which is or lies "
                f"in its {inside.name}: choose another place"
            )


def is_missing(error: OSError) -> bool:
    """Whether the file is not there, as opposed to there and not readable."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR)
