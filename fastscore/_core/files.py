"""Temporary files beside the ones they become, named so that those of a dead writer can be told and deleted."""

from __future__ import annotations

import os
import platform
import re
import uuid
from pathlib import Path


def temporary(path: Path) -> Path:
    """A hidden name in the folder of ``path``, with its ending: of this machine and process, and of nobody else."""
    return path.with_name(f".{uuid.uuid4().hex}.{platform.node()}.{os.getpid()}.tmp{path.suffix}")


def clear_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes of this machine that are no more: they would fill the disk for good."""
    ours = re.compile(rf"\.[0-9a-f]{{32}}\.{re.escape(platform.node())}\.(\d+)\.tmp(\.\w+)?")
    for path in folder.glob(".*.tmp*"):
        writer = ours.fullmatch(path.name)
        if writer and not _lives(int(writer[1])):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
