"""What a learner's checkpoint holds: given, taken over again, and brought to the other ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._core.errors import CheckpointError
from . import checkpoint
from .learner import Learner


def weights(learner: Learner) -> dict[str, dict[str, Tensor]]:
    """The state_dicts of the network, ``raw``, and of its moving averages by their names."""
    averages = {name: ema.module.state_dict() for name, ema in learner.averages.items()}
    return {"raw": learner.model.state_dict(), **averages}


def finite(learner: Learner) -> bool:
    """Whether all that a checkpoint would hold is finite; an infinite gradient of a finite loss is seen here."""
    values = [value for tensors in weights(learner).values() for value in tensors.values()]
    moments = [value for state in learner.optimizer.state.values() for value in state.values()]
    return all(bool(value.isfinite().all()) for value in [*values, *moments])


def state(learner: Learner, step: int) -> dict[str, Any]:
    """What state.pt holds after ``step`` iterations."""
    scaler = {} if learner.scaler is None else {"scaler": learner.scaler.state_dict()}
    optimizer = learner.optimizer.state_dict()
    for group in optimizer["param_groups"]:
        group["lr"] = float(group["lr"])  # a graph's is a tensor
    return {"step": step, "optimizer": optimizer, "sums": learner.sums, **scaler}


def load(learner: Learner, folder: Path) -> checkpoint.About:
    """Take over the checkpoint ``folder``; returns what is said of it.

    Raises:
        CheckpointError: it is damaged, or does not fit the network or the data; the text says how to go on.
    """
    about, saved = checkpoint.read_about(folder), checkpoint.read_state(folder)
    if about.sample_shape != tuple(learner.data.shape):
        raise CheckpointError(
            f"{folder} is of samples of shape {about.sample_shape}, and the data has {tuple(learner.data.shape)}"
        )
    checkpoint.load_into(learner.model, checkpoint.read_weights(folder, "raw"), folder)
    for name, ema in learner.averages.items():
        checkpoint.load_into(ema.module, checkpoint.read_weights(folder, name), folder)
        ema.num_updates = about.step
    checkpoint.load_optimizer(learner.optimizer, saved["optimizer"], folder)
    checkpoint.load_sums(learner.sums, saved["sums"], folder)
    if learner.scaler is not None and "scaler" in saved:  # there is none yet where the precision was another
        checkpoint.load_scaler(learner.scaler, saved["scaler"], folder)
    return about


def spread(learner: Learner, step: int) -> int:
    """Take over all that rank 0's learner has after ``step`` iterations; returns its ``step``."""
    if learner.ranks.count == 1:
        return step
    scaler = None if learner.scaler is None else learner.scaler.state_dict()
    moments = sorted(learner.optimizer.state_dict()["state"])
    step, moments, scaler = json.loads(learner.ranks.told(json.dumps([step, moments, scaler])))
    parameters = list(learner.model.parameters())
    if not learner.ranks.leads:
        zeros = {i: {name: torch.zeros_like(parameters[i]) for name in ("exp_avg", "exp_avg_sq")} for i in moments}
        ones = {i: {"step": torch.ones(()), **of_one} for i, of_one in zeros.items()}
        checkpoint.load_optimizer(learner.optimizer, {"state": ones}, Path("rank 0"))
        if learner.scaler is not None and scaler is not None:
            learner.scaler.load_state_dict(scaler)
        for ema in learner.averages.values():
            ema.num_updates = step
    held = [value for tensors in weights(learner).values() for value in tensors.values()]
    of_adam = [learner.optimizer.state[parameters[i]] for i in moments]
    held += [moment[name] for moment in of_adam for name in ("step", "exp_avg", "exp_avg_sq")]
    learner.ranks.copy([*held, learner.sums])
    return step
