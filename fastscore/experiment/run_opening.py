"""What a trainer does in its run folder before the first iteration: it begins the run, or goes on with it. Rank 0's alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from .._core import files
from ..data import Data
from . import checkpoint, history, learner_state, moments, precision
from .config import SAMPLING, TrainConfig
from .learner import Learner


@dataclass(frozen=True)
class Reached:
    """How far a run had come that goes on; the fields are those of a trainer, which says what they are."""

    step: int
    seconds: float | None
    last: Path | None
    changed: list[str]
    retuned: list[str]


class RunOpening:
    """First :meth:`look`, then :meth:`begin` or :meth:`go_on`, once the data and the network are there.

    Args:
        run: the run folder.

    Attributes:
        lock: of the folder; None while it is not locked yet.
        identity: the run's, from then on.

    Raises:
        CheckpointError: by every method: the folder is not what it must be. What was in it stays.
    """

    identity: checkpoint.Identity

    def __init__(self, run: Path):
        self.lock: checkpoint.Lock | None = None
        self._run = run

    def look(
        self, config: TrainConfig, device: torch.device, resume: bool, change: bool
    ) -> tuple[TrainConfig, TrainConfig | None]:
        """``config`` with a precision of ``auto`` settled, and that of the run to go on with; None where one may begin."""
        if not (resume and os.path.lexists(self._run / checkpoint.CONFIG)):
            checkpoint.check_free(self._run)
            return precision.settled(config, config, device), None
        self.lock = checkpoint.Lock(self._run / checkpoint.LOCK)
        saved = checkpoint.read_config(self._run)
        config = precision.settled(config, saved, device)
        history.check_continues(config, saved, self._run, change)
        self.identity = checkpoint.read_identity(self._run)
        self.identity.check_format(self._run)
        return config, saved

    def begin(self, config: TrainConfig, data: Data) -> None:
        """Start a run: nothing was written before it was known that nothing is in its way."""
        self._run.mkdir(parents=True, exist_ok=True)
        self.lock = checkpoint.Lock(self._run / checkpoint.LOCK)
        checkpoint.check_free(self._run)  # again: another process may have begun while the data was read
        self.identity = checkpoint.Identity.new(data)
        self._clear_leftovers()
        checkpoint.begin(self._run, self.identity)
        self._write_config(config)

    def go_on(self, config: TrainConfig, saved: TrainConfig, data: Data, learner: Learner) -> Reached:
        """Go on with the run of the config ``saved``, once its data and its checkpoint are known to be what they were.

        ``learner`` takes over the checkpoint.
        """
        self.identity.check_data(data, self._run)
        moments.check_place(self._run)
        self._clear_leftovers()
        if self.identity.fingerprint is None:  # imported: from now on these are the run's data
            self.identity = self.identity.with_data(data)
            checkpoint.begin(self._run, self.identity)
        step, trained, last = 0, config, None
        seconds: float | None = 0.0
        if checkpoint.steps(self._run):
            last = checkpoint.latest(self._run)
            about = learner_state.load(learner, last)
            step, trained, seconds = about.step, about.config, about.seconds
        else:
            history.check_checkpoints_are_there(self._run, saved)
        history.drop_after(self._run, step)
        checkpoint.drop_snapshots_after(self._run, step, identity=self.identity.run)
        changed = [
            f"{name} (was {was}, now {now})"
            for name, (was, now) in checkpoint.changed_fields(config, saved, SAMPLING).items()
        ]
        retuned = history.record_changes(self._run, step, trained, config)
        if config != saved:  # last: until then the run is what it was
            self._write_config(config)
        return Reached(step, seconds, last, changed, retuned)

    def _clear_leftovers(self) -> None:
        """What a killed trainer left: it may be what fills the disk."""
        files.clear_leftovers(self._run)
        for name in (checkpoint.CHECKPOINTS, checkpoint.SNAPSHOTS):
            checkpoint.clear_unfinished(self._run / name)

    def _write_config(self, config: TrainConfig) -> None:
        files.write_atomically(self._run / checkpoint.CONFIG, config.to_json().encode())
