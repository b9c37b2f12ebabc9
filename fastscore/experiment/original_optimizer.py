"""What an original checkpoint says of its training so far: Adam's settings and moments, and how many iterations led to it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import CheckpointError
from ..models.original import OriginalStates
from .config import TrainConfig

_GROUP = ("lr", "betas", "eps")


def adam_of(path: Path, states: OriginalStates, fresh: bool) -> tuple[dict[str, Any], dict[int, Any]]:
    """The settings of the file's Adam, and its moments by the place of the parameter; nothing where it has none.

    Raises:
        CheckpointError: it is another optimizer's state, or damaged.
    """
    saved = states.optimizer
    if fresh or saved is None or saved == {}:
        return {}, {}
    cure = "with --fresh-optimizer the weights alone are taken, and Adam begins anew"
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(saved.get("state"), dict):
        raise CheckpointError(f"{path}: its second element is not the state of one optimizer of all parameters; {cure}")
    group = groups[0]
    if not isinstance(group, dict) or not {*_GROUP, "params"} <= group.keys():
        raise CheckpointError(f"{path}: its optimizer is not Adam; {cure}")
    for name in ("amsgrad", "weight_decay"):
        value = group.get(name)
        if not (value is None or value is False or _number(value) == 0):
            raise CheckpointError(f"{path}: its optimizer has {name}={value!r:.60}, which runs here have not; {cure}")
    params = group["params"] if isinstance(group["params"], list) else []
    place = {key: i for i, key in enumerate(params)}  # old torch named parameters by their address
    if set(saved["state"]) - set(place):
        raise CheckpointError(f"{path}: its optimizer has moments of parameters that it does not list; {cure}")
    betas = group["betas"] if isinstance(group["betas"], (list, tuple)) else []
    numbers = [_number(value) for value in (group["lr"], *betas, group["eps"])]
    if len(numbers) != 4 or None in numbers:
        raise CheckpointError(f"{path}: its optimizer's lr, betas and eps must be numbers; {cure}")
    settings = dict(zip(("lr", "beta1", "beta2", "eps"), numbers))
    return settings, {place[key]: moments for key, moments in saved["state"].items()}


def placed(
    path: Path, moments: dict[int, Any], states: OriginalStates, network: nn.Module, config: TrainConfig
) -> dict[str, Any]:
    """The state_dict of an Adam of ``network`` with the file's moments; found by name, whatever the order there."""
    parameters = dict(network.named_parameters())
    adam = torch.optim.Adam(network.parameters(), config.lr, (config.beta1, config.beta2), config.eps)
    theirs, ours = [name for name in states.weights if name in parameters], list(parameters)
    state = {}
    for i, values in moments.items():
        name = theirs[i] if i < len(theirs) else None
        if name is None or not _fits(values, parameters[name]):
            raise CheckpointError(
                f"{path}: its optimizer does not hold Adam's moments of {name or f'its parameter {i}'}; with "
                "--fresh-optimizer the weights alone are taken, and Adam begins anew"
            )
        step = torch.tensor(float(values["step"]))
        state[ours.index(name)] = {"step": step, "exp_avg": values["exp_avg"], "exp_avg_sq": values["exp_avg_sq"]}
    return {**adam.state_dict(), "state": dict(sorted(state.items()))}


def _fits(values: Any, parameter: Tensor) -> bool:
    if not isinstance(values, dict) or not {"step", "exp_avg", "exp_avg_sq"} <= values.keys():
        return False
    step = _number(values["step"])
    return (
        step is not None
        and step >= 1
        and all(
            isinstance(value, Tensor)
            and value.shape == parameter.shape
            and value.dtype == parameter.dtype
            and bool(value.isfinite().all())
            for value in (values["exp_avg"], values["exp_avg_sq"])
        )
    )


def iteration_of(path: Path, states: OriginalStates, moments: dict[int, Any], given: int | None) -> int:
    """How many iterations led to the file."""
    if given is not None:
        return checks.integer("iteration", given, low=1, high=2**32)
    named = re.fullmatch(r"checkpoint_(\d+)\.pth", path.name)
    taken = [_number(m.get("step")) for m in moments.values() if isinstance(m, dict)]
    last = max((step for step in taken if step is not None), default=None)
    for found in (states.step, last, named[1] if named else None):
        if found is not None and 1 <= int(found) <= 2**32:
            return int(found)
    raise CheckpointError(f"{path} does not say how many iterations led to it: pass --iteration N")


def _number(value: Any) -> float | None:
    """A finite number, also of a tensor of one; None of anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
