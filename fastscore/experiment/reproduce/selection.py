"""Which snapshot is best: each one's samples, few of them, measured; and selection.json, which names the best and the last."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from ...evaluation.pictures import save_grid
from .. import history
from ..agreement import load_on
from ..sample import batches
from ..trained_run import TrainedRun, with_sampling
from . import folder
from .distances import Distances, eight_bit
from .folder import Means, of_leader, there
from .plan import Plan

#: Of the samples that choose; those that are reported are of the seeds 0, 1, 2, ...
SEED = 1_000_000
_SHOWN = 100


def select(plan: Plan, out: Path, distances: Distances, means: Means) -> dict[str, Any]:
    """Measure the snapshots that are not measured yet, and choose; what selection.json says, on all ranks.

    Of each the same samples are drawn, those of one seed. The best is the one of the least Frechet distance, of equal ones
    the earliest.
    """
    ranks = means.ranks
    for step, weights in plan.snapshots:
        path = out / folder.SELECTED / f"{folder.stem(step, weights)}.json"
        if there(ranks, path):
            continue
        began = time.perf_counter()
        trained = loaded(plan, out, step, weights, means)
        parts = batches(
            trained,
            plan.request.selection_images,
            seed=SEED,
            batch_size=means.batch_size,
            progress=means.progress,
            ranks=ranks,
        )
        drawn = list(parts)  # none but on rank 0
        with ranks.together():
            if not ranks.leads:
                continue
            images = eight_bit(torch.cat(drawn))
            found = distances.of(images, neighbours=False)
            path.parent.mkdir(exist_ok=True)
            save_grid(images[:_SHOWN].float() / 255, path.with_suffix(".png"))
            row = {
                "step": step,
                "weights": weights,
                "images": len(images),
                "seed": SEED,
                **found,
                "images_seen": step * plan.config.batch_size,
                "training_seconds": _training_seconds(out / folder.RUN, step),
                "seconds": round(time.perf_counter() - began, 3),
            }
            folder.write(path, row)
    return of_leader(ranks, lambda: _chosen(plan, out))


def loaded(plan: Plan, out: Path, step: int, weights: str, means: Means) -> TrainedRun:
    """The network of a snapshot, to be sampled as planned."""
    trained = load_on(means.ranks, out / folder.RUN, device=means.device, weights=weights, iteration=step)
    return with_sampling(trained, sampler=plan.request.sampler, **plan.request.options())


def _chosen(plan: Plan, out: Path) -> dict[str, Any]:
    rows = [folder.read(out / folder.SELECTED / f"{folder.stem(*snapshot)}.json") for snapshot in plan.snapshots]
    measured = [row for row in rows if row is not None]
    best = min(measured, key=lambda row: (row["frechet_distance"], row["step"]))
    step, weights = plan.last
    found = {
        "by": "frechet_distance",
        "chosen": {"step": best["step"], "weights": best["weights"]},
        "last": {"step": step, "weights": weights},
        "rows": measured,
    }
    folder.write(out / folder.SELECTION, found)
    return found


def _training_seconds(run: Path, step: int) -> float | None:
    """Seconds of training up to ``step``, by the last line of metrics.jsonl that is not after it."""
    told = [line for line in history.read_metrics(run) if line["step"] <= step and "seconds" in line]
    seconds = told[-1]["seconds"] if told else None
    return seconds if isinstance(seconds, (int, float)) and math.isfinite(seconds) else None
