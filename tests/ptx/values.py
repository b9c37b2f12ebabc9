"""What an arithmetic instruction computes, on numpy arrays of bits; exact wherever PTX says how to round.

:func:`alu` turns a name and its modifiers into a function of bits. Values come as uint8/16/32/64 arrays ("bits") and
are decoded by type: float16 and bfloat16 as the float64 numbers that they are, everything else as itself. A modifier
that is not known is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .parser import UnknownPtx

UINT = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SINT = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
BITS = {"pred": 1, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "f16x2": 32, "bf16x2": 32} | {
    f"{kind}{n}": n for kind in "bsu" for n in (8, 16, 32, 64)}
FLOATS = ("f16", "bf16", "f32", "f64")
# the greatest relative or absolute error of the .approx instructions that the PTX manual states for float32; they are
# evaluated exactly here, so a comparison with a device has to allow for it
APPROX_ERROR = {"ex2": 2.0**-22, "lg2": 2.0**-22, "rcp": 2.0**-23, "rsqrt": 2.0**-22.4, "sqrt": 2.0**-23,
                "sin": 2.0**-20.9, "cos": 2.0**-20.9, "tanh": 2.0**-11, "div": 2.0**-22}


@dataclass(frozen=True)
class Alu:
    """A function of bits: the types of its operands, of its result, and whether it reads or writes the carry."""

    function: Callable
    sources: tuple[str, ...]
    result: str
    kind: str
    reads_carry: bool = False
    writes_carry: bool = False


def decode(t: str, bits: np.ndarray) -> np.ndarray:
    """The values that bits of type ``t`` stand for."""
    if t[0] == "s":
        return bits.view(SINT[BITS[t]])
    if t == "f32":
        return bits.view(np.float32)
    if t == "f64":
        return bits.view(np.float64)
    if t == "f16":
        return bits.view(np.float16).astype(np.float64)
    if t == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return bits


def encode(t: str, value: np.ndarray) -> np.ndarray:
    """The bits of ``value`` in type ``t``; floats are rounded to nearest once, integers wrap."""
    value = np.asarray(value)
    if t == "f64":
        return value.astype(np.float64).view(np.uint64)
    if t == "f32":
        bits = value.astype(np.float32).view(np.uint32)
        return np.where(np.isnan(value), np.uint32(0x7FFFFFFF), bits)
    if t == "f16":
        return np.where(np.isnan(value), np.uint16(0x7FFF), value.astype(np.float16).view(np.uint16))
    if t == "bf16":
        wide = value if value.dtype == np.float32 else to_odd_f32(value)
        bits = wide.view(np.uint32).astype(np.uint64)
        rounded = ((bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16))
        return np.where(np.isnan(value), np.uint16(0x7FFF), rounded.astype(np.uint16))
    if value.dtype == np.bool_:
        return value if t == "pred" else value.astype(UINT[BITS[t]])
    return value.astype(SINT[BITS[t]]).view(UINT[BITS[t]]) if value.dtype.kind == "i" else value.astype(UINT[BITS[t]])


def to_odd_f32(value: np.ndarray) -> np.ndarray:
    """float64 to float32, what is inexact to the neighbour with an odd last bit: it can be rounded once more."""
    value = np.atleast_1d(np.asarray(value, np.float64))
    near = value.astype(np.float32)
    bits, back = near.view(np.int32).copy(), near.astype(np.float64)
    fix = np.isfinite(value) & (back != value) & (bits & 1 == 0)
    bits[fix] += np.where(np.abs(back[fix]) < np.abs(value[fix]), 1, -1).astype(np.int32)
    return bits.view(np.float32)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b = s + e exactly (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _odd(s: np.ndarray, e: np.ndarray) -> np.ndarray:
    """s + e rounded to odd, for s + e from :func:`_two_sum`."""
    bits = s.view(np.int64).copy()
    fix = np.isfinite(s) & np.isfinite(e) & (e != 0) & (bits & 1 == 0)
    bits[fix] += np.where((e[fix] > 0) == (s[fix] > 0), 1, -1)
    return bits.view(np.float64)


def _fma_f64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c in float64, rounded once: Boldo and Melquiond 2008; in fractions near over- and underflow."""
    a, b, c = np.broadcast_arrays(a, b, c)
    split = 134217729.0
    a1, b1 = a * split - (a * split - a), b * split - (b * split - b)
    high = a * b
    low = ((a1 * b1 - high) + a1 * (b - b1) + (a - a1) * b1) + (a - a1) * (b - b1)
    t, t_low = _two_sum(c, low)
    v, v_low = _two_sum(high, t)
    result = np.array(v + _odd(*_two_sum(t_low, v_low)))
    plain = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b) | ~np.isfinite(c)
    result[plain] = (np.where(np.isfinite(a) & np.isfinite(b) & ~np.isfinite(c), 0.0, a * b) + c)[plain]

    def safe(x: np.ndarray) -> np.ndarray:
        return (np.abs(x) > 2.0**-400) & (np.abs(x) < 2.0**400)

    for i in np.argwhere(~plain & ~(safe(a) & safe(b) & (safe(c) | (c == 0)))):
        i = tuple(i)
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        try:
            result[i] = float(exact)
        except OverflowError:
            result[i] = np.inf if exact > 0 else -np.inf
    zero = (result == 0) & ~plain & (c == 0)  # a product that underflows keeps its sign
    result[zero] = np.copysign(result, a * b)[zero]
    return result


def fma(t: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of values of type ``t``, with one rounding in :func:`encode`."""
    if t == "f64":
        return _fma_f64(a, b, c)
    product = np.atleast_1d(a.astype(np.float64) * b.astype(np.float64))  # exact
    wide = np.atleast_1d(c.astype(np.float64))
    product, wide = np.broadcast_arrays(product, wide)
    return _odd(*_two_sum(product, wide))  # 53 bits rounded to odd, then at most 24: as if rounded once


def flush(t: str, value: np.ndarray) -> np.ndarray:
    """Subnormal float32 numbers to zero of their sign (.ftz)."""
    if t != "f32":
        return value
    return np.where(np.abs(value) < np.float32(2.0**-126), np.copysign(np.float32(0), value), value).astype(value.dtype)


# ---- integers

def _high(t: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the product."""
    bits = BITS[t]
    if bits < 64:
        wide = np.int64 if t[0] == "s" else np.uint64
        return (a.astype(wide) * b.astype(wide) >> wide(bits)).astype(a.dtype)
    x, y, m, s = a.view(np.uint64), b.view(np.uint64), np.uint64(0xFFFFFFFF), np.uint64(32)
    mid = (x & m) * (y & m) >> s
    mid1 = (x >> s) * (y & m) + mid
    mid2 = (x & m) * (y >> s) + (mid1 & m)
    high = (x >> s) * (y >> s) + (mid1 >> s) + (mid2 >> s)
    if t[0] == "s":
        zero = np.uint64(0)
        high = high - np.where(a < 0, y, zero) - np.where(b < 0, x, zero)
    return high.view(a.dtype)


def _widen(t: str, a: np.ndarray) -> np.ndarray:
    return a.astype({"s": SINT, "u": UINT}[t[0]][2 * BITS[t]])


def _shift(op: str, t: str, a: np.ndarray, n: np.ndarray) -> np.ndarray:
    bits = BITS[t]
    n = np.minimum(n, np.uint32(bits - 1 if op == "shr" and t[0] == "s" else bits))
    over, n = n >= bits, np.where(n >= bits, 0, n).astype(a.dtype)
    moved = a << n if op == "shl" else a >> n
    return np.where(over, a.dtype.type(0), moved)


def _divide(t: str, a: np.ndarray, b: np.ndarray, remainder: bool) -> np.ndarray:
    """Truncating division; by zero all ones, as the hardware has it (PTX leaves it open)."""
    if t[0] == "u":
        safe = np.where(b == 0, b.dtype.type(1), b)
        return np.where(b == 0, a if remainder else ~b.dtype.type(0), a % safe if remainder else a // safe)
    x, y = np.abs(a).view(UINT[BITS[t]]), np.abs(b).view(UINT[BITS[t]])
    value = _divide("u" + t[1:], x, y, remainder).view(a.dtype)
    return np.where((a < 0) if remainder else (a < 0) != (b < 0), -value, value)


def _lop3(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: np.ndarray) -> np.ndarray:
    table, result = int(table.flat[0]), np.uint32(0)
    for i in range(8):
        if table >> i & 1:
            result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return result + np.zeros_like(a)


def _prmt(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    both, result = b.astype(np.uint64) << np.uint64(32) | a, np.uint64(0)
    for i in range(4):
        pick = (selector >> np.uint32(4 * i)).astype(np.uint64)
        byte = both >> (pick & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        sign = np.where(byte >> np.uint64(7) == 1, np.uint64(255), np.uint64(0))
        result = result | np.where(pick & np.uint64(8) != 0, sign, byte) << np.uint64(8 * i)
    return result.astype(np.uint32)


def _funnel(left: bool, clamp: bool) -> Callable:
    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        n = (np.minimum(c, np.uint32(32)) if clamp else c & np.uint32(31)).astype(np.uint64)
        both = b.astype(np.uint64) << np.uint64(32) | a
        return ((both << n) >> np.uint64(32) if left else both >> n).astype(np.uint32)
    return function


def _ones(n: np.ndarray) -> np.ndarray:
    """The lowest ``n`` bits, up to 64."""
    full = ~np.uint64(0)
    return np.where(n == 0, np.uint64(0), full >> (np.uint64(64) - np.clip(n, 1, 64).astype(np.uint64)))


def _extract(t: str) -> Callable:
    bits, signed = BITS[t], t[0] == "s"

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        start, length = (b & np.uint32(255)).astype(np.int64), (c & np.uint32(255)).astype(np.int64)
        x = a.astype(np.uint64)
        last = np.minimum(start + length - 1, bits - 1)
        sign = (x >> np.maximum(last, 0).astype(np.uint64) & np.uint64(1) == 1) & (length > 0) & signed
        kept = _ones(np.minimum(length, np.maximum(bits - start, 0)))
        value = (x >> np.minimum(start, 63).astype(np.uint64)) & kept
        return np.where(sign, value | ~kept, value).astype(UINT[bits])
    return function


def _insert(bits: int) -> Callable:
    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
        start, length = (c & np.uint32(255)).astype(np.int64), (d & np.uint32(255)).astype(np.int64)
        by = np.minimum(start, 63).astype(np.uint64)
        mask = np.where(start < bits, _ones(length) << by, np.uint64(0))
        return (b.astype(np.uint64) & ~mask | a.astype(np.uint64) << by & mask).astype(UINT[bits])
    return function


def _count(op: str, t: str) -> Callable:
    bits = BITS[t]
    each = {"popc": lambda x: bin(x).count("1"), "clz": lambda x: bits - x.bit_length(),
            "brev": lambda x: int(f"{x:0{bits}b}"[::-1], 2), "bfind": lambda x: (x.bit_length() - 1) % (1 << 32)}[op]
    return lambda a: np.array([each(int(x)) for x in a.flat], UINT[bits] if op == "brev" else np.uint32)


# ---- comparison and conversion

def compare(name: str, t: str) -> Callable:
    """``setp``'s comparison on bits; the unordered ones are true beside a NaN."""
    ordered = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
               "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        x, y = decode(t, a), decode(t, b)
        if t not in FLOATS:
            return ordered[name](x, y)
        nan = np.isnan(x) | np.isnan(y)
        if name in ("num", "nan"):
            return nan == (name == "nan")
        if name.endswith("u") and name[:-1] in ordered:
            return ordered[name[:-1]](x, y) | nan
        return ordered[name](x, y) & ~nan

    if name not in ordered and not (t in FLOATS and (name in ("num", "nan") or name[:-1] in ordered)):
        raise UnknownPtx(f"comparison {name}.{t}")
    return function


def _float_to_int(value: np.ndarray, rounding: str, source: str, result: str) -> np.ndarray:
    value = np.atleast_1d(value).astype(np.float64)
    value = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](value)
    bits, signed = BITS[result], result[0] == "s"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    dtype = (SINT if signed else UINT)[bits]
    over, under, nan = value >= float(high), value <= float(low), np.isnan(value)
    plain = np.where(over | under | nan, 0, value).astype(dtype)
    plain = np.where(over, dtype(high), np.where(under, dtype(low), plain))
    special = 1 << bits - 1 if source == "f64" or bits == 64 else 0
    return np.where(nan, np.array(special, UINT[bits]).view(dtype), plain)


def _convert(mods: list[str], text: str) -> Alu:
    result, source = mods[-2:]
    flags = mods[:-2]
    rounding = next((f for f in flags if f in ("rn", "rz", "rni", "rzi", "rmi", "rpi")), "")
    unknown = [f for f in flags if f not in (rounding, "ftz", "sat")]
    if unknown or result not in BITS or source not in BITS or (rounding == "rz" and result != "f32"):
        raise UnknownPtx(f"{text}: {'.'.join(mods)}")

    def function(bits: np.ndarray) -> np.ndarray:
        value = decode(source, bits)
        if "ftz" in flags:
            value = flush(source, value)
        if source in FLOATS and result in FLOATS:
            if rounding and rounding.endswith("i"):
                value = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](value)
            if rounding == "rz":
                wide = np.atleast_1d(value).astype(np.float32)
                value = np.where(np.abs(wide) > np.abs(value), np.nextafter(wide, np.float32(0)), wide)
            if "sat" in flags:
                value = np.where(np.isnan(value), 0, np.clip(value, 0, 1)).astype(value.dtype)
            return flush(result, value) if "ftz" in flags else value
        if source in FLOATS:
            return _float_to_int(value, rounding, source, result)
        if result in FLOATS:
            return value.astype(np.float64) if result in ("f16", "bf16") else value.astype(f"f{BITS[result] // 8}")
        if "sat" in flags:
            limits = np.iinfo(decode(result, np.zeros(1, UINT[BITS[result]])).dtype)
            return np.array([min(max(int(v), limits.min), limits.max) for v in value.flat], limits.dtype)
        return value

    if "x2" in result:
        part = result[:-2]
        return Alu(lambda a, b: (encode(part, decode(source, a)).astype(np.uint32) << np.uint32(16)
                                 | encode(part, decode(source, b))), (source, source), result, "convert")
    return Alu(lambda a: encode(result, function(a)), (source,), result, "convert")


# ---- the table

def _float(op: str, mods: list[str], text: str) -> Alu:
    """Arithmetic on floats: rounded to nearest once, flushed and saturated where asked."""
    t, flags = mods[-1], set(mods[:-1])
    approx = bool(flags & {"approx", "full"}) or op in ("ex2", "lg2", "sin", "cos", "tanh", "rsqrt")
    unknown = flags - {"rn", "ftz", "sat", "approx", "full", "NaN"}
    if unknown or (approx and op not in APPROX_ERROR) or (op == "fma" and "rn" not in flags):
        raise UnknownPtx(f"{'.'.join(sorted(unknown))} in {text}")
    wide = (lambda x: x.astype(np.float64)) if approx else (lambda x: x)

    def extreme(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pick, other = (np.fmin, np.signbit) if op == "min" else (np.fmax, lambda x: ~np.signbit(x))
        value = np.where(a == b, np.where(other(a), a, b), pick(a, b))
        return np.where(np.isnan(a) | np.isnan(b), np.nan, value).astype(a.dtype) if "NaN" in flags else value

    one = np.ones(1, np.float32)
    functions = {
        "add": lambda a, b: a + b if t in ("f32", "f64") else fma(t, a, one, b),
        "sub": lambda a, b: a - b if t in ("f32", "f64") else fma(t, a, one, -b),
        "mul": lambda a, b: a * b, "fma": lambda a, b, c: fma(t, a, b, c), "mad": lambda a, b, c: fma(t, a, b, c),
        "div": lambda a, b: wide(a) / wide(b), "rcp": lambda a: a.dtype.type(1) / wide(a),
        "sqrt": lambda a: np.sqrt(wide(a)), "rsqrt": lambda a: 1 / np.sqrt(wide(a)), "min": extreme, "max": extreme,
        "ex2": lambda a: np.exp2(wide(a)), "lg2": lambda a: np.log2(wide(a)), "sin": lambda a: np.sin(wide(a)),
        "cos": lambda a: np.cos(wide(a)), "tanh": lambda a: np.tanh(wide(a)),
    }
    compute = functions[op]

    def function(*bits: np.ndarray) -> np.ndarray:
        values = [decode(t, b) for b in bits]
        if "ftz" in flags:
            values = [flush(t, v) for v in values]
        value = compute(*values)
        if "sat" in flags:
            value = np.where(np.isnan(value), 0, np.clip(value, 0, 1))
        result = encode(t, value)
        return encode(t, flush(t, decode(t, result))) if "ftz" in flags else result

    count = {"fma": 3, "mad": 3}.get(op, 1 if op in APPROX_ERROR and op != "div" else 2)
    kind = "special" if approx or op in ("div", "rcp", "sqrt") else ("float64" if t == "f64" else "float")
    return Alu(function, (t,) * count, t, kind)


def _carrying(op: str, mods: list[str]) -> Alu:
    """add, sub and mad with the carry flag read (addc, subc, madc) or written (.cc)."""
    t, writes, reads, base = mods[-1], "cc" in mods, op.endswith("c"), op[:3]

    def function(*bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        *bits, carry = bits
        if base == "mad":
            x, y = decode(t, bits[0]), decode(t, bits[1])
            product = _high(t, x, y) if "hi" in mods else x * y
            a, b = product.view(bits[0].dtype), bits[2]
        else:
            a, b = bits
        c = carry.astype(a.dtype)
        if base == "sub":
            first = a - b
            return first - c, (a < b) | (first < c)
        first = a + b
        return first + c, (first < a) | (first + c < first)

    return Alu(function, (t,) * (3 if base == "mad" else 2), t, "integer", reads, writes)


def _integer(op: str, mods: list[str], text: str) -> Alu:
    t, flags = mods[-1], mods[:-1]
    if "cc" in flags or op in ("addc", "subc", "madc"):
        return _carrying(op, mods)
    if op in ("mul", "mad") and flags and flags[0] == "wide":
        w = t[0] + str(2 * BITS[t])

        def wide(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
            value = _widen(t, decode(t, a)) * _widen(t, decode(t, b))
            return encode(w, value + decode(w, c[0]) if c else value)
        return Alu(wide, (t, t, w) if op == "mad" else (t, t), w, "integer")
    functions = {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "neg": lambda a: -a, "abs": np.abs,
        "min": np.minimum, "max": np.maximum, "not": lambda a: ~a, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor, "cnot": lambda a: a == 0, "div": lambda a, b: _divide(t, a, b, False),
        "rem": lambda a, b: _divide(t, a, b, True),
        "mul": (lambda a, b: _high(t, a, b)) if "hi" in flags else lambda a, b: a * b,
        "mad": (lambda a, b, c: _high(t, a, b) + c) if "hi" in flags else lambda a, b, c: a * b + c,
    }
    if set(flags) - ({"lo", "hi"} if op in ("mul", "mad") else set()) or op not in functions:
        raise UnknownPtx(text)
    compute = functions[op]
    count = {"mad": 3, "neg": 1, "abs": 1, "not": 1, "cnot": 1}.get(op, 2)
    return Alu(lambda *bits: encode(t, compute(*(decode(t, b) for b in bits))), (t,) * count, t, "integer")


def alu(op: str, mods: tuple[str, ...], text: str = "") -> Alu | None:
    """The function of an arithmetic instruction; None if it is none; an error where a modifier is not known."""
    mods, text = list(mods), text or ".".join((op, *mods))
    t = mods[-1] if mods else ""
    if op == "cvt":
        return _convert(mods, text)
    if op in ("sin", "cos", "ex2", "lg2", "tanh", "rcp", "rsqrt", "sqrt", "fma") or (
            op in ("add", "sub", "mul", "mad", "div", "min", "max") and t in FLOATS):
        if t not in FLOATS:
            raise UnknownPtx(text)
        return _float(op, mods, text)
    if op in ("neg", "abs") and t in FLOATS and not set(mods[:-1]) - {"ftz"}:
        sign = UINT[BITS[t]](1 << BITS[t] - 1)

        def signs(a: np.ndarray) -> np.ndarray:
            a = encode(t, flush(t, decode(t, a))) if "ftz" in mods else a
            return a ^ sign if op == "neg" else a & ~sign
        return Alu(signs, (t,), t, "float")
    if op in ("shl", "shr") and len(mods) == 1:
        return Alu(lambda a, n: encode(t, _shift(op, t, decode(t, a), n)), (t, "u32"), t, "integer")
    if op == "shf" and mods[0] in "lr" and mods[1] in ("wrap", "clamp"):
        return Alu(_funnel(mods[0] == "l", mods[1] == "clamp"), ("b32",) * 3, "b32", "integer")
    if op == "lop3" and mods == ["b32"]:
        return Alu(_lop3, ("b32",) * 4, "b32", "integer")
    if op == "prmt" and mods == ["b32"]:
        return Alu(_prmt, ("b32",) * 3, "b32", "integer")
    if op == "bfe" and len(mods) == 1:
        return Alu(_extract(t), (t, "u32", "u32"), t, "integer")
    if op == "bfi" and len(mods) == 1:
        return Alu(_insert(BITS[t]), (t, t, "u32", "u32"), t, "integer")
    if op in ("popc", "clz", "brev") or (op == "bfind" and mods in (["u32"], ["u64"])):
        return Alu(_count(op, t), (t,), t if op == "brev" else "u32", "integer")
    integer = ("add", "sub", "mul", "mad", "div", "rem", "neg", "abs", "min", "max", "and", "or", "xor", "not", "cnot",
               "addc", "subc", "madc")
    return _integer(op, mods, text) if op in integer and t in BITS and t not in FLOATS else None
