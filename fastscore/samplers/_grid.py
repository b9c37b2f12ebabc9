"""The points between which a solver steps: alpha and sigma of each, and what the network is told there.

A solver sees x = alpha x_0 + sigma z at decreasing noise, rho = sigma / alpha. Noise levels [L] are points with alpha =
1; a :class:`fastscore.paths.Path` has its own. The last point, where a solver ends with the clean sample, is (1, 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor

from .._core import checks
from ..conversions import Converted
from ..paths import Path

CONDITIONING = ("labels", "sigma", "t")
_STEPS = 20


@dataclass(frozen=True)
class Point:
    """alpha and sigma, and what names the noise: ``t``, or ``label``, a fraction between two levels."""

    alpha: float
    sigma: float
    t: float | None = None
    label: float | None = None

    @property
    def rho(self) -> float:
        """sigma / alpha, the noise beside a clean sample of scale 1."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """lambda = log(alpha / sigma), half of the log signal-to-noise ratio; infinite at the end."""
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)


END = Point(1.0, 0.0)


class Levels:
    """Noise levels [L], alpha = 1; t is sigma. Between them lie points where the network is not told labels, or blends."""

    def __init__(self, sigmas: Tensor | Sequence[float], conditioning: str, interpolate: bool):
        self.sigmas = checks.levels("path", sigmas)
        self.any_sigma = conditioning != "labels" or interpolate
        self.log = [math.log(sigma) for sigma in self.sigmas]

    def points(self, steps: int | None, rule: str | None, clean: bool) -> list[Point]:
        """Those of a grid of ``steps`` steps; None: all levels. Of L levels as many as that, evenly by index, and where
        there are to be more, geometrically between."""
        L, number = len(self.sigmas), None if steps is None else steps + (not clean)
        if rule in ("karras", "time"):
            width = self.sigmas[-1] - self.sigmas[0]
            number = L if number is None else number
            if rule == "time":
                return self.at([self.sigmas[0] + width * i / max(1, number - 1) for i in range(number)])
            return self.at(_karras(self.sigmas[0], self.sigmas[-1], number))
        if number is None or number == L:
            return [self._point(i) for i in range(L)]
        if number < L and rule != "log_snr":
            return [self._point(round(i * (L - 1) / max(1, number - 1))) for i in range(number)]
        if rule == "levels" or not self.any_sigma:
            self._refuse(f"{number} points")
        if L == 1:
            raise ValueError(f"steps must be 1 where there is one noise level, got {steps}")
        return [self._between(i * (L - 1) / max(1, number - 1)) for i in range(number)]

    def at(self, rhos: Sequence[float]) -> list[Point]:
        """The points with these sigma, which a network of labels has at its levels alone."""
        return [self._at(rho) for rho in rhos]

    def _at(self, rho: float) -> Point:
        near = min(range(len(self.log)), key=lambda i: abs(math.log(rho) - self.log[i]))
        if abs(rho / self.sigmas[near] - 1) < 1e-5:
            return self._point(near)
        if not self.any_sigma:
            self._refuse(f"sigma {rho:.6g}")
        if rho > self.sigmas[0] or rho < self.sigmas[-1]:
            return Point(1.0, rho, label=float(near))
        upper = next(i for i, (a, b) in enumerate(pairwise(self.sigmas)) if a >= rho >= b)
        part = (self.log[upper] - math.log(rho)) / (self.log[upper] - self.log[upper + 1])
        return Point(1.0, rho, label=upper + part)

    def _between(self, place: float) -> Point:
        upper = min(int(place), len(self.log) - 2)
        part = place - upper
        if part in (0, 1):
            return self._point(upper + int(part))
        return Point(1.0, math.exp((1 - part) * self.log[upper] + part * self.log[upper + 1]), label=place)

    def _point(self, i: int) -> Point:
        return Point(1.0, self.sigmas[i], label=float(i))

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"steps must keep to the {len(self.sigmas)} noise levels, which alone labels name, got {what}: take fewer "
            "steps, conditioning='sigma' for a network that takes any sigma (NCSNv2, ScoreMLP), or interpolate=True, which "
            "blends the embeddings of a network of labels (NCSN)"
        )


class Continuous:
    """A path, at any of its times."""

    def __init__(self, path: Path, conditioning: str, interpolate: bool):
        if conditioning == "labels" or interpolate:
            raise ValueError(
                "conditioning must be 't' or 'sigma', and interpolate False, on a path of continuous t: labels name "
                f"noise levels [L], got {path!r}"
            )
        self.path = path

    def points(self, steps: int | None, rule: str | None, clean: bool) -> list[Point]:
        """Those of :meth:`fastscore.paths.Path.grid`; None: 20 steps."""
        grid = self.path.grid(_STEPS if steps is None else steps, rule, clean=clean)
        return [Point(*numbers) for numbers in zip(grid.alpha.tolist(), grid.sigma.tolist(), grid.t.tolist())]

    def at(self, rhos: Sequence[float]) -> list[Point]:
        """The points with these sigma / alpha."""
        if not rhos:
            return []
        t = self.path.t_of_log_snr(-2 * torch.tensor(rhos, dtype=torch.float64, device="cpu").log())
        return [
            Point(*numbers) for numbers in zip(self.path.alpha(t).tolist(), self.path.sigma(t).tolist(), t.tolist())
        ]


def _karras(first: float, last: float, number: int, power: float = 7.0) -> list[float]:
    """Karras et al. 2022, equation 5: even in rho^(1/power)."""
    a, b = first ** (1 / power), last ** (1 / power)
    return [(a + i / max(1, number - 1) * (b - a)) ** power for i in range(number)]


def source(path: Any, conditioning: str | None, interpolate: bool, score_fn: Any) -> tuple[Levels | Continuous, str]:
    """Where points are from, and how the network is told of them: t of a path and to what as_score gives, else labels."""
    discrete = path.sigmas if isinstance(path, Path) else path
    if conditioning is None:
        conditioning = "t" if discrete is None or isinstance(score_fn, Converted) else "labels"
    checks.one_of("conditioning", conditioning, CONDITIONING)
    if discrete is None:
        return Continuous(path, conditioning, interpolate), conditioning
    return Levels(discrete, conditioning, interpolate), conditioning


def check_decreasing(points: Sequence[Point]) -> None:
    """Raise unless alpha and sigma are positive and rho falls from point to point."""
    for i, point in enumerate(points):
        if not (0 < point.alpha < math.inf and 0 < point.sigma < math.inf):
            raise ValueError(
                f"path must have positive alpha and sigma where the score is asked for, got alpha {point.alpha:.6g}, "
                f"sigma {point.sigma:.6g} at point {i} of the grid"
            )
    for i, (a, b) in enumerate(pairwise(points)):
        if not b.rho < a.rho:
            raise ValueError(
                f"path must have a grid of strictly decreasing noise sigma / alpha, got {a.rho:.6g} and then "
                f"{b.rho:.6g} at point {i + 1}"
            )
