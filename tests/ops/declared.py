"""What the declarations of the operators give to tests: every registered operator is in each of these tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import fastscore as fs
from fastscore._core.operators import OPERATORS, Function, Operator

FUNCTIONS = {f.name: (operator, f) for operator in OPERATORS.values() for f in operator.functions()}
SEED, STEP, OFFSET = (
    -(3 << 40) - 12345,
    0xFFFFFF05,
    0xFFFF0000,
)  # high bits everywhere: words are 32 bits, without a sign


def served() -> list:
    """(function, backend, kind of device) that is declared; triton on the CPU too, in its interpreter."""
    rows = []
    for name, (operator, _) in FUNCTIONS.items():
        for backend, kinds in operator.backends.items():
            for device in (*kinds, "cpu") if backend == "triton" else kinds:
                marks = pytest.mark.gpu if device == "cuda" else ()
                rows.append(pytest.param(name, backend, device, id=f"{name}-{backend}-{device}", marks=marks))
    return rows


def arguments(schema: str) -> list[str]:
    """The names of a schema's arguments."""
    return [part.split(" ")[-1] for part in schema.split(" -> ")[0].strip("()").split(", ")]


def noise(operator: Operator, rows: int, how: str = "numbers", device: str = "cpu") -> tuple:
    """The noise arguments of a compiled function, () where it draws nothing: as numbers, or in device tensors."""
    if operator.stream is None:
        return ()
    if how == "numbers":
        return SEED, STEP, int(operator.stream), OFFSET, None, None
    index = torch.arange(rows, device=device) * 7 + 4_000_000_000
    return 1, 1, int(operator.stream), 1, torch.tensor([SEED, STEP], device=device), index


def handle(operator: Operator, shape: Any, dtype: torch.dtype, first: int = OFFSET, device: str = "cpu") -> tuple:
    """The same noise as the reference takes it, (Noise,), for consecutive samples from ``first`` on; or ()."""
    if operator.stream is None:
        return ()
    dtype = dtype if dtype.is_floating_point else torch.float32
    return (fs.Noise(SEED % 2**64, STEP, operator.stream, first, shape, dtype, device),)


def samples(function: Function, given: tuple) -> tuple[torch.Size, torch.dtype]:
    """Shape [B, ...] and dtype of the samples in an example."""
    kinds = [kind for kind in function.maps if kind in ("batch", "probe")]
    place = function.maps.index(kinds[0])
    x = given[place]
    return x.shape[kinds[0] == "probe" :], x.dtype


def row(function: Function, given: tuple, i: int) -> tuple:
    """An example's arguments for its row ``i`` alone."""

    def cut(value: Any, kind: str) -> Any:
        if not isinstance(value, Tensor) or kind == "none" or (kind, value.dim()) in (("row", 0), ("channel", 1)):
            return value
        return value[:, i : i + 1] if kind == "probe" else value[i : i + 1]

    return tuple(map(cut, given, function.maps))


def results(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def run(function: Function, compiled: Any, given: tuple, where: tuple) -> tuple[Tensor, ...]:
    """The results of a compiled function; what it wrote, where it writes."""
    value = compiled(*given, *where)
    return (given[arguments(function.schema).index("out")],) if function.writes else results(value)


def reference(operator: Operator, function: Function, given: tuple, where: tuple) -> tuple[Tensor, ...]:
    """The same in plain torch."""
    if function.writes:  # the operator itself, of the arguments before
        given, function = given[:-1], operator
    with fs.use_backend("reference"):
        return results(function.reference(*given, *where))


@dataclass(frozen=True, eq=False)
class Call:
    """An operator's public function at one of its examples, as a function of the tensors that have derivatives.

    Each call draws the same numbers.
    """

    operator: Operator
    example: str
    given: tuple  # of some shape: what is no input does not depend on it

    def places(self) -> list[int]:
        named = zip(self.given, arguments(self.operator.schema), self.operator.maps)
        return [
            i
            for i, (value, name, kind) in enumerate(named)
            if isinstance(value, Tensor) and value.is_floating_point() and kind != "none" and name != "like"
        ]

    def inputs(self, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, ...]:
        """float64 tensors, for samples of ``shape`` [B, ...]."""
        given = self.operator.examples(shape, torch.float64, "cpu", seed)[self.example]
        return tuple(given[i] for i in self.places())

    def __call__(self, *inputs: Tensor) -> Tensor:
        given = list(self.given)
        for place, value in zip(self.places(), inputs, strict=True):
            given[place] = value
        rng = () if self.operator.stream is None else (fs.Philox(1),)
        return (self.operator.call or self.operator.public)(*given, *rng)


def _calls() -> dict[str, Call]:
    """Of the examples of one operator those that differ in what is given, in dimensions or in a float.

    Not of operators that make their samples, of random numbers or of bytes, and take none.
    """
    found: dict[tuple, tuple[str, Call]] = {}
    for operator in OPERATORS.values():
        for name, given in operator.examples((2, 3), torch.float64, "cpu", 0).items():
            forms = {Tensor: Tensor.dim, float: float, list: bool}
            kinds = tuple(forms.get(type(value), lambda _: None)(value) for value in given)
            call = Call(operator, name, given)
            if any(operator.maps[place] in ("batch", "probe") for place in call.places()):
                found.setdefault((operator.name, kinds), (f"{operator.name}, {name}".rstrip(", "), call))
    return dict(found.values())


CALLS = _calls()
every_call = pytest.mark.parametrize("name", CALLS)
