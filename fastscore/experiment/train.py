"""A run: it begins or goes on in its folder, iterates, and is logged, saved and shown on the way.

Batches, noise and weights are functions of (config, iteration), so a resumed run is the run itself.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import CheckpointError, NonFiniteLoss
from . import checkpoint, learner_state, limits, precision
from .acceleration import deterministic, tf32
from .agreement import settings_of
from .build import FROM_FILES, make_data
from .config import TrainConfig
from .learner import Learner
from .progress import progress_bar
from .ranks import ALONE, Ranks
from .run_opening import RunOpening
from .run_writer import RunWriter
from .sampler_options import check_own_sampler


class Trainer:
    """One run in one folder, which is locked until :meth:`train` ends or the trainer is closed or deleted.

    Args:
        config: what to train.
        run: the run folder; made where it does not exist.
        resume: go on from the last checkpoint, or begin if there is no run.
        change: let ``config`` differ from the run's in how the optimizer steps (lr, betas, eps, warmup, decay,
            clip_norm, accumulate, iterations) and in the precision; what changed, and from which iteration on, is recorded in
            changes.jsonl.
        ranks: of the run (:func:`fastscore.experiment.ranks.joined`). Every rank has a trainer, of the same arguments, and
            makes the same calls; rank 0's alone reads and writes the run folder.
        command: which goes on with the run where a file cannot be written; None: that of ``fastscore train``.

    Attributes:
        config: what it trains; a precision of ``auto`` is what it became: the run's, or for a new run that of its device.
        changed: the sampling settings that differ from those the run was saved with, as text; from now on they are
            the run's.
        retuned: the settings of the optimizer that differ from those that led to the checkpoint it goes on from.
        step: iterations done.
        seconds: spent in them, over all resumes, without what was written and shown on the way; None where the checkpoint that
            the run goes on from does not say.
        last: the checkpoint that this run wrote last, or went on from; None before there is one.

    Raises:
        CheckpointError: the folder holds a run and ``resume`` is False, or another run than ``config``'s, or one
            trained on other data, or files of unknown origin that a run would overwrite; or another trainer holds it.
        DataError: the data set is not there.
        ValueError: a setting out of its range, or that does not fit the data, or differs from rank 0's.
        RankFailed: another rank has ended, or could not begin.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: str | Path,
        *,
        resume: bool = False,
        change: bool = False,
        ranks: Ranks = ALONE,
        command: str | None = None,
    ):
        if config.data in FROM_FILES:  # where it lies must not depend on who asks from where
            config = dataclasses.replace(config, data_dir=str(Path(config.data_dir).absolute()))
        self.config, self.run, self.ranks = config, Path(run), ranks
        self.changed: list[str] = []
        self.retuned: list[str] = []
        self.step = 0
        self.seconds: float | None = 0.0
        self.last: Path | None = None
        self._opening = RunOpening(self.run)
        self._writer: RunWriter | None = None
        self._command = command
        try:
            self._open(resume, change)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another trainer use the folder. The networks stay; :meth:`train` needs a new trainer."""
        if self._opening.lock is not None:
            self._opening.lock.release()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> nn.Module:
        """The network as the optimizer leaves it."""
        return self.learner.model

    @property
    def network(self) -> nn.Module:
        """The network to sample with: the moving average of :attr:`model` where the run keeps one."""
        return self.learner.network

    @property
    def about_data(self) -> str:
        """The data set in a line: how many samples, of what shape, read from where."""
        return self.data.describe()

    def train(
        self,
        *,
        progress: bool = True,
        preview: Callable[[Trainer], None] | None = None,
        listener: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        """Run the iterations that are left; returns the folder of the run's last checkpoint.

        Args:
            progress: show a progress bar.
            preview: called with this trainer after every ``config.sample_every`` iterations and the last one, such as
                :func:`fastscore.experiment.preview.save_preview`, which draws a picture. None: no previews.
            listener: called with every line of metrics.jsonl, once it is written, such as
                :class:`fastscore.experiment.event_files.EventFiles`.

        Raises:
            NonFiniteLoss: the loss was NaN or infinite. The checkpoints stay; the text has the command to go on with.
            CheckpointError: the run folder was removed or replaced meanwhile, or this trainer was closed.
            CannotWrite: a file cannot be written, on a full disk, say. The checkpoints before stay.
        """
        lock = self._opening.lock
        if self.ranks.leads and (lock is None or not lock.held):
            raise CheckpointError(f"this Trainer of {self.run} has ended: go on with another, of resume=True")
        try:
            with tf32(self.config.tf32), deterministic(self.config.deterministic, self.device):
                return self._train(progress, preview, listener)
        finally:
            self.close()

    def _open(self, resume: bool, change: bool) -> None:
        """Begin the run or go on with it: rank 0 looks at the folder, all build, rank 0 writes, all have what it has."""
        saved: TrainConfig | None = None
        with self.ranks.together():
            self.device = self.ranks.place(self.config.device)
            if self.ranks.leads:
                self.config, saved = self._opening.look(self.config, self.device, resume, change)
        self.config = settings_of(self.ranks, self.config, self.device)
        with self.ranks.together():
            if self.config.download and self.ranks.count > 1 and self.ranks.first_here:
                make_data(self.config)  # before the others of this machine look for the files
        with self.ranks.together():
            self._build()
        if self.ranks.count > 1:
            self.ranks.same("the data set", self.data.fingerprint())
        with self.ranks.together():
            if saved is not None:
                self._go_on(saved)
            elif self.ranks.leads:
                self._opening.begin(self.config, self.data)
        self.step = learner_state.spread(self.learner, self.step)
        last = self.ranks.told(str(self.last or ""))
        self.last = Path(last) if last else None
        lock = self._opening.lock
        if lock is not None:  # rank 0's
            self._writer = RunWriter(self.run, self.config, self._opening.identity, lock, self._command)

    def _go_on(self, saved: TrainConfig) -> None:
        reached = self._opening.go_on(self.config, saved, self.data, self.learner)
        self.step, self.seconds, self.last = reached.step, reached.seconds, reached.last
        self.changed, self.retuned = reached.changed, reached.retuned

    def _build(self) -> None:
        """The data, and the network with its first weights."""
        config = self.config
        precision.check(config.precision, self.device)
        limits.check_run(config, self.device, self.ranks.count)
        check_own_sampler(config)
        self.data = make_data(config)
        limits.check_epochs(config.iterations, config.batch_size, len(self.data))
        self.learner = Learner(config, self.data, self.device, self.ranks)

    def _train(
        self,
        progress: bool,
        preview: Callable[[Trainer], None] | None,
        listener: Callable[[dict[str, Any]], None] | None,
    ) -> Path:
        config, since, seen = self.config, time.perf_counter(), 0
        begun, bar = since, None
        if progress and self.ranks.leads:
            bar = progress_bar(config.iterations, initial=self.step, desc="training", unit="it")
        every = (config.log_every, config.checkpoint_every, config.snapshot_every, config.sample_every)
        try:
            while self.step < config.iterations:
                grad_norm = self._iterate()
                seen += config.batch_size
                log, save, keep, show = map(self._due, every)
                if bar is not None:
                    bar.update()
                if not (log or save or keep or show):
                    continue
                self._spent(begun)
                if (save or keep) and self.ranks.count > 1:
                    self.ranks.same(f"the weights after iteration {self.step}", self.learner.digest())
                with self.ranks.together():
                    if log:
                        assert grad_norm is not None  # due when a line is
                        self._log(float(grad_norm), seen / (time.perf_counter() - since), bar, listener)
                    if keep and self._writer is not None:
                        self._writer.save_snapshot(self.learner, self.step, self.seconds)
                    if save:
                        self._save()
                    if show and preview is not None and self.ranks.leads:
                        preview(self)
                begun = time.perf_counter()
                if log:
                    since, seen = begun, 0
        finally:
            if bar is not None:
                bar.close()
        assert self.last is not None  # the last iteration is always saved
        return self.last

    def _spent(self, begun: float) -> None:
        """Count the seconds since ``begun``, in which iterations were made."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what is written now waits for them anyway
        if self.seconds is not None:
            self.seconds += time.perf_counter() - begun

    def _due(self, every: int) -> bool:
        """Whether what is done ``every`` so many iterations (0: never) and after the last one is done now."""
        return every > 0 and (self.step % every == 0 or self.step == self.config.iterations)

    def _iterate(self) -> Tensor | None:
        """One iteration; returns the norm of the gradient before clipping, where a line of metrics.jsonl is due."""
        try:
            grad_norm = self.learner.iterate(self.step)
        except NonFiniteLoss as error:
            if self._writer is None:
                raise
            raise NonFiniteLoss(f"{error}; {self._writer.way_on()}") from None
        self.step += 1
        return grad_norm

    def _log(
        self,
        grad_norm: float,
        images_per_second: float,
        bar: Any = None,
        listener: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Append the mean losses since the last line to metrics.jsonl, and begin new sums."""
        if self._writer is not None:
            record = self._writer.log(self.learner, self.step, grad_norm, images_per_second, self.seconds, listener)
            if bar is not None:
                bar.set_postfix(loss=f"{record['loss']:.4g}", samples_per_s=f"{images_per_second:.0f}")
        self.learner.sums.zero_()

    def _save(self) -> None:
        if self._writer is not None:
            self.last = self._writer.save(self.learner, self.step, self.seconds)
        else:
            self.last = self.run / checkpoint.CHECKPOINTS / f"step_{self.step:08d}"

    def writing(self) -> AbstractContextManager[None]:
        """Inside, rank 0 may write files of the run folder, a preview's, say.

        Raises:
            CheckpointError: the folder is no longer this run's.
            CannotWrite: in place of an OSError inside; the text says how to go on.
        """
        assert self._writer is not None  # rank 0's
        return self._writer.writing()
