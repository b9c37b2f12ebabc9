"""What the Triton kernels compile to, without a GPU: registers, instructions and bytes an element, by architecture.

    python benchmarks/gpu_static.py [--arch 80 90 100] [--out benchmarks/results/gpu_static]

Every variant is compiled ahead of time and its machine code (SASS) is read back. The code has no loops, so the
instructions of the program, divided by the elements a thread has, are those executed for an element; branches that
are hardly ever taken (the slow path of a square root) are counted in, padding (NOP) is not.

The times are computed, not measured: instructions and bytes an element against what an H100 can issue and move. They
take every instruction to cost one issue slot, though wide multiplications and conversions cost more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from fastscore.kernels import _launch, dsm_loss, fill, langevin_step, perturb
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHS = (80, 90, 100)
INSTRUCTIONS_A_SECOND = 2.9e13  # H100 SXM: 132 SMs x 128 lanes x 1.7 GHz
BYTES_A_SECOND = 3.0e12
RESULTS = Path(__file__).parent / "results" / "gpu_static"
TYPES = {"seed": "i64", "step": "u32", "stream": "u32", "first": "u32", "rows": "i64", "quads": "i32", "tiles": "i32",
         "magic": "u32", "shift": "u32", "n": "i32", "a": "fp32", "b": "fp32"}

BLOCK = _launch.BLOCK
ROWS = {"BLOCK": BLOCK, "QUADS": BLOCK, "PAD": 0, "MASK": False, "WIDE": False}  # long samples, no mask
FLAT = ROWS | {"QUADS": 0, "MASK": True}  # short samples: all quads in one line
ODD = FLAT | {"PAD": 1}  # a number of elements that 4 does not divide: no aligned accesses
SHORT = ROWS | {"QUADS": BLOCK // 4, "MASK": True}  # sums of short samples: four samples a program

# kinds of instructions by the start of their names; whatever is in none of these is control or data movement
MEMORY = ("LD", "ST", "ATOM", "RED", "ULDC", "CCTL")
MOVE = ("IMAD.MOV", "HFMA2")  # HFMA2 only ever loads constants here
INTEGER = ("IMAD", "UIMAD", "IADD", "UIADD", "VIADD", "LOP3", "ULOP3", "SHF", "USHF", "LEA", "ULEA", "ISETP", "UISETP",
           "SEL", "USEL", "IMNMX", "VIMNMX", "IABS", "PRMT", "UPRMT", "SGXT")
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
        return len(self.moved.split()) * {"i64": 8, "fp64": 8, "fp32": 4}.get(self.dtype, 2)


def variants() -> dict[str, Variant]:
    """Every way the operators' kernels are compiled, and the plain one."""
    p, ls, d, f = (perturb.perturb_kernel, langevin_step.langevin_step_kernel, dsm_loss.dsm_loss_kernel,
                   fill.fill_kernel)
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
    table["plain tl.randn update"] = Variant(plain_kernel, "out x score", flags={"BLOCK": 1024},
                                             options={"num_warps": 4, "enable_fp_fusion": True})
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


def measure(variant: Variant, arch: int) -> dict[str, Any]:
    """Compile one variant for one architecture and read its machine code."""
    kernel = triton.compile(variant.source(), target=GPUTarget("cuda", arch, 32), options=variant.options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = run_tool("cuobjdump", "--dump-resource-usage", str(cubin))
        code = instructions(run_tool("nvdisasm", "-c", str(cubin)))
    block = variant.flags["BLOCK"] * (1 if variant.kernel is plain_kernel else 4)
    elements = block / (32 * variant.options["num_warps"])
    kinds = {kind: round(sum(kind_of(name) == kind for name in code) / elements, 2)
             for kind in ("integer", "float", "memory", "other")}
    ptx = kernel.asm["ptx"]
    computed = (len(code) / elements / INSTRUCTIONS_A_SECOND, variant.bytes_an_element() / BYTES_A_SECOND)
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


def collect(archs: Sequence[int] = ARCHS) -> dict[str, Any]:
    """All variants on all architectures, with the version they belong to."""
    kernels = {name: {f"sm_{arch}": measure(variant, arch) for arch in archs}
               for name, variant in variants().items()}
    return {"triton": triton.__version__, "note": "h100_ps: picoseconds an element, computed, not measured",
            "kernels": kernels}


def table(results: dict[str, Any]) -> str:
    """The results as one screen of Markdown."""
    archs = list(next(iter(results["kernels"].values())))
    detail = "sm_90" if "sm_90" in archs else archs[0]
    lines = [
        f"Triton {results['triton']}, compiled ahead of time; instructions (SASS) an element of a thread. The times "
        "are **computed, not measured**:",
        f"the larger of instructions / {INSTRUCTIONS_A_SECOND:.2g} per s and bytes / {BYTES_A_SECOND:.2g} per s "
        "(an H100), in ps an element.", "",
        f"| kernel | registers {' / '.join(archs)} | instructions {' / '.join(archs)} | {detail}: integer | float | "
        "memory | other | stack, bytes | shared, bytes | moved, bytes | ps: instructions | ps: bytes | bound by |",
        "|---|" + "---:|" * 11 + "---|",
    ]
    for name, by_arch in results["kernels"].items():
        row = by_arch[detail]
        bound = "instructions" if row["h100_ps_instructions"] > row["h100_ps_bytes"] else "bytes"
        cells = [name, " / ".join(str(by_arch[a]["registers"]) for a in archs),
                 " / ".join(f"{by_arch[a]['instructions']:.0f}" for a in archs),
                 *(f"{row[kind]:.1f}" for kind in ("integer", "float", "memory", "other")), str(row["stack"]),
                 str(row["shared"]), str(row["bytes"]), f"{row['h100_ps_instructions']:.2f}",
                 f"{row['h100_ps_bytes']:.2f}", bound]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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
