"""How the solvers of a grid stand in the registry: the options that all have, and what they cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from .._core import checks
from .._core.options import Option, boolean, choice
from ..paths import Path
from ..trace import modules
from ._grid import Continuous, Levels
from ._sampler import DENOISE, MOST, Options
from ._start import STARTS

_LEAST = 1e-10  # of an option that float32 multiplies by noise levels
STEPS = Option(
    "steps",
    int,
    "Updates in all, spread evenly over the noise levels; 0 is one from each level",
    partial(checks.integer, low=0, high=MOST),
    default=0,
    setting="solver_steps",
)
END_DENOISED = Option("denoise", bool, DENOISE.help, boolean, default=True)
NORMAL = choice(
    "start",
    STARTS,
    "Where sampling begins: normal, with the mean and the covariance of the data at the largest noise level, or uniform in "
    "[0, 1]",
    default="normal",
)
INTERPOLATE = Option(
    "interpolate",
    bool,
    "Let a network of labels (ncsn) be asked between its noise levels, its embeddings blended in log sigma",
    boolean,
    default=False,
)
MAX_STEPS = Option(
    "max_steps",
    int,
    "The most steps that a sample may take, refused ones too",
    partial(checks.integer, low=1, high=MOST),
    default=1000,
)
POINTS = (STEPS, END_DENOISED, NORMAL, INTERPOLATE)


def fraction(name: str, value: Any) -> float:
    """0, or a number from 1e-10 to 1: float32 does not hold the products of smaller ones."""
    value = checks.positive(name, value, zero_allowed=True)
    if value > 1 or 0 < value < _LEAST:
        raise ValueError(f"{name} must be from 0 to 1, and where it is not 0 at least {_LEAST:g}, got {value}")
    return value


def ratio(name: str, value: Any) -> float:
    """A number from 1e-10 to 1e10: float32 holds its square, times noise levels."""
    value = checks.positive(name, value)
    if not _LEAST <= value <= 1 / _LEAST:
        raise ValueError(f"{name} must be from {_LEAST:g} to {1 / _LEAST:g}, got {value}")
    return value


def zero_or_more(name: str, value: Any) -> float:
    """A number, at least 0."""
    return checks.positive(name, value, zero_allowed=True)


def sigma_of_point(sigmas: Sequence[float] | Path, options: Options, update: int, rule: str | None = None) -> float:
    """The noise sigma / alpha at the point to which the ``update``-th update leads; ``rule`` is of a path's points."""
    steps, denoise = options["steps"] or None, options["denoise"]
    if isinstance(sigmas, Path):
        points = Continuous(sigmas, "t", False).points(steps, rule, denoise)
    else:
        points = Levels(sigmas, "sigma", False).points(steps, None, denoise)
    return points[min(update, len(points) - 1)].rho


def least(sigmas: Sequence[float] | Path) -> float:
    """The smallest noise sigma / alpha."""
    return math.exp(-float(sigmas.log_snr(sigmas.t_min)) / 2) if isinstance(sigmas, Path) else sigmas[-1]


def number_of(L: int, options: Options) -> int:
    """How many updates there are."""
    return options["steps"] or (L if options["denoise"] else L - 1)


def of_points(
    solver: Callable[..., Tensor],
    evaluations: Callable[[int, Options], int] | None = None,
    *,
    a_point: Callable[[Options], int] = lambda options: 1,
    between: Callable[[Options], bool] = lambda options: False,
    rule: str | Callable[[Path], str] | None = None,
) -> dict[str, Any]:
    """The fields of an entry whose function is ``solver``.

    Args:
        evaluations: evaluations(L, options); None: as many as updates.
        a_point: how many updates there are at a point.
        between: whether the score is asked for between the points.
        rule: how ``solver`` spaces the points of a path, or that as a function of the path.
    """

    def run(
        score_fn: Callable[..., Tensor],
        shape: Sequence[int],
        sigmas: Tensor | Path,
        options: Options,
        **how: Any,
    ) -> Tensor:
        own = {name: value for name, value in options.items() if name != "steps"}
        on = conditioning(score_fn, sigmas, options["interpolate"], between(options))
        return solver(score_fn, shape, sigmas, steps=options["steps"] or None, conditioning=on, **own, **how)

    def sigma_after(sigmas: Sequence[float] | Path, options: Options, step: int) -> float:
        of_path = rule if not callable(rule) else rule(sigmas) if isinstance(sigmas, Path) else None
        return sigma_of_point(sigmas, options, -(-step // a_point(options)), of_path)

    def count(L: int, options: Options) -> int:
        return number_of(L, options) * a_point(options)

    def grids(L: int, options: Options, budget: int, beyond: bool) -> list[dict[str, Any]]:
        most = budget if beyond else min(budget, number_of(L, dict(options) | {"steps": 0}))
        cost = evaluations or count
        fitting = (n for n in range(most, 0, -1) if cost(L, dict(options) | {"steps": n}) <= budget)
        return [{"steps": n} for n in itertools.islice(fitting, 1)]

    return {
        "run": run,
        "updates": count,
        "evaluations": evaluations or count,
        "sigma_after": sigma_after,
        "cost": "steps, by default one a level",
        "remedy": "train longer, or take more --steps",
        "centred": True,
        "between": between,
        "grids": grids,
        "recordable": lambda options: not options["interpolate"],
        "any_path": True,
        "one_step_a_level": True,
    }


def conditioning(score_fn: Callable[..., Tensor], path: Tensor | Path, interpolate: bool, between: bool) -> str:
    """What a network is told: t of a path; of noise levels sigma where it knows its levels and embeds no labels, else labels. Where the score is asked
    for ``between`` the levels, sigma unless it embeds labels."""
    if isinstance(path, Path):
        if interpolate:
            raise ValueError(f"interpolate must be False on {path!r}, where no network has labels, got True")
        return "t"
    if interpolate:
        return "labels"
    layers = [layer for network in modules.networks(score_fn) for layer in network.modules()]
    if any(isinstance(layer, nn.Embedding) for layer in layers):
        return "labels"
    return (
        "sigma" if between or any(isinstance(getattr(layer, "sigmas", None), Tensor) for layer in layers) else "labels"
    )
