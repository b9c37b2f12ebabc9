"""Launches of Triton kernels that are noted, or run their PTX here: what ``kernel[grid](...)`` does, on CPU tensors."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
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
    torch.uint8: "u8",
}
NUMBERS = {"int64": "i64", "uint64": "u64", "int32": "i32", "uint32": "u32", "float32": "fp32", "fp32": "fp32"}
RAW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
RESULTS = re.compile("out|grad|partial|(out|to)_.*")  # the names of what a kernel writes, and must not read


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
    """The memory of a tensor of whatever type, dense in some order of its dimensions, as numpy integers."""
    order = sorted(range(tensor.dim()), key=lambda d: (tensor.stride()[d], tensor.shape[d]), reverse=True)
    dense = tensor.detach().permute(order)
    if not dense.is_contiguous():
        raise ValueError(f"a kernel's tensor must be dense, got shape {tuple(tensor.shape)}, strides {tensor.stride()}")
    return dense.view(-1).view(RAW[tensor.element_size()]).numpy()


ESTIMATE = ("rsqrt", "approx", "ftz", "f32")


def loose(module: Module) -> list[str]:
    """Instructions whose bits a device may choose, though they are computed in one way here; only the text can tell.

    These are the approximate ones, and sums and products that do not say how they round: ptxas may make an fma of two.
    Not the approximate one from which ``philox.root`` starts: its last step rounds to nearest.
    """
    return [
        i.text
        for entry in module.entries.values()
        for i in entry.code
        if ({"approx", "full", "ftz"} & set(i.mods) and (i.op, *i.mods) != ESTIMATE)
        or (i.op in ("add", "sub", "mul") and i.mods[-1] in ("f32", "f64") and "rn" not in i.mods)
    ]


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel as the compiler sees it: what is compiled, and for which grid and arguments."""

    kernel: Callable
    grid: tuple
    values: dict[str, Any]  # of all parameters, in their order
    types: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]  # the indices of pointers that 16 divides
    options: dict[str, Any]

    @classmethod
    def of(cls, kernel: Callable, grid: tuple, args: tuple, named: dict[str, Any]) -> Launch:
        """The launch ``kernel[grid](*args, **named)``, where ``kernel`` is the plain function."""
        signature = inspect.signature(kernel)
        options = {k: named[k] for k in named if k not in signature.parameters}
        bound = signature.bind(*args, **{k: v for k, v in named.items() if k not in options})
        types: dict[str, str] = {}
        constants: dict[str, Any] = {}
        aligned: list[int] = []
        for index, (name, value) in enumerate(bound.arguments.items()):
            annotation = signature.parameters[name].annotation
            if "constexpr" in str(annotation) or value is None:
                types[name], constants[name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                types[name] = f"*{POINTERS[value.dtype]}"
                if value.data_ptr() % 16 == 0:
                    aligned.append(index)
            else:
                types[name] = NUMBERS[str(getattr(annotation, "name", annotation)).removeprefix("tl.")]
        return cls(kernel, grid, dict(bound.arguments), types, constants, tuple(aligned), options)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.values.items() if isinstance(value, torch.Tensor)}

    def execute(self, module: Module, *, warps: int, shared: int) -> Counters:
        """Run the PTX on the memory of the launch's own tensors (on the CPU); every byte of a result must be written."""
        given: list[Any] = []
        for name, kind in self.types.items():
            if kind.startswith("*"):
                array = host_array(self.values[name])
                given.append(Unwritten(array) if RESULTS.fullmatch(name) else array)
            elif kind != "constexpr":
                given.append(self.values[name])
        entry = next(iter(module.entries.values()))
        given += [None] * (len(entry.params) - len(given))  # Triton's own: scratch memory that these kernels lack
        result = launch(module, self.grid, 32 * warps, given, shared=shared)
        for value in given:
            if isinstance(value, Unwritten) and value.array.size and not value.written.all():
                raise AssertionError(f"{int((~value.written).sum())} bytes of a result were not written")
        return result


class Recorder:
    """Stands in for a ``@triton.jit`` kernel: ``Recorder(...)[grid](arguments)`` notes the launch and runs nothing."""

    def __init__(self, kernel: Any):
        self.kernel = kernel
        self.function: Callable = getattr(kernel, "fn", kernel)
        self.launches: list[Launch] = []

    def __getitem__(self, grid: tuple) -> Callable[..., None]:
        return lambda *args, **named: self.run(Launch.of(self.function, grid, args, named))

    def run(self, launch: Launch) -> None:
        self.launches.append(launch)


class OnPtx(Recorder):
    """Stands in for a ``@triton.jit`` kernel: ``OnPtx(...)[grid](arguments)`` executes its PTX."""

    def __init__(self, compiler: Compiler, kernel: Any):
        super().__init__(kernel)
        self.compiler = compiler
        self.results: list[Counters] = []
        self.modules: list[Module] = []

    def run(self, launch: Launch) -> None:
        module, answer = self.compiler(
            {
                "module": self.function.__module__,
                "kernel": self.function.__name__,
                "signature": launch.types,
                "constants": launch.constants,
                "aligned": launch.aligned,
                "options": launch.options,
            }
        )
        self.modules.append(module)
        self.results.append(launch.execute(module, warps=answer["warps"], shared=answer["shared"]))


def all_kernels() -> dict[str, tuple[str, str]]:
    """Every kernel of the package, a function whose name ends in _kernel, by its name without that: (file, function)."""
    import fastscore.kernels

    found = {}
    for module in pkgutil.iter_modules(fastscore.kernels.__path__, "fastscore.kernels."):
        for function, kernel in () if module.ispkg else vars(import_module(module.name)).items():
            if function.endswith("_kernel") and getattr(kernel, "fn", kernel).__module__ == module.name:
                found[function.removesuffix("_kernel")] = (module.name, function)
    return found


@contextmanager
def replaced(stand_in: Callable[[Any], Recorder]) -> Iterator[dict[str, Recorder]]:
    """Inside the ``with``, every Triton kernel of the package is ``stand_in(kernel)``; yields them by their names.

    Launches are then made as on a GPU, with its blocks, though their tensors may lie on the CPU.
    """
    launches: Any = import_module("fastscore.kernels._launch")
    places = all_kernels()
    before = {name: getattr(import_module(file), function) for name, (file, function) in places.items()}
    interpreted, launches.interpreted = launches.interpreted, lambda: False
    made = {name: stand_in(kernel) for name, kernel in before.items()}

    def put(kernels: dict[str, Any]) -> None:
        for name, kernel in kernels.items():
            setattr(import_module(places[name][0]), places[name][1], kernel)

    try:
        put(made)
        yield made
    finally:
        put(before)
        launches.interpreted = interpreted
