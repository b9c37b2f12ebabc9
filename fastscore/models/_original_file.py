"""The files of the original NCSN and NCSNv2: a list of state_dicts, read without ever running code from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import CheckpointError
from .._core.prefixes import plain_names

EXPECTED = (
    "expected a checkpoint of github.com/ermongroup/ncsn or ncsnv2, a list [score state_dict, optimizer "
    "state_dict, ...] written by torch.save"
)
_STEP_PLACE, _EMA_PLACE = 3, 4  # [score, optimizer, epoch, step, EMA shadow]


@dataclass(frozen=True)
class OriginalStates:
    """What such a file holds: [score, optimizer] of the first repository, of the second [score, optimizer, epoch, step]
    and, where there was one, the EMA shadow.

    Attributes:
        weights: the network's, by name, in the order of its parameters and buffers; without wrappers' prefixes.
        optimizer: the second element, unchecked.
        step: the iterations that the file says; None where it does not.
        shadow: the averaged parameters, unchecked (see :func:`shadow_of`); None where there are none.
    """

    weights: dict[str, Tensor]
    optimizer: Any
    step: int | None
    shadow: Any


def read_states(path: Path) -> OriginalStates:
    """The content of a checkpoint (.pth), on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, asks to run code (nothing is run), or is no such checkpoint.
    """
    saved = _read(path)
    if not isinstance(saved, (list, tuple)) or len(saved) < 2:
        raise CheckpointError(f"{path} holds {outline(saved)}; {EXPECTED}")
    weights = tensors(path, "its first element", saved[0])
    shadow = saved[_EMA_PLACE] if len(saved) > _EMA_PLACE else None
    step = saved[_STEP_PLACE] if len(saved) > _STEP_PLACE and type(saved[_STEP_PLACE]) is int else None
    return OriginalStates(weights, saved[1], step, shadow)


def _read(path: Path) -> Any:
    """The file's content, by an unpickler that builds nothing but tensors (on the CPU) and containers."""
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; {EXPECTED}")
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by this user; {EXPECTED}") from error
    except Exception as error:  # damaged bytes raise nearly anything: EOFError, KeyError, OSError, ...
        # torch's own text advises to load with weights_only=False: do not pass that on.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise CheckpointError(
                f"{path} was refused: it asks to use {asked[1]} while it is read, which could run code; "
                f"nothing of it was run; {EXPECTED}"
            ) from error
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged, cut short, or not a torch checkpoint "
            f"(reading it raised {type(error).__name__}); {EXPECTED}"
        ) from error


def shadow_of(path: Path, states: OriginalStates) -> dict[str, Tensor]:
    """The averaged parameters by name, once found to be tensors."""
    return tensors(path, "its fifth element, the EMA shadow,", states.shadow)


def tensors(path: Path, what: str, value: Any) -> dict[str, Tensor]:
    """A state_dict without wrappers' prefixes, once found to map names to tensors."""
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    ):
        raise CheckpointError(f"{path}: {what} must map names to tensors, but is {outline(value)}; {EXPECTED}")
    return {name: value[given] for name, given in plain_names(value).items()}


def some(names: set[str]) -> str:
    """The first three names, and how many more there are."""
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def outline(value: Any) -> str:
    """What a loaded value is, in a few words."""
    if isinstance(value, Mapping):
        return f"a dict with {len(value)} keys ({some({str(key) for key in value})})"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)} elements"
    return checks.describe(value)
