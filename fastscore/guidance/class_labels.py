"""Guidance by two scores, one of which knows more: classifier-free guidance and autoguidance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .._core import calls, checks
from ..paths import Path
from ..trace import modules
from ._noise import Held, NoiseOf, check_score
from .classifiers import check_label, labels_of

Levels = Path | Tensor | Sequence[float]


class WithLabel(nn.Module):
    """s(x, c) of a class; see :func:`with_label`."""

    def __init__(self, score_fn: Callable[..., Tensor], label: int | Tensor | None, keyword: str):
        super().__init__()
        check_score("score_fn", score_fn)
        self.num_classes = _classes(score_fn, label, keyword)
        self.score_fn, self.keyword = score_fn, keyword
        self.label = None if label is None else check_label(label)
        self._held = Held(self.label) if isinstance(self.label, Tensor) else self.label
        if isinstance(self.label, int) and self.num_classes is not None and self.label >= self.num_classes:
            raise ValueError(
                f"label must be from 0 to {self.num_classes - 1}, of {self.num_classes} classes, got {self.label}"
            )

    def forward(self, x: Tensor, *condition: Tensor, **keywords: Any) -> Tensor:
        """The score at x, [B, ...]; ``keywords`` are those of ``score_fn``."""
        label = None if self._held is None else labels_of(self._held, x, self.num_classes)
        return checks.like(
            "the output of score_fn", self.score_fn(x, *condition, **{self.keyword: label}, **keywords), "x", x
        )

    def at_level(self, label: float) -> Callable[[Tensor], Tensor]:
        """score(x) at the noise level ``label``, or between two where ``score_fn`` blends them; samplers ask for it."""
        known: dict[int, Callable[[Tensor], Tensor]] = {}  # by the size of the batch

        def score(x: Tensor) -> Tensor:
            if len(x) not in known:
                known.clear()
                told = {} if self._held is None else {self.keyword: labels_of(self._held, x, self.num_classes)}
                known[len(x)] = calls.at_level(self.score_fn, label, **told)
            return checks.like("the output of score_fn", known[len(x)](x), "x", x)

        return score

    def extra_repr(self) -> str:
        return f"{self.keyword}={self.label}"


def _own_classes(network: nn.Module) -> Iterator[Any]:
    """``num_classes`` of a network, or of those in a wrapper of torch's or ours, the one that is called first; of no layer of
    it, which may mean another thing by that."""
    ours = type(network).__module__.partition(".")[0] == __name__.partition(".")[0]
    if hasattr(network, "num_classes"):
        yield network.num_classes
    elif ours or isinstance(network, (DataParallel, DistributedDataParallel)) or "_orig_mod" in network._modules:
        for part in network.children():
            yield from _own_classes(part)


def _classes(score_fn: Callable[..., Tensor], label: Any, keyword: str) -> int | None:
    """How many classes the networks in ``score_fn`` know; None where they do not say."""
    told = [count for network in modules.networks(score_fn) for count in itertools.islice(_own_classes(network), 1)]
    counts = [count for count in told if isinstance(count, int)]
    if told and not counts:
        raise ValueError(
            f"label must be None for a network that was made without classes, got {checks.describe(label)}: labels and "
            "guidance need a conditional one, made with num_classes=... and trained with labels"
        )
    if not told:
        checks.keywords({keyword: label}, score_fn, "c")  # which says that score_fn does not take it
    return counts[0] if counts else None


def with_label(
    score_fn: Callable[..., Tensor], label: int | Tensor | None, *, keyword: str = "class_labels"
) -> nn.Module:
    """s(x, c) of one class, from a network that takes class labels: ``score_fn(x, c, class_labels=label)``.

    Args:
        score_fn: a conditional network, such as ``NCSN(num_classes=10)``.
        label: the class, an integer or int64 [B], one for each sample; None: no label.
        keyword: what ``score_fn`` calls it.

    Raises:
        TypeError, ValueError: a network without classes, or one that does not take the keyword; a label out of range.
    """
    return WithLabel(score_fn, label, keyword)


class Guided(nn.Module):
    """weak + w (score - weak), where the noise lies in the interval; see :func:`classifier_free` and :func:`autoguidance`."""

    def __init__(
        self,
        score_fn: nn.Module | Callable[..., Tensor],
        weak: nn.Module | Callable[..., Tensor],
        guidance: float,
        interval: tuple[float, float] | None,
        path: Levels | None,
        conditioning: str,
    ):
        super().__init__()
        check_score("score_fn", score_fn)
        check_score("weak", weak)
        self.score_fn, self.weak = score_fn, weak
        self.guidance = checks.number("guidance", guidance, largest=checks.FLOAT32)
        self.interval = None if interval is None else _interval(interval)
        if (interval is None) != (path is None):
            raise ValueError(
                "path must be the noise levels or the path where an interval of noise is given, and None where not, got "
                f"interval {interval!r} and path {checks.describe(path)}"
            )
        self._noise = None if path is None else NoiseOf(path, conditioning)

    def forward(self, x: Tensor, *condition: Tensor, **keywords: Any) -> Tensor:
        """The score at x, [B, ...]; ``keywords`` go to both scores."""
        noise = None
        if self._noise is not None and self.guidance != 1:
            alpha, sigma = self._noise(x, condition)
            noise = sigma / alpha
        strong, weak = (partial(self._of, which, condition, keywords) for which in ("score_fn", "weak"))
        return self._mixed(x, noise, strong, weak)

    def at_level(self, label: float) -> Callable[[Tensor], Tensor]:
        """score(x) at the noise level ``label``, or between two where both scores blend them; samplers ask for it."""
        strong, weak = calls.at_level(self.score_fn, label), calls.at_level(self.weak, label)
        noise = None if self._noise is None else self._noise.of_label(label)
        return lambda x: self._mixed(x, None if noise is None else noise.to(checks.compute_dtype(x)), strong, weak)

    def _mixed(
        self,
        x: Tensor,
        noise: Tensor | None,
        strong: Callable[[Tensor], Tensor],
        weak: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The guided score at x; ``noise``: sigma / alpha of its samples, or of all, where that matters."""
        w, inside = self.guidance, None
        if noise is not None and w != 1:
            low, high = self.interval or (0.0, 0.0)
            inside = (noise >= low) & (noise <= high)
            if checks.readable(inside):
                if not bool(inside.any()):
                    w = 1.0
                elif bool(inside.all()):
                    inside = None
        if w == 1:
            return strong(x)
        name = "score_fn" if isinstance(self.weak, WithLabel) else "weak"  # the argument that it was
        without = calls.leaving_x(name, weak, x)
        if w == 0 and inside is None:
            return without
        score, compute = strong(x), checks.compute_dtype(x)
        guided = torch.lerp(without.to(compute), score.to(compute), w).to(x.dtype) if w else without
        return guided if inside is None else torch.where(inside, guided, score)

    def _of(self, which: str, condition: tuple[Tensor, ...], keywords: dict[str, Any], x: Tensor) -> Tensor:
        return checks.like(f"the output of {which}", getattr(self, which)(x, *condition, **keywords), "x", x)

    def extra_repr(self) -> str:
        return f"guidance={self.guidance:g}" + (f", interval={self.interval}" if self.interval else "")


def _interval(interval: Any) -> tuple[float, float]:
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        raise ValueError(f"interval must be None or (lowest noise, highest noise), got {checks.describe(interval)}")
    low = checks.positive("interval[0]", interval[0], zero_allowed=True)
    high = checks.positive("interval[1]", interval[1])
    if not low < high:
        raise ValueError(f"interval must be (low, high) with low < high, got {interval!r}")
    return low, high


def classifier_free(
    score_fn: Callable[..., Tensor],
    label: int | Tensor,
    *,
    guidance: float,
    interval: tuple[float, float] | None = None,
    path: Levels | None = None,
    conditioning: str = "t",
    keyword: str = "class_labels",
    null: int | Tensor | None = None,
) -> nn.Module:
    """Classifier-free guidance: s(x, c) + w (s(x, c, y) - s(x, c)), by one network that knows classes and "no label".

    w = 0 is the unconditional score, 1 the conditional one, and it is linear in w. (Papers that write 1 + w start at 0 where
    this starts at 1.) Both are evaluated, one after the other, but at 0 or 1 and outside the interval.

    Args:
        score_fn: a network that takes ``class_labels=``, trained with labels of which some were dropped.
        label: y, an integer, or int64 [B], one for each sample.
        guidance: w.
        interval: (low, high): guide where the noise sigma / alpha lies in it, ends included; elsewhere w is 1.
        path: with an interval, the noise levels [L] or the path that c belongs to; ``conditioning``: see
            :mod:`fastscore.guidance`.
        keyword: what ``score_fn`` calls the label.
        null: what it is given for "no label": None, or the class that other packages' networks have for it.

    Returns:
        A module s(x, c).

    Raises:
        TypeError, ValueError: a network without classes, a label out of range, another argument not as said.

    Source: Ho & Salimans 2022, "Classifier-free diffusion guidance"; Kynkäänniemi et al. 2024, "Applying guidance in a limited
    interval improves sample and distribution quality in diffusion models".
    """
    conditional = WithLabel(score_fn, check_label(label), keyword)
    return Guided(conditional, WithLabel(score_fn, null, keyword), guidance, interval, path, conditioning)


def autoguidance(
    score_fn: Callable[..., Tensor],
    weak: Callable[..., Tensor],
    *,
    guidance: float,
    interval: tuple[float, float] | None = None,
    path: Levels | None = None,
    conditioning: str = "t",
) -> nn.Module:
    """Away from a worse network of the same kind: weak + w (s - weak).

    Where the two agree nothing changes; where the worse one errs, its errors tell the direction of the better one's.

    Args:
        score_fn: s(x, c).
        weak: the same of a smaller network, or of one that was trained for less time, called as ``score_fn`` is.
        guidance: w; 1 is ``score_fn`` alone, 0 ``weak`` alone.
        interval, path, conditioning: as for :func:`classifier_free`.

    Returns:
        A module s(x, c).

    Source: Karras et al. 2024, "Guiding a diffusion model with a bad version of itself".
    """
    return Guided(score_fn, weak, guidance, interval, path, conditioning)
