"""What state.pt holds, taken over by an optimizer and its companions once it is known to fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._core.errors import CheckpointError
from .listing import advice

STATE = "state.pt"


def load_optimizer(optimizer: torch.optim.Adam, saved: Any, checkpoint: Path) -> None:
    """Load Adam's moments into ``optimizer``, whose learning rate and other settings stay as they are."""
    state = saved.get("state") if isinstance(saved, dict) else None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(state, dict) or not all(
        type(k) is int and 0 <= k < len(parameters) and _moments_fit(state[k], parameters[k]) for k in state
    ):
        raise CheckpointError(
            f"{checkpoint / STATE} does not hold Adam's moments of the network that config.json "
            f"describes; {advice(checkpoint)}"
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):  # the fused Adam takes it for granted that they lie as the weights do
            moments[name] = torch.empty_like(parameter).copy_(moments[name])


def _moments_fit(moments: Any, parameter: Tensor) -> bool:
    if not isinstance(moments, dict) or set(moments) != {"step", "exp_avg", "exp_avg_sq"}:
        return False
    step, *averages = moments["step"], moments["exp_avg"], moments["exp_avg_sq"]
    return (
        _fits(step, (), torch.float32)
        and float(step) >= 1
        and all(_fits(value, parameter.shape, parameter.dtype) for value in averages)
    )


def _fits(value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.shape == torch.Size(shape)
        and value.dtype == dtype
        and not value.is_meta
        and bool(value.isfinite().all())
    )


def load_scaler(scaler: torch.amp.GradScaler, saved: Any, checkpoint: Path) -> None:
    """Go on with the scale of the loss, and the count of iterations since it last changed, of a :meth:`state_dict`."""
    usual = scaler.state_dict()
    if (
        not isinstance(saved, dict)
        or saved.keys() != usual.keys()
        or not all(type(saved[name]) is type(usual[name]) for name in usual)
        or not (0 < saved["scale"] < math.inf and saved["_growth_tracker"] >= 0)
        or any(saved[name] != usual[name] for name in ("growth_factor", "backoff_factor", "growth_interval"))
    ):
        raise CheckpointError(f"{checkpoint / STATE} does not hold the scale of an fp16 run; {advice(checkpoint)}")
    scaler.load_state_dict(saved)


def load_sums(sums: Tensor, saved: Any, checkpoint: Path) -> None:
    """Copy the running sums of the loss, float64 [2, L], into ``sums``."""
    if not _fits(saved, sums.shape, sums.dtype):
        raise CheckpointError(
            f"{checkpoint / STATE} does not hold the sums of the loss at each noise level, float64 "
            f"{tuple(sums.shape)}; {advice(checkpoint)}"
        )
    sums.copy_(saved)
