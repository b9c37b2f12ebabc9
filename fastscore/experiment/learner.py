"""The recipe of one iteration: batch, loss, gradient, Adam, moving average. All are functions of (config, iteration)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import CheckpointError, NonFiniteLoss
from .._images import ImageBatch
from ..data import Data, ImageData
from ..ema import EMA
from ..losses import OBJECTIVES, draw_labels
from ..rng import Philox
from . import checkpoint
from .build import make_model, make_sigmas, resident
from .config import TrainConfig


class Learner:
    """A network in training, and all that an iteration changes.

    Iteration i takes its batch from the data's own streams, and everything else that is random from sub-stream i of
    the run's seed, which nothing else draws from: its labels first, then whatever the objective draws.

    Args:
        config: the run's.
        data: what it is trained on.
        device: where.

    Attributes:
        model, ema, optimizer: the network, its moving average or None, and Adam.
        sums: the sum of the losses and how many, at each noise level since they were last set to zero, float64 [2, L].

    Raises:
        ValueError: the network does not fit the data, or the objective one of them.
    """

    def __init__(self, config: TrainConfig, data: Data, device: torch.device):
        self.config, self.data, self.device = config, resident(data, device), device
        self.sigmas = make_sigmas(config).to(device)
        self.model = make_model(config, data.shape).to(device)
        self.ema = EMA(self.model, config.ema, warmup=config.ema_warmup) if config.ema else None
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps
        )
        self.sums = torch.zeros(2, config.num_levels, dtype=torch.float64, device=device)
        objective = OBJECTIVES[config.objective]
        self._loss = objective.on(self.model, self.sigmas, data.shape, weight=config.weight, **config.objective_options)
        self._reads_images = objective.reads_images and isinstance(self.data, ImageData)
        self._rng = Philox(config.seed)

    @property
    def network(self) -> nn.Module:
        """The network to sample with: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    def iterate(self, it: int) -> Tensor:
        """Iteration ``it``, from 0: one step of the optimizer. Returns the norm of the gradient before clipping.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite. On the CPU the weights are not touched; on a GPU, which is not
                waited for at every iteration, this is found before the next log line or checkpoint.
        """
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        for first, size in parts(config.batch_size, config.accumulate):
            (self._losses(it, first, size).sum() / config.batch_size).backward()
        self._check_finite(it)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, it)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        return grad_norm

    def _losses(self, it: int, first: int, size: int) -> Tensor:
        """The losses [size] of the rows ``first`` .. of the batch of iteration ``it``, which go into the sums.

        Every row draws what it draws in the whole batch.
        """
        rng = self._rng.substream(it)
        rng.sample_offset = first
        labels = draw_labels(self.config.num_levels, size, rng, device=self.device)
        loss: Tensor = self._loss(self._samples(it, first, size), labels, rng)
        self.sums.index_add_(1, labels, torch.stack([loss.detach().double(), torch.ones_like(loss).double()]))
        return loss

    def _samples(self, it: int, first: int, size: int) -> Tensor | ImageBatch:
        """Rows of the batch of iteration ``it``; a handle on them where the objective takes one."""
        whole, seed = self.config.batch_size, self.config.seed
        where: dict[str, Any] = {"seed": seed, "sample_offset": first, "global_batch_size": whole}
        if self._reads_images:
            assert isinstance(self.data, ImageData)
            return self.data.batch_handle(it, size, device=self.device, **where)
        return self.data.batch(it, size, device=self.device, **where)

    def means(self) -> list[float]:
        """The mean loss at each noise level since the sums were set to zero; NaN where there was no sample."""
        return (self.sums[0] / self.sums[1]).tolist()

    def finite(self) -> bool:
        """Whether all that a checkpoint would hold is finite; an infinite gradient of a finite loss is seen here."""
        ema = self.ema.module.state_dict().values() if self.ema is not None else ()
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return all(bool(value.isfinite().all()) for value in [*self.model.state_dict().values(), *ema, *moments])

    def state(self, step: int) -> dict[str, Any]:
        """What state.pt holds after ``step`` iterations."""
        return {"step": step, "optimizer": self.optimizer.state_dict(), "sums": self.sums}

    def load(self, folder: Path) -> tuple[int, TrainConfig]:
        """Take over the checkpoint ``folder``; returns its iterations, and the config that led to it.

        Raises:
            CheckpointError: it is damaged, or does not fit the network or the data; the text says how to go on.
        """
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
        return state["step"], about.config

    def _check_finite(self, it: int) -> None:
        """Raise before a loss that is not finite reaches the weights (on a GPU: before it reaches a checkpoint)."""
        due = (it + 1) % self.config.log_every == 0 or (it + 1) % self.config.checkpoint_every == 0
        if (self.device.type != "cpu" and not due) or bool(torch.isfinite(self.sums).all()):
            return
        seen = ", ".join(f"{sigma:.3g}: {loss:.4g}" for sigma, loss in zip(self.sigmas.tolist(), self.means()))
        raise NonFiniteLoss(
            f"the loss at iteration {it + 1} is not finite; loss by sigma since the last log: {seen}; learning rate "
            f"{learning_rate(self.config, it):.3g}"
        )


def parts(batch_size: int, accumulate: int) -> list[tuple[int, int]]:
    """(first row, rows) of the ``accumulate`` parts that a batch is worked on in; sizes differ by one at most."""
    bounds = [k * batch_size // accumulate for k in range(accumulate + 1)]
    return [(bounds[k], bounds[k + 1] - bounds[k]) for k in range(accumulate)]


def learning_rate(config: TrainConfig, it: int) -> float:
    """lr min(1, (it + 1) / warmup), times half a cosine from 1 to 0 over the run where ``decay``."""
    rate = config.lr * (min(1.0, (it + 1) / config.warmup) if config.warmup else 1.0)
    return rate * 0.5 * (1 + math.cos(math.pi * it / config.iterations)) if config.decay else rate
