"""Whole kernels against numpy: what nvcc makes of C++, and Triton of Python; and what the counters say of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastscore._core.registration import raw
from fastscore.kernels.ptx import compile
from fastscore.kernels.ptx.floats import APPROX_ERROR
from fastscore.kernels.ptx.machine import Unwritten, launch
from fastscore.kernels.ptx.memory import Fault
from fastscore.kernels.ptx.on_ptx import OnPtx

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def cuda(nvcc, tmp_path_factory):
    """programs.cu as PTX."""
    return compile.cuda(
        Path(__file__).with_name("programs.cu"), tmp_path_factory.mktemp("nvcc"), options=["-fmad=true"]
    )


def test_saxpy_is_one_fma(cuda):
    x, y = RNG.standard_normal((2, 1000)).astype(np.float32)
    exact = (np.float64(2.7182817459106445) * x + y).astype(np.float32)  # float64 holds the product, and here the sum
    result = launch(cuda, 8, 128, [y, x, 2.7182817459106445, 1000], entry="saxpy")
    assert (y == exact).mean() > 0.999 and np.abs(y - exact).max() < 1e-6
    assert (result.loaded, result.stored) == (8000, 4000)
    assert (result.load_sectors, result.store_sectors) == (250, 125)
    assert result.threads["float"] == 1000 and result.partial > 0  # the last warp's tail


@pytest.mark.parametrize("padded", [False, True])
def test_transpose_and_its_bank_conflicts(cuda, padded):
    x = RNG.standard_normal((64, 64)).astype(np.float32)
    out = np.empty_like(x)
    name = "transpose_padded" if padded else "transpose_conflicts"
    counters = launch(cuda, (2, 2), (32, 8), [Unwritten(out), x, 64], entry=name)
    assert (out == x.T).all()
    assert counters.shared_accesses == 2 * 64 * 64 // 32
    assert counters.bank_conflicts == (0 if padded else 31 * 64 * 64 // 32)  # 32 threads in one bank, in every load
    assert counters.load_sectors == counters.store_sectors == 64 * 64 * 4 // 32  # coalesced both ways


def test_warp_scan(cuda):
    x = RNG.integers(-9, 9, 300).astype(np.int32)
    out = np.empty_like(x)
    launch(cuda, 3, 128, [Unwritten(out), x, 300], entry="warp_scan")
    assert (out == np.concatenate([np.cumsum(x[i : i + 32]) for i in range(0, 300, 32)])).all()


def test_a_loop_that_every_thread_leaves_at_another_time(cuda):
    def steps(v):
        n = 0
        while v != 1:
            v, n = (3 * v + 1 if v & 1 else v // 2), n + 1
        return n

    x = RNG.integers(1, 1000, 200).astype(np.int32)
    out = np.empty_like(x)
    counters = launch(cuda, 2, 128, [Unwritten(out), x, 200], entry="collatz")
    assert out.tolist() == list(map(steps, x.tolist()))
    assert counters.partial / counters.warps > 0.5
    # a warp goes round as often as its slowest thread: all threads leave together to the same store
    rounds = [max(out[i : i + 32]) for i in range(0, 200, 32)]
    assert sum(rounds) * 5 < counters.warps < sum(rounds) * 12


def test_cub_block_reduce(cuda):
    x = RNG.standard_normal(300).astype(np.float32)
    out = np.empty(3, np.float32)
    launch(cuda, 3, 128, [Unwritten(out), x, 300], entry="block_sum")
    np.testing.assert_allclose(out, [x[i : i + 128].astype(float).sum() for i in (0, 128, 256)], rtol=1e-6)


def test_atomics(cuda):
    x, out = RNG.integers(0, 7, 500).astype(np.int32), np.zeros(7, np.int32)
    launch(cuda, 4, 128, [out, x, 500], entry="histogram")
    assert (out == np.bincount(x, minlength=7)).all()


def test_a_missing_barrier_in_compiled_code(cuda):
    x, out = np.arange(128, dtype=np.int32), np.empty(128, np.int32)
    launch(cuda, 1, 128, [Unwritten(out), x], entry="reverse")
    assert (out == x[::-1]).all()
    with pytest.raises(Fault, match=r"race: read what another thread wrote"):
        launch(cuda, 1, 128, [Unwritten(out), x], entry="reverse_without_barrier")


def test_local_memory(cuda):
    x, out, i = RNG.uniform(1, 2, 40).astype(np.float32), np.empty(64, np.float32), np.arange(64)
    counters = launch(cuda, 1, 64, [Unwritten(out), x, 40], entry="local_array")
    assert (out == x[(i + i * 3 % 8) % 40] / x[(i + i % 8) % 40]).all()
    assert counters.threads["local store"] > 0


def test_approximate_instructions_widen_the_tolerance(cuda):
    """A device may give other bits than the exact ones here: by no more than the instructions' stated errors."""
    x = RNG.uniform(-8, 8, 1000).astype(np.float32)
    out = np.empty_like(x)
    counters = launch(cuda, 8, 128, [Unwritten(out), x, 1000], entry="logistic")
    assert counters.approx == {"ex2": 1000, "div": 1000}
    assert counters.approx_tolerance == APPROX_ERROR["ex2"] + APPROX_ERROR["div"]
    # the exponent, up to 8 log2(e), the sum and the quotient are rounded besides
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-x.astype(float))), rtol=2**-20 + counters.approx_tolerance)
    assert launch(cuda, 8, 128, [x.copy(), x, 2.0, 1000], entry="saxpy").approx_tolerance == 0


def test_the_shared_header_and_a_struct_by_value(nvcc, tmp_path):
    """csrc/normal.h as nvcc compiles it for a device, the bits of the native backend."""
    rows, quads, where = 5, 33, (0xDEADBEEF, 0x12345678, 7, 3, 2**32 - 2)
    module = compile.cuda(Path(__file__).with_name("programs.cu"), tmp_path)
    out = np.empty((rows, 4 * quads), np.float32)
    given = ("P5I2i4x", Unwritten(out), *where, rows, quads)
    launch(module, 2, 96, [given], entry=compile.named(module, "normals"))
    native = raw("fill", "native")(torch.empty(out.shape), 0, where[1] << 32 | where[0], *where[2:], None, None)
    assert np.array_equal(out.view(np.uint32), native.numpy().view(np.uint32))
    with pytest.raises(ValueError, match="has 40 bytes, got 36"):
        launch(module, 2, 96, [("P5I2i", *given[1:])], entry=compile.named(module, "normals"))
    with pytest.raises(KeyError, match="names none of"):
        compile.named(module, "nothing")


@pytest.fixture
def run(compiler):
    """run(name, grid, *arguments, **constants) of programs.py, on CPU tensors; the counters."""

    def run(name, grid, *arguments, warps=4, **constants):
        programs = pytest.importorskip("tests.ptx.programs")
        kernel = OnPtx(compiler, getattr(programs, name))
        kernel[grid](*arguments, **constants, num_warps=warps)
        return kernel.results[-1]

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_triton_add(run, dtype):
    x, y = (torch.from_numpy(RNG.integers(-99, 99, 1000)).to(dtype) for _ in range(2))
    out = torch.empty_like(x)
    counters = run("add", (4,), out, x, y, 1000, BLOCK=256)
    assert torch.equal(out, x + y)
    assert counters.loaded == 2 * counters.stored == 2 * x.nbytes


@pytest.mark.parametrize("width, warps", [(7, 1), (100, 4), (1000, 4)])
def test_triton_softmax(run, width, warps):
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(x)
    counters = run("softmax", (3,), out, x, width, BLOCK=1 << (width - 1).bit_length(), warps=warps)
    assert set(counters.approx) == {"ex2", "div"} and 2**-21 <= counters.approx_tolerance < 1e-5
    # exp2 of a rounded product and a rounded sum; an exponential is there twice, above and below the line
    torch.testing.assert_close(out, x.double().softmax(1).float(), rtol=2e-6 + 2 * counters.approx_tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_triton_layer_norm(run, dtype):
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.empty_like(x)
    run("layer_norm", (3,), out, x, 300, BLOCK=512)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(
        out, torch.nn.functional.layer_norm(x.float(), (300,)).to(dtype), rtol=tolerance, atol=tolerance
    )
