"""The numbers that are reported: the samples of the chosen snapshot and the last, seed after seed, drawn and measured."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..ranks import Ranks
from . import folder, samples
from .clock import SAMPLES, Clock, hours_for
from .data import SHAPE
from .distances import Distances
from .folder import Means, of_leader, there
from .hours import ROLES
from .plan import Plan
from .request import flag
from .selection import loaded

_NUMBERS = ("frechet_distance", "kernel_distance", "inception_score", "precision", "recall")


def measure(
    plan: Plan, selection: dict[str, Any], out: Path, distances: Distances, means: Means, clock: Clock, planned: float
) -> Iterator[str]:
    """Draw and measure what is not measured yet, the first seed of both snapshots before the second of any.

    Samples of a snapshot and a seed of which some are not finite have no numbers, but how many they are. After the first seed one
    is begun only where the ``clock`` has time for it; of those that are left out it keeps the number.

    Args:
        planned: seconds that the samples of one seed were planned to take.

    Yields:
        What to say of each set of samples, once it is measured.
    """
    ranks, roles = means.ranks, _roles(selection)
    for place, seed in enumerate(plan.seeds):
        missing = [one for one in roles if not there(ranks, _path(out, one, seed), _about(plan, one, seed))]
        if place and missing:
            each = of_leader(ranks, lambda: _pace(plan, list(roles), out, clock, planned))
            needs = each * _undrawn(plan, missing, seed, out, ranks)
            if not clock.has_time(needs):
                rest = plan.seeds[place:]
                _leave_out(plan, out, clock, rest, needs + each * len(roles) * (len(rest) - 1))
                return
            if clock.left_out:  # by a call with fewer hours
                clock.leave_out()
        for snapshot in missing:
            clock.at(SAMPLES)
            found = _measured(plan, out, snapshot, roles[snapshot], seed, distances, means)
            yield f"measured: iteration {snapshot[0]:,} ({snapshot[1]}), seed {seed}" + found
    clock.leave_out()


def withheld(selection: dict[str, Any], plan: Plan, out: Path) -> list[str]:
    """Of which samples there are no numbers, since some are not finite, in words."""
    roles = _roles(selection)
    step, weights = plan.last
    found = [] if (step, weights) in roles else [f"iteration {step:,} ({weights}), of few samples to choose by: some"]
    for snapshot in roles:
        for seed in plan.seeds:
            record = folder.read(_path(out, snapshot, seed)) or {}
            if record.get("frechet_distance", 0) is None:
                count = f"{record.get('not_finite', 'some')} of {plan.request.samples:,}"
                found.append(f"iteration {snapshot[0]:,} ({snapshot[1]}), seed {seed}: {count}")
    return found


def _measured(
    plan: Plan,
    out: Path,
    snapshot: tuple[int, str],
    roles: list[str],
    seed: int,
    distances: Distances,
    means: Means,
) -> str:
    """Draw and measure one set of samples; what there is to say of it beside its name."""
    ranks, name, began = means.ranks, folder.stem(*snapshot, seed), time.perf_counter()
    trained = loaded(plan, out, *snapshot, means)
    kept = samples.kept(out, *snapshot, seed, trained.shape)
    samples.draw(trained, kept, plan.request.samples, seed, means)
    bad = of_leader(ranks, lambda: sum(k < plan.request.samples for k in samples.not_finite(kept)))
    with ranks.together():
        images = kept.read()[: plan.request.samples] if ranks.leads else None
    found = dict.fromkeys(_NUMBERS) if bad else distances.of(images, name, neighbours=True)
    with ranks.together():
        if images is not None:
            measured = {
                **_about(plan, snapshot, seed),
                "roles": roles,
                "not_finite": bad,
                **found,
                "sampler": plan.request.sampler,
                "network_evaluations_per_sample": plan.request.evaluations(plan.config),
                "seconds": round(time.perf_counter() - began, 3),
                "command": _command(plan, out, *snapshot, seed),
            }
            folder.write(_path(out, snapshot, seed), measured)
            distances.forget(name)
    return f": {bad:,} of {plan.request.samples:,} samples are not finite, and so it has no numbers" if bad else ""


def _about(plan: Plan, snapshot: tuple[int, str], seed: int) -> dict[str, Any]:
    """What a set of samples is of."""
    step, weights = snapshot
    return {
        "step": step,
        "weights": weights,
        "seed": seed,
        "samples": plan.request.samples,
        "feature": plan.feature,
    }


def _leave_out(plan: Plan, out: Path, clock: Clock, seeds: tuple[int, ...], needs: float) -> None:
    """Keep that there is no time for ``seeds``, which take so many seconds."""
    hours = hours_for(clock.seconds() + needs)
    command = dataclasses.replace(plan.request, hours=max(hours, plan.request.hours or hours)).command(out)
    clock.leave_out(seeds, needs, command)


def _pace(plan: Plan, snapshots: list[tuple[int, str]], out: Path, clock: Clock, planned: float) -> float:
    """Seconds that a set of samples takes: as those so far did, or where nothing is known of them as planned."""
    sets = [(one, seed) for seed in plan.seeds for one in snapshots]
    done = sum(1.0 if _path(out, one, seed).exists() else _share(plan, out, one, seed) for one, seed in sets)
    spent = clock.seconds(SAMPLES)
    return spent / done if done and spent else planned / ROLES


def _undrawn(plan: Plan, snapshots: list[tuple[int, str]], seed: int, out: Path, ranks: Ranks) -> float:
    """How many sets of samples are not drawn, a part of one counted as such."""
    return float(of_leader(ranks, lambda: sum(1 - _share(plan, out, one, seed) for one in snapshots)))


def _share(plan: Plan, out: Path, snapshot: tuple[int, str], seed: int) -> float:
    """Which part of a set of samples is drawn."""
    return min(1.0, samples.kept(out, *snapshot, seed, SHAPE).count() / plan.request.samples)


def _path(out: Path, snapshot: tuple[int, str], seed: int) -> Path:
    return out / folder.MEASURES / f"{folder.stem(*snapshot, seed)}.json"


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
