"""The random sequence of :mod:`fastscore.rng` in plain torch: what its contract says, and what the reference draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_BLOCKS_AT_ONCE = 1 << 18  # bounds the temporaries of one draw to about 100 MB
_UNITS_A_BLOCK = {"normal": 4, "uniform": 4, "rademacher": 128}
KINDS = ("normal", "uniform", "rademacher", "words")


def philox4x32(counter: Sequence, key: Sequence, rounds: int = 10) -> tuple:
    """The Philox4x32 bijection on four integers, or on four int64 tensors that hold 32-bit words; they broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # 64-bit products; int64 wraps, which keeps every bit
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _fma(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """a b + c of float32 values, rounded (almost always) once: the product is exact in float64."""
    b = b.double() if isinstance(b, Tensor) else b
    c = c.double() if isinstance(c, Tensor) else c
    return (a.double() * b + c).float()


def _f32(value: float) -> float:
    """The float32 nearest to ``value``, as a Python float."""
    return torch.tensor(value, dtype=torch.float32).item()


LOG_POLY = tuple(
    map(
        _f32,
        (
            -0.1744469851255417,
            0.2873367965221405,
            -0.2990453541278839,
            0.33124786615371704,
            -0.39913666248321533,
            0.5000414848327637,
            -0.6666837334632874,
            0.9999997615814209,
            -2.0,
        ),
    )
)
SIN_POLY = tuple(map(_f32, (-0.0001951729936990887, 0.008332177996635437, -0.16666655242443085)))
COS_POLY = tuple(map(_f32, (2.4390450562350452e-05, -0.0013886763481423259, 0.04166662320494652, -0.5)))
MINUS_2_LN_2 = _f32(-2 * math.log(2))
TURN = _f32(math.pi * 2.0**-33)  # 2 pi / 2**34: the low 30 bits of a word, times four, to an angle in +-pi/4
SQRT_HALF_BITS = 0x3F3504F3


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value: Tensor | float = coefficients[0]
    for c in coefficients[1:]:
        value = _fma(x, value, c)
    return value  # type: ignore[return-value]


def box_muller(r: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals from two words: sqrt(-2 ln u) cos a and sqrt(-2 ln u) sin a.

    u = float(r >> 1) 2^-31 + 2^-32 is in [2^-32, 1], so |z| <= 6.66. The angle's top two bits choose the quadrant,
    the other thirty an angle in [-pi/4, pi/4), where sin and cos are short polynomials of full relative accuracy.
    Minimax coefficients: relative error of ln 2^-25, sin 2^-28, cos 2^-34.
    """
    u = _fma((r >> 1).float(), 2.0**-31, 2.0**-32)
    # u = 2^e m with m in [sqrt(1/2), sqrt(2)), from the bits of u; f = m - 1 is exact
    bits = u.view(torch.int32) - SQRT_HALF_BITS
    e = (bits >> 23).float()
    f = ((bits & 0x007FFFFF) + SQRT_HALF_BITS).view(torch.float32) - 1.0
    # through float64, because torch's own float32 square root is not correctly rounded on every CPU
    radius = torch.sqrt(_fma(f, _horner(f, LOG_POLY), e * MINUS_2_LN_2).double()).float()

    low = (angle_word << 2) & _MASK
    x = torch.where(low >= 1 << 31, low - (1 << 32), low).float() * TURN
    y = x * x
    sin = _fma(x * y, _horner(y, SIN_POLY), x)
    cos = _fma(y, _horner(y, COS_POLY), 1.0)
    odd, upper = (angle_word >> 30 & 1).bool(), (angle_word >> 31).bool()
    cos, sin = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    return radius * torch.where(odd ^ upper, -cos, cos), radius * torch.where(upper, -sin, sin)


def _scalar(value: int | Tensor, device: torch.device) -> Tensor:
    """int64 []; ``full``, for which torch.compile does not compile anew for another value."""
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.int64, device=device)


def numbers(
    kind: str,
    seed: int | Tensor,
    step: int | Tensor,
    stream: int,
    sample_offset: int | Tensor,
    rows: int,
    width: int,
    device: torch.device,
) -> Tensor:
    """[rows, width] numbers of one kind by the contract: float32 normals, uniforms, signs, or (``words``) int64."""
    blocks = -(-width // _UNITS_A_BLOCK.get(kind, 4))
    parts = []
    for start in range(0, rows * blocks, _BLOCKS_AT_ONCE):
        index = torch.arange(start, min(start + _BLOCKS_AT_ONCE, rows * blocks), dtype=torch.int64, device=device)
        counter = (
            index % blocks,
            index // blocks + sample_offset,
            _scalar(step, device) & _MASK,
            _scalar(stream, device),
        )
        words = philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
        if kind == "normal":
            values = [*box_muller(words[0], words[1]), *box_muller(words[2], words[3])]
        elif kind == "uniform":
            values = [(r >> 8).float() * 2.0**-24 for r in words]
        elif kind == "rademacher":
            bit = torch.arange(32, device=device)
            values = [(1 - 2 * (r[:, None] >> bit & 1)).float() for r in words]
        else:
            values = list(words)
        parts.append(torch.stack(values, 1).reshape(-1))
    if not parts:
        return torch.empty(rows, width, dtype=torch.int64 if kind == "words" else torch.float32, device=device)
    return torch.cat(parts).view(rows, -1)[:, :width]
