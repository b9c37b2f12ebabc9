"""The objectives of training by name. To add one, write a file with its entry, and add a line here."""

from __future__ import annotations

from ._objective import Objective
from .conditional import CONDITIONAL, EPSILON
from .dsm import DENOISING
from .edm import EDM
from .sliced import SLICED
from .target_field import STABLE

#: Every objective that ``fastscore train`` can minimise, by name.
OBJECTIVES: dict[str, Objective] = {
    entry.name: entry for entry in (DENOISING, SLICED, CONDITIONAL, EPSILON, EDM, STABLE)
}


def table() -> str:
    """The objectives as a table in Markdown: name, title, samples, options, source."""
    rows = [["`--objective`", "", "samples", "options", "source"], ["---"] * 5]
    for entry in OBJECTIVES.values():
        options = ", ".join(f"`{option.name}`" for option in entry.options)
        about = f"{entry.title}: {entry.summary}"
        rows.append([f"`{entry.name}`", about, ", ".join(entry.sample_kinds), options, entry.source])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def options_table() -> str:
    """The objectives' options as a table in Markdown: name, what it is, default, the objective that takes it."""
    rows = [["option", "what it is", "default", "objective"], ["---"] * 4]
    for entry in OBJECTIVES.values():
        rows += [[f"`{o.name}`", o.help, f"`{o.default}`", f"`{entry.name}`"] for o in entry.options]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
