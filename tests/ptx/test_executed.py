"""The committed counts of executed instructions are what the kernels here execute."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import optional

from .on_ptx import ROOT

COMMITTED = ROOT / "benchmarks" / "results" / "gpu_executed.json"


def test_committed_counts_are_these(tmp_path):
    triton = optional("triton")
    committed = json.loads(COMMITTED.read_text())
    if committed["triton"] != triton.__version__:
        pytest.skip(f"the committed counts are of triton {committed['triton']}, here is {triton.__version__}")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run([sys.executable, "-m", "tests.ptx.executed", "--out", str(tmp_path / "counts")], cwd=ROOT,
                         env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "counts.json").read_text()) == committed
    assert (tmp_path / "counts.md").read_text() == COMMITTED.with_suffix(".md").read_text()
    ours, plain = (committed["kernels"][name] for name in ("langevin_step", "plain tl.randn update"))
    assert plain["instructions"] > 2 * ours["instructions"] and ours["footprint"] < 12.1
    assert ours["divergent_share"] == ours["bank_conflicts"] == 0
