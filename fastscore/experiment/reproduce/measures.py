"""The numbers that are reported: the samples of the chosen snapshot and the last, seed after seed, drawn and measured."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from . import folder, samples
from .distances import Distances
from .folder import Means, there
from .plan import Plan
from .request import flag
from .selection import loaded


def measure(plan: Plan, selection: dict[str, Any], out: Path, distances: Distances, means: Means) -> None:
    """Draw and measure what is not measured yet, the first seed of both snapshots before the second of any."""
    ranks = means.ranks
    for seed in plan.seeds:
        for (step, weights), roles in _roles(selection).items():
            path = out / folder.MEASURES / f"{folder.stem(step, weights, seed)}.json"
            if there(ranks, path):
                continue
            began = time.perf_counter()
            trained = loaded(plan, out, step, weights, means)
            where = samples.place(out, step, weights, seed)
            samples.draw(trained, where, plan.request.samples, seed, means)
            with ranks.together():
                if not ranks.leads:
                    continue
                images = samples.read(where, trained.shape)[: plan.request.samples]
                measured = {
                    "step": step,
                    "weights": weights,
                    "roles": roles,
                    "seed": seed,
                    "samples": len(images),
                    "feature": plan.feature,
                    **distances.of(images, neighbours=True),
                    "sampler": plan.request.sampler,
                    "network_evaluations_per_sample": trained.entry.evaluations(
                        trained.config.num_levels, trained.options
                    ),
                    "seconds": round(time.perf_counter() - began, 3),
                    "command": _command(plan, out, step, weights, seed),
                }
                folder.write(path, measured)


def _roles(selection: dict[str, Any]) -> dict[tuple[int, str], list[str]]:
    """The snapshots that are measured, and which they are: "chosen", "last" or both."""
    found: dict[tuple[int, str], list[str]] = {}
    for role in ("chosen", "last"):
        found.setdefault((selection[role]["step"], selection[role]["weights"]), []).append(role)
    return found


def _command(plan: Plan, out: Path, step: int, weights: str, seed: int) -> str:
    """The command that draws and measures the same samples again."""
    request = plan.request
    words = ["fastscore", "evaluate", str(out / folder.RUN), "--checkpoint", str(step), "--weights", weights]
    words += ["--num", str(request.samples), "--seed", str(seed), "--feature", plan.feature]
    words += ["--sampler", request.sampler]
    for name, value in request.options().items():
        words += flag(name, value)
    return shlex.join([*words, "--out", str(out / "again" / folder.stem(step, weights, seed))])
