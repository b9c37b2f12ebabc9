"""Arithmetic on floats: every operation rounded to nearest once, flushed and saturated where asked."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from .values import Alu, decode, finished, flush, known, odd

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

_libm_fma = ctypes.CDLL("libm.so.6").fma
_libm_fma.restype, _libm_fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
_fma_f64 = np.vectorize(_libm_fma, otypes=[np.float64])


def fma(t: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of values of type ``t``, with one rounding in ``values.encode``."""
    if t == "f64":
        return _fma_f64(a, b, c)
    product, wide = np.broadcast_arrays(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))  # exact
    total = product + wide
    part = total - product
    error = (product - (total - part)) + (wide - part)  # Knuth's sum: product + wide = total + error
    return odd(total, error)  # 53 bits rounded to odd, then at most 24: as if rounded once


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


def on_floats(op: str, flags: set[str], t: str) -> Alu:
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
