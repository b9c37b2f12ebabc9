"""A reproduction that takes seconds: a tiny network on 24 images, on a machine whose pace is always the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastscore.experiment.reproduce import samples, stages, timing
from fastscore.experiment.reproduce.request import Request
from fastscore.experiment.reproduce.stages import reproduce

RATES = {
    "parameters": 1000,
    "training": {"images_per_second": 20.0, "seconds_per_iteration": 0.1, "peak_bytes": 1_000_000},
    "evaluation": {"images_per_second": 100.0, "peak_bytes": 1_000_000},
    "features": {"images_per_second": 1000.0},
}


def write_archive(path: Path) -> Path:
    """24 images of noise in an .npz file."""
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    np.savez(path, images=images)
    return path


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Make rates constant and parts small, and write no reports."""
    patch.setattr(timing, "measure", lambda *_: json.loads(json.dumps(RATES)))
    patch.setattr(samples, "_PART", 10)
    patch.setattr(stages, "write_report", lambda out: [out / "report.md"])


def tiny(archive: Path, **changes) -> Request:
    return Request(
        **{
            "data": str(archive),
            "iterations": 4,
            "width": 4,
            "batch_size": 2,
            "num_levels": 2,
            "snapshot_every": 2,
            "selection_images": 20,
            "samples": 25,
            "seeds": 2,
            "sampler_options": {"steps_per_level": 1},
        }
        | changes
    )


def run(request: Request, out: Path, **how) -> list[str]:
    """What it said."""
    said: list[str] = []
    reproduce(request, out, **{"device": "cpu", "batch_size": 10, "progress": False, "say": said.append} | how)
    return said
