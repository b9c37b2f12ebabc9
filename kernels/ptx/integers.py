"""Arithmetic and logic on integers: whole numbers of any size, cut to the bits of the result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .values import BITS, SINT, UINT, Alu, decode, encode, known


def each_of(bits: int, function: Callable) -> Callable:
    """A function of whole numbers, value by value in exact arithmetic; the result is cut to ``bits``."""

    def each(*columns: np.ndarray) -> np.ndarray:
        rows = zip(*(c.tolist() for c in np.broadcast_arrays(*columns)))
        return np.array([function(*row) % (1 << bits) for row in rows], UINT[bits])

    return each


def _wide(t: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The whole product, twice as wide."""
    wide = (SINT if t[0] == "s" else UINT)[2 * BITS[t]]
    return a.astype(wide) * b.astype(wide)


def _high(t: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the product."""
    high = each_of(64, lambda x, y: x * y >> 64)(a, b) if BITS[t] == 64 else _wide(t, a, b) >> BITS[t]
    return high.astype(a.dtype)


def _shift(left: bool, t: str, a: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Shifts by the width or more leave zeros, or the sign of a signed number that goes right."""
    bits = BITS[t]
    n = np.minimum(n, bits - 1 if t[0] == "s" and not left else bits)
    part = np.where(n >= bits, 0, n).astype(a.dtype)
    return np.where(n >= bits, a.dtype.type(0), a << part if left else a >> part)


def _divide(t: str, a: np.ndarray, b: np.ndarray, remainder: bool) -> np.ndarray:
    """Truncating division; by zero all ones, as the hardware has it (PTX leaves it open)."""

    def exact(x: int, y: int) -> int:
        quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) if y else -1
        return x if remainder and not y else x - quotient * y if remainder else quotient

    return each_of(BITS[t], exact)(a, b)


def _lop3(t: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, table: np.ndarray) -> np.ndarray:
    result = np.zeros_like(a)
    for i in range(8):
        if int(table.flat[0]) >> i & 1:
            result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return result


def _prmt(t: str, a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """Four of the eight bytes of b:a, each by four bits of the selector, whose top bit asks for its sign."""
    both, result = b.astype(np.uint64) << 32 | a, np.uint64(0)
    for i in range(0, 16, 4):
        pick = (selector >> i).astype(np.uint64)
        byte = both >> (pick & 7) * 8 & 255
        result = result | np.where(pick & 8 != 0, (byte >> 7) * 255, byte) << 2 * i
    return result


def _funnel(way: str, a: np.ndarray, b: np.ndarray, n: np.ndarray) -> np.ndarray:
    both, n = b.astype(np.uint64) << 32 | a, n.astype(np.uint64)
    return (both << n) >> 32 if way == "l" else both >> n


def _extract(t: str, a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The field to the top of the number, then down: what is beyond is zeros, or the sign of its highest bit."""
    start, length = start & 255, length & 255
    drop = BITS[t] - np.minimum(start + length, BITS[t])
    return np.where(length == 0, 0, _shift(False, t, _shift(True, t, a, drop), drop + start))


def _insert(t: str, a: np.ndarray, b: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    field = _shift(True, t, ~_shift(True, t, ~np.zeros_like(a), length & 255), start & 255)
    return b & ~field | _shift(True, t, a, start & 255) & field


INTEGER: dict[str, tuple[str, str, Callable]] = {  # operands and result (t: the type named, w: one twice as wide,
    # n: u32), and the function of the type and the values
    **{
        name: ("tt", "t", lambda t, a, b, f=f: f(a, b))
        for name, f in {
            "add": np.add,
            "sub": np.subtract,
            "mul.lo": np.multiply,
            "min": np.minimum,
            "max": np.maximum,
            "and": np.bitwise_and,
            "or": np.bitwise_or,
            "xor": np.bitwise_xor,
        }.items()
    },
    **{
        name: ("t", "t", lambda t, a, f=f: f(a))
        for name, f in {"neg": np.negative, "abs": np.abs, "not": np.invert, "cnot": np.logical_not}.items()
    },
    "mul.hi": ("tt", "t", _high),
    "mul.wide": ("tt", "w", _wide),
    "mad.lo": ("ttt", "t", lambda t, a, b, c: a * b + c),
    "mad.hi": ("ttt", "t", lambda t, a, b, c: _high(t, a, b) + c),
    "mad.wide": ("ttw", "w", lambda t, a, b, c: _wide(t, a, b) + c),
    "div": ("tt", "t", lambda t, a, b: _divide(t, a, b, False)),
    "rem": ("tt", "t", lambda t, a, b: _divide(t, a, b, True)),
    "shl": ("tn", "t", lambda t, a, n: _shift(True, t, a, n)),
    "shr": ("tn", "t", lambda t, a, n: _shift(False, t, a, n)),
    **{f"shf.{way}.wrap": ("ttt", "t", lambda t, a, b, n, way=way: _funnel(way, a, b, n & 31)) for way in "lr"},
    **{
        f"shf.{way}.clamp": ("ttt", "t", lambda t, a, b, n, way=way: _funnel(way, a, b, np.minimum(n, 32)))
        for way in "lr"
    },
    "lop3": ("tttt", "t", _lop3),
    "prmt": ("ttt", "t", _prmt),
    "bfe": ("tnn", "t", _extract),
    "bfi": ("ttnn", "t", _insert),
    "popc": ("t", "n", lambda t, a: each_of(32, lambda x: bin(x).count("1"))(a)),
    "clz": ("t", "n", lambda t, a: each_of(32, lambda x: BITS[t] - x.bit_length())(a)),
    "bfind": ("t", "n", lambda t, a: each_of(32, lambda x: x.bit_length() - 1)(a)),
    "brev": ("t", "t", lambda t, a: each_of(BITS[t], lambda x: int(f"{x:0{BITS[t]}b}"[::-1], 2))(a)),
}


def with_carry(op: str, flags: list[str], t: str) -> Alu:
    """add, sub and mad with the carry flag read (addc, subc, madc) or written (.cc)."""
    bits, base = BITS[t], op[:3]
    known(base in ("add", "sub", "mad") and not set(flags) - {"cc", *(("lo", "hi") if base == "mad" else ())})

    def exact(a: int, b: int, *rest: int) -> int:
        *c, carry = rest
        if base == "mad":
            a, b = a * b >> bits if "hi" in flags else a * b, *c
        a, b = a % (1 << bits), b % (1 << bits)
        return a - b - carry if base == "sub" else a + b + carry

    def function(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbers = [*(decode(t, c) for c in columns[:-1]), columns[-1]]
        return each_of(bits, exact)(*numbers), each_of(1, lambda *row: exact(*row) >> bits)(*numbers)

    return Alu(function, (t,) * (3 if base == "mad" else 2), "integer", "r" * (len(op) > 3) + "w" * ("cc" in flags))


def on_integers(op: str, flags: list[str], t: str) -> Alu:
    """Arithmetic and logic of :data:`INTEGER`."""
    operands, result, compute = INTEGER[".".join((op, *flags))]
    known(op not in ("shf", "lop3", "prmt") or t == "b32")
    types = {"t": t, "n": "u32", "w": t[0] + str(2 * BITS[t])}
    sources = tuple(types[o] for o in operands)
    return Alu(
        lambda *bits: encode(types[result], compute(t, *(decode(s, b) for s, b in zip(sources, bits)))),
        sources,
        "integer",
    )
