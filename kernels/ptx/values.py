"""What an arithmetic instruction computes, on numpy arrays of bits; exact wherever PTX says how to round.

:func:`alu` turns a name and its modifiers into a function of bits. Values come as uint8/16/32/64 arrays ("bits") and
are decoded by type: float16 and bfloat16 as the float64 numbers that they are, everything else as itself. A modifier
that is not known is an error, never ignored.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

UINT = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SINT = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
BITS = {"pred": 1, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "f16x2": 32, "bf16x2": 32} | {
    f"{kind}{n}": n for kind in "bsu" for n in (8, 16, 32, 64)
}
FLOATS = ("f16", "bf16", "f32", "f64")
ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
# the greatest error of the approximate float32 instructions that the PTX manual states: relative, but absolute for lg2
# of (1/2, 2), and for sin and cos, of [-2 pi, 2 pi]; they are evaluated exactly here, so what is compared with a device
# has to allow for it: see counters.approx_tolerance
APPROX_ERROR = {
    "ex2": 2.0**-22,
    "lg2": 2.0**-22,
    "rcp": 2.0**-23,
    "rsqrt": 2.0**-22.4,
    "sqrt": 2.0**-23,
    "sin": 2.0**-20.5,
    "cos": 2.0**-20.5,
    "tanh": 2.0**-11,
    "div": 2.0**-22,
}


@dataclass(frozen=True)
class Alu:
    """A function of bits: the types of its operands and the class that it is counted in."""

    function: Callable
    sources: tuple[str, ...]
    kind: str
    carry: str = ""  # "r" where it reads the carry flag, as its last operand; "w" where it gives a new one
    error: float = 0.0  # of an approximate instruction, see APPROX_ERROR


def known(condition: bool) -> None:
    """What a table does not say is an error: step_of adds the instruction's text."""
    if not condition:
        raise ValueError("not known")


# ---- floats


def decode(t: str, bits: np.ndarray) -> np.ndarray:
    """The values that bits of type ``t`` stand for."""
    if t == "f16":
        return bits.view(np.float16).astype(np.float64)
    if t == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if t in ("f32", "f64"):
        return bits.view(f"f{BITS[t] // 8}")
    return bits.view(SINT[BITS[t]]) if t[0] == "s" else bits


def encode(t: str, value: np.ndarray) -> np.ndarray:
    """The bits of ``value`` in type ``t``; floats are rounded to nearest once, integers wrap."""
    if t == "f64":
        return value.astype(np.float64).view(np.uint64)
    if t == "f32":
        return np.where(np.isnan(value), np.uint32(0x7FFFFFFF), value.astype(np.float32).view(np.uint32))
    if t == "f16":
        return np.where(np.isnan(value), np.uint16(0x7FFF), value.astype(np.float16).view(np.uint16))
    if t == "bf16":
        near = value.astype(np.float32)
        bits = _odd(near, value - near.astype(np.float64)).view(np.uint32).astype(np.uint64)
        return np.where(np.isnan(value), np.uint16(0x7FFF), (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16))
    return value.astype(UINT[BITS[t]])


def flush(t: str, value: np.ndarray) -> np.ndarray:
    """Subnormal float32 numbers to zero of their sign (.ftz)."""
    return np.where(np.abs(value) < 2.0**-126, np.copysign(value.dtype.type(0), value), value) if t == "f32" else value


def finished(t: str, value: np.ndarray, flags: set[str]) -> np.ndarray:
    """The bits of a result, with .sat cut to [0, 1] (0 for a NaN), with .ftz flushed after its rounding."""
    if "sat" in flags:
        value = np.where(np.isnan(value), 0, np.clip(value, 0, 1)).astype(value.dtype)
    bits = encode(t, value)
    return encode(t, flush(t, decode(t, bits))) if "ftz" in flags else bits


def _odd(near: np.ndarray, error: np.ndarray) -> np.ndarray:
    """near + error; where inexact, of its neighbours that with an odd last bit, which can be rounded once more."""
    bits = near.view(SINT[8 * near.itemsize]).copy()
    fix = np.isfinite(near) & np.isfinite(error) & (error != 0) & (bits & 1 == 0)
    bits[fix] += np.where((error[fix] > 0) != np.signbit(near[fix]), 1, -1).astype(bits.dtype)
    return bits.view(near.dtype)


_libm_fma = ctypes.CDLL("libm.so.6").fma
_libm_fma.restype, _libm_fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
_fma_f64 = np.vectorize(_libm_fma, otypes=[np.float64])


def fma(t: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of values of type ``t``, with one rounding in :func:`encode`."""
    if t == "f64":
        return _fma_f64(a, b, c)
    product, wide = np.broadcast_arrays(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))  # exact
    total = product + wide
    part = total - product
    error = (product - (total - part)) + (wide - part)  # Knuth's sum: product + wide = total + error
    return _odd(total, error)  # 53 bits rounded to odd, then at most 24: as if rounded once


def _least(a: np.ndarray, b: np.ndarray, nan: bool = False) -> np.ndarray:
    """The number beside a NaN (or the NaN), and -0 below +0."""
    value = np.where(a == b, np.where(np.signbit(a), a, b), np.fmin(a, b))
    return np.where(np.isnan(a) | np.isnan(b), a + b, value) if nan else value


_ONE = np.ones(1)
FLOAT: dict[str, Callable] = {  # functions of the type and the values
    "add": lambda t, a, b: a + b if t in ("f32", "f64") else fma(t, a, _ONE, b),
    "sub": lambda t, a, b: a - b if t in ("f32", "f64") else fma(t, a, _ONE, -b),
    "mul": lambda t, a, b: a * b,
    "fma": fma,
    "mad": fma,
    "div": lambda t, a, b: a / b,
    "min": lambda t, a, b: _least(a, b),
    "max": lambda t, a, b: -_least(-a, -b),
    "min.NaN": lambda t, a, b: _least(a, b, True),
    "max.NaN": lambda t, a, b: -_least(-a, -b, True),
    "rcp": lambda t, a: 1 / a,
    "sqrt": lambda t, a: np.sqrt(a),
    "rsqrt": lambda t, a: 1 / np.sqrt(a),
    "ex2": lambda t, a: np.exp2(a),
    "lg2": lambda t, a: np.log2(a),
    "sin": lambda t, a: np.sin(a),
    "cos": lambda t, a: np.cos(a),
    "tanh": lambda t, a: np.tanh(a),
}


def _float(op: str, flags: set[str], t: str) -> Alu:
    """Arithmetic on floats: rounded to nearest once, flushed and saturated where asked."""
    approx = bool(flags & {"approx", "full"})
    known(not flags - {"rn", "ftz", "sat", "approx", "full", "NaN"})
    known(op in APPROX_ERROR and t == "f32" if approx else op not in ("rsqrt", "ex2", "lg2", "sin", "cos", "tanh"))
    known(op not in ("fma", "mad", "div", "rcp", "sqrt") or approx or "rn" in flags)
    compute = FLOAT[f"{op}.NaN" if "NaN" in flags else op]
    count = compute.__code__.co_argcount - 1

    def function(*bits: np.ndarray) -> np.ndarray:
        values = [flush(t, decode(t, b)) if "ftz" in flags else decode(t, b) for b in bits]
        return finished(t, compute(t, *(v.astype(np.float64) for v in values) if approx else values), flags)

    kind = "special" if approx or op in ("div", "rcp", "sqrt") else "float64" if t == "f64" else "float"
    return Alu(function, (t,) * count, kind, error=APPROX_ERROR[op] if approx else 0.0)


# ---- integers


def _each(bits: int, function: Callable) -> Callable:
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
    high = _each(64, lambda x, y: x * y >> 64)(a, b) if BITS[t] == 64 else _wide(t, a, b) >> BITS[t]
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

    return _each(BITS[t], exact)(a, b)


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
    "popc": ("t", "n", lambda t, a: _each(32, lambda x: bin(x).count("1"))(a)),
    "clz": ("t", "n", lambda t, a: _each(32, lambda x: BITS[t] - x.bit_length())(a)),
    "bfind": ("t", "n", lambda t, a: _each(32, lambda x: x.bit_length() - 1)(a)),
    "brev": ("t", "t", lambda t, a: _each(BITS[t], lambda x: int(f"{x:0{BITS[t]}b}"[::-1], 2))(a)),
}


def _carrying(op: str, flags: list[str], t: str) -> Alu:
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
        return _each(bits, exact)(*numbers), _each(1, lambda *row: exact(*row) >> bits)(*numbers)

    return Alu(function, (t,) * (3 if base == "mad" else 2), "integer", "r" * (len(op) > 3) + "w" * ("cc" in flags))


def _integer(op: str, flags: list[str], t: str) -> Alu:
    operands, result, compute = INTEGER[".".join((op, *flags))]
    known(op not in ("shf", "lop3", "prmt") or t == "b32")
    types = {"t": t, "n": "u32", "w": t[0] + str(2 * BITS[t])}
    sources = tuple(types[o] for o in operands)
    return Alu(
        lambda *bits: encode(types[result], compute(t, *(decode(s, b) for s, b in zip(sources, bits)))),
        sources,
        "integer",
    )


# ---- comparison and conversion


def compare(name: str, t: str) -> Callable:
    """``setp``'s comparison on bits; the unordered ones are true beside a NaN."""
    ordered: dict[str, Callable[..., Any]] = {
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "num": lambda x, y: True,
        "nan": lambda x, y: False,
    }
    plain = name if name in ordered else name.removesuffix("u")
    known(plain in ordered and (t in FLOATS or (plain == name and name not in ("num", "nan"))))
    unordered = name == "nan" or plain != name

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        x, y = decode(t, a), decode(t, b)
        if t not in FLOATS:
            return ordered[plain](x, y)
        return np.where(np.isnan(x) | np.isnan(y), unordered, ordered[plain](x, y))

    return function


def _convert(flags: set[str], result: str, source: str) -> Alu:
    rounding = next((f for f in flags if f in ("rn", *ROUND)), "")
    known(not flags - {rounding, "ftz", "sat"})
    if "x2" in result:
        part = _convert(flags, result[:-2], source).function
        return Alu(lambda a, b: part(a).astype(np.uint32) << 16 | part(b), (source, source), "convert")
    bits = BITS[result]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if result[0] == "s" else (0, (1 << bits) - 1)
    not_a_number = 1 << bits - 1 if source == "f64" or bits == 64 else 0

    def clamped(value: float) -> int:
        if value != value:
            return not_a_number
        return low if value <= low else high if value >= high else int(value)

    def function(bits_in: np.ndarray) -> np.ndarray:
        value = flush(source, decode(source, bits_in)) if "ftz" in flags else decode(source, bits_in)
        value = ROUND[rounding](value) if rounding in ROUND else value
        if result not in FLOATS:
            return _each(bits, clamped)(value) if source in FLOATS or "sat" in flags else encode(result, value)
        if source not in FLOATS:
            value = value.astype(np.float32 if result == "f32" else np.float64)
        return finished(result, value, flags)

    return Alu(function, (source,), "convert")


def alu(op: str, mods: tuple[str, ...]) -> Alu:
    """The function of an arithmetic instruction; a ValueError, KeyError or IndexError where it is not known."""
    *flags, t = mods
    known(t in BITS)
    if op == "cvt":
        *flags, result = flags
        return _convert(set(flags), result, t)
    if op in ("neg", "abs") and t in FLOATS:
        known(set(flags) <= {"ftz"})
        sign = UINT[BITS[t]](1 << BITS[t] - 1)

        def signs(a: np.ndarray) -> np.ndarray:
            a = encode(t, flush(t, decode(t, a))) if flags else a
            return a ^ sign if op == "neg" else a & ~sign

        return Alu(signs, (t,), "float")
    if op == "copysign":
        known(t in ("f32", "f64") and not flags)
        top = UINT[BITS[t]](1 << BITS[t] - 1)
        return Alu(lambda a, b: (a & top) | (b & ~top), (t, t), "float")
    if t in FLOATS:
        return _float(op, set(flags), t)
    return _carrying(op, flags, t) if "cc" in flags or op in ("addc", "subc", "madc") else _integer(op, flags, t)
