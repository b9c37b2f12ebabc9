"""The moving average of a network's weights, which samples better than the weights themselves."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._core import checks
from ._core.private_torch import copy_all, lerp_all


class EMA:
    r"""Exponential moving average of a network's parameters: after update number n, n = 0, 1, ...,

        m <- w                            n = 0: the initial weights have no part in the average
        m <- d_n m + (1 - d_n) w          n > 0

    with d_n = ``decay``, or with ``warmup`` d_n = min(decay, (1 + n) / (10 + n)), by which the average forgets the
    first, bad weights sooner. Buffers (running statistics, noise levels) and integer parameters are copied,
    not averaged.

    Args:
        model: the network in training; several at once as ``nn.ModuleList([a, b])``. Where it is wrapped
            (DataParallel, DistributedDataParallel, torch.compile), the network inside is averaged.
        decay: 0 <= decay < 1; 0.999 in NCSNv2.
        warmup: whether the decay grows from 2/11 to its value over about 9 / (1 - decay) updates.

    Attributes:
        module: the averaged network, in eval mode, without gradients: sample from it. Parameters in float16 and
            bfloat16 are kept in float32, since the small steps of an average are lost in their rounding.
        num_updates: how many updates were made.

    Raises:
        TypeError, ValueError: an argument of another type or out of its range.

    Example:
        >>> network = nn.Linear(2, 2)
        >>> ema = EMA(network, decay=0.99)
        >>> ema.update()                      # after every step of the optimizer
        >>> with ema.apply():                 # inside, network has the averaged weights
        ...     y = network(torch.zeros(1, 2))

    Source: Song & Ermon, "Improved techniques for training score-based generative models" (2020), technique 5;
    the warm-up is that of TensorFlow's tf.train.ExponentialMovingAverage (``num_updates``).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, *, warmup: bool = False):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module (several: nn.ModuleList), got {checks.describe(model)}")
        if not 0 <= checks.number("decay", decay) < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}")
        if not isinstance(warmup, bool):
            raise TypeError(f"warmup must be True or False, got {checks.describe(warmup)}")
        self.decay, self.warmup, self.num_updates = float(decay), warmup, 0
        self._model = _unwrapped(model)
        self._known: tuple[list[Tensor], list[Tensor]] = [], []  # of the average and the network, at the last update
        self._pairs = _Pairs([], [], [], [])
        self.module = copy.deepcopy(self._model).eval().requires_grad_(False)
        for parameter in self.module.parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()

    def __repr__(self) -> str:
        return (
            f"EMA({type(self._model).__name__}, decay={self.decay}, warmup={self.warmup}, "
            f"num_updates={self.num_updates})"
        )

    def decay_of(self, n: int) -> float:
        """d_n, the decay of update number n; 0 for the first."""
        if n == 0:
            return 0.0
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's present weights into the average.

        Raises:
            ValueError: the network has other parameters or buffers than when the average was made.
        """
        held, present = _tensors(self.module), _tensors(self._model)
        if not all(map(_identical, (held, present), self._known)):
            self._pairs = _paired(held, present)
            self._known = held, present
        averages, weights, copies, values = self._pairs
        if averages and self.num_updates:  # `to`: another device or dtype; else no copy
            weights = [weight.to(average) for average, weight in zip(averages, weights)]
            lerp_all(averages, weights, 1 - self.decay_of(self.num_updates))
        elif averages:
            copy_all(averages, weights)
        if copies:
            copy_all(copies, values)
        self.num_updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module | None = None) -> None:
        """Overwrite the parameters and buffers of ``model`` (None: the network in training) with the averages.

        Raises:
            ValueError: a network of other parameters.
        """
        target = self._model if model is None else _unwrapped(model)
        ours, theirs = _tensors(self.module), _tensors(target)
        if [t.shape for t in ours] != [t.shape for t in theirs]:
            raise ValueError("model must have the parameters of the network that is averaged, got another network")
        for average, value in zip(ours, theirs):
            value.copy_(average)

    @contextmanager
    def apply(self) -> Iterator[nn.Module]:
        """Inside the block the network in training has the averaged weights; after it, its own, also after an error.

        Do not update inside.
        """
        own = [value.detach().clone() for value in _tensors(self._model)]
        self.copy_to()
        try:
            yield self._model
        finally:
            with torch.no_grad():
                for value, before in zip(_tensors(self._model), own):
                    value.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs: tensors and numbers, loadable with ``weights_only=True``."""
        return {
            "decay": self.decay,
            "warmup": self.warmup,
            "num_updates": self.num_updates,
            "module": self.module.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`, with its decay and warm-up.

        Raises:
            ValueError: a field is missing or out of its range. RuntimeError: weights that do not fit.
        """
        missing = {"decay", "warmup", "num_updates", "module"} - set(state)
        if missing:
            raise ValueError(f"state must be a state_dict of an EMA, got one without {', '.join(sorted(missing))}")
        decay, warmup = checks.number("state['decay']", state["decay"]), state["warmup"]
        if not 0 <= decay < 1 or not isinstance(warmup, bool):
            raise ValueError(
                f"state must have a decay from 0 to 1 and a warmup that is True or False, got {decay} and {warmup!r}"
            )
        updates = checks.integer("state['num_updates']", state["num_updates"], low=0)
        self.module.load_state_dict(state["module"])
        self.decay, self.warmup, self.num_updates = decay, warmup, updates


class _Pairs(NamedTuple):
    """Averages and the weights that they are of; and what is copied, and from where."""

    averages: list[Tensor]
    weights: list[Tensor]
    copies: list[Tensor]
    values: list[Tensor]


def _paired(held: list[Tensor], present: list[Tensor]) -> _Pairs:
    """The tensors of the average and those of the network, by what an update does to them."""
    if [a.shape for a in held] != [w.shape for w in present]:
        raise ValueError(
            "model must have the parameters and buffers that it had when the average was made; make "
            "another EMA after a change of the network"
        )
    pairs = _Pairs([], [], [], [])
    for average, value in zip(held, present):
        number = average.is_floating_point() or average.is_complex()  # there is no mean of two codes
        averaged = number and isinstance(average, nn.Parameter)
        (pairs.averages if averaged else pairs.copies).append(average)
        (pairs.weights if averaged else pairs.values).append(value)
    return pairs


def _identical(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return len(tensors) == len(others) and all(map(operator.is_, tensors, others))


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once. ``parameters()`` and ``buffers()`` give the same, and take twice as long."""
    found: dict[int, Tensor] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for value in table.values():
                if value is not None:
                    found[id(value)] = value
    return list(found.values())


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
