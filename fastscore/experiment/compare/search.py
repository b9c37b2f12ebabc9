"""Which settings a sampler is compared by: those that spend a budget of evaluations best.

How a budget may be spent, an entry of the registry says (``grids``), and which of its options have other best values at
each budget (``searched``). These are looked for on samples of a seed of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..._core import calls
from ..._core.options import Option
from ...samplers import Sampler
from ...samplers.parts import INTERPOLATE, conditioning
from ..scores import for_sampler
from ..trained_run import TrainedRun, with_sampling

Options = dict[str, Any]
_WORTH = 1.5  # times the evaluations on the levels, from which on a grid goes between them
_FARTHEST = 12  # roots of two from its first value, up and down: 64 times


class Asked:
    """What the network of a run can be asked by its sampler: at its noise levels, at any noise, or between by blended embeddings."""

    def __init__(self, trained: TrainedRun):
        self.entry, self.options, self.levels = trained.entry, trained.options, trained.config.num_levels
        score_fn, where = for_sampler(trained.config, trained.score_fn, self.entry)
        self.between = self.entry.between(self.options)
        self.any_noise = conditioning(score_fn, where, False, self.between) != "labels"
        self.blends = INTERPOLATE in self.entry.options and calls.offers_levels(score_fn)

    def grids(self, budget: int) -> list[Options]:
        """The ways in which the sampler can spend at most ``budget`` evaluations; none: it cannot."""
        entry, L, options = self.entry, self.levels, self.options
        if entry.grids is None:
            return [{}] if (entry.evaluations(L, options) or 0) <= budget else []
        if self.any_noise:
            return entry.grids(L, options, budget, True)
        on_levels = [] if self.between else entry.grids(L, options, budget, False)
        if not self.blends:
            return on_levels
        blended = [{**grid, INTERPOLATE.name: True} for grid in entry.grids(L, options, budget, True)]
        return (
            blended if _most(entry, L, options, blended) >= _WORTH * _most(entry, L, options, on_levels) else on_levels
        )

    def refusal(self, budgets: Iterable[int]) -> str:
        """Why there is no grid at any of ``budgets``."""
        if self.between and not self.any_noise and not self.blends:
            return "it asks for the score between the noise levels, where this run's network cannot be asked"
        return f"it needs more evaluations than {max(budgets)}"


def _most(entry: Sampler, L: int, options: Mapping[str, Any], grids: list[Options]) -> int:
    return max((entry.evaluations(L, {**options, **grid}) or 0 for grid in grids), default=0)


def search(trained: TrainedRun, grids: list[Options], cost: Callable[[TrainedRun], float]) -> TrainedRun:
    """The settings of least ``cost``, by one coordinate after the other until no step along any of them helps.

    Coordinates are the grids, and the options that the entry names: a word is each of its choices, a number is doubled
    and halved, then taken times and by the root of two.

    Args:
        trained: where the search begins, with the first of ``grids``.
        grids: values of options that spend the budget, at least one.
        cost: cost(trained), asked for the same settings more than once; infinity where they do not serve.
    """
    searched = [option for option in trained.entry.options if option.name in trained.entry.searched]
    best = with_sampling(trained, **grids[0])
    if not searched and len(grids) == 1:
        return best
    first = dict(best.options)
    coordinates: list[Callable[[Options], list[Options]]] = [
        *(_values(option, first, stride) for option in searched for stride in (2, 1)),
        lambda options: grids,
    ]
    while True:
        before = best
        for coordinate in coordinates:
            best = _descend(best, coordinate, cost)
        if best.options == before.options:
            return best


def _descend(
    best: TrainedRun, coordinate: Callable[[Options], list[Options]], cost: Callable[..., float]
) -> TrainedRun:
    while True:
        others = [with_sampling(best, **changes) for changes in coordinate(best.options)]
        nearer = min([best, *others], key=cost)
        if nearer is best:
            return best
        best = nearer


def _values(option: Option, first: Options, stride: int) -> Callable[[Options], list[Options]]:
    """The neighbours of a setting along ``option``; of a number, ``stride`` away on the grid of its first value's multiples
    by powers of the root of two, to three digits.
    """

    def neighbours(options: Options) -> list[Options]:
        value, start = options[option.name], first[option.name]
        if option.kind is not float:
            return [{option.name: word} for word in option.choices if word != value]
        place = round(2 * math.log2(value / start))
        places = [k for k in (place - stride, place + stride) if abs(k) <= _FARTHEST]
        return [{option.name: start if k == 0 else float(f"{start * 2 ** (k / 2):.3g}")} for k in places]

    return neighbours
