"""The results of gpu_static.py as one screen of Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks import gpu_trace
from benchmarks.gpu_devices import DEVICES, computed_ps
from benchmarks.gpu_variants import PLAIN, UPDATE

# x + step_size/2 score + sqrt(step_size) z by torch without fusion, in bytes per element: randn, then two additions
TORCH = {"randn": 4, "add (x, step_size/2 score)": 12, "add (sqrt(step_size) z)": 12}


def markdown(rows: list[list[str]]) -> list[str]:
    """Markdown of rows of cells, the first of them the head; the first column to the left, numbers to the right."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:], ""]


def times(row: dict[str, float]) -> list[str]:
    return [f"{row[device.lower() + '_ps']:.2f}" for device in DEVICES]


def three_ways(executed: dict[str, dict[str, float]]) -> list[list[str]]:
    """The Langevin update as this library, one plain Triton kernel and torch's three kernels have it."""
    rows = [["float32 update x + step_size/2 score + sqrt(step_size) z", "instructions", "moved, bytes", *DEVICES]]
    for name, title in ((UPDATE, "`langevin_step`, one kernel"), (PLAIN, "one plain kernel with `tl.randn`")):
        row = executed[name]
        rows.append([title, f"{row['instructions']:.1f}", f"{row['footprint']:.1f}", *times(row)])
    for name, moved in [*TORCH.items(), ("the three in sequence", sum(TORCH.values()))]:
        alone = {f"{device.lower()}_ps": computed_ps(device, 0, moved) for device in DEVICES}
        rows.append([f"torch, {name}", "not counted", f"{moved:.1f}", *times(alone)])
    return rows


def all_kernels(results: dict[str, Any]) -> list[list[str]]:
    archs, executed = list(next(iter(results["kernels"].values()))), results["executed"]
    rows = [
        [
            "kernel",
            f"registers {' / '.join(archs)}",
            "machine instructions (SASS)",
            "stack, bytes",
            "shared, bytes",
            "executed (PTX)",
            "integer",
            "float",
            "special",
            "moved, bytes",
            *DEVICES,
            "bound on an H100 by",
        ]
    ]
    for name, by_arch in results["kernels"].items():
        row, ran = by_arch[archs[len(archs) // 2]], executed.get(name)
        cells = [
            name,
            " / ".join(str(by_arch[a]["registers"]) for a in archs),
            " / ".join(f"{by_arch[a]['instructions']:.0f}" for a in archs),
            str(row["stack"]),
            str(row["shared"]),
        ]
        if ran:
            cells += [f"{ran.get(k, 0):.1f}" for k in ("instructions", "integer", "float", "special", "footprint")]
            by_bytes = ran["h100_ps"] <= 1.001 * computed_ps("H100", 0, ran["footprint"])
            cells += [*times(ran), "bytes" if by_bytes else "instructions"]
        rows.append(cells + ["-"] * (len(rows[0]) - len(cells)))
    return rows


def table(results: dict[str, Any]) -> str:
    """The results as one screen of Markdown."""
    rates = "; ".join(
        f"{name} {rate:.3g} thread instructions and {bandwidth:.3g} bytes a second"
        for name, (rate, bandwidth) in DEVICES.items()
    )
    lines = [
        f"Triton {results['triton']}; all numbers are for an element. Times, in ps, are **computed, not measured**:",
        f"the larger of instructions over what a GPU can issue and bytes over its bandwidth, both nominal ({rates}).",
        "Latency, caches and what single instructions cost are left out. Instructions, and bytes of 32-byte sectors",
        "touched, are those that the PTX for sm_90 executes in kernels/ptx; torch's kernels have bytes alone.",
        "",
    ]
    lines += markdown(three_ways(results["executed"])) if {UPDATE, PLAIN} <= set(results["executed"]) else []
    lines += markdown(all_kernels(results))
    if results["trace"]:
        spilling = ", ".join(results["trace"]["spilling"]) or "none of them"
        lines += [
            f"By nvcc {results['trace']['nvcc']}; kernels, of any type and form, that use a stack or spill: "
            f"{spilling}.",
            "",
            *markdown(gpu_trace.markdown(results["trace"], list(DEVICES))),
        ]
    return "\n".join(lines[:-1]) + "\n"
