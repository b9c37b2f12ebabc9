"""exp(x) and exp(x) - 1 for x <= 0, and the ELU made of them: the operations of csrc/exponential.h, bit for bit.

Compiled without contraction, as every kernel here (``_launch.OPTIONS``). ``tl.exp`` would be an approximate instruction
in float32.
"""

import triton
import triton.language as tl


def _constants(least: float, log2_e: str, whole: float, high: str, low: str, *poly: str) -> tl.constexpr:
    numbers = (log2_e, high, low, *poly)
    return tl.constexpr((least, whole, *map(float.fromhex, numbers)))


# below which exp is taken for 0; what rounds to an integer when it is added; 1 / ln 2; -ln 2 in two parts; the polynomial
FLOAT32 = _constants(
    -87.0,
    "0x1.715476p+0",
    1.5 * 2.0**23,
    "-0x1.62e4p-1",
    "-0x1.7f7d1cp-20",
    *("0x1.a032c4p-13", "0x1.6d723ep-10", "0x1.11118ap-7", "0x1.5554b0p-5", "0x1.555554p-3", "0x1p-1"),
)
FLOAT64 = _constants(
    -708.0,
    "0x1.71547652b82fep+0",
    1.5 * 2.0**52,
    "-0x1.62e42feep-1",
    "-0x1.a39ef35793c76p-33",
    *("0x1.1ee88249c807ep-29", "0x1.af5ea820db61bp-26", "0x1.27e53646c91a4p-22", "0x1.71ddf863d3cf8p-19"),
    *("0x1.a01a017baf1dep-16", "0x1.a01a01afdd847p-13", "0x1.6c16c16c1f0e8p-10", "0x1.111111110f6c5p-7"),
    *("0x1.555555555553ep-5", "0x1.5555555555559p-3", "0x1p-1"),
)


@triton.jit
def reduced(x):
    """(exp(r) - 1, 2^n) for x = n ln 2 + r, x <= 0 or NaN; what comes of a greater x means nothing."""
    NUMBERS: tl.constexpr = FLOAT64 if x.dtype == tl.float64 else FLOAT32
    kept = tl.where(x < NUMBERS[0], tl.full([], NUMBERS[0], x.dtype), x)  # NaN stays
    whole = tl.full([], NUMBERS[1], x.dtype)
    shifted = tl.fma(kept, tl.full(x.shape, NUMBERS[2], x.dtype), whole)
    n = shifted - whole
    r = tl.fma(n, tl.full(x.shape, NUMBERS[3], x.dtype), kept)
    r = tl.fma(n, tl.full(x.shape, NUMBERS[4], x.dtype), r)
    q = tl.full(x.shape, NUMBERS[5], x.dtype)
    for i in tl.static_range(6, 16 if x.dtype == tl.float64 else 11):
        q = tl.fma(r, q, tl.full(x.shape, NUMBERS[i], x.dtype))
    # the last bits of `shifted` are those of n: moved into the exponent, and that of 1 added
    if x.dtype == tl.float64:
        scale = ((shifted.to(tl.int64, bitcast=True) << 52) + 0x3FF0000000000000).to(tl.float64, bitcast=True)
    else:
        scale = ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(tl.float32, bitcast=True)
    return tl.fma(r * r, q, r), scale


@triton.jit
def elu(x):
    """x where x > 0, else exp(x) - 1. Zeros keep their sign."""
    part, scale = reduced(x)
    return tl.where(x >= 0, x, tl.fma(scale, part, scale - 1.0))


@triton.jit
def elu_slope(x):
    """The derivative of :func:`elu`: 1 where x > 0, else exp(x)."""
    LEAST: tl.constexpr = FLOAT64[0] if x.dtype == tl.float64 else FLOAT32[0]
    part, scale = reduced(x)
    below = tl.where(x < LEAST, 0.0, tl.fma(scale, part, scale))
    return tl.where(x > 0, 1.0, below)
