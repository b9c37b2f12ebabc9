"""The native backend: the same bits on every instruction set and thread count, and from the header that CUDA shares."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore._core import backends, sequence
from fastscore._core.registration import raw

pytestmark = pytest.mark.skipif(backends.problem("native") is not None, reason=str(backends.problem("native")))
SHAPES = [(3, 4099), (5, 7), (1, 1), (1000, 2), (70, 64), (7, 65), (2, 3, 19, 27)]


def available() -> list[str]:
    return [] if backends.problem("native") else list(backends.ISAS[: backends.ISAS.index(backends.isa()) + 1])


def fill(kind: str, shape, seed=-3, step=7, stream=2, offset=5, state=None, index=None, dtype=torch.float32):
    like = torch.empty((), dtype=torch.int64 if kind == "words" else dtype).expand(shape)
    return raw("fill", "native")(like, sequence.KINDS.index(kind), seed, step, stream, offset, state, index)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("kind", sequence.KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_instruction_set_gives_the_references_bits(isa, kind, shape):
    expected = sequence.numbers(kind, 2**64 - 3, 7, 2, 5, shape[0], torch.Size(shape[1:]).numel(), torch.device("cpu"))
    with backends.native_isa(isa):
        got = fill(kind, shape)
    assert backends.isa() == available()[-1]
    if kind == "normal":  # the reference's emulated fma rounds twice in one of about 2^29 cases
        assert (got.flatten(1) != expected).sum() <= 1
        torch.testing.assert_close(got.flatten(1), expected, rtol=1e-6, atol=0)
    else:
        assert torch.equal(got.flatten(1), expected.to(got.dtype))


def operators(x, score, sigma):
    """Every operator's results, in one list."""
    x_tilde, noise = fs.perturb(x, sigma, fs.Philox(1))
    leaf = score.detach().requires_grad_()
    loss = fs.dsm_loss(leaf, noise, sigma)
    return [
        x_tilde,
        loss.detach(),
        *torch.autograd.grad(loss.mean(), leaf),
        fs.langevin_step(x, score, sigma, fs.Philox(2)),
        fs.Philox(3).randn(x.shape),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_the_operators_bits_depend_on_neither_instruction_set_nor_threads(dtype, form):
    x, score = (
        torch.randn(6, 3, 40, 50, generator=torch.Generator().manual_seed(i)).to(dtype).to(memory_format=form)
        for i in (0, 1)
    )
    sigma = torch.linspace(0.1, 3, 6)
    expected, threads = operators(x, score, sigma), torch.get_num_threads()
    try:
        for isa in available():
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                with backends.native_isa(isa):
                    for got, want in zip(operators(x, score, sigma), expected):
                        assert torch.equal(got, want), (isa, count)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("isa", available())
def test_rounding_to_half_precision(isa):
    """Every float16 and bfloat16 is read exactly; float32 is rounded as torch does: ties, subnormals, infinities."""
    everything = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    edges = torch.tensor([65504, 65519.9, 65520, 1e-7, 2**-24, 2**-25, 1.5 * 2**-24, 6.1e-5, 3e38, 0.0, -0.0, 1 / 3])
    for dtype in (torch.float16, torch.bfloat16):
        x = everything.view(dtype)
        x = x[torch.isfinite(x)][None]
        zero, hardly = torch.zeros(()), torch.tensor(1e-45)  # the least sigma there is
        with backends.native_isa(isa):
            same = raw("langevin_step", "native")(x, torch.zeros_like(x), zero, 0, 0, 0, 0, None, None)
            factors = torch.ones(1, len(edges), dtype=dtype)
            rounded = torch.cat(
                [raw("perturb", "native")(factors[:, :1], e, hardly, 0, 0, 0, 0, None, None) for e in edges], 1
            )
        assert torch.equal(same, x)
        assert torch.equal(rounded[0], edges.to(dtype))


def test_samples_named_by_index_and_state():
    rows = torch.tensor([9, 5, 2**32 - 1])
    whole = fill("normal", (12, 9), offset=0)
    got = fill("normal", (3, 9), index=rows)
    assert torch.equal(got[:2], whole[[9, 5]])
    assert torch.equal(got[2:], fill("normal", (1, 9), offset=2**32 - 1))
    assert torch.equal(fill("normal", (3, 9), seed=0, step=0, state=torch.tensor([-3, 7])), fill("normal", (3, 9)))


def test_philox_kept_on_a_device():
    kept, plain = fs.Philox(2**64 - 1, step=3, device="cpu"), fs.Philox(2**64 - 1, step=3)
    x = torch.ones(2, 5)
    for backend in ("native", "reference", "native"):
        with fs.use_backend(backend):
            got, noise = fs.perturb(x, 0.5, kept)
            expected = fs.perturb(x, 0.5, plain)[0]
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(noise.tensor(), (expected - x) / 0.5, rtol=1e-4, atol=1e-5)
    assert kept.step == plain.step == 6
    kept.step = 3
    assert torch.equal(kept.randn(2, 3), fs.Philox(2**64 - 1, step=3).randn(2, 3))


@pytest.mark.slow
def test_moments_at_a_thousand_million_draws():
    n, total = 10**6, 10**9
    sums = torch.zeros(4, dtype=torch.float64)
    largest, tail = 0.0, 0
    for k in range(total // n):
        for z in fill("normal", (1, n), seed=11, offset=k).view(10, -1).double():  # parts that a cache holds
            square, size = z * z, z.abs()
            sums += torch.stack([z.sum(), square.sum(), square @ z, square @ square])
            largest = max(largest, float(size.max()))
            tail += int((size > 5).sum())
    mean, variance, skew, kurtosis = sums / total
    for value, expected, deviation in ((mean, 0, 1), (variance, 1, 2**0.5), (skew, 0, 15**0.5), (kurtosis, 3, 96**0.5)):
        assert abs(float(value - expected)) < 4.5 * deviation / total**0.5
    expected = total * torch.erfc(torch.tensor(5 / 2**0.5, dtype=torch.float64)).item()  # 573 beyond 5
    assert abs(tail - expected) < 4 * expected**0.5
    assert largest > 5.8  # the chance of less is exp(-1e9 P(|z| > 5.8)) = 0.1 %


@pytest.mark.slow
def test_more_than_2_31_elements():
    n = 2**31 + 2**12
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 6 * 2**30:
        pytest.skip("needs 6 GB of free memory")
    zeros = torch.from_numpy(np.zeros((1, n), np.int16)).view(
        torch.bfloat16
    )  # no memory of theirs: nothing writes them
    got = fs.perturb(zeros, 1.0, fs.Philox(0))[0]
    seed, step, stream, _, _, _ = fs.Philox(0).noise((1, 1), stream=fs.Stream.PERTURB).arguments()
    blocks = torch.arange(n - 64, n, 4) // 4
    words = sequence.philox4x32((blocks, torch.tensor(0), torch.tensor(step), torch.tensor(stream)), (seed, 0))
    z = torch.stack([*sequence.box_muller(*words[:2]), *sequence.box_muller(*words[2:])], 1).flatten()
    assert torch.equal(got[0, -64:], z.bfloat16())


PROGRAM = """
#include <cstdio>
#include "normal.h"
#if defined(__CUDACC__)
__global__ void on_device(const uint32_t* words, float* out) {
  fastscore::box_muller(words[threadIdx.x], words[threadIdx.x + 1], out[0], out[1]);
}
#endif
int main() {
  for (uint32_t quad = 0; quad < 4096; ++quad) {
    uint32_t words[4] = {quad, 5, 7, 2};
    fastscore::philox4x32(words, 0xFFFFFFFDu, 0xFFFFFFFFu);
    float z[4];
    fastscore::box_muller(words[0], words[1], z[0], z[1]);
    fastscore::box_muller(words[2], words[3], z[2], z[3]);
    for (int i = 0; i < 4; ++i) printf("%u %u\\n", words[i], fastscore::bits_of(z[i]));
  }
}
"""


@pytest.mark.parametrize("compiler", ["g++", "nvcc"])
def test_the_shared_header_compiled_alone(compiler, tmp_path):
    """The header that CUDA code includes, compiled for the host: the native backend's words and bits."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / ("main.cu" if compiler == "nvcc" else "main.cpp")
    source.write_text(PROGRAM)
    flags = {"nvcc": ["-Xcompiler", "-ffp-contract=off,-O2", "-arch=sm_80"], "g++": ["-ffp-contract=off", "-O2"]}
    csrc = Path(__file__).parents[1] / "csrc"
    command = [compiler, *flags[compiler], "-std=c++17", f"-I{csrc}", str(source), "-o", str(tmp_path / "main")]
    built = subprocess.run(command, capture_output=True, text=True)
    if compiler == "nvcc" and "cudart" in built.stderr:
        pytest.skip("this nvcc does not find its own runtime library")
    assert built.returncode == 0, built.stderr
    lines = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout.split()
    got = torch.tensor(list(map(int, lines))).view(-1, 2)
    assert torch.equal(got[:, 0], fill("words", (1, 4 * 4096))[0])
    assert torch.equal(got[:, 1], fill("normal", (1, 4 * 4096))[0].view(torch.int32).long() & 0xFFFFFFFF)
