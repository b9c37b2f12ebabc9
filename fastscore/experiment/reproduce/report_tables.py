"""The tables of a report: results beside the published ones, each seed, each snapshot, times, data and machine."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..progress import duration
from ..status import size
from .report_facts import Facts, Snapshot, listed, named, part, real, snapshot_of, whole
from .report_page import Table, Words
from .report_recipe import PUBLISHED, images, why_not_comparable

NONE = "-"
_STATISTICS = {
    "mean": statistics.fmean,
    "standard deviation": lambda values: statistics.stdev(values) if len(values) > 1 else math.nan,
    "minimum": min,
}
_DISTANCES = ("frechet_distance", "kernel_distance")
_OF_SNAPSHOTS = (*_DISTANCES, "inception_score")


def number(value: Any) -> str:
    """Four digits or more, or "-" of what is missing or not finite.

    >>> number(10.9), number(0.0031), number(1234.56), number(None)
    ('10.90', '0.003100', '1,234.6', '-')
    """
    value = real(value)
    if math.isnan(value):
        return NONE
    return f"{value:,.1f}" if abs(value) >= 999.95 else f"{value:#.4g}"


def count(value: Any) -> str:
    """An integer with commas, or "-"."""
    return f"{value:,}" if whole(value) is not None else NONE


def time(seconds: Any) -> str:
    """In words, or "-"."""
    return NONE if math.isnan(real(seconds)) else duration(real(seconds))


def _with_spread(value: Any) -> str:
    """A number, or a mean and its standard deviation: "0.003100 ± 0.0002"."""
    if not isinstance(value, Mapping):
        return number(value)
    mean, std = number(value.get("mean")), real(value.get("std"))
    return mean if mean == NONE or math.isnan(std) else f"{mean} ± {std:.2g}"


def measures_of(feature: str) -> dict[str, str]:
    """The measures by their key in JSON, and what they are called where distances are of ``feature``."""
    inception = feature == "inception"
    found = {
        "frechet_distance": "FID" if inception else "Frechet distance of pixels",
        "kernel_distance": "KID" if inception else "kernel distance of pixels",
        **({"inception_score": "Inception score"} if inception else {}),
    }
    return found | {"precision": "precision", "recall": "recall"}


def value_of(record: Mapping[str, Any], measure: str) -> float:
    """The number of a measure, its mean where it has one; NaN where there is none."""
    value = record.get(measure)
    return real(value.get("mean") if isinstance(value, Mapping) else value)


def in_short(facts: Facts) -> list[str]:
    """The distance of the chosen snapshot and of the last in a sentence each: what there is to quote."""
    (key, words), found = next(iter(measures_of(facts.feature).items())), []
    for snapshot in facts.measured():
        values = [value_of(m, key) for m in facts.measures if snapshot_of(m) == snapshot]
        if not values or any(map(math.isnan, values)):
            continue
        spread = f" ± {statistics.stdev(values):.2g} (standard deviation)" if len(values) > 1 else ""
        seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
        found.append(
            f"{facts.roles(snapshot).capitalize() or 'Other'} snapshot: {words} {number(statistics.fmean(values))}{spread} over {seeds}."
        )
    return found


def results(facts: Facts) -> Table:
    """Mean, standard deviation and minimum over the seeds, of the chosen snapshot and the last, beside the published."""
    columns = {snapshot: [m for m in facts.measures if snapshot_of(m) == snapshot] for snapshot in facts.measured()}
    beside = [] if why_not_comparable(facts) else list(PUBLISHED.values())
    head: list[Words] = ["", *(_title(facts, snapshot, len(found)) for snapshot, found in columns.items())]
    head += [(f"{entry.title}, published: ", entry.paper) for entry in beside]
    rows = []
    for measure, words in measures_of(facts.feature).items():
        for name, function in _STATISTICS.items():
            if name == "minimum" and measure not in _DISTANCES:
                continue  # of these more is better
            cells = [_statistic(function, [value_of(m, measure) for m in found]) for found in columns.values()]
            told = [number(entry.numbers.get(measure)) if name == "mean" else NONE for entry in beside]
            rows.append((f"{words}, {name}", *cells, *told))
    return Table(tuple(head), tuple(rows))


def _title(facts: Facts, snapshot: Snapshot, seeds: int) -> str:
    role = facts.roles(snapshot)
    return f"{role + ': ' if role else ''}{named(snapshot)}, {seeds} seed{'s' * (seeds != 1)}"


def _statistic(function: Any, values: Sequence[float]) -> str:
    return NONE if not values or any(map(math.isnan, values)) else number(function(values))


def each_seed(facts: Facts) -> Table:
    """The numbers of each set of samples."""
    names = measures_of(facts.feature)
    head = ("snapshot", "of", "sampler", "seed", "samples", *names.values(), "evaluations a sample", "time")
    rows = tuple(
        (
            facts.roles(snapshot_of(m)) or NONE,
            named(snapshot_of(m)),
            str(m.get("sampler") or NONE),
            str(m["seed"]),
            count(m.get("samples")) + (f", {bad:,} not finite" if (bad := whole(m.get("not_finite"))) else ""),
            *(_with_spread(m.get(name)) for name in names),
            count(m.get("network_evaluations_per_sample")),
            time(m.get("seconds")),
        )
        for m in facts.measures
    )
    return Table(head, rows, words=3)


def best_snapshots(facts: Facts, most: int = 5) -> Table:
    """The ``most`` best by what they are chosen by, and the last."""
    best = sorted(facts.rows, key=lambda row: (math.isnan(v := value_of(row, facts.by)), v))[:most]
    shown = [row for row in facts.rows if row in best or facts.roles(snapshot_of(row))]
    return snapshots(dataclasses.replace(facts, rows=tuple(shown)))


def snapshots(facts: Facts) -> Table:
    """Every snapshot that was measured, by iteration."""
    names = measures_of(facts.feature)
    shown = [name for name in names if name in _OF_SNAPSHOTS]
    head = ("iteration", "weights", "", "images seen", "time of training", *(names[name] for name in shown))
    rows = tuple(
        (
            count(row["step"]),
            row["weights"],
            facts.roles(snapshot_of(row)),
            count(row.get("images_seen")),
            time(row.get("training_seconds")),
            *(_with_spread(row.get(name)) for name in shown),
        )
        for row in facts.rows
    )
    return Table(head, rows, words=3)


def stages(facts: Facts) -> Table:
    """How far each stage is."""
    return Table(
        ("stage", "", "how far"),
        tuple((name, "done" if done else "open", words) for name, done, words in facts.stages()),
        words=3,
    )


def estimates(facts: Facts) -> Table:
    """The hours that each stage takes, as measured before training."""
    rows = tuple(
        (
            str(part(row, "what") or NONE),
            str(part(row, "sampler") or NONE),
            count(part(row, "evaluations")),
            count(part(row, "images")),
            time(real(part(row, "hours")) * 3600),
        )
        for row in listed(facts.timing.get("rows"))
    )
    return Table(("what", "sampler", "evaluations a sample", "images", "time"), rows, words=2)


def machine(facts: Facts) -> Table:
    """The device, versions, threads, seeds and measured rates."""
    timing, plan = facts.timing, facts.plan
    versions = part(timing, "versions")
    told = ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, Mapping) else NONE
    rates = {
        "training": part(timing, "training", "images_per_second"),
        "network evaluations": part(timing, "evaluation", "images_per_second"),
        f"features ({facts.feature})": part(timing, "features", "images_per_second"),
    }
    memory = {name: real(part(timing, key, "peak_bytes")) for name, key in _MEMORY.items()}
    spent = [
        ("training", real(facts.metrics[-1].get("seconds")) if facts.metrics else math.nan),
        ("selection", sum(real(row.get("seconds")) for row in facts.rows) if facts.rows else math.nan),
        ("samples and measures", sum(real(m.get("seconds")) for m in facts.measures) if facts.measures else math.nan),
    ]
    seeds = ", ".join(str(seed) for seed in listed(plan.get("seeds"))) or NONE
    of_selection = sorted({str(row["seed"]) for row in facts.rows if whole(row.get("seed")) is not None})
    rows: list[tuple[str, str]] = [
        ("device", str(timing.get("device") or NONE)),
        ("versions", told),
        ("threads", count(timing.get("threads"))),
        ("ranks", count(timing.get("ranks"))),
        ("precision", str(facts.precision or part(plan, "config", "precision") or NONE)),
        ("seed of training", str(_or_none(part(plan, "config", "seed")))),
        ("seeds of the samples", seeds),
        ("seed of the samples to choose by", ", ".join(of_selection) or NONE),
        *((f"{name}, images a second", number(rate)) for name, rate in rates.items()),
        *((f"{name}, most memory", NONE if math.isnan(most) else size(most)) for name, most in memory.items()),
        *((f"{name}, time so far", time(seconds)) for name, seconds in spent),
        ("all, time so far, over all calls", _of_hours(facts)),
    ]
    return Table(("", ""), tuple(rows), words=2)


def _of_hours(facts: Facts) -> str:
    """Such as "9 h 12 min of 12 h"."""
    hours = real(facts.plan.get("hours"))
    return time(facts.spent) + ("" if math.isnan(hours) else f" of {time(3600 * hours)}")


_MEMORY = {"training": "training", "network evaluations": "evaluation"}


def data(facts: Facts) -> Table:
    """Which images it was trained on and held against."""
    rows: list[tuple[str, str]] = []
    for name, key in (("training images", "train"), ("held-out images", "heldout")):
        half = part(facts.data, key)
        rows.append((name, NONE if half is None else f"{part(half, 'name')}: {images(half)}"))
        rows.append((f"{name}, SHA-256", str(part(half, "fingerprint") or NONE)))
    rows += [
        ("classes", count(facts.data.get("num_classes"))),
        ("read from", str(facts.data.get("source") or NONE)),
        ("checksums", str(facts.data.get("checksums") or NONE)),
    ]
    return Table(("", ""), tuple(rows), words=2)


def _or_none(value: Any) -> Any:
    return NONE if value is None else value
