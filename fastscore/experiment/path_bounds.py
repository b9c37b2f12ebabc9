"""The bounds that a config's path, its options and what the network predicts keep, beside model and objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._core import checks
from ..conversions import KINDS
from ..losses import OBJECTIVES
from ..paths import PATHS, Path
from ..schedules import geometric_sigmas

if TYPE_CHECKING:
    from .config import TrainConfig

ANY_SIGMA = ("ncsnv2", "ncsnv2deeper", "ncsnv2deepest", "mlp")  # the networks that are told sigma, and so any time


def make_path(config: TrainConfig) -> Path:
    """The path of a run, which is a function of its config alone."""
    sigmas = geometric_sigmas(config.sigma_begin, config.sigma_end, config.num_levels)
    return PATHS[config.path].make(sigmas, **config.path_options)


def options(config: TrainConfig) -> dict[str, Any]:
    """Every option of the path: as ``config`` has it, checked, or its default."""
    given = config.path_options
    if not isinstance(given, Mapping):
        raise TypeError(f"path_options must be a mapping of names to values, got {checks.describe(given)}")
    return PATHS[config.path].complete(given)


def check(config: TrainConfig) -> None:
    """Raise ValueError where path, model, objective and what the network predicts do not go together.

    What goes with which: on levels every model and objective, and the network predicts the score; on the others NCSNv2 or
    the mlp, the objectives with a ``bind_path``, and any prediction.
    """
    if not PATHS[config.path].continuous:
        if config.parametrization != "score":
            raise ValueError(
                f"parametrization must be 'score' on path {config.path!r}, where networks give the score at each level "
                f"({_others()} have the others), got {config.parametrization!r}"
            )
        return
    path = f"path {config.path!r}, whose t is continuous"
    if config.model not in ANY_SIGMA:
        raise ValueError(
            f"model must be one that takes any noise, {', '.join(ANY_SIGMA[:-1])} or {ANY_SIGMA[-1]}, on {path}: "
            f"{config.model} has learned embeddings of noise levels, which path levels has, got {config.model!r}"
        )
    if OBJECTIVES[config.objective].bind_path is None:
        able = [name for name, entry in OBJECTIVES.items() if entry.bind_path is not None]
        raise ValueError(f"objective must be {', '.join(able[:-1])} or {able[-1]} on {path}, got {config.objective!r}")
    if config.num_levels < 2:
        raise ValueError(f"num_levels must be at least 2 on {path}: its losses are told apart by them, got 1")
    if config.cuda_graph:
        raise ValueError(f"cuda_graph must be False on {path}: its iterations are not recorded yet, got True")
    made = make_path(config)
    for t in (made.t_min, made.t_max):
        sigma = float(made.sigma(t))
        if abs((config.weight - 2) * math.log(sigma)) > 80:
            raise ValueError(
                f"weight must keep sigma^(weight - 2) within what float32 holds on {made!r}, got {config.weight} for "
                f"sigma = {sigma:.3g}"
            )


def check_words(config: TrainConfig) -> None:
    """Raise unless path and parametrization are words that there are."""
    for name, words in (("path", tuple(PATHS)), ("parametrization", KINDS)):
        if not isinstance(getattr(config, name), str):
            raise TypeError(f"{name} must be one of {', '.join(words)}, got {checks.describe(getattr(config, name))}")
        checks.one_of(name, getattr(config, name), words)


def _others() -> str:
    found = [name for name, kind in PATHS.items() if kind.continuous]
    return f"{', '.join(found[:-1])} and {found[-1]}"
