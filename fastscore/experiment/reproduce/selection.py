"""Which snapshot is best: each one's samples, few of them, measured; and selection.json, which names the best and the last."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._core.errors import CheckpointError, NonFiniteSamples
from ...evaluation.pictures import save_grid
from .. import checkpoint
from ..agreement import load_on
from ..sample import batches
from ..trained_run import TrainedRun, with_sampling
from . import folder
from .clock import SELECTION, Clock
from .distances import Distances
from .folder import Means, of_leader, there
from .plan import Plan
from .samples import eight_bit

#: Of the samples that choose; those that are reported are of the seeds 0, 1, 2, ...
SEED = 1_000_000
_SHOWN = 100
_MEASURED = ("frechet_distance", "kernel_distance", "inception_score")


def select(plan: Plan, out: Path, distances: Distances, means: Means, clock: Clock) -> dict[str, Any]:
    """Measure the snapshots that are not measured yet, and choose; what selection.json says, on all ranks.

    Of each the same samples are drawn, those of one seed. The best is the one of the least Frechet distance, of equal ones
    the earliest. One whose samples are not finite has none, and is not the best.

    Raises:
        NonFiniteSamples: no snapshot has finite samples.
    """
    ranks = means.ranks
    for step, weights in plan.snapshots:
        path, about = out / folder.SELECTED / f"{folder.stem(step, weights)}.json", _about(plan, step, weights)
        if there(ranks, path, about):
            continue
        clock.at(SELECTION)
        began = time.perf_counter()
        images = _drawn(plan, out, step, weights, means)
        found = dict.fromkeys(_MEASURED) if images is None else distances.of(images)
        with ranks.together():
            if not ranks.leads:
                continue
            if images is not None:
                path.parent.mkdir(exist_ok=True)
                save_grid(images[:_SHOWN].float() / 255, path.with_suffix(".png"))
            row = {
                **about,
                **found,
                "images_seen": step * plan.config.batch_size,
                "training_seconds": checkpoint.read_about(checkpoint.of_iteration(out / folder.RUN, step)).seconds,
                "seconds": round(time.perf_counter() - began, 3),
            }
            folder.write(path, row)
    return of_leader(ranks, lambda: _chosen(plan, out))


def check_run(out: Path) -> None:
    """Raise CheckpointError where the run is gone whose snapshots are compared: trained again it need not be the same to the last bit."""
    if not (out / folder.RUN).exists() and any((out / folder.SELECTED).glob("step_*.json")):
        raise CheckpointError(
            f"{out / folder.RUN} is gone, whose snapshots {out / folder.SELECTED} compares: put it back, or reproduce in another folder "
            "(--out), which trains again"
        )


def _drawn(plan: Plan, out: Path, step: int, weights: str, means: Means) -> Tensor | None:
    """The samples of a snapshot, uint8 [N, C, H, W] on rank 0; on all ranks None where some are not finite."""
    trained, num = loaded(plan, out, step, weights, means), plan.request.selection_images
    drawn = batches(
        trained,
        num,
        seed=SEED,
        batch_size=min(means.batch_size, -(-num // means.ranks.count)),  # so that each rank has something to do
        progress=means.progress,
        ranks=means.ranks,
        broken="batch",
    )
    parts = list(drawn)  # none but on rank 0
    if not of_leader(means.ranks, lambda: all(bool(part.isfinite().all()) for part in parts)):
        return None
    return eight_bit(torch.cat(parts)) if parts else torch.empty(0, *trained.shape, dtype=torch.uint8)


def loaded(plan: Plan, out: Path, step: int, weights: str, means: Means) -> TrainedRun:
    """The network of a snapshot, to be sampled as planned."""
    trained = load_on(means.ranks, out / folder.RUN, device=means.device, weights=weights, iteration=step)
    return with_sampling(trained, sampler=plan.request.sampler, **plan.request.options())


def _about(plan: Plan, step: int, weights: str) -> dict[str, Any]:
    """What a row is of."""
    return {"step": step, "weights": weights, "images": plan.request.selection_images, "seed": SEED}


def another_sampler(plan: Plan, out: Path) -> str:
    """What to do where samples are not finite."""
    smaller = "a smaller --step-size or " if "step_size" in plan.request.options() else ""
    hours = "" if plan.request.hours is None else f" and --iterations {plan.config.iterations} in place of --hours"
    return (
        f"for {smaller}another --sampler copy {out / folder.RUN} to NEW/{folder.RUN} and reproduce with --out NEW{hours}, which does "
        "not train again"
    )


def _chosen(plan: Plan, out: Path) -> dict[str, Any]:
    rows = [
        folder.record(out / folder.SELECTED / f"{folder.stem(*one)}.json", _about(plan, *one)) for one in plan.snapshots
    ]
    measured = [row for row in rows if row is not None]
    finite = [row for row in measured if row["frechet_distance"] is not None]
    if not finite:
        raise NonFiniteSamples(f"no snapshot in {out / folder.RUN} has finite samples; {another_sampler(plan, out)}")
    best = min(finite, key=lambda row: (row["frechet_distance"], row["step"]))
    step, weights = plan.last
    found = {
        "by": "frechet_distance",
        "chosen": {"step": best["step"], "weights": best["weights"]},
        "last": {"step": step, "weights": weights},
        "rows": measured,
    }
    folder.write(out / folder.SELECTION, found)
    return found
