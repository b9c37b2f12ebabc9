"""What the kernels compile to for sm_80, sm_90 and sm_100: read from the machine code, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_devices import DEVICES, computed_ps
from benchmarks.gpu_static_table import TORCH
from benchmarks.gpu_static_table import table as results_table
from fastscore._core.operators import OPERATORS

from .cases import _launch, triton  # not "import triton": the interpreter of the other tests must be chosen before

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "benchmarks" / "results" / "gpu_static.json"
ARCHS = ["sm_80", "sm_90", "sm_100"]
PLAIN = "plain tl.randn update"
UPDATE = "langevin_step"
TILED = "instance_norm_plus"  # a thread has 64 bytes of each tensor, a program 256 threads, and twice so many registers
ODD = "langevin_step, odd rows"  # 4 does not divide a row: no access is aligned, threads exchange what they load
DOUBLE = ["langevin_step, fp64"]
EIGHT_BYTES = [*DOUBLE, "fill, words"]  # 16 bytes hold half a quad: neighbours exchange halves
NOT_FLOAT32 = (*EIGHT_BYTES, "bf16", "fp16")
# true fma in a thread's two quads: 38 a quad in Box-Muller (u, eleven for the radius, three for sin, four for cos, twice)
# and those of the update; one more or less would be a contraction, or an fma lost
FMA = {
    "perturb": 2 * (38 + 4),
    "langevin_step": 2 * (38 + 8),
    "affine_step": 2 * (38 + 8),
    "affine_step, three tensors, one number each": 2 * (38 + 16),
    "affine_step, two tensors, no noise": 2 * 8,
    "dsm_loss_gradient": 2 * (38 + 4),
    "fill, normal": 2 * 38,
    "langevin_step, fp64": 2 * 38,
    "fill, uniform": 0,
    "elu": 8 * 10,  # of an element: three for n and r, five for the polynomial, two to put them together
}
STENCILS = ("mean_pool", "max_pool")  # a thread reads the neighbours of its elements too: most of the time from a cache


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """All that benchmarks/gpu_static.py finds, in a process without the interpreter."""
    try:
        tools = [Path(getattr(triton.knobs.nvidia, name).path) for name in ("cuobjdump", "nvdisasm", "ptxas")]
    except (AttributeError, RuntimeError) as error:
        pytest.skip(f"triton's CUDA tools are not there: {error}")
    if not all(map(Path.is_file, tools)):
        pytest.skip(f"triton's CUDA tools are not there: {', '.join(map(str, tools))}")
    out = tmp_path_factory.mktemp("gpu_static") / "results"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_static.py"), "--out", str(out)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    assert Path(f"{out}.md").read_text() == run.stdout
    return json.loads(Path(f"{out}.json").read_text())


def test_every_kernel_is_there(results):
    """Each function of each operator that has a Triton version, but for those that write elsewhere by the same kernel."""
    functions = [
        function.name
        for operator in OPERATORS.values()
        for function in operator.functions()
        if "triton" in operator.backends and not function.writes
    ]
    assert {name.split(", ")[0] for name in results["kernels"]} == {*functions, PLAIN}
    assert {"langevin_step, seed on device", ODD, *DOUBLE, *FMA} <= set(results["kernels"])
    assert all(list(by_arch) == ARCHS for by_arch in results["kernels"].values())


@pytest.mark.parametrize("arch", ARCHS)
def test_machine_code(results, arch):
    for name, by_arch in results["kernels"].items():
        if name == PLAIN:
            continue
        row, sums = by_arch[arch], name.startswith("dsm_loss") and not name.startswith("dsm_loss_gradient")
        assert (row["spills"], row["stack"], row["local"]) == (0, 0, 0), name
        tiled, stencil = name.startswith(TILED), name.startswith(STENCILS)
        # 16 warps on a multiprocessor, of gradients of max_pool, whose loads are all under way at once, 12, of others 24
        most = 168 if name.startswith("max_pool_gradient") else 128 if tiled or stencil else 80
        assert row["registers"] <= most, name
        assert row["approximate"] == 0, name  # no operation that does not round to nearest, none that flushes to zero
        assert (row["float64"] == 0) == (name not in DOUBLE), name
        shared = 4096 if name == ODD else 2048 if tiled or name in EIGHT_BYTES else 64 if sums else 0
        assert row["shared"] <= shared, name
        if tiled:  # what [B, C] tensors are read by comes on top of the loads
            wide = row["elements_a_thread"] * (2 if "bf16" in name else 4) / 16
            assert row["loads_128"] >= wide * row["tensors_read"] and row["stores_128"] == wide * row["tensors_written"]
        elif name in [
            f"{stencil}, channels_last" for stencil in STENCILS
        ]:  # five of each of eight rows, for a column of four
            bytes_too = 4 * (name != "mean_pool, channels_last")
            assert row["loads"] == row["loads_128"] == 40 and row["stores"] - bytes_too == row["stores_128"] == 4
        elif name == "max_pool_gradient, channels_last":  # and as many accesses of four places
            assert row["loads"] == 2 * row["loads_128"] == 80 and row["stores"] == row["stores_128"] == 4
        elif name != ODD and not stencil and not name.endswith(NOT_FLOAT32):
            # so many accesses of 128 bits as a thread has quads, and no others of the tensors of the samples' size
            quads = row["elements_a_thread"] // 4
            wide = (quads * row["tensors_read"], quads * row["tensors_written"])
            assert (row["loads_128"], row["stores_128"]) == wide, name
        if name in FMA:
            assert row["ptx_fma"] == FMA[name], name
        if name.startswith(UPDATE) and name != ODD:
            assert row["instructions"] <= 80, name


def test_nothing_is_contracted():
    assert _launch.OPTIONS["enable_fp_fusion"] is False  # the default of triton 3.9 is True


@pytest.mark.parametrize("arch", ARCHS)
def test_odd_rows_stay_bound_by_memory(results, arch):
    row = results["kernels"][ODD][arch]
    assert row["h100_ps_instructions"] < row["h100_ps_bytes"]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_plain_update_costs_twice_the_instructions(results, arch):
    plain, ours = results["kernels"][PLAIN][arch], results["kernels"]["langevin_step"][arch]
    assert plain["bytes"] == ours["bytes"] == 12
    assert plain["instructions"] > 2 * ours["instructions"]
    assert ours["h100_ps_instructions"] < ours["h100_ps_bytes"] < plain["h100_ps_instructions"]


def test_what_is_executed(results):
    """The interpreter in kernels/ptx ran the sm_90 code of every kernel: 12 bytes per element, no warp parted."""
    executed = results["executed"]
    assert sorted(executed) == sorted(results["kernels"])
    ours, plain = executed[UPDATE], executed[PLAIN]
    assert plain["instructions"] > 2 * ours["instructions"] and ours["footprint"] < 12.1
    assert ours["divergent_share"] == ours["bank_conflicts"] == 0
    assert 50 < ours["instructions"] < 65 < 75 > executed["dsm_loss_and_gradient"]["instructions"]
    torch_bytes = 4 + 12 + 12  # randn writes z; two additions read two tensors and write one
    for device, (rate, bandwidth) in DEVICES.items():
        row = ours[f"{device}_ps".lower()]
        assert row == pytest.approx(1e12 * max(ours["instructions"] / rate, ours["footprint"] / bandwidth), abs=0.01)
        assert row < plain[f"{device}_ps".lower()] and row < 1e12 * torch_bytes / bandwidth


def test_computed_times_are_the_larger_of_two_bounds():
    assert sum(TORCH.values()) == 28
    for device, (rate, bandwidth) in DEVICES.items():
        assert computed_ps(device, 60, 0) == pytest.approx(60e12 / rate)
        assert computed_ps(device, 0, 12) == pytest.approx(12e12 / bandwidth)
        assert computed_ps(device, 60, 12) == pytest.approx(max(60e12 / rate, 12e12 / bandwidth))


def test_committed_results_are_these(results):
    committed = json.loads(COMMITTED.read_text())
    if committed["triton"] != results["triton"]:
        pytest.skip(f"the committed results are of triton {committed['triton']}, here is {results['triton']}")
    assert committed == results
    assert COMMITTED.with_suffix(".md").read_text() == results_table(results)
