"""The bounds that the fields of a :class:`fastscore.experiment.config.TrainConfig` keep, each alone and together.

Limits of the machine's memory are in :mod:`fastscore.experiment.limits`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._core import checks
from ..losses import OBJECTIVES
from ..samplers import SAMPLERS
from ..schedules import refuse_other_form
from . import path_bounds

if TYPE_CHECKING:
    from .config import TrainConfig

_FLAGS = (
    "download",
    "checksum",
    "dequantize",
    "flip",
    "decay",
    "denoise",
    "ema_warmup",
    "tf32",
    "deterministic",
    "compile",
    "cuda_graph",
)
_MODELS = ("ncsn", "ncsndeeper", "ncsnv2", "ncsnv2deeper", "ncsnv2deepest", "mlp")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_STEPS = 2**32  # of a Philox sequence, and so of all that one seed can draw
_LARGEST, _SMALLEST = 3.4e38, 1.2e-38  # what float32 holds to full precision
# lowest and highest value
_COUNTS = {
    "batch_size": (1, None),
    "accumulate": (1, None),
    "iterations": (1, _STEPS),
    "num_levels": (1, 2**31 - 1),
    "image_size": (1, None),
    "width": (1, None),
    "steps_per_level": (1, None),
    "solver_steps": (0, _STEPS - 1),
    "log_every": (1, _STEPS),
    "checkpoint_every": (1, _STEPS),
    "keep": (1, _STEPS),
    "warmup": (0, _STEPS),
    "num_classes": (0, 2**20),
    "snapshot_every": (0, _STEPS),
    "sample_every": (0, _STEPS),
    "seed": (0, 2**63 - 1),
}
_REALS = (
    "sigma_begin",
    "sigma_end",
    "weight",
    "lr",
    "beta1",
    "beta2",
    "eps",
    "clip_norm",
    "ema",
    "step_size",
    "label_dropout",
)


def numbers(config: TrainConfig) -> dict[str, Any]:
    """The counts and the real numbers of ``config``, each of its type: an integer in config.json may stand for a real.

    Raises:
        TypeError, ValueError: a count is not an integer in its range, or a real number too large for a float.
            What is otherwise wrong with a real number is left to :func:`check`.
    """
    found = {name: _count(name, getattr(config, name), low, high) for name, (low, high) in _COUNTS.items()}
    refuse_other_form("step_size", config.step_size, "step_size")
    found |= {name: _real(name, getattr(config, name)) for name in _REALS}
    return found | {"more_ema": _decays(config.more_ema)}


def check(config: TrainConfig) -> None:
    """Raise TypeError or ValueError where a field is out of its bounds, or does not go with another."""
    for name in ("sigma_begin", "sigma_end", "lr", "eps", "step_size"):
        if not _SMALLEST <= checks.positive(name, getattr(config, name)) <= _LARGEST:
            raise ValueError(
                f"{name} must be from {_SMALLEST} to {_LARGEST}, which float32 holds, got {getattr(config, name)}"
            )
    for name in ("sigma_begin", "sigma_end"):
        if not 1e-18 < getattr(config, name) < 1e18:
            raise ValueError(
                f"{name} must be between 1e-18 and 1e18, so that float32 holds its square, got "
                f"{getattr(config, name):g}"
            )
    checks.positive("clip_norm", config.clip_norm, zero_allowed=True)
    checks.number("weight", config.weight)
    if not 0 <= checks.number("label_dropout", config.label_dropout) <= 1:
        raise ValueError(f"label_dropout must be from 0 to 1, got {config.label_dropout}")
    for name in ("beta1", "beta2", "ema"):
        if not 0 <= checks.number(name, getattr(config, name)) < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(config, name)}")
    for decay in config.more_ema:
        if not 0 < checks.number("more_ema", decay) < 1:
            raise ValueError(f"more_ema must be of numbers between 0 and 1, got {decay}")
    for name in _FLAGS:
        if not isinstance(getattr(config, name), bool):
            raise TypeError(f"{name} must be true or false, got {checks.describe(getattr(config, name))}")
    for name in ("data", "data_dir", "device"):
        if not isinstance(getattr(config, name), str):
            raise TypeError(f"{name} must be a string, got {checks.describe(getattr(config, name))}")
    choices = {
        "model": _MODELS,
        "objective": tuple(OBJECTIVES),
        "sampler": tuple(SAMPLERS),
        "start": ("uniform", "normal"),
        "precision": _PRECISIONS,
    }
    for name, words in choices.items():
        if not isinstance(getattr(config, name), str):  # a list, say, which cannot be looked up
            raise TypeError(f"{name} must be one of {', '.join(words)}, got {checks.describe(getattr(config, name))}")
        checks.one_of(name, getattr(config, name), words)
    path_bounds.check_words(config)
    _check_together(config)


def options(config: TrainConfig) -> dict[str, Any]:
    """Every option of the objective: as ``config`` has it, checked, or its default."""
    given = config.objective_options
    if not isinstance(given, Mapping):
        raise TypeError(f"objective_options must be a mapping of names to values, got {checks.describe(given)}")
    return OBJECTIVES[config.objective].complete(given)


def _check_together(config: TrainConfig) -> None:
    """The bounds that hold for fields together."""
    if config.model != "mlp" and config.width < 2:
        raise ValueError(
            f"width must be at least 2 for images, whose norms take a variance over channels, got {config.width}"
        )
    if config.more_ema and not config.ema:
        raise ValueError(
            f"more_ema must be empty where ema is 0, which keeps no moving average (--ema), got {list(config.more_ema)}"
        )
    if len({config.ema, *config.more_ema}) <= len(config.more_ema):
        raise ValueError(
            f"more_ema must be of rates that differ from each other and from ema, {config.ema}, got {list(config.more_ema)}"
        )
    if config.accumulate > config.batch_size:
        raise ValueError(
            f"accumulate must be at most batch_size, {_short(config.batch_size)}, a sample in each part, got "
            f"{_short(config.accumulate)}"
        )
    objective = OBJECTIVES[config.objective]
    if config.accumulate > 1 and objective.whole_batch:
        raise ValueError(
            f"accumulate must be 1 for the objective {objective.name!r}, in which the samples of a batch depend on each "
            f"other, got {config.accumulate}"
        )
    if config.compile and not objective.first_order:
        first = [name for name, entry in OBJECTIVES.items() if entry.first_order]
        raise ValueError(
            f"compile must be False for the objective {config.objective!r}, whose gradient is a second derivative of the "
            f"network, which torch.compile does not give; with compile the objective is {', '.join(first[:-1])} or {first[-1]}"
        )
    if config.num_levels == 1 and config.sigma_begin != config.sigma_end:
        raise ValueError(
            f"sigma_begin and sigma_end must be equal where num_levels is 1 (--sigma-begin, "
            f"--sigma-end, --num-levels), got {config.sigma_begin} and {config.sigma_end}"
        )
    if config.num_levels > 1 and config.sigma_begin <= config.sigma_end:
        raise ValueError(f"sigma_begin must be greater than sigma_end, got {config.sigma_begin} and {config.sigma_end}")
    if config.num_levels * config.steps_per_level >= _STEPS:
        raise ValueError(
            "steps_per_level times num_levels must be less than 2^32, got "
            f"{_short(config.steps_per_level)} times {_short(config.num_levels)}: an update takes one of "
            "the steps of a seed's random numbers"
        )
    for sigma in (config.sigma_begin, config.sigma_end):
        if abs(config.weight * math.log(sigma)) > math.log(_LARGEST) - 1:
            raise ValueError(
                f"weight must keep sigma^weight between {_SMALLEST} and {_LARGEST}, which float32 "
                f"holds, got {config.weight} for sigma = {sigma}"
            )
    if config.lr / (1 - config.beta1) > _LARGEST:
        raise ValueError(
            f"lr must be at most (1 - beta1) {_LARGEST}, since Adam divides by 1 - beta1, got "
            f"{config.lr} and beta1 {config.beta1}"
        )
    if config.step_size * (config.sigma_begin / config.sigma_end) ** 2 > _LARGEST:
        raise ValueError(
            f"step_size (sigma_begin / sigma_end)^2, which is used at the largest noise level, must be at "
            f"most {_LARGEST}, got step_size {config.step_size}"
        )


def _count(name: str, value: Any, low: int, high: int | None) -> int:
    """``value``, checked."""
    if type(value) is int and high is not None and value > high:
        raise ValueError(f"{name} must be from {low} to {high}, got {_short(value)}")
    return checks.integer(name, value, low=low)


def _real(name: str, value: Any) -> Any:
    """``value``, as a float if it is an integer; anything else is left to the checks that follow."""
    value = checks.plain(value)
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        raise ValueError(f"{name} must be a number that float32 holds, got {_short(value)}") from None


def _decays(value: Any) -> tuple[Any, ...]:
    """``more_ema`` as a tuple; in config.json it is a list."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"more_ema must be a list of numbers, got {checks.describe(value)}")
    return tuple(_real("more_ema", decay) for decay in value)


def _short(value: int) -> str:
    """``value``, or how long it is where it is too long to read (or for Python to write)."""
    long = value.bit_length() > 100
    return f"a number of {math.floor(math.log10(abs(value))) + 1:,} digits" if long else str(value)
