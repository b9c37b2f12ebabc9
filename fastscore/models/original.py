"""Reading the published checkpoints of NCSN and NCSNv2, without ever running code from them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastscore import _check
from fastscore.errors import CheckpointError
from fastscore.models.ncsn import NCSN
from fastscore.models.ncsnv2 import NCSNv2

_EXPECTED = (
    "expected a checkpoint of github.com/ermongroup/ncsn or ncsnv2, a list [score state_dict, optimizer "
    "state_dict, ...] written by torch.save"
)
_EMA_PLACE = 4  # [score, optimizer, epoch, step, EMA shadow]


def load_original_checkpoint(
    path: str | os.PathLike[str], model: nn.Module | None = None, *, ema: bool = True
) -> nn.Module:
    """The network of a checkpoint (.pth) of the original NCSN or NCSNv2.

    Args:
        path: of the file: a list [score state_dict, optimizer state_dict], in NCSNv2 followed by epoch, step
            and, where there was one, the EMA shadow (parameters only). Keys may be prefixed ``module.``.
        model: the network to fill; its dtype and device are kept, and it is changed only once all is found to
            fit. None: a new :class:`NCSN` or :class:`NCSNv2` on the CPU, of the checkpoint's dtype and sizes
            (all but ``image_size``, which no shape tells: it stays 32).
        ema: take the parameters from the EMA shadow where the file has one.

    Returns:
        The filled network.

    Raises:
        CheckpointError: the file is missing, damaged, asks to run code (nothing is run), is no such
            checkpoint, or does not fit the network; the text says which, and what was expected.
    """
    path = Path(path)
    saved = _read(path)
    if not isinstance(saved, (list, tuple)) or len(saved) < 2:
        raise CheckpointError(f"{path} holds {_outline(saved)}; {_EXPECTED}")
    weights = _tensors(path, "its first element", saved[0])
    fresh = model is None
    network = _build(path, weights) if model is None else model
    _compare(path, weights, network.state_dict())
    if ema and len(saved) > _EMA_PLACE:
        shadow = _tensors(path, "its fifth element, the EMA shadow,", saved[_EMA_PLACE])
        _compare(path, shadow, dict(network.named_parameters()), what="the EMA shadow")
        weights = {**weights, **shadow}
    # A fresh network lies on the meta device: it takes the checkpoint's tensors instead of copying them.
    network.load_state_dict(weights, assign=fresh)
    return network


def _read(path: Path) -> Any:
    """The file's content, by an unpickler that builds nothing but tensors (on the CPU) and containers."""
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; {_EXPECTED}")
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by this user; {_EXPECTED}") from error
    except Exception as error:  # damaged bytes raise nearly anything: EOFError, KeyError, OSError, ...
        # torch's own text advises to load with weights_only=False: do not pass that on.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise CheckpointError(
                f"{path} was refused: it asks to use {asked[1]} while it is read, which could run code; "
                f"nothing of it was run; {_EXPECTED}"
            ) from error
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is damaged, cut short, or not a torch checkpoint "
            f"(reading it raised {type(error).__name__}); {_EXPECTED}"
        ) from error


def _tensors(path: Path, what: str, value: Any) -> dict[str, Tensor]:
    """A state_dict without DataParallel's prefix, once found to map names to tensors."""
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    ):
        raise CheckpointError(
            f"{path}: {what} must map names to tensors, but is {_outline(value)}; {_EXPECTED}"
        )
    return {name.removeprefix("module."): tensor for name, tensor in value.items()}


def _build(path: Path, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network that fits the weights' shapes, on the meta device: nothing is allocated or initialised."""
    begin, embed = weights.get("begin_conv.weight"), weights.get("normalizer.embed.weight")
    sigmas = weights.get("sigmas")
    num_classes = embed.shape[0] if embed is not None and embed.dim() == 2 else None
    if begin is None or begin.dim() != 4 or (num_classes is None) == (sigmas is None):
        raise CheckpointError(
            f"{path} holds neither an NCSN (begin_conv.weight and normalizer.embed.weight) nor an NCSNv2 "
            f"(begin_conv.weight and sigmas), but {_outline(weights)}; {_EXPECTED}"
        )
    ngf, channels = begin.shape[:2]
    try:
        with torch.device("meta"):
            if num_classes is not None:
                return NCSN(channels, ngf=ngf, num_classes=num_classes)
            return NCSNv2(channels, ngf=ngf, sigmas=sigmas)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes a network that cannot be built: {error}") from error


def _compare(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, what: str = "it"
) -> None:
    """Raise where names or shapes differ or a tensor is not floating, saying which."""
    faults = []
    if missing := wanted.keys() - found.keys():
        faults.append(f"{what} lacks {_some(missing)}")
    if surplus := found.keys() - wanted.keys():
        faults.append(f"{what} has {_some(surplus)}, which the network has not")
    wrong = [
        f"{name} is {_check.describe(found[name])} where the network has shape {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and (found[name].shape != tensor.shape or not found[name].is_floating_point())
    ]
    faults += wrong[:3]
    if len(wrong) > 3:
        faults.append(f"{len(wrong) - 3} more have wrong shapes")
    if faults:
        raise CheckpointError(f"{path} does not fit the network: {'; '.join(faults)}")


def _some(names: set[str]) -> str:
    """The first three names, and how many more there are."""
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def _outline(value: Any) -> str:
    """What a loaded value is, in a few words."""
    if isinstance(value, Mapping):
        return f"a dict with {len(value)} keys ({_some({str(key) for key in value})})"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)} elements"
    return _check.describe(value)
