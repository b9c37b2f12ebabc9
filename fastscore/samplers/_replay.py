"""A sampler's update as a CUDA graph: the level is a number on the device, and so are the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._core import backends, graphs
from .._core.counter import STEPS, signed
from ..rng import Philox

#: The number of a noise level: an int, or in a graph, where it changes from replay to replay, int64 [] on the device.
Level = int | Tensor


class PerLevel:
    """A number for each level: ``[i]`` is it, or its tensor where ``tensors`` are given; of a level on the device, a
    tensor [] looked up there."""

    def __init__(
        self,
        numbers: Sequence[float],
        dtype: torch.dtype,
        device: torch.device,
        tensors: Sequence[Tensor] | None = None,
    ):
        self._numbers, self._values, self._how = numbers, numbers if tensors is None else tensors, (dtype, device)
        self._table: Tensor | None = None

    def __getitem__(self, level: Level) -> Any:
        if isinstance(level, int):
            return self._values[level]
        if self._table is None:  # in the first update, which is not recorded
            dtype, device = self._how
            self._table = torch.tensor(self._numbers, dtype=dtype, device=device)
        return self._table.index_select(0, level.reshape(1)).reshape(())


def check_graph(wanted: bool, device: torch.device) -> bool:
    """Whether the updates on ``device`` are to be one recorded graph."""
    if graphs.check("cuda_graph", wanted, device) and backends.transformed():
        raise ValueError("cuda_graph must be False under torch.func and torch.compile, got True")
    return wanted


@contextmanager
def kept_on(rng: Philox, device: torch.device, draws: int) -> Iterator[None]:
    """Inside, seed and step of ``rng`` are on ``device``, where a replay takes them from and moves them on.

    Raises:
        ValueError: ``draws`` more would be beyond its steps, which nobody sees on the device; or its numbers are on
            another device already.
    """
    if rng.state is not None:
        if rng.state.device != device:
            raise ValueError(f"rng must keep its state on {device} where cuda_graph is True, got {rng.state.device}")
        yield
        return
    if rng.step + draws > STEPS:
        raise ValueError(f"rng must have {draws} of its 2^32 steps left, got one at step {rng.step}")
    rng.state = torch.tensor([signed(rng.seed), rng.step], dtype=torch.int64, device=device)
    try:
        yield
    finally:
        rng.state = None  # which reads the step


def replayed(
    score: Callable[[Tensor, Level], Tensor],
    x: Tensor,
    step: Callable[[Tensor, Tensor, Level], Tensor],
    updates: Sequence[int],
    constraint: Callable[[int], Callable[[Tensor], Tensor]] | None,
    watch: Callable[[Tensor], None],
) -> Tensor:
    """The updates of :func:`run_chain`, each a replay of the same graph; returns the samples."""
    x, level = x.clone(), torch.zeros((), dtype=torch.int64, device=x.device)
    project: Callable[[Tensor], Tensor] | None = None

    def update() -> None:
        after = step(x, score(x, level), level)
        x.copy_(after if project is None else project(after))

    graph = graphs.Graph(update, x.device, "score_fn, or a sampler's update with it (cuda_graph=False does without),")
    for i, times in enumerate(updates):
        level.fill_(i)
        if constraint is not None:
            project = constraint(i)
            x.copy_(project(x))
        for _ in range(times):
            graph()
            watch(x)
    return x
