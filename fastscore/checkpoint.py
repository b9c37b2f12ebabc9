"""Run folders and checkpoints: written so that a kill at any moment loses nothing, read without executing code.

A run folder holds config.json, metrics.jsonl and checkpoints/step_00001000/ with model.safetensors (the weights),
ema.safetensors (their moving average, where kept), state.pt (optimizer and iteration; tensors and numbers only) and
about.json (iteration, shape of a sample, versions). The empty file .lock is locked while a process trains there.
A checkpoint is written to a hidden folder, flushed to disk, and renamed: a folder named step_* is always whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import TrainConfig
from .errors import CheckpointError, require

CONFIG, METRICS, CHECKPOINTS, LOCK = "config.json", "metrics.jsonl", "checkpoints", ".lock"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it to ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold RUN/.lock, so that two trainers do not write into one folder; the end of the process, too, lets it go."""
    with open(run / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"another process trains in {run}: wait until it ends, or choose another folder with "
                                  "--out") from None
        except OSError as error:
            warnings.warn(f"{run / LOCK} cannot be locked ({error}): take care that one process alone trains there",
                          stacklevel=3)
        yield


def save(run: Path, step: int, model: dict[str, Tensor], ema: dict[str, Tensor] | None, state: dict[str, Any],
         *, shape: tuple[int, ...], keep: int) -> Path:
    """Write checkpoints/step_N whole or not at all, then delete all but the last ``keep``."""
    save_file = require("safetensors.torch", "train").save_file
    folder = run / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(".writing_*"), *folder.glob(".deleting_*")):  # of a run that was killed here
        shutil.rmtree(leftover)
    temporary, final = folder / f".writing_{step:08d}", folder / f"step_{step:08d}"
    temporary.mkdir()
    _write(temporary / "model.safetensors", save_file, _storable(model))
    if ema is not None:
        _write(temporary / "ema.safetensors", save_file, _storable(ema))
    _write(temporary / "state.pt", torch.save, state)
    about = {"step": step, "sample_shape": list(shape), "torch": torch.__version__}
    (temporary / "about.json").write_text(json.dumps(about) + "\n")
    for file in temporary.iterdir():
        _flush(file)
    _flush(temporary)
    os.rename(temporary, final)
    _flush(folder)
    for old in steps(run)[:-keep]:
        deleted = folder / f".deleting_{old.name}"  # renamed first: a folder named step_* is never half deleted
        os.rename(old, deleted)
        shutil.rmtree(deleted)
    return final


def steps(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(p for p in (run / CHECKPOINTS).glob("step_*") if re.fullmatch(r"step_\d{8,}", p.name))


def latest(run: Path) -> Path:
    """The newest checkpoint, or an error that says what to do."""
    found = steps(run)
    if not found:
        raise CheckpointError(f"{run} has no checkpoint yet; train it with: fastscore train PRESET --out {run}")
    return found[-1]


def read_config(run: Path) -> TrainConfig:
    """The config of a run folder."""
    path = run / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{run} is not a run folder: it has no {CONFIG}; make one with: "
                              f"fastscore train PRESET --out {run}")
    return TrainConfig.from_json(path.read_bytes(), path)


def read_weights(checkpoint: Path, *, ema: bool) -> dict[str, Tensor]:
    """The weights of a checkpoint: the moving average where ``ema``."""
    return _read(checkpoint / ("ema.safetensors" if ema else "model.safetensors"),
                 require("safetensors.torch", "train").load_file)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Optimizer state and iteration; refuses a file that would execute code."""
    state = _read(checkpoint / "state.pt", lambda path: torch.load(path, map_location="cpu", weights_only=True))
    if not isinstance(state, dict) or not {"step", "optimizer", "sums"} <= set(state):
        raise CheckpointError(f"{checkpoint / 'state.pt'} is not the state of a fastscore run; {_advice(checkpoint)}")
    return state


def read_shape(checkpoint: Path) -> tuple[int, ...]:
    """The shape of one sample, (C, H, W) or (D,)."""
    about = _read(checkpoint / "about.json", lambda path: json.loads(path.read_text()))
    try:
        shape = tuple(int(size) for size in about["sample_shape"])
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise ValueError(f"sample_shape must be [C, H, W] or [D], got {list(shape)}")
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / 'about.json'} does not say the shape of a sample: {error}; "
                              f"{_advice(checkpoint)}") from error
    return shape


def load_into(model: torch.nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Load ``weights`` into ``model``; an error lists what does not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{source} does not fit the network that config.json describes: {error}") from error


def _read(path: Path, load: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is not whole; {_advice(path.parent)}")
    try:
        return load(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and numbers and was not opened: "
                              f"loading it could execute code; {_advice(path.parent)}") from error
    except Exception as error:  # safetensors and torch each have their own for a truncated file
        raise CheckpointError(f"{path} cannot be read, it is damaged or not a checkpoint: {error}; "
                              f"{_advice(path.parent)}") from error


def _advice(checkpoint: Path) -> str:
    """What to do about a damaged checkpoint."""
    if steps(checkpoint.parent.parent)[:1] == [checkpoint]:
        return "there is no checkpoint before it: train again"
    return f"delete {checkpoint} to go on from the one before"


def _write(path: Path, save: Callable[[Any, Path], Any], value: Any) -> None:
    """``save(value, path)``; where that fails (a full disk, say), an OSError that names the file."""
    try:
        save(value, path)
    except (require("safetensors", "train").SafetensorError, RuntimeError) as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them: contiguous, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flush(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
