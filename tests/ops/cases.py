"""The one table of operator cases: every dtype, layout and shape that an operator must take."""

import torch

BACKENDS = ("reference", "native")  # the Triton kernels take the same cases in tests/kernels
DTYPES = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}  # dtype: relative error
SHAPES = [(4,), (4, 1), (1, 5), (3, 7), (2, 3, 8, 8), (2, 2, 3, 2, 5), (5, 129), (0, 3), (3, 0),
          (300, 2), (70, 30), (2, 2051), (2, 3, 19, 27), (1, 70, 3, 3)]  # the native backend's groups, blocks, tails
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape) if x.shape[0] else x,
}


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def sigma_of(kind: str, batch: int) -> float | torch.Tensor:
    """A number, a 0-dim tensor, or one value a sample."""
    return {"number": 0.7, "0-dim": torch.tensor(0.7), "per sample": torch.linspace(0.3, 2.0, batch)}[kind]
