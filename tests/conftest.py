"""Shared by all tests: where `gpu` tests run, and what is said at the head of a run."""

import importlib
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

# Before torch is imported: a worker of pytest-xdist has one core, and so have the processes that it starts, which are no
# workers themselves (pytest-benchmark would not time anything in one).
if os.environ.pop("PYTEST_XDIST_WORKER", None):
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")

import torch

if not torch.cuda.is_available():  # before any kernel is imported: the Triton kernels then run in the interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

from fastscore._core import backends, errors

backends._told.update(("cpu", "cuda"))  # the head of the run says it: pytest -W error runs without the extension too


def pytest_report_header() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: gpu tests are skipped"
    served = backends.default(torch.device("cpu"))
    served += f" ({backends.isa()})" if served == "native" else ""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}; backend of the CPU: {served}"


# The files that take longest, each of which stays with one worker: they begin first, so that none is the last alone.
LONGEST = [
    "kernels/test_ahead_of_time.py",
    "experiment/test_ranks.py",
    "experiment/test_reproduce_killed.py",
    "experiment/test_stopping.py",
    "experiment/test_reproduce.py",
    "experiment/test_cli.py",
    "ptx/test_kernels.py",
    "trace/test_jacobian_trace.py",
    "losses/test_modes.py",
    "experiment/test_killed_ranks.py",
    "test_adding_an_operator.py",
    "test_compile.py",
    "test_benchmarks.py",
    "likelihood/test_log_prob.py",
    "experiment/test_compare.py",
    "ops/test_transforms.py",
]


def place_of(path: Path) -> int:
    """Where the tests of a file come in a run."""
    return next((k for k, name in enumerate(LONGEST) if path.as_posix().endswith(f"/tests/{name}")), len(LONGEST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place_of(item.path))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # not by its keywords, among which is the folder that the tests are in
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def optional(module: str) -> ModuleType:
    """``module``, or the test is skipped: not installed, or (as torchvision may) not importable beside this torch."""
    try:
        return errors.require(module, "dev")
    except errors.MissingDependency as error:
        pytest.skip(str(error), allow_module_level=True)


@pytest.fixture
def torchode(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """torchode, or where it is not installed what stands in for its methods."""
    try:
        return importlib.import_module("torchode")
    except ImportError:
        from . import torchode_stand_in

        monkeypatch.setitem(sys.modules, "torchode", torchode_stand_in)
        return torchode_stand_in


@pytest.fixture
def on_backend():
    """use(name, device, operator): the rest of the test runs on that backend; skipped where it is not there."""
    with ExitStack() as stack:

        def use(name: str, device: str = "cpu", operator: str = "perturb") -> None:
            if reason := backends.problem(name, device, operator):
                pytest.skip(reason)
            stack.enter_context(backends.use_backend(name))

        yield use


def z_mean(values: torch.Tensor, mean: float, variance: float) -> float:
    """The z-score of the mean of independent values whose true mean and variance are known."""
    return float((values.double().mean() - mean) / (variance / values.numel()) ** 0.5)


def z_variance(values: torch.Tensor, variance: float) -> float:
    """The z-score of the mean square of independent N(0, variance) values: its standard error is v sqrt(2/n)."""
    return float((values.double().square().mean() - variance) / (variance * (2 / values.numel()) ** 0.5))
