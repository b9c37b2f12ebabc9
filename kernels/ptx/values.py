"""Bits of PTX's types, as uint8/16/32/64 arrays of numpy, and the values that they stand for.

float16 and bfloat16 are decoded as the float64 numbers that they are, everything else as itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

UINT = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SINT = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
BITS = {"pred": 1, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "f16x2": 32, "bf16x2": 32} | {
    f"{kind}{n}": n for kind in "bsu" for n in (8, 16, 32, 64)
}
FLOATS = ("f16", "bf16", "f32", "f64")


@dataclass(frozen=True)
class Alu:
    """A function of bits: the types of its operands and the class that it is counted in."""

    function: Callable
    sources: tuple[str, ...]
    kind: str
    carry: str = ""  # "r" where it reads the carry flag, as its last operand; "w" where it gives a new one
    error: float = 0.0  # of an approximate instruction, see floats.APPROX_ERROR


def known(condition: bool) -> None:
    """What a table does not say is an error: step_of adds the instruction's text."""
    if not condition:
        raise ValueError("not known")


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
        bits = odd(near, value - near.astype(np.float64)).view(np.uint32).astype(np.uint64)
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


def odd(near: np.ndarray, error: np.ndarray) -> np.ndarray:
    """near + error; where inexact, of its neighbours that with an odd last bit, which can be rounded once more."""
    bits = near.view(SINT[8 * near.itemsize]).copy()
    fix = np.isfinite(near) & np.isfinite(error) & (error != 0) & (bits & 1 == 0)
    bits[fix] += np.where((error[fix] > 0) != np.signbit(near[fix]), 1, -1).astype(bits.dtype)
    return bits.view(near.dtype)
