"""The one table of operator cases: every dtype, layout and shape that an operator must take."""

import pytest
import torch

BACKENDS = ("reference", "native")  # those that take part in every test here
DTYPES = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}  # dtype: relative error
SHAPES = [
    (4,),
    (4, 1),
    (1, 5),
    (3, 7),
    (2, 3, 8, 8),
    (2, 2, 3, 2, 5),
    (5, 129),
    (0, 3),
    (3, 0),
    (300, 2),
    (70, 30),
    (2, 2051),
    (2, 3, 19, 27),
    (1, 70, 3, 3),  # the native backend's groups, blocks, tails
    (2, 1024),
]  # programs of the Triton kernels that are full: no mask
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape) if x.shape[0] else x,
}


def full_cases() -> list:
    """Every shape, dtype and layout; channels_last of images alone, since of others it is contiguous."""
    return [
        (shape, dtype, layout)
        for shape in SHAPES
        for dtype in DTYPES
        for layout in LAYOUTS
        if layout != "channels_last" or len(shape) == 4
    ]


# Triton's interpreter is slow: every dtype of odd rows and of images by channels; tests/kernels has more of its own, and
# tests/ptx has the compiled kernels on all shapes
INTERPRETED = [((3, 7), dtype, "contiguous") for dtype in DTYPES]
INTERPRETED += [((2, 3, 8, 8), dtype, "channels_last") for dtype in DTYPES]
INTERPRETED += [((2, 3, 8, 8), torch.float32, "contiguous"), ((0, 3), torch.float32, "contiguous")]


def table() -> list:
    """Every backend on every device it serves: (backend, device, shape, dtype, layout)."""
    places = [("reference", "cpu"), ("native", "cpu"), ("triton", "cpu"), ("triton", "cuda"), ("reference", "cuda")]
    rows = []
    for backend, device in places:
        for shape, dtype, layout in INTERPRETED if (backend, device) == ("triton", "cpu") else full_cases():
            name = f"{backend}-{device}-{'x'.join(map(str, shape))}-{str(dtype)[6:]}-{layout}"
            marks = pytest.mark.gpu if device == "cuda" else ()
            rows.append(pytest.param(backend, device, shape, dtype, layout, id=name, marks=marks))
    return rows


def compiled_table() -> list:
    """What the PTX of the Triton kernels runs on: (shape, dtype, layout, how the noise is named).

    Every shape, every layout; every dtype in odd rows, and every width of numbers in full programs and in tails; seed and step as numbers or on the
    device, samples by their offset or by an index; memory that begins one element past an aligned address.
    """
    plain, full, small, tail = torch.float32, (2, 1024), (3, 7), (2, 2051)
    rows = [(shape, plain, "contiguous", "numbers") for shape in SHAPES]
    rows += [(small, dtype, "contiguous", "numbers") for dtype in DTYPES if dtype != plain]
    wide, half, other_half = torch.float64, torch.bfloat16, torch.float16
    others = [(full, wide), (full, half), (tail, wide), (tail, other_half)]
    rows += [(shape, dtype, "contiguous", "numbers") for shape, dtype in others]
    rows += [((2, 3, 8, 8), plain, layout, "numbers") for layout in LAYOUTS if layout != "contiguous"]
    rows += [
        (shape, dtype, "contiguous", how)
        for how, shape, dtype in [
            ("on device", full, plain),
            ("on device", small, plain),
            ("on device", tail, torch.float64),
            ("index", full, plain),
            ("index", (70, 30), torch.bfloat16),
            ("misaligned", full, plain),
            ("misaligned", (2, 3, 8, 8), torch.float16),
        ]
    ]
    return [pytest.param(*row, id=f"{'x'.join(map(str, row[0]))}-{str(row[1])[6:]}-{row[2]}-{row[3]}") for row in rows]


every_case = pytest.mark.parametrize("backend, device, shape, dtype, layout", table())
every_contiguous_case = pytest.mark.parametrize(
    "backend, device, shape, dtype, layout", [row for row in table() if row.values[-1] == "contiguous"]
)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def sigma_of(kind: str, batch: int, device: str = "cpu") -> float | torch.Tensor:
    """A number, a 0-dim tensor, or one value per sample."""
    return {
        "number": 0.7,
        "0-dim": torch.tensor(0.7, device=device),
        "per sample": torch.linspace(0.3, 2.0, batch, device=device),
    }[kind]
