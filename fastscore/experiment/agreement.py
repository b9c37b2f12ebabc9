"""What the ranks of a run must have alike before they begin: its settings, or the checkpoint that they sample with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import checkpoint
from .config import TrainConfig
from .ranks import Ranks

if TYPE_CHECKING:
    from .trained_run import TrainedRun

_OF_A_MACHINE = ("data_dir", "device", "download")  # settings that may differ


def settings_of(ranks: Ranks, config: TrainConfig, device: torch.device) -> TrainConfig:
    """``config`` in the precision that rank 0 chose; what else decides what the run is must be rank 0's already.

    Raises:
        ValueError: on a rank that was given something else. RankFailed: on the others, or where devices differ in kind.
    """
    if ranks.count == 1:
        return config
    leaders = TrainConfig.from_json(ranks.told(config.to_json()), "what rank 0 sent")
    config = dataclasses.replace(config, precision=leaders.precision)
    fields = [field.name for field in dataclasses.fields(leaders) if field.name not in _OF_A_MACHINE]
    with ranks.together():
        if changed := checkpoint.changed_fields(config, leaders, fields):
            words = ", ".join(f"{name} ({theirs} there, {ours} here)" for name, (theirs, ours) in changed.items())
            raise ValueError(f"every rank must be given the same settings as rank 0: {words}")
    ranks.same("the kind of device", device.type)
    return config


def load_on(ranks: Ranks, run: str | Path, *, device: str = "auto", **how: Any) -> TrainedRun:
    """:func:`fastscore.experiment.trained_run.load_run` on each of ``ranks``, of the checkpoint that rank 0 finds; all of them see the run folder.

    Raises:
        RankFailed: another rank has ended, could not read it, or would compute in another precision.
        CheckpointError, ValueError: as that one.
    """
    from .trained_run import load_run  # which training does without

    loaded: TrainedRun | None = None
    with ranks.together():
        place = str(ranks.place(device))
        if ranks.leads:
            loaded = load_run(run, device=place, **how)
    iteration = int(ranks.told("" if loaded is None else str(loaded.iteration)))
    with ranks.together():
        trained = loaded or load_run(run, device=place, **how | {"iteration": iteration})
    about = [trained.identity, trained.sha256, trained.precision, trained.device.type]
    ranks.same(f"the weights of {run}, the precision and the kind of device", json.dumps(about))
    return trained
