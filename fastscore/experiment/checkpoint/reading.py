"""Checkpoints and snapshots verified as they are read: the checksum of every file, whose they are, and that all is finite."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._core import checks, files
from ..._core.errors import CheckpointError, require
from ..._core.prefixes import renamed
from ..config import CHANGEABLE, MAY_CHANGE, TrainConfig
from .files import CONFIG, NoChecksum, is_missing, read_signed_json
from .folder import changed_fields, read_config, read_identity
from .listing import advice, step_of, steps
from .state import STATE

ABOUT = "about.json"


@dataclass(frozen=True)
class About:
    """What about.json says of a checkpoint.

    Attributes:
        step: iterations done.
        sample_shape: (C, H, W) or (D,).
        run: the identity of the run, as in run.json.
        config: the config that the iterations up to here were made with.
        files: SHA-256 of each file.
        torch: the version that wrote it.
        seconds: spent in the iterations up to here, over all resumes; None where that is not known.
    """

    step: int
    sample_shape: tuple[int, ...]
    run: str
    config: TrainConfig
    files: dict[str, str]
    torch: str
    seconds: float | None = None

    def checksum(self, weights: str) -> str | None:
        """SHA-256 of the file of the weights of that name: ``raw``, or a moving average's."""
        return self.files.get(file_of(weights))


def file_of(weights: str) -> str:
    """The file that holds the weights of that name: ``raw``, or a moving average's (``ema``, ``ema-0.9999``)."""
    return f"{'model' if weights == 'raw' else weights}.safetensors"


def read_about(checkpoint: Path) -> About:
    """What about.json says, once it is known to be of this run, this iteration and this config.

    Raises:
        CheckpointError: it is damaged, of another run, or of another config; the text says which, and the cure.
        OSError: it cannot be read.
    """
    path, run = checkpoint / ABOUT, checkpoint.parent.parent
    text = _bytes(path)
    try:
        values = read_signed_json(text)
        config = TrainConfig.from_json(json.dumps(values["config"]), f"the field 'config' of {path}")
        about = About(**values | {"sample_shape": _shape(values["sample_shape"]), "config": config})
        if type(about.step) is not int or not isinstance(about.files, dict):
            raise ValueError("step must be an integer and files an object")
        if about.seconds is not None:
            checks.number("seconds", about.seconds)
    except NoChecksum as error:
        raise CheckpointError(f"{path} does not describe a checkpoint: {error}") from error
    except (ValueError, TypeError, KeyError, CheckpointError) as error:
        raise CheckpointError(f"{path} does not describe a checkpoint: {error}; {advice(checkpoint)}") from error
    if about.run != read_identity(run).run:
        raise CheckpointError(
            f"{checkpoint} belongs to another run than {run}: put the right one back, or move it "
            "away to go on without it"
        )
    if about.step != step_of(checkpoint):
        name = f"step_{about.step:08d}"
        cure = "move it away" if os.path.lexists(checkpoint.with_name(name)) else f"give it back its name, {name}"
        raise CheckpointError(f"{checkpoint} is the checkpoint of iteration {about.step}, renamed: {cure}")
    fixed = [f.name for f in dataclasses.fields(config) if f.name not in MAY_CHANGE and f.name not in CHANGEABLE]
    changed = changed_fields(read_config(run), config, fixed)
    if changed:
        words = ", ".join(f"{name} (was {was}, now {now})" for name, (was, now) in changed.items())
        raise CheckpointError(
            f"{run / CONFIG} is not the config that {checkpoint.name} was trained with: {words}; put "
            f"these back (the field 'config' of {path} is a copy)"
        )
    return about


def read_weights(checkpoint: Path, weights: str) -> dict[str, Tensor]:
    """The weights of a checkpoint or snapshot by their name: ``raw``, or a moving average's (``ema``, ``ema-0.9999``)."""
    path = checkpoint / file_of(weights)
    values = _read(path, require("safetensors.torch", "train").load)
    check_finite(values, path)
    return values


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Optimizer state and iteration; refuses a file that would execute code."""
    path = checkpoint / STATE
    state = _read(path, lambda data: torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    if not isinstance(state, dict) or not {"step", "optimizer", "sums"} <= set(state):
        raise CheckpointError(f"{path} is not the state of a fastscore run; {advice(checkpoint)}")
    if type(state["step"]) is not int or state["step"] != step_of(checkpoint):
        raise CheckpointError(
            f"{path} is not the state of iteration {step_of(checkpoint)}, but of "
            f"{checks.describe(state['step'])}; {advice(checkpoint)}"
        )
    return state


def read_shape(checkpoint: Path) -> tuple[int, ...]:
    """The shape of one sample, (C, H, W) or (D,)."""
    return read_about(checkpoint).sample_shape


def _shape(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) not in (1, 3)
        or not all(type(size) is int and 1 <= size < 2**31 for size in value)
    ):
        raise ValueError(f"sample_shape must be [C, H, W] or [D], got {checks.describe(value)}")
    return tuple(value)


def load_into(model: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Load ``weights`` into ``model``; an error lists what does not fit."""
    try:
        model.load_state_dict(renamed(weights, model.state_dict()))
    except RuntimeError as error:
        raise CheckpointError(f"{source} does not fit the network that config.json describes: {error}") from error


def check_finite(weights: dict[str, Tensor], source: Path) -> None:
    """Raise :class:`CheckpointError` where a value is NaN or infinite."""
    bad = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"{source} holds weights that are not finite, in {', '.join(bad[:3])}; {advice(source.parent)}"
        )


def last_good(run: Path) -> Path | None:
    """The newest checkpoint of which every file is whole and finite, or None."""
    for folder in reversed(steps(run)):
        try:
            for name in read_about(folder).files:
                whole = name.removesuffix(".safetensors")
                read_state(folder) if name == STATE else read_weights(folder, "raw" if whole == "model" else whole)
            return folder
        except (CheckpointError, OSError):
            continue
    return None


def _bytes(path: Path) -> bytes:
    """A file of a checkpoint. What cannot be read is not damaged: an ``OSError`` says what it is."""
    try:
        return files.read(path)
    except OSError as error:
        if not is_missing(error):
            raise
        raise CheckpointError(f"{path} is missing: the checkpoint is not whole; {advice(path.parent)}") from None


def _read(path: Path, load: Callable[[bytes], Any]) -> Any:
    """``load`` of a file whose checksum is right."""
    files = read_about(path.parent).files
    if path.name not in files:
        raise CheckpointError(f"{path.parent} was written without {path.name}: its run keeps none")
    data = _bytes(path)
    if hashlib.sha256(data).hexdigest() != files[path.name]:
        raise CheckpointError(
            f"{path} is damaged or another checkpoint's: its checksum is not the one that "
            f"{ABOUT} gives; {advice(path.parent)}"
        )
    try:
        return load(data)
    except Exception as error:  # safetensors, torch and pickle each have their own
        raise CheckpointError(
            f"{path} cannot be read, it is not a checkpoint's or holds more than tensors and numbers "
            f"(loading that could execute code): {error}; {advice(path.parent)}"
        ) from error
