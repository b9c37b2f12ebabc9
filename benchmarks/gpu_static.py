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
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from fastscore.kernels import _launch
from fastscore.kernels.ptx.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import gpu_trace
from benchmarks.gpu_devices import DEVICES, computed_ps
from benchmarks.gpu_static_table import table
from benchmarks.gpu_variants import Variant, variants
from benchmarks.machine_code import DOUBLE, functions, instructions, kind_of
from fastscore._core.operators import OPERATORS

ARCHS = (80, 90, 100)
ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "benchmarks" / "results" / "gpu_static"
ESTIMATE = "rsqrt.approx.ftz.f32"  # from which philox.root starts; its last step rounds to nearest


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


def collect(archs: Sequence[int] = ARCHS, operators: Collection[str] = ()) -> dict[str, Any]:
    """All variants on all architectures, with the version they belong to, and what they execute.

    Args:
        archs: compute capabilities.
        operators: of these alone; empty: of all, and of the CUDA extension.
    """
    chosen = variants(operators)
    kernels: dict[str, dict] = {name: {} for name in chosen}
    executed = {}
    for arch in archs:
        built = [compiled(variant, arch) for variant in chosen.values()]
        for (name, variant), kernel, code in zip(chosen.items(), built, codes(built, arch), strict=True):
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
