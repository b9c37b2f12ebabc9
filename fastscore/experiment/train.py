"""Training: batches, noise and weights are functions of (config, iteration), so a resumed run is the run itself."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import losses
from .._core import files
from .._core.errors import CannotWrite, CheckpointError, NonFiniteLoss, NonFiniteSamples
from ..ema import EMA
from ..rng import Philox
from . import checkpoint, history, limits
from .build import make_data, make_model, make_sigmas, pick_device
from .config import DRAWS, SAMPLING, TrainConfig, command_line
from .history import read_metrics
from .progress import progress_bar

_OBJECTIVES = {"dsm": losses.ncsn, "ssm": losses.annealed_ssm_vr}
_FROM_FILES = ("mnist", "cifar10", "folder")  # the data sets that are read from data_dir

__all__ = ["Trainer", "learning_rate", "make_data", "make_model", "make_sigmas", "pick_device", "read_metrics"]


class Trainer:
    """One run in one folder, which is locked until :meth:`train` ends or the trainer is closed or deleted.

    Args:
        config: what to train.
        run: the run folder; made where it does not exist.
        resume: go on from the last checkpoint, or begin where there is no run.
        change: let ``config`` differ from the run's in how the optimizer steps (lr, betas, eps, warmup, decay,
            clip_norm, iterations); what changed, and from which iteration on, is recorded in changes.jsonl.

    Attributes:
        changed: the sampling settings that differ from those the run was saved with, as text; from now on they are
            the run's.
        retuned: the settings of the optimizer that differ from those that led to the checkpoint it goes on from.
        step: iterations done.
        last: the checkpoint that this run wrote last, or went on from; None before there is one.

    Raises:
        CheckpointError: the folder holds a run and ``resume`` is False, or another run than ``config``'s, or one
            trained on other data, or files of unknown origin that a run would overwrite; or another trainer holds it.
        DataError: the data set is not there.
        ValueError: a setting out of its range, or that does not fit the data.
    """

    def __init__(self, config: TrainConfig, run: str | Path, *, resume: bool = False, change: bool = False):
        if config.data in _FROM_FILES:  # where it lies must not depend on who asks from where
            config = dataclasses.replace(config, data_dir=str(Path(config.data_dir).absolute()))
        self.config, self.run, self.device = config, Path(run), pick_device(config.device)
        self.changed: list[str] = []
        self.retuned: list[str] = []
        self.step, self.last, self._lock = 0, None, None
        try:
            if resume and os.path.lexists(self.run / checkpoint.CONFIG):
                self._resume(change)
            else:
                self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another trainer use the folder. The networks stay; :meth:`train` needs a new trainer."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def about_data(self) -> str:
        """The data set in a line: how many samples, of what shape, read from where."""
        return self.data.describe()

    def train(self, *, progress: bool = True) -> Path:
        """Run the iterations that are left; returns the folder of the run's last checkpoint.

        Raises:
            NonFiniteLoss: the loss was NaN or infinite. The checkpoints stay; the text has the command to go on with.
            CheckpointError: the run folder was removed or replaced meanwhile, or this trainer was closed.
            CannotWrite: a file cannot be written, on a full disk, say. The checkpoints before stay.
        """
        if not self._lock.held:
            raise CheckpointError(f"this Trainer of {self.run} has ended: go on with another, of resume=True")
        try:
            return self._train(progress)
        finally:
            self.close()

    def _begin(self) -> None:
        """Start a run: nothing is written before it is known that nothing is in its way."""
        checkpoint.check_free(self.run)
        self._build()
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = checkpoint.Lock(self.run / checkpoint.LOCK)
        checkpoint.check_free(self.run)  # again: another process may have begun while the data was read
        self.identity = checkpoint.Identity.new(self.data)
        self._clear_leftovers()
        checkpoint.begin(self.run, self.identity)
        self._write_config()

    def _resume(self, change: bool) -> None:
        """Go on with a run, once its config, its data and its checkpoint are known to be what they were."""
        self._lock = checkpoint.Lock(self.run / checkpoint.LOCK)
        saved = checkpoint.read_config(self.run)
        history.check_continues(self.config, saved, self.run, change)
        self.identity = checkpoint.read_identity(self.run)
        self._build()
        if changes := self.identity.changes(self.data):
            source = f"; it was read from {self.identity.source}" if self.identity.source else ""
            raise CheckpointError(
                f"{self.run} was trained on other data: {', '.join(changes)}{source}. What is "
                f"there now is {self.about_data}. Put the data back as it was, or choose another "
                "folder with --out"
            )
        self._clear_leftovers()
        trained = self.config
        if checkpoint.steps(self.run):
            trained = self._load(checkpoint.latest(self.run))
        else:
            history.check_checkpoints_are_there(self.run, saved)
        history.drop_after(self.run, self.step)
        self.changed = [
            f"{name} (was {was}, now {now})"
            for name, (was, now) in checkpoint.changed_fields(self.config, saved, SAMPLING).items()
        ]
        self.retuned = history.record_changes(self.run, self.step, trained, self.config)
        if self.config != saved:  # last: until then the run is what it was
            self._write_config()

    def _build(self) -> None:
        """The data, the network with its first weights, its average, and the optimizer."""
        config = self.config
        limits.check_run(config, self.device)
        self.data = make_data(config)
        epochs = config.iterations * config.batch_size / len(self.data)
        if epochs >= 2**32:
            raise ValueError(
                f"iterations times batch_size must be less than 2^32 epochs of {len(self.data):,} "
                f"samples, since each is shuffled by a number of its own, got {epochs:.3g} epochs"
            )
        self.sigmas = make_sigmas(config).to(self.device)
        self.model = make_model(config, self.data.shape).to(self.device)
        self.ema = EMA(self.model, config.ema, warmup=config.ema_warmup) if config.ema else None
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps
        )
        self.sums = torch.zeros(2, config.num_levels, dtype=torch.float64, device=self.device)  # loss and count a level

    def _clear_leftovers(self) -> None:
        """What a killed trainer left: it may be what fills the disk."""
        files.clear_leftovers(self.run)
        checkpoint.clear_unfinished(self.run / checkpoint.CHECKPOINTS)

    def _write_config(self) -> None:
        files.write_atomically(self.run / checkpoint.CONFIG, self.config.to_json().encode())

    def _train(self, progress: bool) -> Path:
        config, since, seen = self.config, time.perf_counter(), 0
        bar = None
        if progress:
            bar = progress_bar(config.iterations, initial=self.step, desc="training", unit="it")
        try:
            while self.step < config.iterations:
                grad_norm = self._iterate()
                seen += config.batch_size
                due = [
                    self.step % every == 0 or self.step == config.iterations if every else False
                    for every in (config.log_every, config.checkpoint_every, config.sample_every)
                ]
                if bar is not None:
                    bar.update()
                if due[0]:
                    record = self._log(float(grad_norm), seen / (time.perf_counter() - since))
                    if bar is not None:
                        bar.set_postfix(loss=f"{record['loss']:.4g}", images_per_s=f"{record['images_per_second']:.0f}")
                if due[1]:
                    self._save()
                if due[2]:
                    self._sample_grid()
                if due[0]:
                    since, seen = time.perf_counter(), 0
        finally:
            if bar is not None:
                bar.close()
        return self.last

    def _iterate(self) -> Tensor:
        """One optimizer step; returns the norm of the gradient before clipping."""
        config, it = self.config, self.step
        x = self.data.batch(it, config.batch_size, seed=config.seed, device=self.device)
        objective = _OBJECTIVES[config.objective]
        rng = Philox(config.seed, step=DRAWS[config.objective] * it)
        labels = losses.draw_labels(config.num_levels, len(x), rng, device=self.device)
        loss = objective(self.model, x, self.sigmas, labels=labels, rng=rng, weight=config.weight, reduction="none")
        self.sums.index_add_(1, labels, torch.stack([loss.detach().double(), torch.ones_like(loss).double()]))
        self._check_finite(it)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, it)
        self.optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        return grad_norm

    def _check_finite(self, it: int) -> None:
        """Raise before a loss that is not finite reaches the weights (on a GPU: before it reaches a checkpoint)."""
        due = (it + 1) % self.config.log_every == 0 or (it + 1) % self.config.checkpoint_every == 0
        if (self.device.type != "cpu" and not due) or bool(torch.isfinite(self.sums).all()):
            return
        seen = ", ".join(f"{sigma:.3g}: {loss:.4g}" for sigma, loss in zip(self.sigmas.tolist(), self._means()))
        raise NonFiniteLoss(
            f"the loss at iteration {it + 1} is not finite; loss by sigma since the last log: {seen}; learning rate "
            f"{learning_rate(self.config, it):.3g}; {self._way_on()}"
        )

    def _way_on(self) -> str:
        """The checkpoint to go on from, and the command that does, with smaller steps."""
        saved = checkpoint.last_good(self.run)
        gentler = dataclasses.replace(
            self.config,
            lr=max(float(f"{self.config.lr / 10:.3g}"), 1e-37),
            clip_norm=min(self.config.clip_norm or 1.0, 1.0),
        )
        return (
            f"the last good checkpoint is {saved}. Go on from it"
            if saved
            else "no checkpoint was written yet. Begin again"
        ) + f" with smaller steps: {command_line(gentler, self.run, '--resume', '--change')}"

    def _means(self) -> list[float]:
        return (self.sums[0] / self.sums[1]).tolist()

    def _log(self, grad_norm: float, images_per_second: float) -> dict[str, Any]:
        """Append the mean losses since the last line to metrics.jsonl."""
        record = {
            "step": self.step,
            "loss": float(self.sums[0].sum() / self.sums[1].sum()),
            "loss_per_sigma": [None if math.isnan(mean) else mean for mean in self._means()],
            "lr": learning_rate(self.config, self.step - 1),
            "grad_norm": grad_norm,
            "images_per_second": images_per_second,
        }
        self.sums.zero_()
        with self._writing():
            history.append(self.run / checkpoint.METRICS, record)
        return record

    def _save(self) -> None:
        ema = self.ema.module.state_dict() if self.ema is not None else {}
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        held = [*self.model.state_dict().values(), *ema.values(), *moments]
        if not all(bool(value.isfinite().all()) for value in held):  # an infinite gradient of a finite loss
            raise NonFiniteLoss(
                f"the weights at iteration {self.step}, or the optimizer's averages of their "
                f"gradients, are not finite and were not saved; {self._way_on()}"
            )
        state = {"step": self.step, "optimizer": self.optimizer.state_dict(), "sums": self.sums}
        with self._writing():
            self.last = checkpoint.save(
                self.run,
                self.step,
                self.model.state_dict(),
                ema or None,
                state,
                shape=tuple(self.data.shape),
                identity=self.identity.run,
                config=self.config,
            )
            checkpoint.prune(self.run, self.last, identity=self.identity.run, keep=self.config.keep)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write into the run folder, if it is still this run's; say how to go on where that fails."""
        checkpoint.check_there(self.run, self.identity, self._lock)
        try:
            yield
        except OSError as error:
            checkpoint.check_there(self.run, self.identity, self._lock)
            text = error if isinstance(error, CannotWrite) else files.cannot_write(error.filename or self.run, error)
            raise CannotWrite(
                f"{text}; the checkpoints that were written stay. Once that is mended, go on "
                f"with: {command_line(self.config, self.run, '--resume')}",
                error.errno,
                error.filename,
            ) from error

    def _load(self, folder: Path) -> TrainConfig:
        """Take over the checkpoint ``folder``; returns the config that led to it."""
        about, state = checkpoint.read_about(folder), checkpoint.read_state(folder)
        if about.sample_shape != tuple(self.data.shape):
            raise CheckpointError(
                f"{folder} is of samples of shape {about.sample_shape}, and the data has {tuple(self.data.shape)}"
            )
        checkpoint.load_into(self.model, checkpoint.read_weights(folder, ema=False), folder)
        if self.ema is not None:
            checkpoint.load_into(self.ema.module, checkpoint.read_weights(folder, ema=True), folder)
            self.ema.num_updates = state["step"]
        checkpoint.load_optimizer(self.optimizer, state["optimizer"], folder)
        checkpoint.load_sums(self.sums, state["sums"], folder)
        self.step, self.last = state["step"], folder
        return about.config

    def _sample_grid(self) -> None:
        """samples/step_N.png, 64 images from the present weights."""
        from ..evaluation.pictures import save_grid
        from .sample import draw

        if len(self.data.shape) == 1:
            return
        network = self.ema.module if self.ema is not None else self.model
        try:
            images = draw(self.config, network, (64, *self.data.shape), Philox(self.config.seed), device=self.device)
        except NonFiniteSamples as error:  # no reason to end the training
            warnings.warn(f"no picture of iteration {self.step}: {error}", stacklevel=2)
            return
        with self._writing():
            (self.run / checkpoint.SAMPLES).mkdir(exist_ok=True)
            save_grid(images.cpu(), self.run / checkpoint.SAMPLES / f"step_{self.step:08d}.png")


def learning_rate(config: TrainConfig, it: int) -> float:
    """lr min(1, (it + 1) / warmup), times half a cosine from 1 to 0 over the run where ``decay``."""
    rate = config.lr * (min(1.0, (it + 1) / config.warmup) if config.warmup else 1.0)
    return rate * 0.5 * (1 + math.cos(math.pi * it / config.iterations)) if config.decay else rate
