"""An operator that is registered has all that belongs to one: what is missing fails here, and the text says where it goes."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

import fastscore as fs
from benchmarks import gpu_trace
from benchmarks.operators import benchmarks
from fastscore._core import backends
from fastscore._core.operators import OPERATORS, Operator
from fastscore._core.registration import raw
from fastscore.experiment import doctor

from .ops.declared import CALLS, FUNCTIONS, samples

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "operators.md"


def gaps(operator: Operator, page: str) -> list[str]:
    """What an operator lacks."""
    return [*_in_the_declaration(operator), *_in_the_code(operator), *_on_the_page(operator, page)]


def _in_the_declaration(operator: Operator) -> list[str]:
    found = []
    for function in operator.functions():
        for shape in ((2, 3), (2, 3, 4, 4), (0, 3), (4,)):
            given = function.examples(shape, torch.float32, "cpu", 0)
            if not given or any(len(one) != len(function.maps) for one in given.values()):
                found.append(f"examples of {function.name} for samples of {shape}, one value for each argument")
        if function.reference is None and not function.writes:
            found.append(f"a reference of {function.name}")
    if operator.call is None and operator.stream is not None:
        found.append("call: how the public function takes the arguments of an example and a Philox")
    if operator.name not in {benchmark.operator for benchmark in benchmarks().values()}:
        found.append("a row of benchmarks/operators.py")
    return found


def _in_the_code(operator: Operator) -> list[str]:
    found, served = [], operator.backends
    if "triton" in served and backends.problem("triton", "cuda") is None:
        kernels = ROOT / "kernels" / f"{operator.name}.py"
        module = import_module(f"fastscore.kernels.{operator.name}") if kernels.is_file() else None
        for function in operator.functions():
            if not hasattr(module, operator.launcher(function)):
                found.append(f"kernels/{operator.name}.py:{operator.launcher(function)}")
    for kind, folder, ending in (("cpu", "cpu", "cpp"), ("cuda", "cuda", "cu")):
        if kind in served.get("native", ()) and not (ROOT / "csrc" / folder / f"{operator.name}.{ending}").is_file():
            found.append(f"csrc/{folder}/{operator.name}.{ending}, or it goes by another name")
    if "cuda" in served.get("native", ()) and operator.name not in {row[0] for row in gpu_trace.ROWS.values()}:
        found.append("a row of benchmarks/gpu_trace.py, with a launch in kernels/ptx/on_cuda.py")
    return found


def _on_the_page(operator: Operator, page: str) -> list[str]:
    section = re.search(rf"^## {operator.name}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    if not section:
        return [f"a section of docs/operators.md, ## {operator.name}"]
    served = "; ".join(f"{name} on {' and '.join(kinds)}" for name, kinds in operator.backends.items())
    wanted = {"Shapes: ": "shapes", "Python: `": "a name", f"Backends: reference; {served}.": "the declared backends"}
    found = [
        f"{what} in its section of docs/operators.md, '- {line}'"
        for line, what in wanted.items()
        if line not in section[1]
    ]
    return found + ([] if "`" in section[1].split("\n- ")[0] else ["an equation at the head of its section"])


@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_is_missing(name):
    assert not gaps(OPERATORS[name], PAGE.read_text())


def test_the_page_has_no_other_operators():
    assert set(re.findall(r"^## (.*)$", PAGE.read_text(), re.M)) == set(OPERATORS)
    for name in re.findall(r"- Python: `(.*?)[`(]", PAGE.read_text()):
        found = fs
        for part in name.split(".")[1:]:
            found = getattr(found, part)
        assert callable(found)


def test_doctor_names_every_operator():
    assert all(re.search(rf"\b{name}\b", doctor.report()) for name in OPERATORS)


@pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_extension_has_it(name):
    operator, _ = FUNCTIONS[name]
    for kind, key in (("cpu", "CPU"), ("cuda", "CUDA")):
        if kind in operator.backends["native"] and not backends.problem("native", kind, operator.name):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(raw(name, "native").name(), key)


def test_what_is_missing_is_named():
    """Each gap of an operator that has them all."""
    whole = OPERATORS["perturb"]
    assert gaps(whole, "")[0] == "a section of docs/operators.md, ## perturb"
    bare = replace(whole, name="nothing", call=None, reference=None, examples=lambda *_: {})
    text = "\n".join(gaps(bare, "## nothing\nNo equation.\n- Backends: reference; native on cuda.\n"))
    for part in (
        "examples of nothing for samples of (2, 3)",
        "a reference of nothing",
        "call: how",
        "a row of benchmarks/operators.py",
        "csrc/cpu/nothing.cpp",
        "the declared backends",
        "shapes in its section",
        "an equation",
    ):
        assert part in text
    on_cuda = replace(bare, backends={"native": ("cuda",)})
    assert "a row of benchmarks/gpu_trace.py" in "\n".join(gaps(on_cuda, ""))
    if not backends.problem("triton", "cuda", "perturb"):
        assert "kernels/nothing.py:launch" in text


def test_the_derived_tables_have_every_operator():
    """Those with tensors that have derivatives are in the table of calls; all are in that of functions."""
    assert {operator.name for operator, _ in FUNCTIONS.values()} == set(OPERATORS)
    made = {"fill", "fill_probes", "read_images"}  # of nothing, or of bytes
    assert {call.operator.name for call in CALLS.values()} == set(OPERATORS) - made
    for _, function in FUNCTIONS.values():
        given = next(iter(function.examples((2, 3), torch.float64, "cpu", 0).values()))
        assert samples(function, given)[0][0] == 2, function.name
