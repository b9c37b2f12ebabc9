"""Which sampler a run has, and the values of its options: what a config says of sampling, checked against its network and path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core import checks
from .._core.errors import require
from ..paths import PATHS
from ..samplers import BEST_OF_FEW, DEFAULT, SAMPLERS
from .config import TrainConfig


def default_sampler(config: TrainConfig) -> str:
    """The sampler of a run where none is asked for: its config's, in whose place on a path of continuous t is another where
    the config names none."""
    return BEST_OF_FEW if PATHS[config.path].continuous and config.sampler == DEFAULT else config.sampler


def options_of(config: TrainConfig, sampler: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each option of ``sampler``: the one given, or ``config``'s, or the option's default.

    On a path of continuous t a number of steps that is left to the noise levels is theirs.
    """
    entry = SAMPLERS[checks.one_of("sampler", sampler, SAMPLERS)]
    names = [option.name for option in entry.options]
    for name, value in given.items():
        takers = [other.name for other in SAMPLERS.values() if name in (option.name for option in other.options)]
        if value is not None and name not in names and takers:
            raise ValueError(
                f"{name} must be left out for sampler {sampler!r}, which takes {', '.join(names)}, got "
                f"{checks.describe(value)} (--sampler {' or '.join(takers)} takes it)"
            )
    check_sampler(config, sampler)
    own = {option.name: getattr(config, option.setting) for option in entry.options if option.setting}
    options = entry.complete(own | {name: value for name, value in given.items() if value is not None})
    if entry.any_path:  # whose start is no setting of the run
        check_start(config, options["start"])
    if PATHS[config.path].continuous and entry.one_step_a_level and not options["steps"]:
        options["steps"] = config.num_levels
    return options


def check_own_sampler(config: TrainConfig) -> None:
    """Raise where the run's own sampler could not draw from its network, which is better known before it is trained.

    Raises:
        ValueError: an option of the sampler without a value, or a network of labels would be asked between its levels.
        MissingDependency: the sampler takes a package that is not installed.
    """
    name = default_sampler(config)
    options, entry = options_of(config, name, {}), SAMPLERS[name]
    if entry.needs is not None:
        require(*entry.needs)
    if config.model not in ("ncsn", "ncsndeeper"):
        return
    if entry.between(options):
        raise ValueError(
            f"sampler must be one that asks for noise levels alone for {config.model}, which knows no others, got {name!r}; of "
            f"the trained run, fastscore sample --sampler {name} --interpolate asks between them"
        )
    steps = options.get("steps", 0)
    if steps > config.num_levels:
        raise ValueError(
            f"solver_steps must be at most num_levels, {config.num_levels}, for {config.model}, which knows its noise levels "
            f"alone, got {steps}; of the trained run, fastscore sample --steps {steps} --interpolate asks between them"
        )


def check_sampler(config: TrainConfig, sampler: str) -> None:
    """Raise ValueError where the sampler knows alpha = 1 alone, and the run's path has another."""
    entry, kind = SAMPLERS[sampler], PATHS[config.path]
    if not (entry.any_path or kind.keeps_scale):
        able = [name for name, other in SAMPLERS.items() if other.any_path]
        raise ValueError(
            f"sampler must be {', '.join(able[:-1])} or {able[-1]} on path {config.path!r}, whose alpha is not 1: "
            f"{entry.title} has noise levels and alpha = 1, got {sampler!r}"
        )


def check_start(config: TrainConfig, start: str | None) -> None:
    """Raise ValueError where samples would begin in the data's range, and the run's path ends in noise about alpha times it."""
    if start == "uniform" and not PATHS[config.path].keeps_scale:
        raise ValueError(f"start must be 'normal' on path {config.path!r}, which begins in noise, got 'uniform'")
