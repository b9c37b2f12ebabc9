"""The pictures of a report: samples, training curves, and the snapshots compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..._core.errors import CannotWrite, FastscoreError, MissingDependency
from ...evaluation import plots, snapshot_plots
from ...evaluation.pictures import save_grid
from ..build import make_sigmas
from ..config import TrainConfig
from . import folder, samples
from .report_facts import Facts, Snapshot, named, part, real, snapshot_of
from .report_page import Picture
from .report_tables import measures_of, value_of

FOLDER = "report"
_SHOWN = 100
_COMPARED = ("frechet_distance", "kernel_distance")


def draw(facts: Facts) -> tuple[dict[str, Picture], list[str]]:
    """The pictures that can be drawn by now, by "chosen", "last", "snapshots" and "training"; and what stood in the way.

    Raises:
        CannotWrite: a file cannot be written.
    """
    found: dict[str, Picture] = {}
    faults: list[str] = []
    makers: dict[str, Callable[[], Picture | None]] = {
        "chosen": lambda: _samples(facts, "chosen", facts.chosen),
        "last": lambda: _samples(facts, "last", facts.last if facts.last != facts.chosen else None),
        "snapshots": lambda: _snapshots(facts),
        "training": lambda: _training(facts),
    }
    for name, make in makers.items():
        try:
            picture = make()
        except CannotWrite:
            raise
        except (FastscoreError, ValueError, TypeError, OSError) as error:
            fault = str(error) if isinstance(error, MissingDependency) else f"the picture {name}.png: {error}"
            faults += [fault] if fault not in faults else []
        else:
            found |= {name: picture} if picture else {}
    return found, faults


def _samples(facts: Facts, role: str, snapshot: Snapshot | None) -> Picture | None:
    """The first hundred samples of the first seed that has any; before there are any, those that it was chosen by."""
    if snapshot is None:
        return None
    roles = facts.roles(snapshot)
    for seed in sorted({measure["seed"] for measure in facts.measures if snapshot_of(measure) == snapshot} | {0}):
        first = samples.place(facts.out, *snapshot, seed) / "part_00000.npy"
        if first.exists():
            images = _read(first)
            path = save_grid(images, facts.out / FOLDER / f"{role}.png")
            return Picture(
                path,
                f"{FOLDER}/{role}.png",
                f"The first {len(images)} samples of seed {seed} of the {roles} snapshot ({named(snapshot)}), not picked."
                + (" Those that are not finite are black." if (first.parent / samples.NOT_FINITE).exists() else ""),
            )
    kept = facts.out / folder.SELECTED / f"{folder.stem(*snapshot)}.png"
    if not kept.exists():
        return None
    says = f"Samples of the {roles} snapshot ({named(snapshot)}), of those that snapshots were measured by, not picked."
    return Picture(kept, f"{folder.SELECTED}/{kept.name}", says)


def _read(path: Path) -> torch.Tensor:
    """The first images of a part, float32 [n, C, H, W] in [0, 1]."""
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{path.name} must hold uint8 [n, C, H, W], got {images.dtype} {list(images.shape)}")
    return torch.from_numpy(np.array(images[:_SHOWN])).float() / 255


def _training(facts: Facts) -> Picture | None:
    """The loss of all of training, and at each noise level where the config tells the levels."""
    if not facts.metrics:
        return None
    config = part(facts.plan, "config")
    sigmas = make_sigmas(TrainConfig.from_json(json.dumps(config), folder.PLAN)) if config else None
    path = plots.save_training_curves(facts.metrics, facts.out / FOLDER / "training.png", sigmas=sigmas)
    return Picture(path, f"{FOLDER}/training.png", "The loss while training, and at each noise level.", lettered=True)


def _snapshots(facts: Facts) -> Picture | None:
    """The distances of all snapshots, and of the samples in the end, against images seen and hours of training."""
    curves: dict[str, list[snapshot_plots.Point]] = {}
    for row in facts.rows:
        curves.setdefault(f"{row['weights']}, {_images(row.get('images'))}", []).append(_point(row, row))
    known = {snapshot_of(row): row for row in facts.rows}
    singles: dict[str, list[snapshot_plots.Point]] = {}
    for measure in facts.measures:
        snapshot = snapshot_of(measure)
        if snapshot in known:
            name = f"{facts.roles(snapshot) or snapshot[1]}, {_images(measure.get('samples'))}"
            singles.setdefault(name, []).append(_point(known[snapshot], measure))
    names = {name: words for name, words in measures_of(facts.feature).items() if name in _COMPARED}
    if not any(math.isfinite(mean) for points in curves.values() for p in points for mean, _ in p.numbers.values()):
        return None
    words = {name: text[:1].upper() + text[1:] for name, text in names.items()}
    path = facts.out / FOLDER / "snapshots.png"
    snapshot_plots.save_snapshots(curves, path, names=words, singles=singles, title="Snapshots (lower is better)")
    says = "Distances of the snapshots to the training images, against the images seen and the time spent in training."
    return Picture(path, f"{FOLDER}/snapshots.png", says, lettered=True)


def _point(row: Mapping[str, Any], measured: Mapping[str, Any]) -> snapshot_plots.Point:
    numbers = {name: (value_of(measured, name), real(part(measured, name, "std"))) for name in _COMPARED}
    return snapshot_plots.Point(real(row.get("images_seen")), real(row.get("training_seconds")) / 3600, numbers)


def _images(number: Any) -> str:
    return f"{number:,} images" if isinstance(number, int) else "some images"
