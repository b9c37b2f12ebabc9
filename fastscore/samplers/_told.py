"""What a network is told of a solver's points: labels, sigma or t."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import calls, checks
from ._grid import Point
from ._replay import Level, PerLevel
from ._score import Score, conditioned


class Told:
    """The score at points, of a network that takes ``conditioning``.

    Args:
        score_fn, model_kwargs: as samplers are given them.
        levels: the noise levels [L] that labels name; None: there are none.
        conditioning: ``"labels"``, ``"sigma"`` or ``"t"``.
        dtype, device: of the samples.
    """

    def __init__(
        self,
        score_fn: Callable[..., Tensor],
        levels: Sequence[float] | None,
        conditioning: str,
        model_kwargs: Mapping[str, Any] | None,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self._score_fn, self._levels, self._conditioning = score_fn, levels, conditioning
        self._compute, self._device = checks.compute_dtype(torch.empty(0, dtype=dtype)), device
        self._score = Score(score_fn, model_kwargs, conditioning)
        self._by_label = None
        if levels is not None and conditioning == "labels":
            self._by_label = conditioned(score_fn, levels, conditioning, model_kwargs)
        self._blended: dict[float, Callable[[Tensor], Tensor]] = {}  # of the point that the chain is at

    def at(self, points: Sequence[Point], *, recorded: bool) -> Callable[[Tensor, Level], Tensor]:
        """score(x, i) at the i-th of ``points``; in graphs where ``recorded``.

        Raises:
            ValueError: embeddings are to be blended, which cannot be ``recorded``.
        """
        labels = self._conditioning == "labels"
        if recorded and labels and not all(point.sigma == 0 or self._is_level(point) for point in points):
            raise ValueError(
                "cuda_graph must be False where a network of labels is asked between its noise levels (interpolate), got "
                "True: its embeddings are blended anew at each point, which a graph does not do"
            )
        numbers = PerLevel([self._number(p) for p in points], torch.int64 if labels else self._compute, self._device)

        def score(x: Tensor, i: Level) -> Tensor:
            if not isinstance(i, int):
                return self._score(x, numbers[i].repeat(x.shape[:1]))
            if labels:
                return self._by_its_label(x, points[i])
            return self._score(x, torch.full(x.shape[:1], numbers[i], dtype=self._compute, device=x.device))

        return score

    def _number(self, point: Point) -> float:
        if self._conditioning == "labels":
            return int(point.label or 0)
        return point.t if self._conditioning == "t" and point.t is not None else point.sigma  # which is the levels' t

    def _is_level(self, point: Point) -> bool:
        assert point.label is not None and self._levels is not None
        return point.label.is_integer() and point.sigma == self._levels[int(point.label)]

    def _by_its_label(self, x: Tensor, point: Point) -> Tensor:
        assert point.label is not None and self._by_label is not None
        if self._is_level(point):
            return self._by_label(x, int(point.label))
        if point.label not in self._blended:
            self._blended.clear()
            self._blended[point.label] = calls.at_level(self._score_fn, point.label, **self._score.kwargs)
        return self._score(x, at_level=self._blended[point.label])
