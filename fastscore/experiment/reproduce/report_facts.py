"""What lies in the folder of a reproduction, as its report needs it: whatever of it is there, and how far it is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._core.errors import CheckpointError, FastscoreError
from .. import checkpoint, history
from . import folder

STAGES = ("data", "timing", "plan", "training", "selection", "samples and measures")
Snapshot = tuple[int, str]  # of which iteration, and which of its weights

_WEIGHTS = re.compile(r"[\w.-]{1,60}")


@dataclass(frozen=True)
class Facts:
    """What is known so far.

    Attributes:
        out: the folder.
        plan, data, timing, clock: what these JSON files hold; empty where they are not there yet.
        rows: of the snapshots that were measured, by iteration and weights.
        chosen, last: the snapshots that selection.json names; None before it is there.
        by: what they were chosen by, a key of the rows.
        measures: of the samples of each seed, those of the chosen snapshot first.
        metrics: the lines of the run's metrics.jsonl.
        precision: what the network is computed in, as the run keeps it; None before there is a run.
        step: the iteration that training has come to.
        unreadable: files that are there and cannot be used, with the reason.
    """

    out: Path
    plan: Mapping[str, Any]
    data: Mapping[str, Any]
    timing: Mapping[str, Any]
    clock: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    chosen: Snapshot | None
    last: Snapshot | None
    by: str
    measures: tuple[Mapping[str, Any], ...]
    metrics: tuple[Mapping[str, Any], ...]
    precision: str | None
    step: int
    unreadable: tuple[str, ...]

    @property
    def feature(self) -> str:
        """What distances are of: "inception" or "pixels"."""
        measured = [measure["feature"] for measure in self.measures if "feature" in measure]
        return str(self.plan.get("feature") or next(iter(measured), "inception"))

    @property
    def sampler_options(self) -> Mapping[str, Any]:
        """Values of the sampler's options, by name."""
        options = self.plan.get("sampler_options")
        return options if isinstance(options, Mapping) else {}

    @property
    def iterations(self) -> int | None:
        """How many there are to be; None before there is a plan."""
        return whole(self.plan.get("iterations"))

    @property
    def left_out(self) -> list[int]:
        """The seeds for which ``--hours`` had no time."""
        return [seed for seed in listed(part(self.clock, "left_out", "seeds")) if whole(seed) is not None]

    @property
    def spent(self) -> float:
        """Seconds, over all calls; NaN where that is not known."""
        kept = part(self.clock, "seconds")
        return sum(map(real, kept.values())) if isinstance(kept, Mapping) and kept else math.nan

    @property
    def broken(self) -> set[Snapshot]:
        """The snapshots of which some of the samples to choose by are not finite."""
        return {snapshot_of(row) for row in self.rows if row.get("frechet_distance", 0) is None}

    def roles(self, snapshot: Snapshot) -> str:
        """Which of chosen and last a snapshot is: one, both or neither ("")."""
        found = [name for name, one in (("chosen", self.chosen), ("last", self.last)) if one == snapshot]
        return " and ".join(found)

    def measured(self) -> list[Snapshot]:
        """The snapshots that samples are measured of, or are to be: chosen, last, any others."""
        wanted = [one for one in (self.chosen, self.last) if one is not None]
        return list(dict.fromkeys([*wanted, *map(snapshot_of, self.measures)]))

    def stages(self) -> list[tuple[str, bool, str]]:
        """Of each of :data:`STAGES` its name, whether it is done, and how far it is in words.

        A stage is done where a later one is: what it needed may have been removed since. A snapshot whose samples are not finite
        is measured no further, and a seed that is left out for want of time is none of those that are to be.
        """
        weights = listed(self.plan.get("weights"))
        seeds = [seed for seed in listed(self.plan.get("seeds")) if whole(seed) is not None]
        trained = self.iterations is not None and self.step >= self.iterations
        seeds = [seed for seed in seeds if seed not in self.left_out]
        snapshots = [one for one in (self.chosen, self.last) if one and one not in self.broken]
        wanted = {(one, seed) for one in snapshots for seed in seeds}
        there = {(snapshot_of(measure), measure["seed"]) for measure in self.measures}
        done = {
            "plan": bool(self.plan),
            "data": bool(self.data),
            "timing": bool(self.timing),
            "training": trained,
            "selection": self.chosen is not None,
            "samples and measures": bool(wanted) and wanted <= there,
        }
        words = {
            "training": f"{_of(self.step, self.iterations)} iterations",
            "selection": f"{_of(len(self.rows), self._wanted_rows(len(weights)))} snapshots measured",
            "samples and measures": f"{_of(len(wanted & there), len(wanted) or None)} sets of samples measured{self._withheld()}",
        }
        found = []
        for i, name in enumerate(STAGES):
            over = any(done[later] for later in STAGES[i:])
            found.append((name, over, words.get(name, "done" if over else "not yet")))
        return found

    def _withheld(self) -> str:
        bad = sum(bool(whole(measure.get("not_finite"))) for measure in self.measures)
        left = f"; no time for {seeds_named(self.left_out)}" if self.left_out else ""
        return (f", {bad} without numbers" if bad else "") + left

    def _wanted_rows(self, weights: int) -> int | None:
        """How many rows there are to be: of each interval's end, and of the last iteration."""
        every = whole(part(self.plan, "config", "snapshot_every")) or whole(
            part(self.plan, "request", "snapshot_every")
        )
        return -(-self.iterations // every) * weights if self.iterations and every and every > 0 else None


def read(out: Path) -> Facts:
    """What there is in ``out``. A file that cannot be used is named in ``unreadable``, and raises nothing."""
    unreadable: list[str] = []

    def record(path: Path) -> Mapping[str, Any]:
        try:
            return folder.read(path) or {}
        except (OSError, CheckpointError) as error:
            unreadable.append(str(error))
            return {}

    def records(where: str, needs: str, feature: Any = None) -> list[Mapping[str, Any]]:
        found = []
        for path in sorted((out / where).glob("step_*.json")):
            if not (values := record(path)):
                continue
            if not _is_of_a_snapshot(values) or whole(values.get(needs)) is None:
                fault = f"it does not say of which iteration, weights and {needs} it is"
            elif feature not in (None, values.get("feature")):
                fault = f"it is of {values.get('feature')}, where the plan is of {feature}"
            else:
                found.append(values)
                continue
            unreadable.append(f"{path} is left out: {fault}")
        return found

    selection = record(out / folder.SELECTION)
    rows = records(folder.SELECTED, "images")
    chosen, last = (_named(selection.get(name)) for name in ("chosen", "last"))
    order = {one: place for place, one in reversed(list(enumerate((chosen, last))))}
    plan = record(out / folder.PLAN)
    measures = records(folder.MEASURES, "seed", plan.get("feature"))
    measures.sort(key=lambda one: (order.get(snapshot_of(one), 2), snapshot_of(one), one["seed"]))
    metrics, step = [], 0
    try:
        run = out / folder.RUN
        metrics = history.read_metrics(run)
        saved = [checkpoint.step_of(one) for one in checkpoint.steps(run)]
        step = max([line["step"] for line in metrics[-1:]] + saved, default=0)
    except (OSError, FastscoreError) as error:
        unreadable.append(f"run: {error}")
    return Facts(
        out,
        plan,
        record(out / folder.DATA),
        record(out / folder.TIMING),
        record(out / folder.CLOCK),
        tuple(sorted(rows, key=snapshot_of)),
        chosen,
        last,
        str(selection.get("by") or "frechet_distance"),
        tuple(measures),
        tuple(metrics),
        record(out / folder.RUN / checkpoint.CONFIG).get("precision"),
        step,
        tuple(unreadable),
    )


def snapshot_of(record: Mapping[str, Any]) -> Snapshot:
    """Of which snapshot a row or a measure is."""
    return record["step"], record["weights"]


def named(snapshot: Snapshot) -> str:
    """In words: "iteration 290,000, ema"."""
    return f"iteration {snapshot[0]:,}, {snapshot[1]}"


def seeds_named(seeds: list[int]) -> str:
    """In words: "seed 2", "seeds 1, 2"."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def whole(value: Any) -> int | None:
    """``value`` where it is an integer, else None."""
    return value if type(value) is int else None


def real(value: Any) -> float:
    """``value`` where it is a finite number, else NaN."""
    if type(value) not in (int, float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def part(record: Any, *names: str) -> Any:
    """``record[name][...]`` where all of it is there, else None."""
    for name in names:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record


def listed(value: Any) -> list[Any]:
    """``value`` where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def _named(value: Any) -> Snapshot | None:
    return snapshot_of(value) if isinstance(value, dict) and _is_of_a_snapshot(value) else None


def _is_of_a_snapshot(record: Mapping[str, Any]) -> bool:
    weights = record.get("weights")
    return whole(record.get("step")) is not None and isinstance(weights, str) and bool(_WEIGHTS.fullmatch(weights))


def _of(count: int, total: int | None) -> str:
    return f"{count:,} of {total:,}" if total is not None else f"{count:,}"
