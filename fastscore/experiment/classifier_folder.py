"""RUN/classifier: the classifier of a run's noisy samples, written whole or not at all, and read without executing code.

It holds classifier.json (what it is of, how it was trained, how often it is right, and the name and SHA-256 of the weights'
file), the weights, and what classifier.json says in a table and a picture, accuracy.md and accuracy.png. Renaming classifier.json
makes the new classifier the run's: who is killed before leaves the one that was there. Table and picture are away meanwhile, so
they are never another classifier's; a kill then leaves none, and all that they show is in classifier.json. The empty file .lock is
locked while a process trains there. ``fastscore train`` may go on meanwhile: a classifier is of the run's data and noise, which do not
change, and not of its network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .._core import files
from .._core.errors import CheckpointError, require
from ..evaluation import level_plots
from ..models import NoiseClassifier
from . import checkpoint
from .build import make_sigmas
from .checkpoint.files import is_missing, read_signed_json, signed_json
from .config import TrainConfig, quoted

FOLDER, ABOUT, TABLE, PICTURE = checkpoint.CLASSIFIER, "classifier.json", "accuracy.md", "accuracy.png"
_FORMAT = 1


@contextmanager
def held(run: Path) -> Iterator[checkpoint.Lock]:
    """Inside, RUN/classifier is there, and this process alone writes into it.

    Raises:
        CheckpointError: another process trains a classifier there.
        CannotWrite: the folder cannot be made, or the file .lock not be opened.
    """
    folder = run / FOLDER
    with files.naming(folder):
        folder.mkdir(exist_ok=True)
    try:
        with files.naming(folder / checkpoint.LOCK):
            lock = checkpoint.Lock(folder / checkpoint.LOCK)
    except CheckpointError:
        raise CheckpointError(
            f"another process trains a classifier in {folder}: wait until it ends, or train one of a copy of the run"
        ) from None
    try:
        yield lock
    finally:
        lock.release()


def write(
    run: Path,
    config: TrainConfig,
    network: NoiseClassifier,
    identity: checkpoint.Identity,
    training: dict[str, Any],
    accuracy: dict[str, Any],
    lock: checkpoint.Lock,
) -> dict[str, Any]:
    """Write RUN/classifier, of which ``lock`` is :func:`held`; what classifier.json then holds.

    Raises:
        CheckpointError: the folder was removed, moved or replaced since it was locked.
        CannotWrite: a file cannot be written; the classifier that was there stays.
    """
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
    if not lock.still_there():
        raise CheckpointError(
            f"{folder} was removed, moved or replaced while a classifier was trained; nothing was written"
        )
    with files.naming(folder):
        files.clear_leftovers(folder)
    files.write_atomically(folder / about["weights"]["file"], weights)
    _settle(folder, about)
    with files.naming(folder):
        for other in folder.glob("weights-*.safetensors"):
            if other.name != about["weights"]["file"]:
                other.unlink(missing_ok=True)
    return about


def _settle(folder: Path, about: dict[str, Any]) -> None:
    """Put classifier.json, and the table and the picture of it, in place; its weights are there."""
    from .classifier import table

    new = {name: files.temporary(folder / name) for name in (ABOUT, TABLE, PICTURE)}
    accuracy = about["accuracy"]
    try:
        files.write_flushed(new[ABOUT], signed_json(about).encode())
        files.write_flushed(new[TABLE], table(about).encode())
        level_plots.save_accuracy(
            accuracy["sigma"],
            accuracy["accuracy"],
            new[PICTURE],
            chance=accuracy["chance"],
            best=accuracy.get("best"),
            title=f"{about['data']['name']}: the class of noisy samples",
        )
        with files.naming(folder):
            for name in (TABLE, PICTURE):
                (folder / name).unlink(missing_ok=True)
            files.flush_folder(folder)  # that they are gone, before it is said whose they were
            for name, path in new.items():
                files.replace(path, folder / name)
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def read(run: Path, config: TrainConfig) -> tuple[NoiseClassifier, str]:
    """The classifier in RUN/classifier, in eval mode on the CPU, and the SHA-256 of its weights.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of other data or noise than the run.
    """
    folder, again = run / FOLDER, f"train it again: fastscore train-classifier {quoted(run)} --overwrite"
    for last in (False, True):
        about = _read_about(run, config, again)
        try:
            weights, expected = folder / Path(about["weights"]["file"]).name, about["weights"]["sha256"]
            content = files.read(weights)
            with torch.random.fork_rng(devices=[]):  # its first weights are drawn
                network = NoiseClassifier(**about["network"])
            break
        except FileNotFoundError as error:  # or both are new by now, of a training that has ended meanwhile
            if last:
                raise CheckpointError(f"{error.filename} is missing; {again}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / ABOUT} does not describe a classifier: {error}; {again}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{weights} is damaged: its checksum is wrong; {again}")
    network.load_state_dict(require("safetensors.torch", "train").load(content))
    return network.eval().requires_grad_(False), expected


def _read_about(run: Path, config: TrainConfig, again: str) -> dict[str, Any]:
    """What classifier.json says, once it is known to be of this run's data and noise; ``again``: the cure."""
    path = run / FOLDER / ABOUT
    try:
        about = read_signed_json(files.read(path))
    except OSError as error:
        if not is_missing(error):
            raise
        raise CheckpointError(
            f"{run} has no classifier, by which samples of a class are drawn: fastscore train-classifier {quoted(run)}"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} does not describe a classifier: {error}; {again}") from error
    _check(about, path.parent, config, checkpoint.read_identity(run), again)
    return about


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
