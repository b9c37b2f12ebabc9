"""Checkpoints and snapshots, saved whole or not at all, with a checksum for each file; and which of them go again."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._core.errors import CheckpointError, require
from ..._core.files import flush_folder, read, write_flushed
from ..config import TrainConfig
from .files import CHECKPOINTS, SNAPSHOTS, clear_unfinished, read_signed_json, signed_json
from .listing import snapshots, step_of, steps
from .reading import ABOUT, About, file_of
from .state import STATE


def save(
    run: Path,
    step: int,
    weights: dict[str, dict[str, Tensor]],
    state: dict[str, Any] | None,
    *,
    shape: tuple[int, ...],
    identity: str,
    config: TrainConfig,
    seconds: float | None = None,
) -> Path:
    """Write checkpoints/step_N whole or not at all; where ``state`` is None, snapshots/step_N.

    Args:
        run, step: the run folder, and the iterations done.
        weights: state_dicts of the network by their names: raw, and of each moving average.
        state: what state.pt is to hold. None: these are weights alone, which stay.
        shape, identity, config, seconds: of :class:`About`.

    Raises:
        OSError: it cannot be written (a full disk, say); the text names the file, and nothing of it stays.
    """
    save_tensors = require("safetensors.torch", "train").save
    folder = run / (CHECKPOINTS if state is not None else SNAPSHOTS)
    folder.mkdir(exist_ok=True)  # never the run folder itself: where that is gone, something is wrong
    clear_unfinished(folder)
    temporary, final = folder / f".writing_{step:08d}", folder / f"step_{step:08d}"
    if os.path.lexists(final):
        raise CheckpointError(
            f"{final} is already there, though this run did not write it: move it away, and go on with --resume"
        )
    temporary.mkdir()
    try:
        files = {
            file_of(name): _write(temporary / file_of(name), save_tensors(_storable(tensors)))
            for name, tensors in weights.items()
        }
        if state is not None:
            buffer = io.BytesIO()  # torch's own writer does not say that the disk is full
            torch.save(state, buffer)
            files[STATE] = _write(temporary / STATE, buffer.getbuffer())
        about = About(step, shape, identity, config, files, torch.__version__, seconds)
        write_flushed(temporary / ABOUT, signed_json(dataclasses.asdict(about)).encode())
        flush_folder(temporary)
        os.rename(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(folder)
    return final


def _write(path: Path, data: bytes | memoryview) -> str:
    """Write ``data`` and flush it to the disk; returns its SHA-256."""
    write_flushed(path, data)
    return hashlib.sha256(data).hexdigest()


def prune(run: Path, newest: Path, *, identity: str, keep: int) -> None:
    """Delete this run's checkpoints before ``newest``, which it has just written, but for the last ``keep`` - 1.

    Snapshots stay.
    """
    older = [p for p in steps(run) if step_of(p) < step_of(newest) and _written_by(p, identity)]
    for old in older[: max(0, len(older) - (keep - 1))]:
        _delete(old)


def drop_snapshots_after(run: Path, step: int, *, identity: str) -> None:
    """Delete this run's snapshots after iteration ``step``, from which it goes on: it will make and write them again."""
    for folder in snapshots(run):
        if step_of(folder) > step and _written_by(folder, identity):
            _delete(folder)


def _delete(folder: Path) -> None:
    deleted = folder.with_name(f".deleting_{folder.name}")  # renamed first: a folder named step_* is never half deleted
    os.rename(folder, deleted)
    shutil.rmtree(deleted)


def _written_by(checkpoint: Path, identity: str) -> bool:
    try:
        return read_signed_json(read(checkpoint / ABOUT)).get("run") == identity
    except (OSError, ValueError):
        return False


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them: contiguous, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
