"""What an arithmetic instruction computes, on numpy arrays of bits; exact wherever PTX says how to round.

:func:`alu` turns a name and its modifiers into a function of bits. A modifier that is not known is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .floats import on_floats
from .integers import each_of, on_integers, with_carry
from .values import BITS, FLOATS, UINT, Alu, decode, encode, finished, flush, known

ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


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
            return each_of(bits, clamped)(value) if source in FLOATS or "sat" in flags else encode(result, value)
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
        return on_floats(op, set(flags), t)
    return with_carry(op, flags, t) if "cc" in flags or op in ("addc", "subc", "madc") else on_integers(op, flags, t)
