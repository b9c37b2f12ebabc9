"""docs/adding_an_operator.md, followed step by step in a copy of the repository; all that is derived runs there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastscore._core import backends

from .conftest import optional

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("benchmarks", "csrc", "docs", "fastscore", "kernels", "tests", "pyproject.toml")
# the C++ file alone, not optimized much, beside the extension that is there: the others need not be compiled again
OPTIONS = ["-shared", "-fPIC", "-O1", "-std=c++20", "-w", "-ffp-contract=off", "-fvisibility=hidden"]
ISA = """#include "tensor.h"
fastscore::Isa fastscore::isa() {  // the one that the extension uses, which does not export it
  StableIValue value = torch::stable::detail::from(int64_t{-1});
  torch_call_dispatcher("fastscore::native_isa", "", &value, TORCH_ABI_VERSION);
  return static_cast<Isa>(torch::stable::detail::to<int64_t>(value));
}
"""
RUN = """
import json, sys, pytest, torch
import fastscore
torch.ops.load_library("fastscore/scale_shift.so")
class Passed:
    def __init__(self):
        self.found = {}
    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.found.setdefault(report.nodeid.split("::")[0], []).append((report.nodeid, report.outcome, report.longreprtext))
passed = Passed()
pytest.main(["-q", "-p", "no:cacheprovider", "-k", sys.argv[1], *sys.argv[2:]], plugins=[passed])
from fastscore.experiment import doctor
json.dump({"file": fastscore.__file__, "tests": passed.found, "doctor": doctor.report()}, open("found.json", "w"))
"""
DERIVED = ["tests/test_operators_are_complete.py", "tests/ops/test_declared.py", "tests/ops/test_transforms.py"]
DERIVED += [
    "tests/ops/test_batched.py",
    "tests/ptx/test_kernels.py",
    "tests/test_benchmarks.py",
    "benchmarks/bench_ops.py",
]
# of the table of executed PTX and of the forms of vmap what takes a few seconds
SELECTED = "scale_shift and not 4M and not 3x32x32 and not compile and (not ptx or 2x1024 or 3x7-bfloat16 or layout)"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]


def files(root: Path) -> dict[str, bytes]:
    paths = (path for part in COPIED for path in [root / part, *(root / part).rglob("*")])
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in paths
        if path.is_file()
        and not path.is_relative_to(root / "fastscore" / "kernels")  # a link to kernels
        and path.suffix in (".py", ".cpp", ".md", ".h", ".inl")
        and "template_operator" not in path.parts
    }


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository with the new operator, built."""
    optional("triton")
    copy = tmp_path_factory.mktemp("repository")
    ignored = shutil.ignore_patterns("__pycache__", "_build", ".*")
    for part in COPIED:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / part, copy / part)
    if not (copy / "fastscore" / "kernels").exists():
        (copy / "fastscore" / "kernels").symlink_to("../kernels")
    for step in re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "adding_an_operator.md").read_text(), re.S):
        subprocess.run(["bash", "-euc", step], cwd=copy, check=True)
    (copy / "isa.cpp").write_text(ISA)
    torch_folder = Path(torch.__file__).parent
    places = ["-Icsrc/cpu", f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
    sources = ["csrc/cpu/scale_shift.cpp", "isa.cpp"]
    command = ["c++", *OPTIONS, "-DTORCH_TARGET_VERSION=0x020b000000000000", *places, *sources, "-ltorch_cpu"]
    subprocess.run([*command, "-o", "fastscore/scale_shift.so"], cwd=copy, check=True)
    return copy


def run(copy: Path, *command: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET" and "XDIST" not in k}
    environment |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_steps_touch_five_files(copy):
    before, after = files(ROOT), files(copy)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed == {
        "fastscore/ops/scale_shift.py",
        "fastscore/ops/__init__.py",
        "kernels/scale_shift.py",
        "csrc/cpu/scale_shift.cpp",
        "docs/operators.md",
    }


def test_the_steps_leave_nothing_to_the_linter(copy):
    optional("ruff")
    new = [
        *(copy / part / "scale_shift.py" for part in ("fastscore/ops", "kernels")),
        copy / "fastscore/ops/__init__.py",
    ]
    run(copy, "-m", "ruff", "format", "--check", *map(str, new))
    run(copy, "-m", "ruff", "check", "--ignore", "I001", *map(str, new))  # where fastscore/kernels is a link, it errs


def test_everything_that_is_derived_has_it(copy):
    run(copy, "-c", RUN, SELECTED, *DERIVED, "--benchmark-disable", TRITON_INTERPRET="1")
    found = json.loads((copy / "found.json").read_text())
    assert Path(found["file"]).is_relative_to(copy)
    assert set(found["tests"]) == set(DERIVED)
    for file, results in found["tests"].items():
        for name, outcome, text in results:
            gpu = "cuda" in name or "device_computes" in name or "needs a CUDA device" in text
            assert outcome == "passed" or (outcome == "skipped" and gpu), f"{name}: {text}"
        assert any(outcome == "passed" for _, outcome, _ in results), file
    names = " ".join(name for results in found["tests"].values() for name, _, _ in results)
    for part in (
        "test_the_values_are_the_references[scale_shift-native-cpu]",
        "[scale_shift-triton-cpu]",
        "test_every_derivative[scale_shift]",
        "test_opcheck[contiguous-scale_shift]",
        "test_vmap_is_the_loop",
        "test_nothing_is_missing[scale_shift]",
        "test_the_bits_of_native_and_the_values_of_the_reference[scale_shift",
    ):
        assert part in names
    assert re.search(r"operators \(.*\bscale_shift\b.*\)", found["doctor"])


def test_its_kernel_is_compiled_ahead_of_time(copy):
    out = run(copy, "benchmarks/gpu_static.py", "--operator", "scale_shift", "--arch", "90")
    for name in ("scale_shift", "scale_shift, short rows", "scale_shift, bf16"):
        row = re.search(rf"^\| {name} \| (\d+) \| \d+ \| (\d+) \|.*$", out, re.M)
        assert row and int(row[1]) <= 80 and row[2] == "0", out  # registers, stack
