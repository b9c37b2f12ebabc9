"""A sampler of noise levels that goes through some of them: which, and the network as it is asked for these alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._core import calls, checks
from .._core.options import Option
from ._sampler import Options

LEVELS = Option(
    "levels",
    int,
    "How many of the noise levels it goes through, evenly from the largest to the smallest; 0 is all",
    partial(checks.integer, low=0),
    default=0,
)


def number_of(L: int, options: Options) -> int:
    """How many of L levels ``options`` ask for."""
    number = options["levels"] or L
    if number > L:
        raise ValueError(f"levels must be at most {L}, the noise levels that there are, got {number}")
    return number


def chosen(L: int, options: Options) -> list[int]:
    """Their indices: evenly, the largest and the smallest among them; of a single one the smallest."""
    number = number_of(L, options)
    return [L - 1] if number == 1 else [round(i * (L - 1) / (number - 1)) for i in range(number)]


def some(
    score_fn: Callable[..., Tensor], sigmas: Tensor, options: Options
) -> tuple[Callable[..., Tensor], Tensor, dict[str, Any]]:
    """``score_fn`` and ``sigmas`` of the chosen levels, and the other options."""
    others = {name: value for name, value in options.items() if name != LEVELS.name}
    indices = chosen(len(sigmas), options)
    if len(indices) == len(sigmas):
        return score_fn, sigmas, others
    return _Some(score_fn, indices), sigmas[indices], others


class _Some(nn.Module):
    """``score_fn(x, labels)`` of a network's levels ``indices``: label i is its label ``indices[i]``."""

    def __init__(self, score_fn: Callable[..., Tensor], indices: Sequence[int]):
        super().__init__()
        self.score_fn, self.indices = score_fn, list(indices)
        self._on = dict[torch.device, Tensor]()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if labels.device not in self._on:
            self._on[labels.device] = torch.tensor(self.indices, device=labels.device)
        return self.score_fn(x, self._on[labels.device][labels])

    def at_level(self, label: int) -> Callable[[Tensor], Tensor]:
        """score(x) at the level ``indices[label]``."""
        return calls.at_level(self.score_fn, self.indices[label])
