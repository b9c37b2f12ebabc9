"""What the Triton kernels compile to and execute, without a GPU: registers, instructions and bytes per element.

    python benchmarks/gpu_static.py [--arch 80 90 100] [--operator perturb] [--out benchmarks/results/gpu_static]

Every registered operator's kernels are launched by its examples; each launch is noted, compiled ahead of time, and its
machine code (SASS) is read back. The code has no loops, so the instructions of the program, divided by the elements a
thread has, are those executed for an element; branches that are hardly ever taken (the slow path of a square root) are
counted in, padding (NOP) is not.

The sm_90 PTX of every variant is executed too, on a few thousand elements, by the interpreter in kernels/ptx: branches
that are never taken, threads that a mask stops and the sectors of global memory are seen there.

The times are computed, not measured: instructions over what a GPU can issue, bytes over its nominal bandwidth, the
larger of the two. They take every instruction to cost one issue slot, though wide multiplications and conversions cost
more, and leave out latency and caches.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastscore.kernels import _launch
from fastscore.kernels.ptx.on_ptx import RESULTS, Launch, Recorder, replaced
from fastscore.kernels.ptx.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import gpu_trace
from benchmarks.machine_code import DOUBLE, functions, instructions, kind_of
from fastscore._core.operators import OPERATORS, Function, Operator
from fastscore._core.registration import raw

ARCHS = (80, 90, 100)
# thread instructions that can be issued a second (multiprocessors x 4 schedulers x 32 x clock), bytes a second: nominal
DEVICES = {
    "A100": (108 * 128 * 1.41e9, 2.0e12),
    "H100": (132 * 128 * 1.7e9, 3.35e12),
    "B200": (148 * 128 * 1.85e9, 8.0e12),
}
# x + step_size/2 score + sqrt(step_size) z by torch without fusion, in bytes per element: randn, then two additions
TORCH = {"randn": 4, "add (x, step_size/2 score)": 12, "add (sqrt(step_size) z)": 12}
ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "benchmarks" / "results" / "gpu_static"
ESTIMATE = "rsqrt.approx.ftz.f32"  # from which philox.root starts; its last step rounds to nearest
PLAIN, UPDATE = "plain tl.randn update", "langevin_step"
# what a kernel is compiled for beside long float32 rows: the shape of the samples, their dtype, noise in device tensors
LONG = ((4, 2048), torch.float32, False)
FORMS = {
    "short rows": ((16, 256), torch.float32, False),
    "bf16": ((4, 2048), torch.bfloat16, False),
}
MORE_FORMS = {  # of the update alone, which stands for all kernels in this
    "seed on device": ((4, 2048), torch.float32, True),
    "odd rows": ((8, 511), torch.float32, False),  # 4 does not divide a row: no aligned accesses
    "fp16": ((4, 2048), torch.float16, False),
    "fp64": ((4, 2048), torch.float64, False),
}
IMAGES = {  # of operators on images, in place of all these: with the memory format, where channels come last
    "": ((4, 32, 32, 32), torch.float32, False),
    "channels last": ((4, 32, 32, 32), torch.float32, False, torch.channels_last),
    "channels last, bf16": ((2, 64, 32, 32), torch.bfloat16, False, torch.channels_last),
    "small images": ((8, 16, 8, 8), torch.float32, False),
}
ON_IMAGES = {"instance_norm_plus": "elu"}  # and their example
MASKED = ("short rows", "odd rows")  # compiled with the mask that other numbers of such rows need


@triton.jit
def plain_kernel(out, x, score, a: tl.float32, b: tl.float32, seed: tl.int64, n: tl.int32, BLOCK: tl.constexpr):
    """x + a score + b tl.randn: the lines one would write first, for comparison."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = offsets < n
    value = tl.load(x + offsets, mask=exists) + a * tl.load(score + offsets, mask=exists)
    tl.store(out + offsets, value + b * tl.randn(seed, offsets), mask=exists)


@dataclass(frozen=True)
class Variant:
    """One kernel as it is compiled for one launch; ``block``: the elements of a program."""

    kernel: Any
    launch: Launch
    elements: int
    block: int

    def source(self) -> ASTSource:
        launch = self.launch
        aligned = {(i,): [["tt.divisibility", 16]] for i in launch.aligned}
        return ASTSource(self.kernel, launch.types, launch.constants, aligned)

    def moved(self, written: bool) -> list[torch.Tensor]:
        """The tensors of the samples' size that are written, or that are read."""
        tensors = self.launch.tensors().items()
        return [t for name, t in tensors if t.numel() == self.elements and bool(RESULTS.fullmatch(name)) == written]

    def bytes_an_element(self) -> int:
        return sum(t.element_size() for t in (*self.moved(False), *self.moved(True)))

    def tensors_moved(self) -> int:
        return len(self.moved(False)) + len(self.moved(True))

    def code(self) -> tuple:
        """What sets its machine code apart. Whether a number is shared by all rows or one per row does not."""
        constants = {k: v for k, v in self.launch.constants.items() if not k.endswith("_ROWS")}
        return self.launch.kernel, str(self.launch.types), str(constants)


def recorded(operator: Operator, function: Function, title: str, form: tuple, mask: bool) -> dict[str, Variant]:
    """The kernels that a function launches for one of its examples, by their names."""
    shape, dtype, on_device, *memory_format = form
    given = list(function.examples(shape, dtype, "cpu", 0)[title])
    for i, kind in enumerate(function.maps):
        if memory_format and kind == "batch" and given[i].dim() == len(shape):
            given[i] = given[i].contiguous(memory_format=memory_format[0])
    noise = () if operator.stream is None else (7, 1, int(operator.stream), 0, None, None)
    if on_device:
        noise = (*noise[:4], torch.tensor([7, 1]), torch.arange(shape[0]))
    with replaced(Recorder) as kernels:
        raw(function.name, "triton")(*given, *noise)
    found, elements = {}, math.prod(shape)
    for name, kernel in kernels.items():
        for launch in kernel.launches:
            if mask:
                launch = replace(launch, constants=launch.constants | {"MASK": True})
            constants = launch.constants
            quads = 4 * constants["BLOCK"] if "BLOCK" in constants else constants.get("BLOCK_0", 0)
            block = quads * constants.get("BLOCK_1", 1) or elements // math.prod(launch.grid)
            found[name] = Variant(kernel.kernel, launch, elements, block)
    return found


def main_kernel(operator: Operator, function: Function, title: str, form: tuple, mask: bool) -> Variant:
    """The one kernel that moves tensors of the samples' size: beside it there may be one that adds partial sums."""
    (variant,) = (v for v in recorded(operator, function, title, form, mask).values() if v.tensors_moved())
    return variant


def of_operator(operator: Operator) -> Iterator[tuple[str, Variant]]:
    """Each of an operator's kernels once, and the one that moves most tensors for other shapes and dtypes too."""
    if operator.name in ON_IMAGES:
        yield from on_images(operator)
        return
    known: dict[tuple, tuple[str, Function, str, Variant]] = {}
    for function in operator.functions():
        for title in function.examples(LONG[0], LONG[1], "cpu", 0):
            variant = main_kernel(operator, function, title, LONG, False)
            name = f"{function.name}, {title}".rstrip(", ")
            known.setdefault(variant.code(), (name, function, title, variant))
    yield from ((name, variant) for name, _, _, variant in known.values())
    name, function, title, _ = max(known.values(), key=lambda entry: entry[3].tensors_moved())
    for form, what in (FORMS | (MORE_FORMS if operator.name == UPDATE else {})).items():
        variant = main_kernel(operator, function, title, what, form in MASKED)
        yield f"{name}, {form}", variant


def on_images(operator: Operator) -> Iterator[tuple[str, Variant]]:
    """The kernels of each of an operator's functions for all forms of images; those on [B, C] for the first alone."""
    for function in operator.functions():
        for form, what in IMAGES.items():
            for name, variant in recorded(operator, function, ON_IMAGES[operator.name], what, False).items():
                part = name.removeprefix(function.name).removeprefix(operator.name).strip("_")
                if not form or variant.tensors_moved():
                    yield ", ".join(filter(None, (function.name, form, part))), variant


def plain() -> Variant:
    recorder, (out, x, score) = Recorder(plain_kernel), torch.zeros(3, 8192)
    recorder[(8,)](out, x, score, 0.1, 0.4, 7, 8192, BLOCK=1024, num_warps=4, enable_fp_fusion=True)
    (launch,) = recorder.launches
    launch = replace(launch, aligned=(*launch.aligned, 6))  # n: Triton would find that 16 divides it
    return Variant(plain_kernel, launch, 8192, 1024)


def variants(operators: Collection[str] = ()) -> dict[str, Variant]:
    """Every way the kernels of the operators (none named: of all) are compiled; with all of them the plain one."""
    table: dict[str, Variant] = {}
    for operator in OPERATORS.values():
        if "triton" in operator.backends and (not operators or operator.name in operators):
            table |= of_operator(operator)
    return table if operators else table | {PLAIN: plain()}


def run_tool(name: str, *arguments: str) -> str:
    """The output of a CUDA tool that comes with triton."""
    path = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def compiled(variant: Variant, arch: int) -> Any:
    return triton.compile(variant.source(), target=GPUTarget("cuda", arch, 32), options=variant.launch.options)


def codes(kernels: Sequence[Any], arch: int) -> list[list[str]]:
    """The instructions of each compiled kernel."""
    return instructions(
        [code for kernel in kernels for code in functions(kernel.asm["cubin"]).values()], arch, run_tool
    )


def measure(variant: Variant, kernel: Any, code: list[str]) -> dict[str, Any]:
    """The machine code of a compiled variant, whose instructions are given, counted."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = run_tool("cuobjdump", "--dump-resource-usage", str(cubin))
    elements = variant.block / (32 * variant.launch.options["num_warps"])
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
        "approximate": len(re.findall(r"\.approx|\.ftz|div\.full", ptx.replace(ESTIMATE, ""))),
        "ptx_fma": ptx.count("fma.rn.f32") + ptx.count("fma.rn.f32x2"),  # sm_100 does two at once
        "tensors_read": len(variant.moved(False)),
        "tensors_written": len(variant.moved(True)),
        "elements_a_thread": elements,
        "instructions": round(len(code) / elements, 2),
        **kinds,
        "bytes": variant.bytes_an_element(),
        "h100_ps_instructions": round(computed[0] * 1e12, 2),
        "h100_ps_bytes": round(computed[1] * 1e12, 2),
        "h100_ps": round(max(computed) * 1e12, 2),
    }


def execute(variant: Variant, kernel: Any) -> dict[str, float]:
    """Run a variant that was compiled for sm_90 on a few thousand elements: counts an element, and computed times."""
    elements, meta = variant.elements, kernel.metadata
    counters = variant.launch.execute(parse(kernel.asm["ptx"]), warps=meta.num_warps, shared=meta.shared)
    computed = {
        f"{name.lower()}_ps": computed_ps(name, 32 * counters.warps / elements, counters.footprint / elements)
        for name in DEVICES
    }
    return {k: round(v, 3) for k, v in (counters.an_element(elements) | computed).items()}


def computed_ps(device: str, instructions: float, moved: float) -> float:
    """ps an element: the larger of instructions over issue rate and bytes over bandwidth. COMPUTED, not measured."""
    rate, bandwidth = DEVICES[device]
    return 1e12 * max(instructions / rate, moved / bandwidth)


def collect(archs: Sequence[int] = ARCHS, operators: Collection[str] = ()) -> dict[str, Any]:
    """All variants on all architectures, with the version they belong to, and what they execute.

    Args:
        archs: compute capabilities.
        operators: of these alone; empty: of all, and of the CUDA extension.
    """
    table = variants(operators)
    kernels: dict[str, dict] = {name: {} for name in table}
    executed = {}
    for arch in archs:
        built = [compiled(variant, arch) for variant in table.values()]
        for (name, variant), kernel, code in zip(table.items(), built, codes(built, arch), strict=True):
            kernels[name][f"sm_{arch}"] = measure(variant, kernel, code)
            if arch == 90:
                executed[name] = execute(variant, kernel)
    trace = {} if operators else gpu_trace.collect(archs, run_tool, computed_ps, list(DEVICES))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHS), help="compute capabilities, as 80 90 100")
    parser.add_argument(
        "--operator", nargs="+", default=[], choices=OPERATORS, help="print these operators' rows alone"
    )
    parser.add_argument("--out", type=Path, help="path of the results, without .json and .md (default: the committed)")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1" or _launch.interpreted():
        parser.error("unset TRITON_INTERPRET: interpreted kernels cannot be compiled")
    results, out = collect(options.arch, options.operator), options.out
    if out or not options.operator:
        out = out or COMMITTED
        out.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{out}.json").write_text(json.dumps(results, indent=1) + "\n")
        Path(f"{out}.md").write_text(table(results))
    print(table(results), end="")


if __name__ == "__main__":
    main()
