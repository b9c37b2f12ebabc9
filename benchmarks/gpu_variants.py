"""Every way in which the Triton kernels of the operators are compiled, found by launching their examples."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.compiler import ASTSource

from fastscore._core.operators import OPERATORS, Function, Operator
from fastscore._core.registration import raw
from fastscore.kernels.ptx.on_ptx import RESULTS, Launch, Recorder, replaced

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
