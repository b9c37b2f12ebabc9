"""The recipe of one iteration: batch, loss, gradient, Adam, moving average. All are functions of (config, iteration)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core import graphs
from .._core.errors import NonFiniteLoss
from .._images import ImageBatch
from ..conversions import Converted
from ..data import Data, ImageData
from ..ema import EMA
from ..losses import OBJECTIVES, draw_labels, drop_labels
from ..paths import PATHS
from ..rng import Philox
from .acceleration import compiled
from .build import make_model, make_sigmas, placed, resident
from .classes import ClassesOfBatch, check_data, labels_of_batch
from .config import TrainConfig
from .precision import in_precision, resolve
from .ranks import ALONE, Ranks
from .recorded_step import RecordedStep
from .scores import on_path


class Learner:
    """A network in training, and all that an iteration changes.

    Iteration i takes its batch from the data's own streams, and everything else that is random from sub-stream i of
    the run's seed, which nothing else draws from: first which class labels are dropped, where the network is told any, then
    its labels (on a path of continuous t its times), then whatever the objective draws. Of several ranks each takes its rows
    of the batch with the numbers that they have in the whole; their gradients and losses are summed, so that all ranks have
    the whole batch's, and make the same step.

    Args:
        config: the run's.
        data: what it is trained on.
        device: where.
        ranks: of the run. Every rank makes the same calls, whose number and order an error may not change.

    Attributes:
        model, optimizer: the network, and Adam.
        averages: its moving averages by their names (:attr:`TrainConfig.averages`).
        scaler: scales the loss where the precision is fp16, else None.
        parts: (first row, rows) of the parts that this rank works on a batch in.
        sums: the sum of the losses and how many, at each noise level (on a path of continuous t at the nearest one) since
            they were last set to zero, float64 [2, L].

    Raises:
        ValueError: the network does not fit the data, or the objective one of them, or the config several ranks.
    """

    def __init__(self, config: TrainConfig, data: Data, device: torch.device, ranks: Ranks = ALONE):
        _check_ranks(config, ranks)
        self.config, self.data, self.device, self.ranks = config, resident(data, device), device, ranks
        self.sigmas = make_sigmas(config).to(device)
        self.model = placed(make_model(config, data.shape), device)
        self.averages = {
            name: EMA(self.model, decay, warmup=config.ema_warmup) for name, decay in config.averages.items()
        }
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=device.type in ("cpu", "cuda"),  # one pass over weights, gradients and moments
        )
        precision = resolve(config, device)
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self.sums = torch.zeros(2, config.num_levels, dtype=torch.float64, device=device)
        self._own = self.sums if ranks.count == 1 else torch.zeros_like(self.sums)  # of this rank in one iteration
        objective = OBJECTIVES[config.objective]
        network = in_precision(compiled(self.model, config.compile), precision)
        self._classes: ClassesOfBatch | None = None
        if config.num_classes:
            check_data(config, data)
            network = self._classes = ClassesOfBatch(network)
        how = {"weight": config.weight, **config.objective_options}
        self._score: Converted | None = None
        if PATHS[config.path].continuous:
            self._score = on_path(config, network)
            self._loss: Any = objective.on_path(self._score, self._score.path, data.shape, **how)
        else:
            self._loss = objective.on(network, self.sigmas, data.shape, **how)
        self._reads_images = objective.reads_images and isinstance(self.data, ImageData) and self._score is None
        self._rng, (first, rows) = Philox(config.seed), ranks.rows(config.batch_size)
        self.parts = [(first + row, size) for row, size in parts(rows, config.accumulate)]
        graph = graphs.check("cuda_graph", config.cuda_graph, device)
        self._recorded = RecordedStep(self) if graph else None

    @property
    def ema(self) -> EMA | None:
        """The moving average that the run samples with, or None."""
        return self.averages.get("ema")

    @property
    def network(self) -> nn.Module:
        """The network to sample with: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    def iterate(self, it: int) -> Tensor | None:
        """Iteration ``it``, from 0: one step of the optimizer.

        Returns:
            The norm of the gradient before clipping, in the iterations whose log line has it; else None.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite. On the CPU the weights are not touched; on a GPU, which is not
                waited for at every iteration, this is found before the next log line or checkpoint.
        """
        log = (it + 1) % self.config.log_every == 0 or it + 1 == self.config.iterations
        if self._recorded is not None:
            grad_norm = self._recorded(it)
            self._check_finite(it)
            return grad_norm if log else None
        self.optimizer.zero_grad(set_to_none=True)
        for first, size in self.parts:
            rng = self._rng.substream(it)
            rng.sample_offset = first
            self.backward(self._samples(it, first, size), rng, self.classes(it, first, size))
        self._sum_over_ranks()
        self._check_finite(it)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(it)
        return self.step(norm=log)

    def rate(self, it: int) -> float:
        """The learning rate of iteration ``it``; on a GPU as the float32 that a graph holds it in."""
        rate = learning_rate(self.config, it)
        return rate if self.device.type == "cpu" else float(np.float32(rate))

    def classes(self, it: int, first: int, size: int) -> Tensor | None:
        """The class labels of rows of the batch of iteration ``it``, int64 [size]; None where the network is told none."""
        if self._classes is None:
            return None
        where = {"seed": self.config.seed, "sample_offset": first, "global_batch_size": self.config.batch_size}
        return labels_of_batch(self.data, it, size, device=self.device, **where)

    def backward(self, x: Tensor | ImageBatch, rng: Philox, classes: Tensor | None = None) -> None:
        """Add the gradient of the loss of ``x``, a part of the batch, to the weights', and its losses to the sums.

        Every row draws what it draws in the whole batch. ``classes``: its labels, of which some are dropped here.
        """
        if self._classes is not None and classes is not None:
            config = self.config
            self._classes.labels = drop_labels(classes, config.num_classes, config.label_dropout, rng)
        losses: Tensor
        if self._score is None:
            labels = draw_labels(self.config.num_levels, len(x), rng, device=self.device)
            losses = self._loss(x, labels, rng)
        else:
            losses, t = self._loss(x, rng)
            labels = self._nearest(t, self._score)
        self._own.index_add_(1, labels, torch.stack([losses.detach().double(), torch.ones_like(losses).double()]))
        loss = losses.sum() / self.config.batch_size
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def _nearest(self, t: Tensor, score: Converted) -> Tensor:
        """The index of the noise level that is nearest to sigma / alpha at each t, in its logarithm; they are geometric."""
        log = self.sigmas.double().log()
        place = (log[0] + score.path.log_snr(t) / 2) / (log[0] - log[-1])
        return (place * (len(log) - 1)).round().long().clamp(0, len(log) - 1)

    def step(self, *, norm: bool, average: bool = True) -> Tensor | None:
        """The optimizer's step, and where ``average`` the averages'; returns the gradient's norm before clipping, if
        asked for."""
        grad_norm = self._clip() if norm or self.config.clip_norm else None
        if self.scaler is None:
            self.optimizer.step()
        else:  # which leaves out the step where the scaled gradient is not finite, and scales less from then on
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if average:
            self.average()
        return grad_norm if norm else None

    def average(self) -> None:
        """Take the weights into their moving averages."""
        for ema in self.averages.values():
            ema.update()

    def _sum_over_ranks(self) -> None:
        """Make this rank's gradient and losses those of the whole batch."""
        if self.ranks.count == 1:
            return
        self.ranks.add([p.grad for p in self.model.parameters() if p.grad is not None])
        self.ranks.add([self._own])
        self.sums += self._own
        self._own.zero_()

    def _samples(self, it: int, first: int, size: int) -> Tensor | ImageBatch:
        """Rows of the batch of iteration ``it``; a handle on them where the objective takes one."""
        whole, seed = self.config.batch_size, self.config.seed
        where: dict[str, Any] = {"seed": seed, "sample_offset": first, "global_batch_size": whole}
        if self._reads_images:
            assert isinstance(self.data, ImageData)
            return self.data.batch_handle(it, size, device=self.device, **where)
        return self.data.batch(it, size, device=self.device, **where)

    def _clip(self) -> Tensor:
        """The norm of the gradient, which is then scaled down to ``clip_norm`` where it is larger."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        clip = self.config.clip_norm or math.inf
        if self.device.type != "cpu" or self.config.cuda_graph:  # not waited for: multiplied, where it is by 1 too
            if self.config.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        elif not float(norm) <= clip:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        return norm

    def means(self) -> list[float]:
        """The mean loss at each noise level since the sums were set to zero; NaN where there was no sample."""
        return (self.sums[0] / self.sums[1]).tolist()

    def digest(self) -> str:
        """A text that says which bits the weights and their averages have."""
        networks = [self.model, *(ema.module for ema in self.averages.values())]
        held = [weight.detach().contiguous() for network in networks for weight in network.parameters()]
        sums = [weight.view(torch.int32).sum() for weight in held]
        return str(torch.stack(sums).tolist())

    def _check_finite(self, it: int) -> None:
        """Raise before a loss that is not finite reaches the weights (on a GPU: before it reaches a checkpoint)."""
        every = (self.config.log_every, self.config.checkpoint_every, self.config.snapshot_every)
        due = any(number and (it + 1) % number == 0 for number in every)
        if (self.device.type != "cpu" and not due) or bool(torch.isfinite(self.sums).all()):
            return
        seen = ", ".join(f"{sigma:.3g}: {loss:.4g}" for sigma, loss in zip(self.sigmas.tolist(), self.means()))
        raise NonFiniteLoss(
            f"the loss at iteration {it + 1} is not finite; loss by sigma since the last log: {seen}; learning rate "
            f"{learning_rate(self.config, it):.3g}"
            + ("; in fp16 what is beyond 65504 is infinite, in bf16 it is not" if self.scaler is not None else "")
        )


def _check_ranks(config: TrainConfig, ranks: Ranks) -> None:
    """Raise ValueError where ``config`` cannot be trained on so many ranks."""
    if ranks.count == 1:
        return
    if ranks.count * config.accumulate > config.batch_size:
        raise ValueError(
            f"batch_size must be at least {ranks.count * config.accumulate}, a sample for each rank in each of the "
            f"{config.accumulate} parts that it works on, got {config.batch_size}"
        )
    if config.cuda_graph:
        raise ValueError(f"cuda_graph must be False on several ranks (--no-cuda-graph), got True on {ranks.count}")
    if OBJECTIVES[config.objective].whole_batch:
        raise ValueError(
            f"objective must be one in which the samples of a batch do not depend on each other on {ranks.count} ranks, "
            f"got {config.objective!r}"
        )


def parts(batch_size: int, accumulate: int) -> list[tuple[int, int]]:
    """(first row, rows) of the ``accumulate`` parts that a batch is worked on in; sizes differ by one at most."""
    bounds = [k * batch_size // accumulate for k in range(accumulate + 1)]
    return [(bounds[k], bounds[k + 1] - bounds[k]) for k in range(accumulate)]


def learning_rate(config: TrainConfig, it: int) -> float:
    """lr min(1, (it + 1) / warmup), times half a cosine from 1 to 0 over the run where ``decay``."""
    rate = config.lr * (min(1.0, (it + 1) / config.warmup) if config.warmup else 1.0)
    return rate * 0.5 * (1 + math.cos(math.pi * it / config.iterations)) if config.decay else rate
