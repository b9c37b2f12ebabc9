"""What a trainer writes into its run folder on the way, and how it says what went wrong there. Rank 0's alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._core import files
from .._core.errors import CannotWrite, NonFiniteLoss
from . import checkpoint, history, learner_state, moments
from .config import TrainConfig
from .learner import Learner, learning_rate
from .presets import command_line
from .scores import begins_about_the_mean


class RunWriter:
    """Lines of metrics.jsonl, checkpoints and snapshots, written while the folder is still this run's.

    Args:
        run: the run folder.
        config: what is trained there.
        identity: the run's.
        lock: of the folder.
        command: which goes on with the run, for texts; None: that of ``fastscore train``.
    """

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        identity: checkpoint.Identity,
        lock: checkpoint.Lock,
        command: str | None = None,
    ):
        self._run, self._config, self._identity, self._lock = run, config, identity, lock
        self._command = command or command_line(config, run, "--resume")
        self._begins_about_the_mean = begins_about_the_mean(config)

    def log(
        self,
        learner: Learner,
        step: int,
        grad_norm: float,
        images_per_second: float,
        seconds: float | None,
        listener: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Append the mean losses since the sums of ``learner`` were set to zero to metrics.jsonl; returns the line.

        ``seconds`` are those spent in iterations so far, over all resumes; None where that is not known.
        """
        sums = learner.sums
        record = {
            "step": step,
            "loss": float(sums[0].sum() / sums[1].sum()),
            "loss_per_sigma": [None if math.isnan(mean) else mean for mean in learner.means()],
            "lr": learning_rate(self._config, step - 1),
            "grad_norm": grad_norm,
            "images_per_second": images_per_second,
            "seconds": seconds,
        }
        with self.writing():
            history.append(self._run / checkpoint.METRICS, record)
            if listener is not None:
                listener(record)
        return record

    def save(self, learner: Learner, step: int, seconds: float | None) -> Path:
        """Write the checkpoint of iteration ``step``, and delete those that are too many by it.

        Raises:
            NonFiniteLoss: what it would hold is not finite. Others as :meth:`writing`.
        """
        with self._saving(learner, step):
            if self._begins_about_the_mean:  # before the first checkpoint: what can be sampled has them
                moments.keep(self._run, learner.data)
                self._begins_about_the_mean = False
            saved = self._save(learner, step, learner_state.state(learner, step), seconds)
            checkpoint.prune(self._run, saved, identity=self._identity.run, keep=self._config.keep)
        return saved

    def save_snapshot(self, learner: Learner, step: int, seconds: float | None) -> Path:
        """Write the snapshot of iteration ``step``: weights alone, which stay. Raises as :meth:`save`."""
        with self._saving(learner, step):
            return self._save(learner, step, None, seconds)

    @contextmanager
    def _saving(self, learner: Learner, step: int) -> Iterator[None]:
        if not learner_state.finite(learner):
            raise NonFiniteLoss(
                f"the weights at iteration {step}, or the optimizer's averages of their "
                f"gradients, are not finite and were not saved; {self.way_on()}"
            )
        with self.writing():
            yield

    def _save(self, learner: Learner, step: int, state: dict[str, Any] | None, seconds: float | None) -> Path:
        return checkpoint.save(
            self._run,
            step,
            learner_state.weights(learner),
            state,
            shape=tuple(learner.data.shape),
            identity=self._identity.run,
            config=self._config,
            seconds=seconds,
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, files of the run folder may be written.

        Raises:
            CheckpointError: the folder is no longer this run's.
            CannotWrite: in place of an OSError inside; the text says how to go on.
        """
        self._check_there()
        try:
            yield
        except OSError as error:
            self._check_there()
            text = error if isinstance(error, CannotWrite) else files.cannot_write(error.filename or self._run, error)
            raise CannotWrite(
                f"{text}; the checkpoints that were written stay. Once that is mended, go on with: {self._command}",
                error.errno,
                error.filename,
            ) from error

    def way_on(self) -> str:
        """The checkpoint to go on from, and the command that does, with smaller steps."""
        saved = checkpoint.last_good(self._run)
        gentler = dataclasses.replace(
            self._config,
            lr=max(float(f"{self._config.lr / 10:.3g}"), 1e-37),
            clip_norm=min(self._config.clip_norm or 1.0, 1.0),
        )
        return (
            f"the last good checkpoint is {saved}. Go on from it"
            if saved
            else "no checkpoint was written yet. Begin again"
        ) + f" with smaller steps: {command_line(gentler, self._run, '--resume', '--change')}"

    def _check_there(self) -> None:
        checkpoint.check_there(self._run, self._identity, self._lock)
