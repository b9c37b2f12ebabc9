"""The compiler's process, and Triton launches that execute PTX in place of Triton's interpreter."""

import os

import pytest
from fastscore.kernels.ptx.on_ptx import Compiler, OnPtx, loose

from tests.conftest import optional


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    optional("triton")
    compiler = Compiler(tmp_path_factory.mktemp("ptx"))
    yield compiler
    compiler.close()


@pytest.fixture
def on_ptx(compiler, monkeypatch):
    """All kernels of the project, by name, replaced by their PTX for one test."""
    from fastscore.kernels import _launch, dsm_loss, fill, langevin_step, perturb

    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("on a machine with a GPU the same cases run there: tests/ops/test_gpu.py")
    monkeypatch.setattr(_launch, "interpreted", lambda: False)  # the blocks of a GPU
    kernels = {}
    for module in (dsm_loss, fill, langevin_step, perturb):
        name = module.__name__.rpartition(".")[2]
        kernels[name] = OnPtx(compiler, getattr(module, f"{name}_kernel"))
        monkeypatch.setattr(module, f"{name}_kernel", kernels[name])
    yield kernels
    for kernel in kernels.values():
        for module in kernel.modules:
            assert not loose(module)
