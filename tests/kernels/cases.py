"""What the kernels' tests share: triton and the kernels, the noise and its reference, the bounds.

The tests import triton and the kernels from here: the interpreter has to be chosen before the first import of triton.
"""

import math
import os

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read at the first import of triton, whose own functions it covers too

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from fastscore._core.sequence import numbers  # noqa: E402
from fastscore.kernels import _launch, dsm_loss, fill, langevin_step, perturb, philox  # noqa: E402, F401

if DEVICE.type == "cpu" and type(tl.sum).__name__ != "InterpretedFunction":
    raise RuntimeError("triton was imported before TRITON_INTERPRET=1 was set: its tl.sum cannot be interpreted")

SHAPES = [(4, 3, 8, 8), (5, 7), (3, 1), (1, 4099), (0, 5), (2, 0), (2, 3, 2, 5, 3)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SEED, STEP, STREAM = -(3 << 40) - 12345, 0xFFFFFFF0, 3  # high bits everywhere: words are 32 bits, without a sign


@triton.jit
def fma_kernel(out, x):
    v = tl.load(x)
    tl.store(out, tl.fma(v, v, -1.0 - 2.0**-11))


def fused() -> bool:
    """Whether tl.fma rounds once: on a GPU always; in the interpreter since triton 3.9."""
    out = torch.zeros(1, device=DEVICE)
    fma_kernel[(1,)](out, torch.full((1,), 1 + 2.0**-12, device=DEVICE), **_launch.OPTIONS)
    return out.item() != 0


# How far normals may be from those of fastscore.rng, in ulp. With a true fma they are the same bits; with a product
# and a sum in its place the most seen in 1.6e7 normals is 4.
Z_ULP = 0 if fused() else 8


def ulps(got: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The distance in units of the last place of a float32 of ``exact``'s size."""
    return (got.double() - exact.double()).abs() / torch.pow(2.0, torch.frexp(exact.double())[1].double() - 24)


def normals(rows: list[int], width: int, kind: str = "normal") -> torch.Tensor:
    """[len(rows), width] by the reference, for global sample indices ``rows``."""
    seed = SEED % 2**64
    return torch.stack([numbers(kind, seed, STEP, STREAM, row, 1, width, torch.device("cpu"))[0] for row in rows])


def noise(shape: tuple, on_device: bool, kind: str = "normal") -> tuple[tuple, torch.Tensor]:
    """The noise arguments of a launch, as numbers or in device tensors, and the reference's values."""
    rows, width = shape[0], math.prod(shape[1:])
    if on_device:  # the tensors replace the numbers, which are therefore wrong here
        index = [(7919 * row * row + 2**32 - 5) % 2**32 for row in range(rows)]
        arguments = (
            1,
            1,
            STREAM,
            1,
            torch.tensor([SEED, STEP], device=DEVICE),
            torch.tensor(index, dtype=torch.int64, device=DEVICE),
        )
    else:
        index = list(range(2**32 - rows, 2**32))
        arguments = (SEED, STEP, STREAM, 2**32 - max(rows, 1), None, None)
    z = normals(index, width, kind) if rows else torch.empty(0, width)
    return arguments, z.reshape(shape)


def tensor(shape: tuple, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def scalars(shape: tuple, dtype: torch.dtype, per_row: bool, low: float) -> torch.Tensor:
    """Positive numbers, [] or [B], in the dtype of computation."""
    values = low + torch.rand(shape[0] if per_row else (), generator=torch.Generator().manual_seed(shape[0]))
    return values.to(torch.float64 if dtype == torch.float64 else torch.float32)


def column(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return value.double().reshape((-1,) + (1,) * (x.dim() - 1)) if value.dim() else value.double()


def on(device: torch.device, *values):
    return [v.to(device) if isinstance(v, torch.Tensor) else v for v in values]


def assert_close(got: torch.Tensor, exact: torch.Tensor, size: torch.Tensor, noise_part: torch.Tensor) -> None:
    """Within 2 eps of the terms' absolute sum ``size`` (a root, a product, two sums: at most four half eps), what the
    noise may be off, and for 16-bit floats one eps of the result: the interpreter cuts where a GPU rounds.
    """
    assert got.shape == exact.shape
    eps = torch.finfo(torch.float64 if got.dtype == torch.float64 else torch.float32).eps
    bound = 2 * eps * size + Z_ULP * 2.0**-23 * noise_part.abs()
    if got.dtype in (torch.float16, torch.bfloat16):
        info = torch.finfo(got.dtype)
        bound = bound + info.eps * (exact.abs() + info.tiny)
    excess = (got.cpu().double() - exact).abs() - bound
    assert excess.numel() == 0 or float(excess.max()) <= 0


def small_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Programs of ``block`` quads, so that small tensors need many."""
    monkeypatch.setattr(_launch, "BLOCK", block)
    monkeypatch.setattr(_launch, "INTERPRETED_BLOCK", block)
