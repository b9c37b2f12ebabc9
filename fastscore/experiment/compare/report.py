"""What a comparison of samplers says: a table in Markdown and a picture, from what samplers.json holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...evaluation.comparison import save_comparison
from ...samplers import SAMPLERS
from .cells import ABOUT

TABLE, PICTURE = "samplers.md", "samplers.png"
_WORDS = {
    "frechet_distance": "Frechet distance",
    "energy_distance": "energy distance",
    "p_value": "p value",
    "weight_error": "error of weights",
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        sampler, budget, options: as in samplers.json. evaluations: of the network, for a sample (a mean where it decides).
        numbers: of each measure the mean and the standard deviation over the seeds (NaN of one seed); empty where a seed
            failed. seconds: the least of the seeds. seeds: how many.
    """

    sampler: str
    budget: int | None
    options: Mapping[str, Any]
    evaluations: float
    numbers: Mapping[str, tuple[float, float]]
    seconds: float
    seeds: int

    @property
    def distance(self) -> float:
        """The mean of the first measure, which is to be small; infinite where a seed failed."""
        return next((mean for mean, _ in self.numbers.values()), math.inf)


def measured(cell: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a cell that say how good its samples are; the first is to be small."""
    return {name: value for name, value in cell.items() if name not in ABOUT}


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """The rows of the table, by budget and then by distance; the recipe, by the run's settings, last.

    Settings that are those of a smaller budget too, since the sampler can spend no more, are left out there.
    """
    found, seen = list[Row](), list[tuple[str, Any]]()
    search_seed = report["settings"]["search_seed"]
    for row in sorted(report["rows"], key=lambda row: row["budget"] or math.inf):
        same = [c for c in report["cells"] if (c["sampler"], c["options"]) == (row["sampler"], row["options"])]
        cells = [cell for cell in same if cell["seed"] != search_seed]
        known = (row["sampler"], row["options"])
        if not cells or (row["budget"] is not None and known in seen):
            continue
        seen.append(known)
        good = not any("failed" in cell for cell in cells)
        common = [name for name in measured(cells[0]) if good and all(name in cell for cell in cells)]
        values = {name: [cell[name] for cell in cells] for name in common}
        found.append(
            Row(
                row["sampler"],
                row["budget"],
                row["options"],
                statistics.fmean(cell["evaluations"] for cell in cells),
                {name: _mean(numbers) for name, numbers in values.items()},
                min(cell.get("seconds", math.inf) for cell in cells),
                len(cells),
            )
        )
    return sorted(found, key=lambda row: (row.budget or math.inf, row.distance))


def _mean(values: Sequence[float]) -> tuple[float, float]:
    spread = len(values) > 1 and all(map(math.isfinite, values))  # of infinity there is none
    return statistics.fmean(values), statistics.stdev(values) if spread else math.nan


def table(report: Mapping[str, Any]) -> str:
    """The rows as a table in Markdown whose columns line up in a terminal too; the best of each budget is bold.

    Without a column of seconds where samplers.json holds none.
    """
    rows = rows_of(report)
    timed = _timed(report)
    names = list(dict.fromkeys(name for row in rows for name in row.numbers))
    best = {row.budget: row for row in reversed(rows)}  # they are sorted by distance
    lines = [
        [
            "at most",
            "sampler",
            "settings",
            "evaluations",
            *(_WORDS.get(name, name) for name in names),
            *timed * ["seconds"],
        ]
    ]
    for row in rows:
        bold = "**" if best[row.budget] is row and row.budget is not None and row.numbers else ""
        lines.append(
            [
                "recipe, the run's settings" if row.budget is None else str(row.budget),
                f"{bold}{row.sampler}{bold}",
                settings_of(row.sampler, row.options),
                f"{row.evaluations:.4g}",
                *(_number(row.numbers[name]) if row.numbers else "not finite" for name in names),
                *timed * [f"{row.seconds:.3g}" if row.numbers else "-"],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    rule = ["-" * width if i < 3 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    pad = [
        [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))] for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [pad[0], rule, *pad[1:]])


def _timed(report: Mapping[str, Any]) -> bool:
    return any("seconds" in cell for cell in report["cells"])


def _number(value: tuple[float, float]) -> str:
    mean, spread = value
    return f"{mean:.3f}" if math.isnan(spread) else f"{mean:.3f} ± {spread:.3f}"


def settings_of(sampler: str, options: Mapping[str, Any]) -> str:
    """Options in words: those that say how the evaluations are spent, and those that were searched."""
    shown = []
    for option in SAMPLERS[sampler].options if sampler in SAMPLERS else ():
        value = options.get(option.name, option.default)
        spends = option.kind is int and (option.setting is not None or value != option.default)
        tolerance = option.kind is float and option.setting is None and value != option.default
        if option.name in SAMPLERS[sampler].searched or spends or tolerance:
            shown.append(f"{option.name} {value:.3g}" if isinstance(value, float) else f"{option.name} {value}")
        elif option.kind is bool and value and option.default is False and option.setting is None:
            shown.append(option.name)
    return ", ".join(shown)


def page(report: Mapping[str, Any]) -> str:
    """samplers.md: the table, and what its numbers are of."""
    settings, rows = report["settings"], rows_of(report)
    seeds = sorted({row.seeds for row in rows})
    searched = sorted({row.sampler for row in rows if row.sampler in SAMPLERS and SAMPLERS[row.sampler].searched})
    devices = sorted({cell["device"] for cell in report["cells"]})
    own = ", ".join(f"{_WORDS.get(name, name)} {value:.3f}" for name, value in settings["training_data"].items())
    many = f"{settings['samples']:,} samples of each of {' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])}"
    lines = [
        f"{settings['data']}, iteration {settings['step']}, weights {settings['weights']}: {many}, mean ± standard "
        "deviation. The best distance of each budget is bold.",
        *([f"The training images themselves: {own}."] if own else []),
        *([f"Searched on another seed: the settings of {', '.join(searched)}."] if searched else []),
        *_timed(report) * [f"Seconds: of drawing, the least of the seeds ({'; '.join(devices)})."],
    ]
    return f"{table(report)}\n" + "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any], path: Path) -> Path:
    """The picture, a PNG file: distance, precision and recall against evaluations."""
    curves: dict[str, list[tuple[float, Mapping[str, tuple[float, float]]]]] = {}
    references: dict[str, Mapping[str, tuple[float, float]]] = {}
    for row in sorted(rows_of(report), key=lambda row: row.evaluations):
        if row.numbers and row.budget is None:
            references[f"{row.sampler} (recipe, the run's settings), {row.evaluations:.4g} evaluations"] = row.numbers
        elif row.numbers:
            curves.setdefault(row.sampler, []).append((row.evaluations, row.numbers))
    own = report["settings"]["training_data"]
    if own:
        references["the training images themselves"] = {name: (value, math.nan) for name, value in own.items()}
    ordered = {name: curves[name] for name in SAMPLERS if name in curves} | curves  # of one colour in every picture
    return save_comparison(
        ordered, path, names=_WORDS, references=references, title=f"Samplers: {report['settings']['data']}"
    )
