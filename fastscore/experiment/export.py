"""A run's checkpoint for others: a file in the originals' form, or weights with a model card. ``fastscore export``."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from .._core.errors import CheckpointError, require
from .._core.files import read, write_atomically
from ..models import MODELS
from ..paths import PATHS
from ..samplers import DEFAULT
from . import checkpoint, history
from .build import make_model, make_sigmas
from .config import TrainConfig, parse_json
from .evaluate import METRICS
from .original_config import to_yaml
from .sampler_options import options_of
from .trained_run import TrainedRun, load_run

WEIGHTS, CARD, ORIGINAL_CONFIG = "model.safetensors", "MODEL_CARD.md", "config.yml"
_OWN = """# by annealed Langevin dynamics, which needs no more than this; the run's own sampler, {}, begins about the data's mean
# and covariance: fastscore sample RUN
"""


def export_original(
    run: str | Path, out: str | Path, *, iteration: int | None = None, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write a checkpoint (.pth) as the originals read it, and the config.yml that belongs to it into the same folder.

    The file is a list: the network's state_dict, its names under ``module.`` (the originals wrap the network in
    DataParallel), and Adam's; of an NCSN without a moving average that is all, as in the first repository. Else follow
    epoch, iteration and, where the run keeps one, the EMA shadow (parameters alone), as in the second. All are the run's,
    bit for bit; of a snapshot, which has no optimizer, Adam is as before its first step. What the originals have no place for
    is left out: further moving averages, the scale of fp16, and the losses since the last line of metrics.jsonl.

    Args:
        run: the run folder, of a network of images.
        out: the file.
        iteration: which checkpoint or snapshot, by its iteration; None: the last checkpoint.
        overwrite: replace files that are there.

    Returns:
        The paths of the file and of config.yml.

    Raises:
        CheckpointError: not a run folder, no checkpoint yet (or none of that iteration), a damaged one, or a run on points, with classes
            or on a path of continuous t; or a file is in the way, or ``out`` is among those that a run needs.
        OSError: it cannot be written.
    """
    run, out = Path(run), Path(out)
    checkpoint.check_not_of_a_run("out (--out)", out)
    config, beside = checkpoint.read_config(run), out.parent / ORIGINAL_CONFIG
    if config.model == "mlp":
        raise CheckpointError(f"{run} is of points, and the originals have networks of images alone: use --safetensors")
    if config.num_classes:
        raise CheckpointError(f"{run} is of a network of classes, which the originals do not have: use --safetensors")
    if PATHS[config.path].continuous:
        raise CheckpointError(f"{run} is on path {config.path!r}, which the originals do not have: use --safetensors")
    about, saved, shadow, state = (
        checkpoint.from_latest(run, _read) if iteration is None else _read(checkpoint.of_iteration(run, iteration))
    )
    network = make_model(config, about.sample_shape)
    order = network.state_dict()  # of the optimizer's state, which has no names
    model = {f"module.{name}": saved[name] for name in order}
    adam = torch.optim.Adam(network.parameters(), config.lr, (config.beta1, config.beta2), config.eps)
    states: list[Any] = [model, adam.state_dict() if state is None else state["optimizer"]]
    if config.ema or config.model != "ncsn":
        count = checkpoint.read_identity(run).count
        states += [about.step * config.batch_size // count if count else 0, about.step]
    if shadow is not None:
        states.append({name: shadow[name] for name, _ in network.named_parameters()})
    buffer = io.BytesIO()  # torch's own writer does not say that the disk is full
    torch.save(states, buffer)
    text = to_yaml(config, about.sample_shape).encode()
    _check_free([out, beside] if not _holds(beside, text) else [out], overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getbuffer())
    write_atomically(beside, text)
    return out, beside


def export_safetensors(
    run: str | Path, out: str | Path, *, iteration: int | None = None, weights: str = "auto", overwrite: bool = False
) -> tuple[Path, Path]:
    """Write weights alone into the folder ``out``: model.safetensors, and MODEL_CARD.md with config, data and numbers.

    Args:
        run: the run folder.
        out: the folder; made where it is not there.
        iteration: which checkpoint or snapshot, by its iteration; None: the last checkpoint.
        weights: ``"ema"``, ``"ema-0.9999"``, ``"raw"`` or ``"auto"``, as for :func:`fastscore.experiment.trained_run.load_run`.
        overwrite: replace files that are there.

    Returns:
        The paths of both files.

    Raises:
        CheckpointError: as :func:`export_original`, but that points will do.
        ValueError: a moving average that the run does not keep.
        OSError: it cannot be written.
    """
    run, out = Path(run), Path(out)
    checkpoint.check_not_of_a_run("out (--out)", out)
    trained = load_run(run, device="cpu", weights=weights, iteration=iteration, precision="fp32")
    paths = out / WEIGHTS, out / CARD
    _check_free(list(paths), overwrite)
    save = require("safetensors.torch", "train").save
    about = {"format": "pt", "fastscore": __version__, "iteration": str(trained.iteration), "weights": trained.weights}
    data = save({name: value.contiguous() for name, value in trained.network.state_dict().items()}, metadata=about)
    card = model_card(run, trained)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(paths[0], _ordered(data))
    write_atomically(paths[1], card.encode())
    return paths


def model_card(run: Path, trained: TrainedRun) -> str:
    """What MODEL_CARD.md says of a run's network: how to use it, its config, its data and what was measured of it."""
    config, identity = trained.config, checkpoint.read_identity(run)
    kind = MODELS[config.model].__name__
    count = sum(p.numel() for p in trained.network.parameters())
    decay = config.averages.get(trained.weights)
    averaged = (
        f"the moving average of its weights, of rate {decay}" if decay else "its weights as the optimizer left them"
    )
    samples = "samples unknown" if identity.count is None else f"{identity.count:,} samples"
    classes = "" if identity.num_classes is None else f" in {identity.num_classes} classes"
    return f"""# {kind}, trained on {config.data}

A noise-conditional score network ({kind}, {count:,} parameters, float32) after {trained.iteration:,} iterations: {averaged}.
Written by fastscore {__version__}.

## Use

```python
import fastscore as fs
from safetensors.torch import load_file

{_code(config, trained.shape)}
```

## Data

`{config.data}`: {samples}{classes}, each of shape {tuple(trained.shape)}, values in {"[0, 1]" if len(trained.shape) == 3 else "the plane"}.
{"" if identity.fingerprint is None else f"SHA-256 of samples and labels: `{identity.fingerprint}`."}

## Numbers

{_numbers(run, trained)}

## Config

```json
{json.dumps(_config(config), indent=2)}
```
"""


def _code(config: TrainConfig, shape: tuple[int, ...]) -> str:
    """Lines that load the weights and, of a run on noise levels, draw samples."""
    continuous = PATHS[config.path].continuous
    levels = make_sigmas(config) if continuous else (config.sigma_begin, config.sigma_end)
    sigmas = f"fs.schedules.geometric_sigmas({float(levels[0])!r}, {float(levels[-1])!r}, {config.num_levels})"
    if len(shape) == 1:
        built = f'"mlp", dim={shape[0]}, hidden={config.width}, sigmas=sigmas'
        if continuous:
            how = {"preconditioned": config.parametrization == "score"} | config.objective_options
            built += "".join(f", {name}={how[name]!r}" for name in ("preconditioned", "data_std") if name in how)
    else:
        known = "num_levels=len(sigmas)" if config.model == "ncsn" else "sigmas=sigmas"
        built = f'"{config.model}", channels={shape[0]}, image_size={shape[1]}, ngf={config.width}, {known}'
    if config.num_classes:
        built += f", num_classes={config.num_classes}"
    loaded = f"""sigmas = {sigmas}
network = fs.models.build_model({built})
network.load_state_dict(load_file("{WEIGHTS}"))"""
    if continuous:
        return f"""{loaded}
network.eval()  # it predicts {config.parametrization} on path {config.path!r}
# sample it: fastscore sample RUN"""
    options = options_of(config, DEFAULT, {})
    taken = ", ".join(f"{name}={options[name]!r}" for name in ("step_size", "steps_per_level", "denoise", "start"))
    own = "" if config.sampler == DEFAULT else _OWN.format(config.sampler)
    return f"""{loaded}
{own}samples = fs.samplers.annealed_langevin(
    network.eval(), {(16, *shape)}, sigmas, {taken}, rng=fs.Philox(0)
)"""


def _numbers(run: Path, trained: TrainedRun) -> str:
    """What metrics.jsonl and metrics.json say of this checkpoint."""
    lines = [
        f"- mean loss of the last iterations before it: {record['loss']:.6g} (iteration {record['step']:,})"
        for record in history.read_metrics(run)[-1:]
        if record["step"] <= trained.iteration
    ]
    try:
        report = parse_json(read(run / METRICS))
        same = report["sha256"] == trained.sha256  # another run's, or another iteration's, may lie there
    except (OSError, ValueError, TypeError, KeyError):
        report, same = {}, False
    if same:
        left = ("run", "step", "weights", "sha256", "data", "versions")
        lines += [f"- {name.replace('_', ' ')}: {_short(value)}" for name, value in report.items() if name not in left]
    return "\n".join(lines) or "None were measured."


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_short(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _config(config: TrainConfig) -> dict[str, Any]:
    """The config without what is of the machine that trained it."""
    left = ("data_dir", "download", "device", "log_every", "checkpoint_every", "keep", "snapshot_every", "sample_every")
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in left}


def _read(folder: Path) -> tuple[checkpoint.About, dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any] | None]:
    """What a checkpoint holds; of a snapshot, which has no optimizer, None in its place."""
    about = checkpoint.read_about(folder)
    shadow = checkpoint.read_weights(folder, "ema") if about.checksum("ema") else None
    state = None if folder.parent.name == checkpoint.SNAPSHOTS else checkpoint.read_state(folder)
    return about, checkpoint.read_weights(folder, "raw"), shadow, state


def _ordered(data: bytes) -> bytes:
    """A file of safetensors whose header names what it says of itself in the order of the alphabet.

    safetensors draws that order anew in each process: the same weights gave another file.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read(path) == content
    except OSError:
        return False


def _check_free(paths: list[Path], overwrite: bool) -> None:
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there and not overwrite:
        raise CheckpointError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already: choose another place with --out, "
            "or replace what is there with --overwrite"
        )
