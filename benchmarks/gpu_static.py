"""What the Triton kernels compile to and execute, without a GPU: registers, instructions and bytes an element.

    python benchmarks/gpu_static.py [--arch 80 90 100] [--out benchmarks/results/gpu_static]

Every variant is compiled ahead of time and its machine code (SASS) is read back. The code has no loops, so the
instructions of the program, divided by the elements a thread has, are those executed for an element; branches that
are hardly ever taken (the slow path of a square root) are counted in, padding (NOP) is not.

In the repository the sm_90 PTX of every variant is executed too, on a few thousand elements, by the interpreter in
kernels/ptx: branches that are never taken, threads that a mask stops and the sectors of global memory are seen there.

The times are computed, not measured: instructions over what a GPU can issue, bytes over its nominal bandwidth, the
larger of the two. They take every instruction to cost one issue slot, though wide multiplications and conversions cost
more, and leave out latency and caches.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import triton
import triton.language as tl
from fastscore.kernels import _launch, dsm_loss, fill, langevin_step, perturb
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import gpu_trace

ARCHS = (80, 90, 100)
# thread instructions that can be issued a second (multiprocessors x 4 schedulers x 32 x clock), bytes a second: nominal
DEVICES = {
    "A100": (108 * 128 * 1.41e9, 2.0e12),
    "H100": (132 * 128 * 1.7e9, 3.35e12),
    "B200": (148 * 128 * 1.85e9, 8.0e12),
}
# x + alpha/2 score + sqrt(alpha) z by torch without fusion, bytes an element: randn, then two additions with a factor
TORCH = {"randn": 4, "add (x, alpha/2 score)": 12, "add (sqrt(alpha) z)": 12}
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu_static"
PLAIN, UPDATE = "plain tl.randn update", "langevin_step"
SIZES = {"fp32": 4, "fp64": 8, "i64": 8, "fp16": 2, "bf16": 2}
TYPES = {
    "seed": "i64",
    "step": "u32",
    "stream": "u32",
    "first": "u32",
    "rows": "i64",
    "quads": "i32",
    "tiles": "i32",
    "magic": "u32",
    "shift": "u32",
    "n": "i32",
    "a": "fp32",
    "b": "fp32",
}

BLOCK = _launch.BLOCK
ROWS = {"BLOCK": BLOCK, "QUADS": BLOCK, "PAD": 0, "MASK": False, "WIDE": False}  # long samples, no mask
FLAT = ROWS | {"QUADS": 0, "MASK": True}  # short samples: all quads in one line
ODD = FLAT | {"PAD": 1}  # a number of elements that 4 does not divide: no aligned accesses
SHORT = ROWS | {"QUADS": BLOCK // 4, "MASK": True}  # sums of short samples: four samples a program

# kinds of instructions by the start of their names; whatever is in none of these is control or data movement
MEMORY = ("LD", "ST", "ATOM", "RED", "ULDC", "CCTL")
MOVE = ("IMAD.MOV", "HFMA2")  # HFMA2 only ever loads constants here
INTEGER = (
    "IMAD",
    "UIMAD",
    "IADD",
    "UIADD",
    "VIADD",
    "LOP3",
    "ULOP3",
    "SHF",
    "USHF",
    "LEA",
    "ULEA",
    "ISETP",
    "UISETP",
    "SEL",
    "USEL",
    "IMNMX",
    "VIMNMX",
    "IABS",
    "PRMT",
    "UPRMT",
    "SGXT",
)
FLOAT = ("F", "MUFU", "I2F", "UI2F", "UF", "D")
DOUBLE = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)|MUFU\.\w+64H|\w+\.F64")


@triton.jit
def plain_kernel(out, x, score, a, b, seed, n, BLOCK: tl.constexpr):
    """x + a score + b tl.randn: the lines one would write first, for comparison."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = offsets < n
    value = tl.load(x + offsets, mask=exists) + a * tl.load(score + offsets, mask=exists)
    tl.store(out + offsets, value + b * tl.randn(seed, offsets), mask=exists)


@dataclass(frozen=True)
class Variant:
    """One kernel as compiled for one kind of arguments; ``moved`` names the tensors of the samples' size."""

    kernel: Any
    moved: str
    others: str = ""
    dtype: str = "fp32"
    flags: dict[str, Any] = field(default_factory=lambda: ROWS)
    options: dict[str, Any] = field(default_factory=lambda: _launch.OPTIONS)

    def source(self) -> ASTSource:
        compute = "fp64" if self.dtype == "fp64" else "fp32"
        types = TYPES | {name: f"*{self.dtype}" for name in self.moved.split()}
        types |= {name: "*i64" if name in ("state", "index") else f"*{compute}" for name in self.others.split()}
        names = self.kernel.arg_names
        signature = {name: types.get(name, "constexpr") for name in names}
        constants = {name: self.flags.get(name) for name in names if signature[name] == "constexpr"}
        aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name == "n"]
        return ASTSource(self.kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})

    def bytes_an_element(self) -> int:
        return len(self.moved.split()) * SIZES[self.dtype]


def variants() -> dict[str, Variant]:
    """Every way the operators' kernels are compiled, and the plain one."""
    p, ls, d, f = (
        perturb.perturb_kernel,
        langevin_step.langevin_step_kernel,
        dsm_loss.dsm_loss_kernel,
        fill.fill_kernel,
    )
    per_row = {"ALPHA_ROWS": True, "SIGMA_ROWS": True, "LOSS_ROWS": True, "GRAD_ROWS": True}
    rows, flat, odd, short = (kind | per_row for kind in (ROWS, FLAT, ODD, SHORT))
    both = "sigma loss_factor grad_factor partial"
    table = {
        "perturb": Variant(p, "out x", "sigma", flags=rows),
        "perturb, alpha": Variant(p, "out x", "sigma alpha", flags=rows),
        "perturb, short rows": Variant(p, "out x", "sigma", flags=flat),
        "perturb, bf16": Variant(p, "out x", "sigma", "bf16", rows),
        "langevin_step": Variant(ls, "out x score", "alpha", flags=rows),
        "langevin_step, seed on device": Variant(ls, "out x score", "alpha state index", flags=rows),
        "langevin_step, short rows": Variant(ls, "out x score", "alpha", flags=flat),
        "langevin_step, odd rows": Variant(ls, "out x score", "alpha", flags=odd),
        "langevin_step, bf16": Variant(ls, "out x score", "alpha", "bf16", rows),
        "langevin_step, fp16": Variant(ls, "out x score", "alpha", "fp16", rows),
        "langevin_step, fp64": Variant(ls, "out x score", "alpha", "fp64", rows),
        "dsm_loss": Variant(d, "score", "sigma loss_factor partial", flags=rows),
        "dsm_loss + grad": Variant(d, "score grad", both, flags=rows),
        "dsm_loss + grad, short rows": Variant(d, "score grad", both, flags=short),
        "dsm_loss + grad, bf16": Variant(d, "score grad", both, "bf16", rows),
        "dsm_loss, grad alone": Variant(d, "score grad", "sigma grad_factor", flags=rows),
    }
    for kind in ("normal", "uniform", "rademacher"):
        table[f"fill {kind}"] = Variant(f, "out", flags=rows | {"KIND": kind})
    table["fill words"] = Variant(f, "out", "", "i64", rows | {"KIND": "words"})
    table[PLAIN] = Variant(
        plain_kernel, "out x score", flags={"BLOCK": 1024}, options={"num_warps": 4, "enable_fp_fusion": True}
    )
    return table


def run_tool(name: str, *arguments: str) -> str:
    """The output of a CUDA tool that comes with triton."""
    path = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def instructions(sass: str) -> list[str]:
    """The names of the instructions (with suffixes), padding left out."""
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?PT?\d*\s+)?([A-Z][A-Z0-9_.]*)", sass)
    return [name for name in names if name != "NOP"]


def kind_of(name: str) -> str:
    if name.startswith(MEMORY):
        return "memory"
    if name.startswith(MOVE):
        return "other"
    if name.startswith(INTEGER):
        return "integer"
    return "float" if name.startswith(FLOAT) else "other"


def compiled(variant: Variant, arch: int) -> Any:
    return triton.compile(variant.source(), target=GPUTarget("cuda", arch, 32), options=variant.options)


def measure(variant: Variant, kernel: Any) -> dict[str, Any]:
    """The machine code of a compiled variant, counted."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = run_tool("cuobjdump", "--dump-resource-usage", str(cubin))
        code = instructions(run_tool("nvdisasm", "-c", str(cubin)))
    block = variant.flags["BLOCK"] * (1 if variant.kernel is plain_kernel else 4)
    elements = block / (32 * variant.options["num_warps"])
    kinds = {
        kind: round(sum(kind_of(name) == kind for name in code) / elements, 2)
        for kind in ("integer", "float", "memory", "other")
    }
    ptx = kernel.asm["ptx"]
    rate, bandwidth = DEVICES["H100"]
    computed = (len(code) / elements / rate, variant.bytes_an_element() / bandwidth)
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "local": int(re.search(r"LOCAL:(\d+)", usage)[1]),
        "spills": sum(name.startswith(("LDL", "STL")) for name in code),  # local memory, read or written
        "shared": kernel.metadata.shared,
        "float64": sum(bool(DOUBLE.match(name)) for name in code),
        "loads_128": sum(name.startswith("LDG.E.128") for name in code),
        "stores_128": sum(name.startswith("STG.E.128") for name in code),
        "loads": sum(name.startswith("LDG") for name in code),
        "stores": sum(name.startswith("STG") for name in code),
        "approximate": len(re.findall(r"\.approx|\.ftz|div\.full", ptx)),
        "ptx_fma": ptx.count("fma.rn.f32") + ptx.count("fma.rn.f32x2"),  # sm_100 does two at once
        "elements_a_thread": elements,
        "instructions": round(len(code) / elements, 2),
        **kinds,
        "bytes": variant.bytes_an_element(),
        "h100_ps_instructions": round(computed[0] * 1e12, 2),
        "h100_ps_bytes": round(computed[1] * 1e12, 2),
        "h100_ps": round(max(computed) * 1e12, 2),
    }


def interpreter() -> Any:
    """kernels/ptx, or None where only this file is there."""
    try:
        return importlib.import_module("fastscore.kernels.ptx.machine")
    except ModuleNotFoundError:
        return None


def shape_of(variant: Variant) -> tuple[int, int]:
    """(rows, elements a row) for which ``_launch.plan`` gives the flags of the variant."""
    for flags, shape in ((ODD, (8, 511)), (FLAT, (8, 512)), (SHORT, (16, 256))):
        if all(variant.flags.get(k) == flags[k] for k in ("QUADS", "PAD", "MASK")):
            return shape
    return 4, 2048


def execute(machine: Any, variant: Variant, kernel: Any) -> dict[str, float]:
    """Run a variant that was compiled for sm_90 on a few thousand elements: counts an element, and computed times."""
    rows, width = shape_of(variant)
    elements = rows * width
    if variant.kernel is plain_kernel:
        grid, numbers = (elements // variant.flags["BLOCK"],), {"n": elements, "a": 0.1, "b": 0.4, "seed": 7}
    else:
        grid, numbers, _ = _launch.plan(rows, width, whole_rows=variant.flags["QUADS"] == SHORT["QUADS"])
        if any(numbers[flag] != variant.flags[flag] for flag in ("QUADS", "PAD")):
            raise AssertionError(f"the plan of {rows} x {width} is not that of {variant.flags}")
        numbers |= {"seed": 7, "step": 1, "stream": 2, "first": 0}
    arguments: list[Any] = []
    for name, kind in variant.source().signature.items():
        if kind.startswith("*"):
            moved = name in variant.moved.split()
            array = np.zeros((elements if moved else 4 * grid[0] + rows) * SIZES[kind[1:]], np.uint8)
            if not moved and kind[1:] in ("fp32", "fp64"):
                array.view(f"f{SIZES[kind[1:]]}")[:] = 0.5
            arguments.append(machine.Unwritten(array) if name in ("out", "grad", "partial") else array)
        elif kind != "constexpr":
            arguments.append(numbers[name])
    module = machine.parse(kernel.asm["ptx"])
    (entry,) = module.entries.values()
    arguments += [None] * (len(entry.params) - len(arguments))  # scratch memory, which these kernels lack
    counters = machine.launch(module, grid, 32 * kernel.metadata.num_warps, arguments, shared=kernel.metadata.shared)
    computed = {
        f"{name.lower()}_ps": computed_ps(name, 32 * counters.warps / elements, counters.footprint / elements)
        for name in DEVICES
    }
    return {k: round(v, 3) for k, v in (counters.an_element(elements) | computed).items()}


def computed_ps(device: str, instructions: float, moved: float) -> float:
    """ps an element: the larger of instructions over issue rate and bytes over bandwidth. COMPUTED, not measured."""
    rate, bandwidth = DEVICES[device]
    return 1e12 * max(instructions / rate, moved / bandwidth)


def collect(archs: Sequence[int] = ARCHS) -> dict[str, Any]:
    """All variants on all architectures, with the version they belong to, and what they execute."""
    machine, kernels, executed = interpreter(), {}, {}
    for name, variant in variants().items():
        built = {arch: compiled(variant, arch) for arch in archs}
        kernels[name] = {f"sm_{arch}": measure(variant, kernel) for arch, kernel in built.items()}
        if machine is not None and 90 in built:
            executed[name] = execute(machine, variant, built[90])
    trace = gpu_trace.collect(archs, run_tool, computed_ps, list(DEVICES)) if machine is not None else {}
    return {
        "triton": triton.__version__,
        "note": "ps: picoseconds an element, computed, not measured",
        "kernels": kernels,
        "executed": executed,
        "trace": trace,
    }


def markdown(rows: list[list[str]]) -> list[str]:
    """Markdown of rows of cells, the first of them the head; the first column to the left, numbers to the right."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:], ""]


def times(row: dict[str, float]) -> list[str]:
    return [f"{row[device.lower() + '_ps']:.2f}" for device in DEVICES]


def three_ways(executed: dict[str, dict[str, float]]) -> list[list[str]]:
    """The Langevin update as this library, one plain Triton kernel and torch's three kernels have it."""
    rows = [["float32 update x + alpha/2 score + sqrt(alpha) z", "instructions", "moved, bytes", *DEVICES]]
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
    lines += markdown(three_ways(results["executed"])) if results["executed"] else []
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHS), help="compute capabilities, as 80 90 100")
    parser.add_argument("--out", type=Path, default=RESULTS, help="path of the results, without .json and .md")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1" or _launch.interpreted():
        parser.error("unset TRITON_INTERPRET: interpreted kernels cannot be compiled")
    results = collect(options.arch)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{options.out}.json").write_text(json.dumps(results, indent=1) + "\n")
    Path(f"{options.out}.md").write_text(table(results))
    print(table(results), end="")


if __name__ == "__main__":
    main()
