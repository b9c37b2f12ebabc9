"""An iteration of training as one CUDA graph: all that is a function of the iteration is in tensors that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._core import graphs
from .._core.counter import signed
from ..rng import Philox

if TYPE_CHECKING:
    from .learner import Learner


class RecordedStep:
    """Iterations of a learner, replayed: labels, loss, gradient, clipping, Adam, scaler, moving averages and sums.

    Before a replay the host writes the batch, the seed of the iteration's sub-stream and the learning rate. Moving
    averages that warm up have another rate in each of their updates, and are updated after the replay.

    Args:
        learner: whose; its networks, optimizer and sums stay where they are from now on.
    """

    def __init__(self, learner: Learner):
        config, device = learner.config, learner.device
        self._learner, self._seeds = learner, Philox(config.seed)
        self._samples = torch.empty(config.batch_size, *learner.data.shape, device=device)
        self._classes: Tensor | None = None
        if config.num_classes:
            self._classes = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
        self._key = torch.zeros(2, dtype=torch.int64, device=device)
        exact = torch.float64 if device.type == "cpu" else torch.float32  # which torch's Adam asks for
        self._rate = torch.zeros((), dtype=exact, device=device)
        self._grad_norm = torch.zeros((), device=device)
        self._graph = graphs.Graph(self._iterate, device, "An iteration (--no-cuda-graph does without)")

    def __call__(self, it: int) -> Tensor:
        """Iteration ``it``; returns the norm of the gradient before clipping, in a tensor that the next one writes to."""
        learner, config = self._learner, self._learner.config
        self._samples.copy_(learner.data.batch(it, config.batch_size, seed=config.seed, device=learner.device))
        if self._classes is not None and (classes := learner.classes(it, 0, config.batch_size)) is not None:
            self._classes.copy_(classes)
        self._key[0].fill_(signed(self._seeds.substream(it).seed))
        self._rate.fill_(learner.rate(it))
        self._graph()
        if config.ema_warmup:
            learner.average()
        for ema in learner.averages.values():
            ema.num_updates = it + 1  # Python does not run in a replay
        return self._grad_norm

    def _iterate(self) -> None:
        learner = self._learner
        for group in learner.optimizer.param_groups:  # here: whoever loads a state gives it other groups
            group["lr"], group["capturable"] = self._rate, True
        learner.optimizer.zero_grad(set_to_none=True)
        for first, size in learner.parts:
            rng = Philox.at(self._key.clone(), sample_offset=first)  # at step 0 for every part
            classes = None if self._classes is None else self._classes[first : first + size]
            learner.backward(self._samples[first : first + size], rng, classes)
        grad_norm = learner.step(norm=True, average=not learner.config.ema_warmup)
        assert grad_norm is not None
        self._grad_norm.copy_(grad_norm)
