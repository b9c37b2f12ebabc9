"""Every instruction on edge values, in a kernel of its own, against Python's exact integers and fractions."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from fastscore.kernels.ptx import values
from fastscore.kernels.ptx.floats import APPROX_ERROR
from fastscore.kernels.ptx.machine import launch

INT32 = [
    0,
    1,
    2,
    3,
    5,
    31,
    32,
    33,
    63,
    64,
    0x7FFFFFFF,
    0x80000000,
    0x80000001,
    0xFFFFFFFF,
    0xFFFFFFFE,
    0xDEADBEEF,
    0x12345678,
    0x0000FFFF,
]
INT64 = [0, 1, 2, 63, 64, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 0x123456789ABCDEF0]
F32 = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    1 + 2**-23,
    1 - 2**-24,
    2.0**-126,
    2.0**-149,
    -(2.0**-149),
    3 * 2.0**-140,
    3.4028235e38,
    -3.4028235e38,
    math.inf,
    -math.inf,
    math.nan,
    2.0**24 + 2,
    0.1,
    1 / 3,
    -2.5,
    0.5,
    65504.0,
    1e-8,
    2.0**-24,
    1e5,
]
F64 = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1 + 2**-52,
    1 - 2**-53,
    5e-324,
    2.0**-1022,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    math.nan,
    0.1,
    1 / 3,
    2.0**53 + 2,
    1e-200,
    -1e200,
    2.0**-537,
    1 + 2**-27,
]
RNG = np.random.default_rng(0)


def one(text: str, types: str, result: str, *columns: np.ndarray) -> np.ndarray:
    """Run ``text``, whose operands are %a, %b, %c, %d and whose result is %z, on columns of numbers."""
    types, n = types.split(), len(columns[0])
    width = {t: values.BITS[t] // 8 for t in {*types, result}}
    arrays = [np.ascontiguousarray(c).astype(f"u{width[t]}", copy=False) for c, t in zip(columns, types)]
    out = np.zeros(n, f"u{width[result]}")
    names = "abcd"[: len(types)]
    register = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}
    lines = [f".reg .{register[width[t]]} %{c};" for c, t in [*zip(names, types), ("z", result)]]
    lines += [
        ".reg .pred %p<3>; .reg .b32 %t<4>; .reg .b64 %addr<3>; mov.u32 %t1, %tid.x; mov.u32 %t2, %ctaid.x;",
        "mad.lo.s32 %t1, %t2, 256, %t1; ld.param.u32 %t3, [n]; setp.ge.u32 %p1, %t1, %t3; @%p1 ret;",
    ]
    for c, t in [*zip(names, types), ("z", result)]:
        lines.append(f"ld.param.u64 %addr1, [{c}]; mad.wide.u32 %addr2, %t1, {width[t]}, %addr1;")
        if c != "z":
            lines.append(f"ld.global.b{8 * width[t]} %{c}, [%addr2];")
    lines += [text, f"st.global.b{8 * width[result]} [%addr2], %z; ret;"]
    params = ", ".join(f".param .u64 {c}" for c in (*names, "z")) + ", .param .u32 n"
    text = f".target sm_90\n.visible .entry one({params}) {{ {' '.join(lines)} }}"
    launch(text, -(-n // 256), 256, [*arrays, out, n])
    return out


def signed(x: int, bits: int) -> int:
    return x - (1 << bits) if x >> bits - 1 else x


def both(kind: str, bits: int):
    return (lambda x: signed(x, bits)) if kind == "s" else (lambda x: x)


def grid(choice: list, count: int) -> list[tuple]:
    table = list(itertools.product(choice, repeat=count))
    return table if len(table) < 2000 else [table[i] for i in RNG.choice(len(table), 2000, replace=False)]


def check(text, types, result, rows, exact):
    """The instruction on ``rows`` of integers equals ``exact(*row)`` modulo the width."""
    columns = [np.array(c, np.uint64) for c in zip(*rows)]
    got = one(text, types, result, *columns)
    wanted = [exact(*row) % (1 << values.BITS[result]) for row in rows]
    bad = [(row, hex(g), hex(w)) for row, g, w in zip(rows, got.tolist(), wanted) if g != w]
    assert not bad, bad[:5]


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": lambda a, b: (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1),
    "rem": lambda a, b: math.copysign(1, a).__int__() * (abs(a) % abs(b)),
}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("kind", "us")
@pytest.mark.parametrize("op", [*BINARY, "mul.hi", "mad.lo", "mad.hi"])
def test_integer_arithmetic(op, kind, bits):
    t, view, rows = f"{kind}{bits}", both(kind, bits), grid(INT32 if bits == 32 else INT64, 3 if "mad" in op else 2)
    if op in ("div", "rem"):
        rows = [r for r in rows if r[1]]
    exact = {
        "mul.hi": lambda a, b: a * b >> bits,
        "mad.lo": lambda a, b, c: a * b + c,
        "mad.hi": lambda a, b, c: (a * b >> bits) + c,
    }.get(op) or BINARY[op]
    operands = ", ".join(("%a", "%b", "%c")[: len(rows[0])])
    check(f"{op}.{t} %z, {operands};", " ".join([t] * len(rows[0])), t, rows, lambda *r: exact(*map(view, r)))


@pytest.mark.parametrize("kind", "us")
def test_wide_products(kind):
    view = both(kind, 32)
    check(f"mul.wide.{kind}32 %z, %a, %b;", "u32 u32", "u64", grid(INT32, 2), lambda a, b: view(a) * view(b))
    rows = [(*r, c) for r in grid(INT32, 2) for c in (0, 2**64 - 1, 2**63)]
    check(f"mad.wide.{kind}32 %z, %a, %b, %c;", "u32 u32 u64", "u64", rows, lambda a, b, c: view(a) * view(b) + c)
    check(
        f"mul.wide.{kind}16 %z, %a, %b;",
        "u16 u16",
        "u32",
        grid([0, 1, 0x7FFF, 0x8000, 0xFFFF, 77], 2),
        lambda a, b: both(kind, 16)(a) * both(kind, 16)(b),
    )


def test_carries():
    """128-bit sums, differences and products from 32- and 64-bit pieces."""
    rows = grid(INT32, 3)
    check("add.cc.u32 %a, %a, %b; addc.u32 %z, %c, 0;", "u32 u32 u32", "u32", rows, lambda a, b, c: c + (a + b >> 32))
    check("sub.cc.u32 %a, %a, %b; subc.u32 %z, %c, 0;", "u32 u32 u32", "u32", rows, lambda a, b, c: c - (a < b))
    check(
        "add.cc.u32 %a, %a, %b; addc.cc.u32 %c, %c, %b; addc.u32 %z, 0, 0;",
        "u32 u32 u32",
        "u32",
        rows,
        lambda a, b, c: (a + (b << 32) + b + (c << 32)) >> 64,
    )
    check(
        "sub.cc.u32 %a, %a, %b; subc.cc.u32 %c, %c, %b; subc.u32 %z, 0, 0;",
        "u32 u32 u32",
        "u32",
        rows,
        lambda a, b, c: ((c << 32) + a - (b << 32) - b) >> 64,
    )
    check(
        "mad.lo.cc.u32 %t1, %a, %b, %c; madc.hi.u32 %z, %a, %b, 0;",
        "u32 u32 u32",
        "u32",
        rows,
        lambda a, b, c: a * b + c >> 32,
    )
    check(
        "add.cc.u64 %a, %a, %b; addc.u64 %z, %c, 0;",
        "u64 u64 u64",
        "u64",
        grid(INT64, 3),
        lambda a, b, c: c + (a + b >> 64),
    )


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_saturate_at_the_width(bits):
    numbers = {16: [0, 1, 0x7FFF, 0x8000, 0xFFFF], 32: INT32, 64: INT64}[bits]
    rows = [(x, n) for x in numbers for n in (0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 2**31, 2**32 - 1)]
    t = f"b{bits} u32".replace("b", "u")
    check(f"shl.b{bits} %z, %a, %b;", t, f"u{bits}", rows, lambda x, n: x << n if n < bits else 0)
    check(f"shr.u{bits} %z, %a, %b;", t, f"u{bits}", rows, lambda x, n: x >> min(n, bits))
    check(f"shr.s{bits} %z, %a, %b;", t, f"u{bits}", rows, lambda x, n: signed(x, bits) >> min(n, bits))


def test_funnel_shifts_and_bytes():
    rows = [(a, b, n) for a, b in grid(INT32[9:], 2) for n in (0, 1, 31, 32, 33, 64, 0xFFFFFFFF)]
    for mode, amount in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
        check(
            f"shf.l.{mode}.b32 %z, %a, %b, %c;",
            "u32 u32 u32",
            "u32",
            rows,
            lambda a, b, n, f=amount: ((b << 32 | a) << f(n)) >> 32,
        )
        check(
            f"shf.r.{mode}.b32 %z, %a, %b, %c;",
            "u32 u32 u32",
            "u32",
            rows,
            lambda a, b, n, f=amount: (b << 32 | a) >> f(n),
        )

    def permuted(a, b, s):
        source, result = (b << 32 | a).to_bytes(8, "little"), 0
        for i in range(4):
            byte = source[s >> 4 * i & 7]
            result |= (byte if not s >> 4 * i & 8 else 255 * (byte >> 7)) << 8 * i
        return result

    check(
        "prmt.b32 %z, %a, %b, %c;",
        "u32 u32 u32",
        "u32",
        [(a, b, s) for a, b in grid(INT32[9:], 2) for s in (0x3210, 0x7654, 0x0123, 0x5410, 0xFEDC, 0x88BA)],
        permuted,
    )


@pytest.mark.parametrize("table", [0x00, 0x01, 0x96, 0xE8, 0xCA, 0x80, 0xFE, 0xFF, 0x3C])
def test_lop3(table):
    def exact(a, b, c):
        return sum((table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32))

    check(f"lop3.b32 %z, %a, %b, %c, {table};", "u32 u32 u32", "u32", grid(INT32, 3)[:400], exact)


@pytest.mark.parametrize("bits", [32, 64])
def test_bits(bits):
    numbers = INT32 if bits == 32 else INT64
    u, top = f"u{bits}", bits - 1

    def extract(is_signed, x, start, length):
        start, length = start & 255, length & 255
        sign = is_signed and length and x >> min(start + length - 1, top) & 1
        return sum((x >> start + i & 1 if i < length and start + i <= top else sign) << i for i in range(bits))

    def insert(x, y, start, length):
        for i in range(length & 255):
            if (start & 255) + i <= top:
                y = y & ~(1 << (start & 255) + i) | (x >> i & 1) << (start & 255) + i
        return y

    places = [(s, n) for s in (0, 1, 7, 31, 32, 40, 63, 64, 255, 256) for n in (0, 1, 8, 31, 32, 33, 64, 255)]
    rows = [(x, s, n) for x in numbers for s, n in places]
    check(f"bfe.u{bits} %z, %a, %b, %c;", f"{u} u32 u32", u, rows, lambda *r: extract(False, *r))
    check(f"bfe.s{bits} %z, %a, %b, %c;", f"{u} u32 u32", u, rows, lambda *r: extract(True, *r))
    check(
        f"bfi.b{bits} %z, %a, %b, %c, %d;",
        f"{u} {u} u32 u32",
        u,
        [(x, y, s, n) for x, y in grid(numbers, 2)[::9] for s, n in places],
        insert,
    )
    for op, exact in (
        ("popc.b", lambda x: x.bit_count()),
        ("clz.b", lambda x: bits - x.bit_length()),
        ("bfind.u", lambda x: x.bit_length() - 1),
    ):
        check(f"{op}{bits} %z, %a;", u, "u32", grid(numbers, 1), exact)
    for op, exact in (
        ("not.b", lambda x: ~x),
        ("neg.s", lambda x: -x),
        ("abs.s", lambda x: abs(signed(x, bits))),
        ("cnot.b", lambda x: x == 0),
        ("brev.b", lambda x: int(f"{x:0{bits}b}"[::-1], 2)),
    ):
        check(f"{op}{bits} %z, %a;", u, u, grid(numbers, 1), exact)
    for op, exact in (("and", int.__and__), ("or", int.__or__), ("xor", int.__xor__)):
        check(f"{op}.b{bits} %z, %a, %b;", f"{u} {u}", u, grid(numbers, 2), exact)


# ---- floats: everything is a fraction, rounded once

FORMATS = {"f16": (11, -14, 15), "bf16": (8, -126, 127), "f32": (24, -126, 127), "f64": (53, -1022, 1023)}
# a b is midway between two neighbours (2^24 + 1 = 24929 x 673), and c, far below its last place, says which is nearer
TIES = {
    "f16": (3, 683 / 2**11, 2.0**-24),
    "bf16": (7, 37 / 2**8, 2.0**-30),
    "f32": (24929, 673 / 2**24, 2.0**-70),
    "f64": (321, 28059810762433 / 2**53, 2.0**-120),
}


def as_bits(t: str, x: float) -> int:
    """The bits of a float that type ``t`` has, or the nearest it has (ties to even), by exact arithmetic."""
    width = values.BITS[t]
    sign = (1 << width - 1) if math.copysign(1, x) < 0 else 0
    if math.isnan(x):
        return {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF}.get(t, 0x7FF8000000000000)
    return sign | (infinity(t) if math.isinf(x) else magnitude(t, Fraction(abs(x))))


def infinity(t: str) -> int:
    precision, _, high = FORMATS[t]
    return (2 * high + 1) << precision - 1


def magnitude(t: str, x: Fraction) -> int:
    """The bits of the float nearest to x >= 0."""
    precision, low, _ = FORMATS[t]
    if x == 0:
        return 0
    exponent = max(math.floor(x).bit_length() - 1 if x >= 1 else -(math.ceil(1 / x) - 1).bit_length(), low)
    steps = x / Fraction(2) ** (exponent - precision + 1)
    n = round(steps)  # ties to even
    return min(n + ((exponent - low) << precision - 1), infinity(t))


def as_float(t: str, bits: int) -> float:
    with np.errstate(invalid="ignore"):  # NaN that signal
        return float(values.decode(t, np.array([bits], values.UINT[values.BITS[t]]))[0])


def same(t: str, got: int, wanted: int) -> bool:
    return got == wanted or (math.isnan(as_float(t, got)) and math.isnan(as_float(t, wanted)))


def check_float(text, types, result, rows, exact):
    got = one(text, types, result, *(np.array(c, np.uint64) for c in zip(*rows)))
    names = types.split()
    bad = []
    for row, bits in zip(rows, got.tolist()):
        wanted = exact(*(as_float(t, b) for t, b in zip(names, row)))
        if not same(result, bits, wanted):
            bad.append(([as_float(t, b) for t, b in zip(names, row)], hex(bits), hex(wanted)))
    assert not bad, bad[:5]


def rounded(t, value, sign):
    """An exact result, with the sign that a zero has."""
    if isinstance(value, float):
        return as_bits(t, value)
    negative = value < 0 or (value == 0 and sign)
    return ((1 << values.BITS[t] - 1) if negative else 0) | magnitude(t, abs(value))


def exact_fma(t):
    def function(a, b, c):
        if not all(map(math.isfinite, (a, b, c))):
            product = (
                math.nan
                if (math.isinf(a) and b == 0) or (a == 0 and math.isinf(b))
                else (a * b if math.isinf(a) or math.isinf(b) or math.isnan(a) or math.isnan(b) else 0.0)
            )
            return as_bits(t, product + c)
        value = Fraction(a) * Fraction(b) + Fraction(c)
        product_sign = (math.copysign(1, a) < 0) != (math.copysign(1, b) < 0)
        both_negative = product_sign and math.copysign(1, c) < 0
        return rounded(t, value, both_negative if a * b == 0 or value == 0 else product_sign)

    return function


def float_rows(t, count):
    numbers = [as_bits(t, x) for x in (F64 if t == "f64" else F32)]
    rows = grid(numbers, count)
    # ties and near-ties: random bits, and addends within a few units of the product's last place
    top = values.BITS[t]
    random = (
        RNG.integers(0, 1 << 63, (600, count), dtype=np.uint64) >> np.uint64(63 - top)
        if top < 64
        else (RNG.integers(0, 1 << 63, (600, count), dtype=np.uint64) * np.uint64(2) + np.uint64(1))
    )
    rows += [tuple(int(b) for b in r) for r in random]
    if count == 3:
        precision = FORMATS[t][0]
        a, b, c = TIES[t]
        rows += [tuple(rounded(t, Fraction(v), False) for v in (a, b, sign * c)) for sign in (1, -1)]
        for _ in range(600):
            a, b = (1 + Fraction(int(RNG.integers(0, 1 << precision - 1)), 1 << precision - 1) for _ in range(2))
            scale = Fraction(2) ** int(RNG.integers(-2 * precision, 4))
            c = scale * (1 + Fraction(int(RNG.integers(0, 4)), 1 << precision - 1)) * int(RNG.choice([-1, 1]))
            rows.append(tuple(rounded(t, v, False) for v in (a, b, c)))
    return rows


@pytest.mark.parametrize("t", FORMATS)
def test_fma_rounds_once(t):
    check_float(f"fma.rn.{t} %z, %a, %b, %c;", f"{t} {t} {t}", t, float_rows(t, 3), exact_fma(t))


@pytest.mark.parametrize("t", FORMATS)
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_sums_and_products(op, t):
    fma = exact_fma(t)
    exact = {
        "add": lambda a, b: fma(a, 1.0, b),
        "sub": lambda a, b: fma(a, 1.0, -b),
        "mul": lambda a, b: fma(a, b, -0.0),
    }[op]
    check_float(f"{op}.rn.{t} %z, %a, %b;", f"{t} {t}", t, float_rows(t, 2), exact)


@pytest.mark.parametrize("t", ["f32", "f64"])
def test_quotients_and_roots(t):
    def quotient(a, b):
        if not math.isfinite(a) or not math.isfinite(b) or b == 0:
            with np.errstate(all="ignore"):
                return as_bits(t, float(np.float64(a) / np.float64(b)))
        return rounded(t, Fraction(a) / Fraction(b), (math.copysign(1, a) < 0) != (math.copysign(1, b) < 0))

    def root(a):
        if a <= 0 or not math.isfinite(a):
            return as_bits(t, a if a == 0 or a == math.inf else math.nan)
        x, shift = Fraction(a), 2 * 1200
        n = math.isqrt(int(x * 2**shift))  # an odd last bit stands for what follows
        return magnitude(t, Fraction(2 * n + (n * n != x * 2**shift), 2 ** (shift // 2 + 1)))

    check_float(f"div.rn.{t} %z, %a, %b;", f"{t} {t}", t, float_rows(t, 2), quotient)
    check_float(f"rcp.rn.{t} %z, %a;", t, t, float_rows(t, 1), lambda a: quotient(1.0, a))
    check_float(f"sqrt.rn.{t} %z, %a;", t, t, float_rows(t, 1), root)


@pytest.mark.parametrize(
    "source, result",
    [("f32", "f16"), ("f32", "bf16"), ("f64", "f32"), ("f64", "f16"), ("f16", "f32"), ("bf16", "f32"), ("f32", "f64")],
)
def test_conversions_between_floats(source, result):
    rn = ".rn" if values.BITS[source] > values.BITS[result] else ""
    rows = float_rows(source, 1) + [
        (as_bits(source, (1 + 2.0**-k) * s + e),)
        for k in (8, 9, 11, 12, 24)
        for s in (1, -1, 3)
        for e in (0, 2.0**-30, -(2.0**-22))
    ]
    check_float(f"cvt{rn}.{result}.{source} %z, %a;", source, result, rows, lambda a: as_bits(result, a))


@pytest.mark.parametrize("t", ["s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("source", ["f32", "f64"])
def test_conversions_to_and_from_integers(t, source):
    bits = values.BITS[t]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if t[0] == "s" else (0, (1 << bits) - 1)
    rows = float_rows(source, 1) + [
        (as_bits(source, x),)
        for x in (0.5, 1.5, 2.5, -0.5, -1.5, 2.0**31, 2.0**63, -(2.0**63), 2.0**64, 4294967295.0, -0.99)
    ]
    for mode, f in (("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)):

        def exact(a, f=f):
            if math.isnan(a):
                return 1 << bits - 1 if bits == 64 or source == "f64" else 0
            return (low if a < 0 else high) if math.isinf(a) else min(max(f(a), low), high)

        got = one(f"cvt.{mode}.{t}.{source} %z, %a;", source, t, np.array([r[0] for r in rows], np.uint64))
        assert got.tolist() == [exact(as_float(source, r[0])) % (1 << bits) for r in rows]
    view = both(t[0], bits)
    numbers = (INT32 if bits == 32 else INT64) + [2**24 + 1, 2**24 + 3, 2**25 + 2, 2**31 - 65, 2**31 - 64]
    check(
        f"cvt.rn.{source}.{t} %z, %a;",
        t,
        source.replace("f", "u"),
        [(x,) for x in numbers],
        lambda x: rounded(source, Fraction(view(x)), False),
    )


def test_conversions_between_integers_and_pairs():
    for kind in "us":
        view = both(kind, 32)
        check(f"cvt.{kind}64.{kind}32 %z, %a;", "u32", "u64", grid(INT32, 1), view)
        check(f"cvt.u32.{kind}64 %z, %a;", "u64", "u32", grid(INT64, 1), lambda x: x)
    check(
        "cvt.sat.s16.s32 %t1, %a; cvt.s32.s16 %z, %t1;",
        "u32",
        "u32",
        grid(INT32, 1),
        lambda x: min(max(signed(x, 32), -32768), 32767),
    )
    check(
        "{.reg .b16 l, h; mov.b32 {l, h}, %a; mov.b32 %z, {h, l};}",
        "u32",
        "u32",
        grid(INT32, 1),
        lambda x: x >> 16 | x << 16,
    )
    check("{.reg .b32 l; mov.b64 {_, l}, %a; mov.b32 %z, l;}", "u64", "u32", grid(INT64, 1), lambda x: x >> 32)
    for half in ("f16", "bf16"):
        rows = [(as_bits("f32", a), as_bits("f32", b)) for a, b in grid(F32, 2)]
        check_float(
            f"{{.reg .b16 l; cvt.rn.{half}x2.f32 %t1, %a, %b; mov.b32 {{_, l}}, %t1; mov.b16 %z, l;}}",
            "f32 f32",
            half,
            rows,
            lambda a, b, h=half: as_bits(h, a),
        )


@pytest.mark.parametrize("t", ["s32", "u32", "s64", "f32", "f64"])
def test_comparisons(t):
    numbers = {"s32": INT32, "u32": INT32, "s64": INT64}.get(t) or [as_bits(t, x) for x in F32]
    value = (lambda x: as_float(t, x)) if t[0] == "f" else both(t[0], values.BITS[t])
    ordered = {"eq": "__eq__", "ne": "__ne__", "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__"}
    names = list(ordered) + ([n + "u" for n in ordered] + ["num", "nan"] if t[0] == "f" else [])
    for name in names:

        def exact(a, b, name=name):
            a, b = value(a), value(b)
            if a != a or b != b:
                return name.endswith("u") or name == "nan"
            return name == "num" or (name != "nan" and getattr(a, ordered[name[:2]])(b))

        unsigned = t.replace("s", "u").replace("f", "u")
        check(
            f"setp.{name}.{t} %p1, %a, %b; selp.u32 %z, 1, 0, %p1;",
            f"{unsigned} {unsigned}",
            "u32",
            grid(numbers, 2),
            exact,
        )
        check(
            f"setp.{name}.and.{t} %p1|%p2, %a, %b, !%p1; selp.u32 %z, 1, 0, %p2;",
            f"{unsigned} {unsigned}",
            "u32",
            grid(numbers, 2),
            lambda a, b, e=exact: not e(a, b),
        )


@pytest.mark.parametrize("half", ["f16", "bf16"])
def test_comparisons_of_pairs_of_halves(half):
    """The first predicate is of the lower halves, the second of the upper ones."""
    numbers = [as_bits(half, x) for x in (0.0, -0.0, 1.5, -1.5, math.inf, math.nan)]
    pairs = [low | high << 16 for low, high in grid(numbers, 2)]
    for name, at in (("ge", 0), ("ge", 1), ("ltu", 0), ("ltu", 1)):

        def exact(a, b, name=name, at=at):
            a, b = (as_float(half, v >> 16 * at & 0xFFFF) for v in (a, b))
            return (a >= b) if name == "ge" else not a >= b

        code = f"setp.{name}.{half}x2 %p1|%p2, %a, %b; selp.u32 %z, 1, 0, %p{at + 1};"
        check(code, "u32 u32", "u32", grid(pairs, 2), exact)


def test_signs_extremes_and_flushing():
    rows = [(as_bits("f32", a), as_bits("f32", b)) for a, b in grid(F32, 2)]

    def extreme(a, b, largest):
        if a != a or b != b:
            return as_bits("f32", b if a != a else a)
        return as_bits("f32", sorted((a, b), key=lambda x: (x, math.copysign(1, x)))[largest])

    check_float("min.f32 %z, %a, %b;", "f32 f32", "f32", rows, lambda a, b: extreme(a, b, 0))
    check_float("max.f32 %z, %a, %b;", "f32 f32", "f32", rows, lambda a, b: extreme(a, b, 1))
    check_float(
        "max.NaN.f32 %z, %a, %b;",
        "f32 f32",
        "f32",
        rows,
        lambda a, b: as_bits("f32", math.nan) if a != a or b != b else extreme(a, b, 1),
    )
    check("neg.f32 %z, %a;", "u32", "u32", [r[:1] for r in rows], lambda a: a ^ 1 << 31)
    check("abs.f32 %z, %a;", "u32", "u32", [r[:1] for r in rows], lambda a: a & ~(1 << 31))
    check("copysign.f32 %z, %a, %b;", "u32 u32", "u32", rows, lambda a, b: a & 1 << 31 | b & ~(1 << 31))  # of a onto b

    def flushed(x):
        return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x

    check_float(
        "add.rn.ftz.f32 %z, %a, %b;",
        "f32 f32",
        "f32",
        rows,
        lambda a, b: as_bits("f32", flushed(as_float("f32", exact_fma("f32")(flushed(a), 1.0, flushed(b))))),
    )
    tiny = [(as_bits("f32", x), as_bits("f32", -(2.0**-126))) for x in (1.5 * 2.0**-126, 1.25 * 2.0**-126, 2.0**-124)]
    check_float("add.rn.ftz.f32 %z, %a, %b;", "f32 f32", "f32", tiny, lambda a, b: as_bits("f32", flushed(a + b)))
    small = [(as_bits("f32", x), as_bits("f32", 2.0**-30)) for x in (2.0**-100, -(2.0**-100), 2.0**-96)]
    check_float("mul.ftz.f32 %z, %a, %b;", "f32 f32", "f32", small, lambda a, b: as_bits("f32", flushed(a * b)))
    check_float(
        "add.sat.f32 %z, %a, %b;",
        "f32 f32",
        "f32",
        rows,
        lambda a, b: as_bits(
            "f32", 0.0 if (a + b) != (a + b) else min(max(as_float("f32", exact_fma("f32")(a, 1.0, b)), 0.0), 1.0)
        ),
    )


@pytest.mark.parametrize(
    "op, exact",
    [
        ("ex2", np.exp2),
        ("lg2", np.log2),
        ("rsqrt", lambda x: 1 / np.sqrt(x)),
        ("sqrt", np.sqrt),
        ("sin", np.sin),
        ("cos", np.cos),
        ("tanh", np.tanh),
    ],
)
def test_approximate_functions_are_evaluated_exactly(op, exact):
    x = RNG.uniform(0.1, 3, 500).astype(np.float32)
    got = one(f"{op}.approx{'' if op == 'tanh' else '.ftz'}.f32 %z, %a;", "f32", "f32", x.view(np.uint32))
    assert (got.view(np.float32) == exact(x.astype(np.float64)).astype(np.float32)).all() and op in APPROX_ERROR
