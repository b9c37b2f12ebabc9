"""The compilers, and Triton launches that execute PTX in place of Triton's interpreter."""

import os
import shutil

import pytest

from fastscore.kernels.ptx.on_ptx import Compiler, OnPtx, loose, replaced
from tests.conftest import optional


@pytest.fixture(scope="session")
def nvcc() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not there")


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    optional("triton")
    compiler = Compiler(tmp_path_factory.mktemp("ptx"))
    yield compiler
    compiler.close()


@pytest.fixture
def on_ptx(compiler):
    """All kernels of the project, by name, replaced by their PTX for one test."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("on a machine with a GPU the same cases run there: tests/ops/test_gpu.py")
    with replaced(lambda kernel: OnPtx(compiler, kernel)) as kernels:
        yield kernels
    for kernel in kernels.values():
        for module in kernel.modules:
            assert not loose(module)
