"""A checkpoint of the original NCSN or NCSNv2 made into a run folder: ``fastscore import``."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import CheckpointError
from .._core.files import write_atomically
from ..data import DATASETS
from ..models import MODELS
from ..models.original import (
    PUBLISHED,
    Options,
    OriginalStates,
    filled,
    find_options,
    of_the_first_repository,
    read_states,
)
from ..models.refinenet import ScoreRefineNet
from ..samplers import DEFAULT
from . import checkpoint
from .build import FROM_FILES, make_model, make_sigmas
from .config import TrainConfig
from .original_config import check_known, data_of, fields_of
from .original_optimizer import adam_of, iteration_of, placed
from .presets import PRESETS

#: What no config.yml says, since all of the originals have it so: no preset changes it.
_THEIRS: dict[str, Any] = {
    "path": "levels",
    "path_options": {},
    "parametrization": "score",
    "num_classes": 0,
    "sampler": DEFAULT,
    "solver_steps": 0,
}
_CURE = "with --preset NAME what the config does not say is as that preset has it"


def import_original(
    path: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    preset: str | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    iteration: int | None = None,
    fresh_optimizer: bool = False,
) -> Path:
    """Make the run folder ``out`` of a checkpoint (.pth): it samples, is evaluated, and goes on training.

    Weights, their moving average, Adam's moments and the number of iterations are the file's, bit for bit. The config is
    that of the config.yml beside it, then that of the optimizer in the file (learning rate, betas, epsilon), then the
    preset's, but for what all of the originals have alike: noise levels, their score, no classes, annealed Langevin dynamics.
    Nothing of the data is read: what the run goes on training on is recorded when it does.

    Args:
        path: the file, as the originals write it.
        out: the run folder; there must be no run in it.
        config: path of the config.yml; None: the one beside ``path``, if there is one.
        preset: a key of ``PRESETS``, for what the config does not say; needed where there is none.
        data, data_dir: the data set here, and its folder; None: the data set that the config names, in ``data``.
        iteration: how many iterations led to it; None: as the file says, or else its optimizer, or its name.
        fresh_optimizer: leave the optimizer's state, and let Adam begin anew.

    Returns:
        The run's checkpoint.

    Raises:
        CheckpointError: the file is damaged, asks to run code (nothing is run), or is no such checkpoint; something is not
            known, or is not as runs here have it; or ``out`` holds a run. The text names it and the cure.
        TypeError, ValueError: an argument is not what it may be.
    """
    path, out = Path(path), Path(out)
    checkpoint.check_free(out)
    options = _options(path, config, preset)
    states = read_states(path)
    network = _network(path, states, options, ema=False)
    if type(network) is MODELS["ncsn"]:
        options = of_the_first_repository(options)
    average = _network(path, states, options, ema=True).state_dict() if states.shadow is not None else None
    group, moments = adam_of(path, states, fresh_optimizer)
    step = iteration_of(path, states, moments, iteration)
    made = _config(path, options, network, preset, data, data_dir, average is not None, step, group)
    _check_sigmas(path, made, network)
    shape = (network.channels, made.image_size, made.image_size)
    ours = make_model(made, shape)
    ours.load_state_dict(network.state_dict())
    state = {
        "step": step,
        "optimizer": placed(path, moments, states, ours, made),
        "sums": torch.zeros(2, made.num_levels, dtype=torch.float64),
    }
    return _write(out, made, step, ours.state_dict(), average, state, shape)


def _options(path: Path, config: str | Path | None, preset: str | None) -> Options:
    """Those of the network, and the config's sections."""
    if preset is not None:
        checks.one_of("preset", preset, tuple(PRESETS))
    if config is None and not (path.parent / "config.yml").is_file():
        if preset is None:
            raise CheckpointError(
                f"there is no config.yml beside {path}, which says what it was trained with: pass the path of one with "
                f"--config, or --preset NAME, where it was trained as that preset is ({', '.join(PRESETS)})"
            )
        return find_options(path, None, PUBLISHED)
    return find_options(path, config, {})


def _network(path: Path, states: OriginalStates, options: Options, *, ema: bool) -> ScoreRefineNet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what was assumed: that is an error, or the preset's, below
        network = filled(path, states, options, ema=ema)
    assert isinstance(network, ScoreRefineNet)
    weights = {name: value for name, value in network.state_dict().items() if value.dtype != torch.float32}
    if set(weights) - {"sigmas"}:
        raise CheckpointError(
            f"{path} holds weights of {next(iter(weights.values())).dtype}, and runs have float32 alone"
        )
    for name, value in network.state_dict().items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path} holds weights that are not finite, in {name}")
    return network


def _config(
    path: Path,
    options: Options,
    network: ScoreRefineNet,
    preset: str | None,
    data: str | None,
    data_dir: str | Path | None,
    averaged: bool,
    step: int,
    group: dict[str, Any],
) -> TrainConfig:
    """The run's config: what the file and its config.yml say, then the preset."""
    source = options.path or path
    check_known(options.sections, source)
    unlike = [name for name, usual in PUBLISHED.items() if options.values[name] != usual]
    if unlike:
        raise CheckpointError(
            f"{source}: {unlike[0]} is {options.values[unlike[0]]!r}, and runs here have {PUBLISHED[unlike[0]]!r} alone; "
            "the network itself can be used by fastscore.models.load_original_checkpoint"
        )
    found, missing = fields_of(options.sections) if options.sections else ({}, [])
    missing += [name for name, where in options.sources.items() if where == "assumed" and options.sections]
    if missing and preset is None:
        raise CheckpointError(f"{source} does not say {', '.join(missing)}: {_CURE}")
    base = PRESETS[preset][1] if preset is not None else TrainConfig()
    found["data"] = data or data_of(options.sections) or (base.data if preset is not None else None)
    if found["data"] is None:
        named = options.sections.get("data", {}).get("dataset")
        raise CheckpointError(
            f"{source}: the data set {named!r} is none of those here: pass --data folder --data-dir DIR, or another of "
            f"{', '.join(DATASETS)}"
        )
    checks.one_of("data", found["data"], tuple(DATASETS))
    if found["data"] in ("folder", "npz") and data_dir is None:
        raise CheckpointError(f"--data {found['data']} needs --data-dir: where the images are")
    if found["data"] in FROM_FILES:
        found["data_dir"] = str(Path(data_dir if data_dir is not None else "data").absolute())
    found["model"] = next(name for name, kind in MODELS.items() if type(network) is kind)
    found |= {"width": network.ngf, "num_levels": network.num_levels, "precision": "fp32"}
    found = {**_THEIRS, **group, **found}
    ema = found.get("ema", base.ema)
    if averaged and not ema:
        raise CheckpointError(f"{path} has an EMA shadow, and {source} says that none is kept (ema)")
    found |= {"ema": ema if averaged else 0.0, "more_ema": ()}
    if not averaged and ema:
        raise CheckpointError(
            f"{path} has no EMA shadow, and by {source if options.sections else preset} one is kept: "
            "pass --config PATH of one in which model.ema is false"
        )
    try:
        made = dataclasses.replace(base, **found)
        return dataclasses.replace(made, iterations=max(made.iterations, step))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source} describes a run that cannot be: {error}") from error


def _check_sigmas(path: Path, config: TrainConfig, network: nn.Module) -> None:
    """Raise where the noise levels in an NCSNv2's weights are not those of ``config``."""
    own = network.state_dict().get("sigmas")
    levels = make_sigmas(config)
    if own is not None and not torch.allclose(own.float(), levels, rtol=1e-4):
        raise CheckpointError(
            f"{path} has noise levels from {own[0]:.6g} to {own[-1]:.6g} that are not the {len(levels)} spaced geometrically "
            f"from {levels[0]:.6g} to {levels[-1]:.6g}, and runs here have these alone; the network itself can be used by "
            "fastscore.models.load_original_checkpoint"
        )


def _write(
    out: Path,
    config: TrainConfig,
    step: int,
    model: dict[str, Tensor],
    ema: dict[str, Tensor] | None,
    state: dict[str, Any],
    shape: tuple[int, ...],
) -> Path:
    """The run folder, as a trainer writes it; the config last, so that one that was killed holds no run."""
    out.mkdir(parents=True, exist_ok=True)
    lock = checkpoint.Lock(out / checkpoint.LOCK)
    try:
        checkpoint.check_free(out)
        identity = checkpoint.Identity.of_unknown_data(config.data, shape, os.path.abspath(config.data_dir))
        checkpoint.begin(out, identity)
        weights = {"raw": model} if ema is None else {"raw": model, "ema": ema}
        saved = checkpoint.save(out, step, weights, state, shape=shape, identity=identity.run, config=config)
        write_atomically(out / checkpoint.CONFIG, config.to_json().encode())
        return saved
    finally:
        lock.release()
