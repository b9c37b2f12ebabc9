"""RUN/classifier: the classifier of a run's noisy samples, written whole or not at all, and read without executing code.

It holds classifier.json (what it is of, how it was trained, how often it is right, and the name and SHA-256 of the weights'
file), the weights, accuracy.md and accuracy.png. classifier.json is written last: who is killed before leaves what was there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from .._core.errors import CheckpointError, require
from .._core.files import clear_leftovers, naming, write_atomically
from ..evaluation import level_plots
from ..models import NoiseClassifier
from . import checkpoint
from .build import make_sigmas
from .checkpoint.files import is_missing, read_signed_json, signed_json
from .config import TrainConfig, quoted

FOLDER, ABOUT, TABLE, PICTURE = "classifier", "classifier.json", "accuracy.md", "accuracy.png"
_FORMAT = 1


def write(
    run: Path,
    config: TrainConfig,
    network: NoiseClassifier,
    identity: checkpoint.Identity,
    training: dict[str, Any],
    accuracy: dict[str, Any],
) -> dict[str, Any]:
    """Write RUN/classifier; what classifier.json then holds.

    Raises:
        CannotWrite: a file cannot be written; the classifier that was there stays.
    """
    from .classifier import table

    save = require("safetensors.torch", "train").save
    weights = save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    checksum = hashlib.sha256(weights).hexdigest()
    about = {
        "format": _FORMAT,
        "run": identity.run,
        "data": {"name": identity.data, "fingerprint": identity.fingerprint},
        **_noise(config),
        "network": {name: getattr(network, name) for name in ("num_classes", "width", "data_mean", "data_std")}
        | {"shape": list(network.shape)},
        "training": training,
        "accuracy": accuracy,
        "weights": {"file": f"weights-{checksum[:16]}.safetensors", "sha256": checksum},
    }
    folder = run / FOLDER
    with naming(folder):
        folder.mkdir(exist_ok=True)
        clear_leftovers(folder)
    write_atomically(folder / about["weights"]["file"], weights)
    write_atomically(folder / TABLE, table(about).encode())
    level_plots.save_accuracy(
        accuracy["sigma"],
        accuracy["accuracy"],
        folder / PICTURE,
        chance=accuracy["chance"],
        best=accuracy.get("best"),
        title=f"{identity.data}: the class of noisy samples",
    )
    write_atomically(folder / ABOUT, signed_json(about).encode())
    with naming(folder):
        for other in folder.glob("weights-*.safetensors"):
            if other.name != about["weights"]["file"]:
                other.unlink(missing_ok=True)
    return about


def read(run: Path, config: TrainConfig) -> tuple[NoiseClassifier, str]:
    """The classifier in RUN/classifier, in eval mode on the CPU, and the SHA-256 of its weights.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of other data or noise than the run.
    """
    folder, again = run / FOLDER, f"train it again: fastscore train-classifier {quoted(run)} --overwrite"
    try:
        about = read_signed_json((folder / ABOUT).read_bytes())
    except OSError as error:
        if not is_missing(error):
            raise
        raise CheckpointError(
            f"{run} has no classifier, by which samples of a class are drawn: fastscore train-classifier {quoted(run)}"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{folder / ABOUT} does not describe a classifier: {error}; {again}") from error
    _check(about, folder, config, checkpoint.read_identity(run), again)
    try:
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn
            network = NoiseClassifier(**about["network"])
        weights, expected = folder / Path(about["weights"]["file"]).name, about["weights"]["sha256"]
        content = weights.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename} is missing; {again}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / ABOUT} does not describe a classifier: {error}; {again}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{weights} is damaged: its checksum is wrong; {again}")
    network.load_state_dict(require("safetensors.torch", "train").load(content))
    return network.eval().requires_grad_(False), expected


def _noise(config: TrainConfig) -> dict[str, Any]:
    """The noise that a run's classifier knows: its path, and the largest and smallest sigma / alpha."""
    ends = make_sigmas(config)[[0, -1]].tolist()
    return {"path": config.path, "path_options": config.path_options, "noise": ends}


def _check(about: dict[str, Any], folder: Path, config: TrainConfig, identity: checkpoint.Identity, again: str) -> None:
    """Raise CheckpointError where what classifier.json says is not of this run's data and noise."""
    if about.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder / ABOUT} is of another version of fastscore (format {about.get('format')!s:.20}; this version's is "
            f"{_FORMAT}); {again}"
        )
    data = about.get("data")
    known = data if isinstance(data, dict) else {}
    if identity.fingerprint is None and about.get("run") != identity.run:  # of a run that was imported
        raise CheckpointError(f"{folder} is of another run, and what this one was trained on is not known; {again}")
    if identity.fingerprint is not None and known.get("fingerprint") != identity.fingerprint:
        raise CheckpointError(
            f"{folder} is of other data ({known.get('name')!s:.40}) than the run ({identity.data}); {again}"
        )
    for name, value in _noise(config).items():
        if about.get(name) != value:
            raise CheckpointError(
                f"{folder} is of other noise than the run: {name} is {about.get(name)!s:.80} and the run's is {value}; {again}"
            )
