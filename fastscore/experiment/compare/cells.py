"""samplers.json: what a comparison of samplers has measured, a cell for each sampler, its options and a seed.

It is written anew after every cell, in one step: a comparison that was killed goes on after its last whole cell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..._core import checks, files
from ..._core.errors import FastscoreError
from ..config import parse_json
from ..sample_folder import versions

CELLS = "samplers.json"
#: The most evaluations a sample, where none are given.
BUDGETS = (11, 21, 41)
#: What all cells of a file have in common.
COMMON = ("sha256", "data", "samples", "features", "inception_sha256", "network_precision")
#: What a cell has beside its measurements.
ABOUT = ("sampler", "options", "seed", "evaluations", "device", "seconds", "failed")
_LARGEST = 2**63  # integer of a cell: one of some hundred digits is no float, which a table and a picture take

Cell = dict[str, Any]


class Cells:
    """The cells of ``folder``'s samplers.json, and the rows of its table: which settings spend which budget best.

    Args:
        folder: which is there.
        settings: of the comparison: run, weights, data and how many samples.
        overwrite: begin anew where the file holds cells of other settings.

    Raises:
        FastscoreError: it holds cells of other settings, or is no comparison of samplers.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False):
        self.path, self.settings = folder / CELLS, dict(settings)
        self.cells: dict[str, Cell] = {}
        self.rows: dict[tuple[str, int | None], dict[str, Any]] = {}
        before = None if overwrite else _read(self.path)
        if before is None:
            return
        changed = [name for name in COMMON if before["settings"].get(name) != settings[name]]
        if changed:
            differs = ", ".join(
                f"{name} (was {before['settings'].get(name)}, now {settings[name]})" for name in changed
            )
            raise FastscoreError(
                f"{self.path} holds a comparison of other settings: {differs}; choose another folder with --out, or begin "
                "it anew with --overwrite"
            )
        self.cells = {_key(cell["sampler"], cell["options"], cell["seed"]): cell for cell in before["cells"]}
        self.rows = {(row["sampler"], row["budget"]): row for row in before["rows"]}

    def get(self, sampler: str, options: Mapping[str, Any], seed: int, make: Callable[[], Cell]) -> Cell:
        """The cell, made by ``make`` and written where it is not there yet."""
        key = _key(sampler, options, seed)
        if key not in self.cells:
            self.cells[key] = {"sampler": sampler, "options": dict(options), "seed": seed, **make()}
            self.write()
        return self.cells[key]

    def holds(self, sampler: str, options: Mapping[str, Any], seed: int) -> bool:
        """Whether that cell is there."""
        return _key(sampler, options, seed) in self.cells

    def set_row(self, sampler: str, budget: int | None, options: Mapping[str, Any]) -> None:
        """Say which settings of a sampler the table shows at a budget; ``None``: the run's own."""
        self.rows[sampler, budget] = {"sampler": sampler, "budget": budget, "options": dict(options)}
        self.write()

    def report(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "settings": self.settings,
            "rows": list(self.rows.values()),
            "cells": list(self.cells.values()),
            "versions": versions(),
        }

    def write(self) -> None:
        """Put the file in place."""
        head = {name: value for name, value in self.report().items() if name not in ("rows", "cells")}
        lists = {
            name: "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in items) + "\n  ]"
            for name, items in (("rows", self.rows.values()), ("cells", self.cells.values()))
        }  # a line each: they are many
        text = ",\n".join(f"  {json.dumps(name)}: {value}" for name, value in lists.items())
        whole = json.dumps(head, indent=2).removesuffix("\n}") + f",\n{text}\n}}\n"
        files.write_atomically(self.path, whole.encode())


def _key(sampler: str, options: Mapping[str, Any], seed: int) -> str:
    return json.dumps([sampler, options, seed], sort_keys=True)


def _check(entry: Cell, **types: tuple[type, ...]) -> None:
    """Raise where a cell or a row lacks what the table is made of, or it is of another type."""
    for name, kinds in {"sampler": (str,), "options": (dict,), **types}.items():
        value = entry[name]
        if type(value) not in kinds or (type(value) is int and abs(value) > _LARGEST):
            raise ValueError(f"{name} is {checks.describe(value)}")


def _check_cell(cell: Cell) -> None:
    number = (int, float)
    measured = {name: number for name in cell if name not in ABOUT or name == "seconds"}
    _check(cell, seed=(int,), evaluations=number, device=(str,), **measured)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        report = parse_json(files.read(path))
        for cell in report["cells"]:
            _check_cell(cell)
        for row in report["rows"]:
            _check(row, budget=(int, type(None)))
        report["settings"].keys()
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FastscoreError(
            f"{path} is no comparison of samplers that can be read ({error}): choose another folder with --out, or begin it "
            "anew with --overwrite"
        ) from error
    return report
