"""The numbers that are reported: the samples of the chosen snapshot and the last, seed after seed, drawn and measured."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._core.errors import NonFiniteSamples
from . import folder, samples
from .distances import Distances
from .folder import Means, there
from .plan import Plan
from .request import flag
from .selection import loaded


def measure(
    plan: Plan, selection: dict[str, Any], out: Path, distances: Distances, means: Means
) -> Iterator[tuple[int, str, int]]:
    """Draw and measure what is not measured yet, the first seed of both snapshots before the second of any.

    Yields:
        The iteration, the weights and the seed of each that was measured, once it is.
    """
    ranks = means.ranks
    for seed in plan.seeds:
        for (step, weights), roles in _roles(selection).items():
            name = folder.stem(step, weights, seed)
            path = out / folder.MEASURES / f"{name}.json"
            if there(ranks, path):
                continue
            began = time.perf_counter()
            trained = loaded(plan, out, step, weights, means)
            kept = samples.kept(out, step, weights, seed, trained.shape)
            try:
                samples.draw(trained, kept, plan.request.samples, seed, means)
            except NonFiniteSamples as error:
                raise NonFiniteSamples(
                    f"iteration {step} ({weights}), seed {seed}: {error}; the plan has these samples alone: reproduce in another "
                    "folder (--out)"
                ) from error
            with ranks.together():
                images = kept.read()[: plan.request.samples] if ranks.leads else None
            found = distances.of(images, name, neighbours=True)
            with ranks.together():
                if images is not None:
                    measured = {
                        "step": step,
                        "weights": weights,
                        "roles": roles,
                        "seed": seed,
                        "samples": len(images),
                        "feature": plan.feature,
                        **found,
                        "sampler": plan.request.sampler,
                        "network_evaluations_per_sample": plan.request.evaluations(plan.config),
                        "seconds": round(time.perf_counter() - began, 3),
                        "command": _command(plan, out, step, weights, seed),
                    }
                    folder.write(path, measured)
                    distances.forget(name)
            yield step, weights, seed


def _roles(selection: dict[str, Any]) -> dict[tuple[int, str], list[str]]:
    """The snapshots that are measured, and which they are: "chosen", "last" or both; none whose samples are not finite."""
    finite = {(row["step"], row["weights"]) for row in selection["rows"] if row["frechet_distance"] is not None}
    found: dict[tuple[int, str], list[str]] = {}
    for role in ("chosen", "last"):
        snapshot = selection[role]["step"], selection[role]["weights"]
        if snapshot in finite:
            found.setdefault(snapshot, []).append(role)
    return found


def _command(plan: Plan, out: Path, step: int, weights: str, seed: int) -> str:
    """The command that draws and measures the same samples again."""
    request = plan.request
    words = ["fastscore", "evaluate", str(out / folder.RUN), "--checkpoint", str(step), "--weights", weights]
    words += ["--num", str(request.samples), "--seed", str(seed), "--feature", plan.feature]
    if plan.feature == "inception":
        words += [] if request.inception is None else ["--inception", str(request.inception)]
        words += [] if request.inception_checksum else ["--no-inception-checksum"]
    words += ["--sampler", request.sampler]
    for name, value in request.options().items():
        words += flag(name, value)
    return shlex.join([*words, "--out", str(out / "again" / folder.stem(step, weights, seed))])
