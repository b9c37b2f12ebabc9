"""Rows of :mod:`benchmarks.measure` as one table: Markdown for the committed results, aligned text for a terminal."""

from __future__ import annotations

HEADS = {"eager": "vs eager", "compile": "vs torch.compile", "floor": "vs the memory floor"}
WIDTH = 100  # of a terminal


def machine_line(about: dict) -> str:
    instructions = f" ({about['instructions']})" if about["instructions"] else ""
    return (
        f"{about['processor']}{instructions}, {about['threads']} thread{'s' * (about['threads'] != 1)}, "
        f"torch {about['torch']}"
    )


def about_line(about: dict) -> str:
    return f"{machine_line(about)}, float32"


def markdown(rows: list[dict], about: dict) -> str:
    """The whole table with the spread over rounds."""
    others = _others(rows)
    heads = [
        "operator",
        "shape",
        "backend",
        "fastscore, ns an element",
        *(HEADS[name] for name in others),
        f"extra memory, tensors of x's size: {' / '.join(_holders(others))}",
    ]
    lines = [
        f"{about_line(about)}; median over rounds [p20, p80]. A ratio is the other's time over fastscore's: more "
        "is faster.",
        "",
    ]
    cells = [heads, *(_cells(row, others, " / ", spread=True) for row in rows)]
    made = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([*lines, made[0], "|---|---|---|" + "---:|" * (len(heads) - 3), *made[1:]]) + "\n"


def text(rows: list[dict]) -> list[str]:
    """Lines of at most WIDTH columns, as the operators and shapes go now; a provider that was not timed is "-"."""
    others = tuple(HEADS)
    cells = [
        ["operator", "shape", "backend", "ns", *others, "memory"],
        *(_cells(row, others, "/", spread=False) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells)]
    gaps = ["", "  ", "  ", *[" " if sum(widths) + 2 * len(widths) > WIDTH else "  "] * (len(widths) - 3)]
    return [
        "".join(
            gap + (cell.ljust(width) if i < 3 else cell.rjust(width))
            for i, (gap, cell, width) in enumerate(zip(gaps, line, widths))
        ).rstrip()
        for line in cells
    ]


def legend() -> list[str]:
    """What the columns of :func:`text` are."""
    return [
        "ns: fastscore's nanoseconds an element. eager, compile, floor: the time of plain torch, of",
        "torch.compile and of one torch operation that moves the same bytes, over fastscore's; more is",
        "faster. backend: what served fastscore.",
        "memory: what one call holds beyond its inputs, in tensors of x's size: fastscore/eager/compile.",
    ]


def _others(rows: list[dict]) -> tuple[str, ...]:
    return tuple(name for name in HEADS if any(name in row for row in rows))


def _holders(others: tuple[str, ...]) -> list[str]:
    return ["fastscore", *(name for name in others if name != "floor")]


def _cells(row: dict, others: tuple[str, ...], separator: str, *, spread: bool) -> list[str]:
    def value(name: str, key: str, unit: str = "") -> str:
        if key not in row.get(name, {}):
            return "-"
        low, middle, high = (f"{v:.2g}" if spread and 0 < v < 0.1 else _short(v) for v in row[name][key])
        return f"{middle}{unit}" + (f" [{low}, {high}]" if spread else "")

    cells = [row["operator"], row["shape"], row.get("backend") or "-", value("fastscore", "ns_per_element")]
    for name in others:  # where fastscore was not timed there is no ratio: the other's own time
        ratio = "fastscore" in row
        cells.append(value(name, "times_fastscore" if ratio else "ns_per_element", "x" if ratio else " ns"))
    held = (row.get(name, {}).get("extra_tensors") for name in _holders(others))
    return [*cells, separator.join("-" if tensors is None else f"{tensors:.1f}".removesuffix(".0") for tensors in held)]


def _short(number: float) -> str:
    """Three digits, and no fraction from 100 on."""
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"
