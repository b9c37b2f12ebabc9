"""A sampler's updates as CUDA graphs: the level is a number on the device, and so are the seed and the step.

Updates that do the same with other numbers are one kind, and each kind is one graph. The numbers are looked up on the
device; what else Python decides of an update, it decides of its kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core import backends, graphs
from .._core.counter import STEPS, signed
from ..rng import Philox


@dataclass(frozen=True)
class Recorded:
    """The level of an update in a graph: any that is of one kind with the level ``like``; ``number``, int64 [] on the
    device, says which at each replay."""

    like: int
    number: Tensor


#: The number of a noise level, or of a solver's point.
Level = int | Recorded


class PerLevel:
    """A number for each level: ``[i]`` is it, or its tensor where ``tensors`` are given; of a level in a graph, a
    tensor [] looked up on the device."""

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
        return self._table.index_select(0, level.number.reshape(1)).reshape(())


class Table:
    """What an update computes with at each level: ``[i]`` is its row, of numbers, in lists and tuples of any depth.

    Of a level in a graph it is a row with tensors [] in place of the numbers, looked up on the device, but for 0 and None,
    which stand for what is not done: they are alike in all rows of a kind.

    Args:
        rows: of each level.
        dtype, device: of the tensors.
    """

    def __init__(self, rows: Sequence[Any], dtype: torch.dtype, device: torch.device):
        self._rows, self._how, self._values = rows, (dtype, device), None  # type: Sequence[Any], Any, Tensor | None

    def __getitem__(self, level: Level) -> Any:
        if isinstance(level, int):
            return self._rows[level]
        if self._values is None:  # in the first update, which is not recorded
            self._values = self._tensor()
        found = iter(self._values.index_select(0, level.number.reshape(1)).reshape(-1).unbind())
        return _replaced(self._rows[level.like], lambda _: next(found))

    def kind(self, level: int) -> Hashable:
        """Equal for rows that differ in numbers alone."""
        return repr(_replaced(self._rows[level], lambda _: 1))

    def _tensor(self) -> Tensor:
        """[levels, most numbers]."""
        numbers: list[list[float]] = [[] for _ in self._rows]
        for own, row in zip(numbers, self._rows):
            _replaced(row, own.append)
        width = max(map(len, numbers))
        dtype, device = self._how
        values = torch.tensor([own + [0.0] * (width - len(own)) for own in numbers], dtype=dtype, device="cpu")
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"path must have steps whose coefficients are finite in the {dtype} that is computed with, got "
                f"{max((abs(number) for own in numbers for number in own), default=math.nan):.6g}"
            )
        return values.to(device)


def _replaced(row: Any, by: Callable[[float], Any]) -> Any:
    """``row`` with ``by(number)`` in place of each number but 0, in order."""
    if isinstance(row, (list, tuple)):
        return type(row)(_replaced(part, by) for part in row)
    return by(row) if row else row


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
    watch: Callable[[Tensor], None],
    *,
    constraint: Callable[[int], Callable[[Tensor], Tensor]] | None = None,
    after: Callable[[Tensor, int, bool], Tensor] | None = None,
    kind: Callable[[int], Hashable] | None = None,
) -> Tensor:
    """The updates of :func:`run_chain`, each a replay of the graph of its kind; returns the samples."""
    x, number = x.clone(), torch.zeros((), dtype=torch.int64, device=x.device)
    project: Callable[[Tensor], Tensor] | None = None
    made: dict[Hashable, graphs.Graph] = {}

    def graph_like(i: int) -> graphs.Graph:
        level = Recorded(i, number)

        def update() -> None:
            new = step(x, score(x, level), level)
            x.copy_(new if project is None else project(new))

        return graphs.Graph(
            update, x.device, "score_fn, or a sampler's update with it (cuda_graph=False does without),"
        )

    for i, times in enumerate(updates):
        number.fill_(i)
        which = None if kind is None else kind(i)
        graph = made.get(which) or made.setdefault(which, graph_like(i))
        if constraint is not None:
            project = constraint(i)
            x.copy_(project(x))
        for k in range(times):
            graph()
            if after is not None and (changed := after(x, i, k + 1 == times)) is not x:
                x.copy_(changed)
            watch(x)
    return x
