"""What the kernels execute, counted by running their PTX, and the times that this would take: computed, not measured.

    python -m tests.ptx.executed [--out benchmarks/results/gpu_executed]

Beside benchmarks/gpu_static.py, which counts the instructions of the machine code, this counts what runs of the PTX
that ptxas is given: threads that a mask stops, branches that are never taken and the traffic in sectors are seen here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton
from fastscore.kernels import _launch
from triton.backends.compiler import GPUTarget

from benchmarks.gpu_static import FLAT, ODD, RESULTS, SHORT, Variant, plain_kernel, variants

from .machine import Unwritten, launch

DEVICES = {"A100": (108 * 128 * 1.41e9, 2.0e12), "H100": (132 * 128 * 1.7e9, 3.35e12),
           "B200": (148 * 128 * 1.85e9, 8.0e12)}
SIZES = {"fp32": 4, "fp64": 8, "i64": 8, "fp16": 2, "bf16": 2}
# x + alpha/2 score + sqrt(alpha) z as torch runs it without fusion: randn, then two additions with a factor
TORCH = {"torch, three kernels (bytes alone)": 4 + 12 + 12, "this library's update (bytes alone)": 12}


def shape_of(variant: Variant) -> tuple[int, int]:
    """(rows, elements a row) for which ``_launch.plan`` gives the flags of the variant."""
    for flags, shape in ((ODD, (8, 511)), (FLAT, (8, 512)), (SHORT, (16, 256))):
        if all(variant.flags.get(k) == flags[k] for k in ("QUADS", "PAD", "MASK")):
            return shape
    return 4, 2048


def run(variant: Variant) -> dict[str, float]:
    """Compile one variant for sm_90, run it on a few thousand elements, and count."""
    kernel = triton.compile(variant.source(), target=GPUTarget("cuda", 90, 32), options=variant.options)
    rows, width = shape_of(variant)
    plain = variant.kernel is plain_kernel
    elements = rows * width
    if plain:
        grid, numbers = (elements // variant.flags["BLOCK"],), {"n": elements, "a": 0.1, "b": 0.4, "seed": 7}
    else:
        grid, numbers, _ = _launch.plan(rows, width, whole_rows=variant.flags["QUADS"] == SHORT["QUADS"])
        wrong = [k for k in ("QUADS", "PAD") if numbers[k] != variant.flags[k]]
        if wrong:
            raise AssertionError(f"the plan of {rows} x {width} has other {wrong}")
        numbers |= {"seed": 7, "step": 1, "stream": 2, "first": 0}
    arguments: list[Any] = []
    source = variant.source()
    for name, kind in source.signature.items():
        if kind == "constexpr":
            continue
        if not kind.startswith("*"):
            arguments.append(numbers[name])
            continue
        moved = name in variant.moved.split()
        count = elements if moved else grid[0] * 4 if name == "partial" else max(rows, 2)
        array = np.zeros(count * SIZES[kind[1:]], np.uint8)
        if not moved and kind[1:] in ("fp32", "fp64"):
            array.view(f"f{SIZES[kind[1:]]}")[:] = 0.5
        arguments.append(Unwritten(array) if name in ("out", "grad", "partial") else array)
    ptx = kernel.asm["ptx"]
    extra = ptx[:ptx.index("{\n")].count("_param_") - len(arguments)
    arguments += [None] * extra  # scratch memory, which these kernels lack
    result = launch(ptx, grid, 32 * kernel.metadata.num_warps, arguments, shared=kernel.metadata.shared)
    counts = {k: round(v, 3) for k, v in result.an_element(elements).items()}
    times = {f"{d}_ps": round(1e12 * max(32 * result.warps / DEVICES[d][0], result.footprint / DEVICES[d][1]) / elements, 3) for d in DEVICES}
    return counts | times


def table(results: dict[str, dict[str, float]]) -> str:
    lines = ["Instructions (PTX) that a thread executes an element, and bytes of the sectors touched, counted by "
             "running the kernels in tests/ptx.",
             "The times, ps an element, are **computed, not measured**: the larger of instructions over issue rate and "
             "bytes over nominal bandwidth.", "",
             f"| kernel | instructions | integer | float | special | bytes | {' | '.join(DEVICES)} |",
             "|---|" + "---:|" * (5 + len(DEVICES))]
    for name, row in results.items():
        cells = [f"{row.get(k, 0):.1f}" for k in ("instructions", "integer", "float", "special", "footprint")]
        cells += [f"{row[device + '_ps']:.2f}" for device in DEVICES]
        lines.append(f"| {' | '.join([name, *cells])} |")
    for name, count in TORCH.items():
        times = [f"{1e12 * count / bandwidth:.2f}" for _, bandwidth in DEVICES.values()]
        lines.append(f"| {' | '.join([name, '', '', '', '', f'{count:.1f}', *times])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS.with_name("gpu_executed"))
    options = parser.parse_args()
    results = {name: run(variant) for name, variant in variants().items()}
    note = "ps an element, computed from executed PTX, not measured"
    Path(f"{options.out}.json").write_text(json.dumps({"triton": triton.__version__, "note": note,
                                                       "kernels": results}, indent=1) + "\n")
    Path(f"{options.out}.md").write_text(table(results))
    print(table(results), end="")


if __name__ == "__main__":
    main()
