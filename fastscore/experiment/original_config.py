"""What the originals' config.yml and a :class:`fastscore.experiment.config.TrainConfig` say of one another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._core.errors import CheckpointError
from ..data import DATASETS
from ..models.original import ALGORITHMS
from .config import TrainConfig

Sections = Mapping[str, Mapping[str, Any]]

#: In both repositories: field -> (section, key, what a value of theirs is here, what one of ours is there).
_Field = tuple[str, str, Callable[[Any], Any], Callable[[Any], Any]]


def _same(value: Any) -> Any:
    return value


def _twice(value: Any) -> float:
    return 2 * float(value)


_BOTH: dict[str, _Field] = {
    "image_size": ("data", "image_size", _same, _same),
    "flip": ("data", "random_flip", _same, _same),
    "width": ("model", "ngf", _same, _same),
    "sigma_begin": ("model", "sigma_begin", float, _same),
    "sigma_end": ("model", "sigma_end", float, _same),
    "num_levels": ("model", "num_classes", _same, _same),
    "batch_size": ("training", "batch_size", _same, _same),
    "iterations": ("training", "n_iters", _same, _same),
    "weight": ("training", "anneal_power", float, _same),
    "lr": ("optim", "lr", float, _same),
    "beta1": ("optim", "beta1", float, _same),
}
_SECOND: dict[str, _Field] = {
    "dequantize": ("data", "uniform_dequantization", _same, _same),
    "eps": ("optim", "eps", float, _same),
    "step_size": ("sampling", "step_lr", _twice, lambda value: value / 2),
    "steps_per_level": ("sampling", "n_steps_each", _same, _same),
    "denoise": ("sampling", "denoise", _same, _same),
}
#: What the code of the first repository does, of which its config says nothing.
_FIRST = {"dequantize": True, "eps": 1e-8, "step_size": 4e-5, "steps_per_level": 100, "denoise": False, "ema": 0.0}
#: What runs here do not have, and the value that says that it is not wanted.
_NEITHER = {
    ("data", "gaussian_dequantization"): False,
    ("optim", "weight_decay"): 0,
    ("optim", "amsgrad"): False,
    ("optim", "optimizer"): "Adam",
    ("model", "sigma_dist"): "geometric",
}


def check_known(sections: Sections, source: Path) -> None:
    """Raise CheckpointError where the config asks for what runs here do not have; the text names it."""
    for (section, key), usual in _NEITHER.items():
        value = sections.get(section, {}).get(key, usual)
        if value != usual:
            raise CheckpointError(
                f"{source}: {section}.{key} is {value!r}, and runs here have {usual!r} alone; the network itself can be used "
                "by fastscore.models.load_original_checkpoint"
            )


def fields_of(sections: Sections) -> tuple[dict[str, Any], list[str]]:
    """The fields that the config says, and the keys that it should have and has not ("training.batch_size").

    Of ``data`` and ``ema`` see :func:`data_of` and the checkpoint.
    """
    first = "nonlinearity" not in sections["model"] and "rescaled" not in sections["data"]
    found, missing = dict(_FIRST) if first else {}, []
    for field, (section, key, here, _) in (_BOTH if first else {**_BOTH, **_SECOND}).items():
        values = sections.get(section, {})
        if key in values:
            found[field] = _converted(here, values[key], f"{section}.{key}")
        else:
            missing.append(f"{section}.{key}")
    if not first:
        ema = sections["model"].get("ema")
        if ema is False:
            found["ema"] = 0.0
        elif ema is True and "ema_rate" in sections["model"]:
            found["ema"] = _converted(float, sections["model"]["ema_rate"], "model.ema_rate")
        else:
            missing.append("model.ema" if ema is None else "model.ema_rate")
    elif (algorithm := sections.get("training", {}).get("algo", TrainConfig.objective)) in ALGORITHMS:
        found["objective"] = algorithm
    else:
        raise CheckpointError(f"training.algo must be {' or '.join(ALGORITHMS)}, got {algorithm!r}")
    return found, missing


def data_of(sections: Sections) -> str | None:
    """The data set here that the config names; None where there is none of that name (LSUN, CelebA and FFHQ)."""
    name = str(sections.get("data", {}).get("dataset", "")).lower()
    return name if name in DATASETS else None


def to_yaml(config: TrainConfig, shape: tuple[int, ...]) -> str:
    """The config.yml of the second repository that says of a run what it can say, for samples of ``shape``."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in ("training", "sampling", "data", "model", "optim")}
    ours = dataclasses.replace(config, image_size=shape[1])
    for field, (section, key, _, there) in {**_BOTH, **_SECOND}.items():
        sections[section][key] = there(getattr(ours, field))
    sections["data"] |= {
        "dataset": config.data.upper(),
        "channels": shape[0],
        "logit_transform": False,
        "rescaled": False,
        "gaussian_dequantization": False,
    }
    sections["model"] |= {
        "ema": bool(config.ema),
        "ema_rate": config.ema,
        "sigma_dist": "geometric",
        "spec_norm": False,
    }
    sections["model"] |= {"normalization": "InstanceNorm++", "nonlinearity": "elu"}
    sections["optim"] |= {"optimizer": "Adam", "weight_decay": 0.0, "amsgrad": False}
    lines = []
    for name, values in sections.items():
        lines.append(f"{name}:")
        lines += [f"  {key}: {_yaml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _converted(here: Callable[[Any], Any], value: Any, name: str) -> Any:
    try:
        return here(value)
    except (TypeError, ValueError):
        raise CheckpointError(f"{name} must be a number, got {value!r}") from None


def _yaml(value: Any) -> str:
    """A scalar; YAML 1.1 takes a number with an exponent for one only where it has a point too."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "e" in text and "." not in text else text
