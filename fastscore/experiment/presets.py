"""Settings to start from, by name, and the command that trains a config from the nearest of them."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from .._core import checks
from ..losses import OBJECTIVES
from ..paths import PATHS
from ..samplers import BEST_OF_FEW
from .config import TrainConfig, pasted

_DIGITS = TrainConfig(
    data="digits",
    dequantize=False,
    width=16,
    sigma_begin=1.0,
    sigma_end=0.02,
    num_levels=20,
    batch_size=128,
    iterations=1400,
    lr=2e-3,
    warmup=100,
    decay=True,
    ema=0.99,
    sampler=BEST_OF_FEW,
    step_size=2.4e-4,
    steps_per_level=5,
    denoise=True,
    log_every=20,
    checkpoint_every=200,
)
_TOY = TrainConfig(
    data="mixture",
    model="mlp",
    width=128,
    dequantize=False,
    sigma_begin=20.0,
    sigma_end=0.5,
    num_levels=12,
    batch_size=512,
    iterations=2000,
    lr=1e-3,
    warmup=100,
    decay=True,
    ema=0.99,
    sampler=BEST_OF_FEW,
    solver_steps=20,
    step_size=0.05,
    steps_per_level=100,
    denoise=True,
    start="normal",
    checkpoint_every=500,
    log_every=50,
)
_CIFAR10_NCSN = TrainConfig(
    data="cifar10",
    flip=True,
    width=128,
    iterations=200_001,
    lr=1e-3,
    sigma_begin=1.0,
    sigma_end=0.01,
    num_levels=10,
    step_size=4e-5,
    steps_per_level=100,
    log_every=100,
    checkpoint_every=5000,
    sample_every=5000,
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "digits": ("handwritten digits, 8x8, from scikit-learn: minutes on two CPU cores (make demo)", _DIGITS),
    "toy": (
        "a 2-D mixture of two Gaussians, weights 0.8 and 0.2: about a minute on a CPU",
        _TOY,
    ),
    "digits-vp": (
        "the digits on a variance-preserving path, by NCSNv2: minutes on two CPU cores",
        dataclasses.replace(_DIGITS, model="ncsnv2", path="vp_linear", parametrization="v"),
    ),
    "toy-vp": (
        "the same mixture on a variance-preserving path: about a minute on a CPU",
        TrainConfig(
            data="mixture",
            model="mlp",
            width=128,
            dequantize=False,
            path="vp_linear",
            num_levels=20,
            batch_size=512,
            iterations=2000,
            lr=1e-3,
            warmup=100,
            decay=True,
            ema=0.99,
            step_size=0.05,
            checkpoint_every=500,
            log_every=50,
        ),
    ),
    "digits-conditional": (
        "the digits, each told its class, for samples of a class that is asked for: minutes on two CPU cores",
        dataclasses.replace(_DIGITS, num_classes=10),
    ),
    "toy-conditional": (
        "the mixture, each point told which of the two Gaussians it is of: about a minute on a CPU",
        dataclasses.replace(_TOY, num_classes=2),
    ),
    "photos": (
        "crops of two photographs, 32x32 in colour, from scikit-learn: a night on two CPU cores",
        TrainConfig(
            data="photos",
            dequantize=False,
            flip=True,
            model="ncsnv2",
            width=32,
            sigma_begin=50.0,
            num_levels=232,
            batch_size=64,
            iterations=30_000,
            lr=1e-3,
            warmup=500,
            decay=True,
            ema=0.999,
            step_size=2 * 6.2e-6,
            steps_per_level=5,
            denoise=True,
            sampler=BEST_OF_FEW,
            solver_steps=50,
        ),
    ),
    "gray-scott": (
        "reaction-diffusion patterns, 32x32, simulated on the spot",
        TrainConfig(
            data="gray_scott",
            flip=True,
            width=32,
            batch_size=64,
            iterations=20_000,
            lr=1e-3,
            warmup=500,
            decay=True,
            ema=0.999,
            step_size=4e-5,
            steps_per_level=50,
            denoise=True,
            checkpoint_every=1000,
            sample_every=5000,
        ),
    ),
    "mnist": (
        "MNIST, 28x28, trained as in the NCSN paper: wants a GPU",
        TrainConfig(
            data="mnist",
            image_size=28,
            width=64,
            iterations=200_001,
            lr=1e-3,
            sampler=BEST_OF_FEW,
            step_size=4e-5,
            steps_per_level=100,
            log_every=100,
            checkpoint_every=5000,
            sample_every=5000,
        ),
    ),
    "cifar10-ncsn": ("CIFAR-10 by the recipe of NCSN (Song & Ermon 2019): wants a GPU", _CIFAR10_NCSN),
    "cifar10-ncsnv2": (
        "CIFAR-10 by the recipe of NCSNv2 (Song & Ermon 2020): wants a GPU",
        dataclasses.replace(
            _CIFAR10_NCSN,
            model="ncsnv2",
            dequantize=False,
            sigma_begin=50.0,
            num_levels=232,
            lr=1e-4,
            ema=0.999,
            iterations=300_001,
            step_size=2 * 6.2e-6,
            steps_per_level=5,
            denoise=True,
        ),
    ),
}


def preset(name: str, **changes: Any) -> TrainConfig:
    """A preset by name, with fields replaced: ``preset("digits", iterations=500)``."""
    checks.one_of("preset", name, tuple(PRESETS))
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    for field in changes:
        if field not in known:
            raise ValueError(f"{field} is not a field of TrainConfig; the fields are {', '.join(sorted(known))}")
    return dataclasses.replace(PRESETS[name][1], **changes)


def command_line(config: TrainConfig, run: str | Path, *options: str) -> str:
    """The command that trains ``config`` in ``run``: the nearest preset, what differs from it, and ``options``."""

    def changed(name: str) -> list[str]:
        ours, theirs = dataclasses.asdict(config), dataclasses.asdict(PRESETS[name][1])
        return [name for name in ours if ours[name] != theirs[name]]

    nearest = min(PRESETS, key=lambda name: len(changed(name)))
    words = ["fastscore", "train", nearest, "--out", pasted(run)]
    fields = {name: getattr(config, name) for name in changed(nearest)}
    for given, entry in (("objective_options", OBJECTIVES[config.objective]), ("path_options", PATHS[config.path])):
        if fields.pop(given, None):  # each has a flag of its own
            usual = {option.name: option.default for option in entry.options}
            fields |= {name: value for name, value in getattr(config, given).items() if value != usual[name]}
    for name, value in fields.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:  # a word that begins with a dash, as -1e-05, would be taken for an option
            words += [f"--{flag}={value}"] if str(value).startswith("-") else [f"--{flag}", str(value)]
    return shlex.join([*words, *options])
