"""What the CUDA extension's kernels compile to and execute, without a GPU: a section of gpu_static.py's table."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import fastscore as fs

from .machine_code import functions, instructions

ROOT = Path(__file__).resolve().parents[1]
SHAPE, PROBES = (4, 3, 32, 32), 8
COLORS = fs.Coloring(PROBES, 32, 32, 1, 3, 2)
# title: the operator, parts of the float32 kernel's mangled name, bytes per element that torch's lines move
ROWS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "fill_probes, Rademacher": ("fill_probes", ("10fill_signs", "IfLb0E"), 20),  # randint, to float, times 2, minus 1
    "fill_probes, Rademacher, 8 colours": ("fill_probes", ("10fill_signs", "IfLb1E"), 32),  # and times a mask
    "fill_probes, Gaussian": ("fill_probes", ("12fill_normals", "IfLb0ELb0E"), 4),
    "fill_probes, sphere": ("fill_probes", ("12fill_normals", "IfLb0ELb1E"), 20),  # randn, norm, division
    "probe_dot, Rademacher": ("probe_dot", ("9dot_signs", "IfLb0E"), 16),  # (v * Jv).sum
    "probe_dot, Rademacher, 8 colours": ("probe_dot", ("9dot_signs", "IfLb1E"), 16),
    "probe_dot, Gaussian": ("probe_dot", ("11dot_normals", "IfLb0E"), 16),
    "mlp_divergence, tanh": ("mlp_divergence", ("9slope_dotI", "IfLNS_10ActivationE0E"), 24),  # tanh, square, 1 -, sum
}


def collect(
    archs: Sequence[int],
    tool: Callable[..., str],
    computed_ps: Callable[[str, float, float], float],
    devices: Sequence[str],
) -> dict[str, Any]:
    """Registers, stack, spills and wide accesses of each kernel; what the sm_90 PTX executes. {} without nvcc.

    ``spilling`` lists the kernels of any type and form that use a stack or spill on any architecture.
    """
    if shutil.which("nvcc") is None:
        return {}
    rows: dict[str, dict[str, Any]] = {title: {} for title in ROWS}
    spilling = []
    with tempfile.TemporaryDirectory() as folder:
        on_cuda = importlib.import_module("fastscore.kernels.ptx.on_cuda")
        find = on_cuda.compile_all(Path(folder))
        nvcc = [*on_cuda.compile.NVCC, *on_cuda.FLAGS]
        for arch in archs:
            cubins = []
            for operator in on_cuda.ON_CUDA:
                cubin = Path(folder) / f"{operator}.{arch}.cubin"
                ptx = Path(folder) / f"{operator}.ptx"  # for sm_90, which is not made again
                source = ptx if arch == 90 else ROOT / "csrc" / "cuda" / f"{operator}.cu"
                command = [*nvcc, "-cubin", f"-arch=sm_{arch}", str(source), "-o", str(cubin)]
                subprocess.run(command, check=True, capture_output=True)
                cubins.append(cubin)
            for operator, kernels in zip(on_cuda.ON_CUDA, _kernels(cubins, arch, tool)):
                for name, found in kernels.items():
                    spilling += [f"{name}, sm_{arch}"] if found["stack"] or found["spills"] else []
                    for title, (of, parts, _) in ROWS.items():
                        if of == operator and all(part in name for part in parts):
                            rows[title][f"sm_{arch}"] = found
        executed = {title: _counted(run(find, on_cuda), computed_ps, devices) for title, run in _runs().items()}
    told = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "nvcc": re.search(r"V([\d.]+)", told)[1],
        "kernels": rows,
        "spilling": spilling,
        "executed": executed,
        "torch_ps": {
            title: {d: round(computed_ps(d, 0, moved), 3) for d in devices} for title, (_, _, moved) in ROWS.items()
        },
    }


def _kernels(cubins: Sequence[Path], arch: int, tool: Callable[..., str]) -> list[dict[str, dict[str, int]]]:
    """For each cubin what is counted in each of its kernels."""
    codes = [functions(cubin.read_bytes()) for cubin in cubins]
    listed = iter(instructions([code for by_name in codes for code in by_name.values()], arch, tool))
    found = []
    for cubin, by_name in zip(cubins, codes):
        usage = dict(re.findall(r"Function (\S+?):\s+(REG:.*)", tool("cuobjdump", "--dump-resource-usage", str(cubin))))
        found.append({name: _counts(next(listed), usage[name]) for name in by_name})
    return found


def _counts(names: list[str], usage: str) -> dict[str, int]:
    starts = {
        "spills": ("LDL", "STL"),
        "loads": "LDG",
        "stores": "STG",
        "loads_128": "LDG.E.128",
        "stores_128": "STG.E.128",
    }
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    counts = {key: sum(n.startswith(start) for n in names) for key, start in starts.items()}
    return {"registers": registers, "stack": stack, **counts}


def _runs() -> dict[str, Callable[..., tuple[Any, int]]]:
    """For each row, what runs its kernel: counters, and the number of elements."""
    x = torch.zeros(SHAPE)

    def probes(distribution: str = "rademacher", coloring: fs.Coloring | None = None) -> fs.Probes:
        return fs.Probes(x, PROBES, fs.Philox(0), distribution=distribution, coloring=coloring)

    def fill(*form: Any) -> Callable:
        return lambda find, on: (on.fill(find, probes(*form), 0, PROBES)[1], PROBES * x.numel())

    def dot(*form: Any) -> Callable:
        return lambda find, on: (on.dot(find, torch.ones(PROBES, *SHAPE), probes(*form), 0)[1], PROBES * x.numel())

    forms = {
        "Rademacher": (),
        "Rademacher, 8 colours": ("rademacher", COLORS),
        "Gaussian": ("gaussian",),
        "sphere": ("sphere",),
    }
    table = {
        title: {"fill_probes": fill, "probe_dot": dot}[operator](*forms[title.split(", ", 1)[1]])
        for title, (operator, _, _) in ROWS.items()
        if operator != "mlp_divergence"
    }
    return table | {
        "mlp_divergence, tanh": lambda find, on: (
            on.slope_dot(find, torch.ones(64, 512), torch.ones(512), 0)[1],
            64 * 512,
        )
    }


def _counted(result: tuple[Any, int], computed_ps: Callable, devices: Sequence[str]) -> dict[str, float]:
    counters, elements = result
    moved = counters.footprint / elements
    times = {f"{d.lower()}_ps": computed_ps(d, 32 * counters.warps / elements, moved) for d in devices}
    return {k: round(v, 3) for k, v in (counters.an_element(elements) | times).items()}


def markdown(results: dict[str, Any], devices: Sequence[str]) -> list[list[str]]:
    """Rows of cells, the first of them the head."""
    archs = list(next(iter(results["kernels"].values())))
    rows = [
        [
            "CUDA extension, float32",
            f"registers {' / '.join(archs)}",
            "stack",
            "loads, of 128 bits",
            "stores, of 128 bits",
            "executed (PTX)",
            "moved, bytes",
            *devices,
            *(f"torch's lines, by bytes alone, {d}" for d in devices[1:2]),
        ]
    ]
    for title, by_arch in results["kernels"].items():
        ran, row = results["executed"][title], by_arch[archs[len(archs) // 2]]
        rows.append(
            [
                title,
                " / ".join(str(by_arch[a]["registers"]) for a in archs),
                str(max(by_arch[a]["stack"] + by_arch[a]["spills"] for a in archs)),
                f"{row['loads']}, {row['loads_128']}",
                f"{row['stores']}, {row['stores_128']}",
                f"{ran['instructions']:.1f}",
                f"{ran['footprint']:.1f}",
                *(f"{ran[d.lower() + '_ps']:.2f}" for d in devices),
                f"{results['torch_ps'][title][devices[1]]:.2f}",
            ]
        )
    return rows
