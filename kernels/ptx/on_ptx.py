"""Launches of Triton kernels that run their PTX here: what ``kernel[grid](...)`` does on a GPU, on CPU tensors."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .counters import Counters
from .machine import Unwritten, launch
from .parser import Module, parse

ROOT = Path(__file__).resolve().parents[2]
POINTERS = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
}
NUMBERS = {"int64": "i64", "uint64": "u64", "int32": "i32", "uint32": "u32", "float32": "fp32"}
RAW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
RESULTS = ("out", "grad", "partial")  # arguments that a kernel writes, and must not read


class Compiler:
    """Compiles on request, in one process that lives as long as this object; every variant once."""

    def __init__(self, cache: Path):
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment |= {
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "TRITON_DISABLE_LINE_INFO": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self.errors = open(cache / "compiler.txt", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastscore.kernels.ptx.compile"],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout  # both are pipes
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.known: dict[str, tuple[Module, dict]] = {}

    def __call__(self, request: dict) -> tuple[Module, dict]:
        line = json.dumps(request, sort_keys=True)
        if line not in self.known:
            self.requests.write(line + "\n")
            self.requests.flush()
            text = self.answers.readline()
            answer = json.loads(text) if text else {"error": Path(self.errors.name).read_text()}
            if "error" in answer:
                raise RuntimeError(answer["error"])
            self.known[line] = (parse(answer["ptx"]), answer)
        return self.known[line]

    def close(self) -> None:
        self.requests.close()
        self.process.wait(30)
        self.errors.close()


def host_array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a contiguous tensor, of whatever type, as numpy integers."""
    return tensor.detach().reshape(-1).view(RAW[tensor.element_size()]).numpy()


def loose(module: Module) -> list[str]:
    """Instructions whose bits a device may choose, though they are computed in one way here; only the text can tell.

    These are the approximate ones, and sums and products that do not say how they round: ptxas may make an fma of two.
    """
    return [
        i.text
        for entry in module.entries.values()
        for i in entry.code
        if {"approx", "full", "ftz"} & set(i.mods)
        or (i.op in ("add", "sub", "mul") and i.mods[-1] in ("f32", "f64") and "rn" not in i.mods)
    ]


class OnPtx:
    """Stands in for a ``@triton.jit`` kernel: ``OnPtx(...)[grid](arguments)`` executes its PTX."""

    def __init__(self, compiler: Compiler, kernel: Any):
        self.compiler, self.function = compiler, getattr(kernel, "fn", kernel)
        self.results: list[Counters] = []
        self.modules: list[Module] = []

    def __getitem__(self, grid: tuple) -> Any:
        def run(*args: Any, **named: Any) -> None:
            signature = inspect.signature(self.function)
            options = {k: named.pop(k) for k in list(named) if k not in signature.parameters}
            self._launch(grid, dict(signature.bind(*args, **named).arguments), options)

        return run

    def _launch(self, grid: tuple, values: dict[str, Any], options: dict) -> None:
        parameters = inspect.signature(self.function).parameters
        types: dict[str, str] = {}
        constants: dict[str, Any] = {}
        aligned: list[int] = []
        given: list[Any] = []
        for place, (name, value) in enumerate(values.items()):
            annotation = parameters[name].annotation
            if "constexpr" in str(annotation) or value is None:
                types[name], constants[name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                types[name] = f"*{POINTERS[value.dtype]}"
                if value.data_ptr() % 16 == 0:
                    aligned.append(place)
                array = host_array(value)
                given.append(Unwritten(array) if name in RESULTS else array)
            else:
                types[name] = NUMBERS[str(getattr(annotation, "name", annotation))]
                given.append(value)
        module, answer = self.compiler(
            {
                "module": self.function.__module__,
                "kernel": self.function.__name__,
                "signature": types,
                "constants": constants,
                "aligned": aligned,
                "options": options,
            }
        )
        self.modules.append(module)
        entry = next(iter(module.entries.values()))
        given += [None] * (len(entry.params) - len(given))  # Triton's own: scratch memory that these kernels lack
        result = launch(module, grid, 32 * answer["warps"], given, shared=answer["shared"])
        for value in given:
            if isinstance(value, Unwritten) and value.array.size and not value.written.all():
                raise AssertionError(f"{int((~value.written).sum())} bytes of a result were not written")
        self.results.append(result)
