"""exp and exp(x) - 1 for x <= 0, and the ELU: the sequence of IEEE operations of ``csrc/exponential.h``, whose text says
how it works, so that the bits are those of the C++ backend. In float32 and float64."""

import triton
import triton.language as tl


@triton.jit
def _number(value: tl.constexpr, x):
    """A constant in the dtype of ``x``; ``tl.fma`` takes a plain one for a float32."""
    return tl.full([], value, x.dtype)


@triton.jit
def _reduced(x):
    """exp(r) - 1 and 2^n, for x = n ln 2 + r."""
    if x.dtype == tl.float64:
        kept = tl.where(x < -708.0, _number(-708.0, x), x)
        rounding = _number(6755399441055744.0, x)  # 1.5 2^52
        shifted = tl.fma(kept, _number(1.4426950408889634, x), rounding)
        n = shifted - rounding
        r = tl.fma(n, _number(-0.6931471803691238, x), kept)
        r = tl.fma(n, _number(-1.9082149292705877e-10, x), r)
        q = tl.fma(r, _number(2.0875321791412024e-09, x), _number(2.5109024307166103e-08, x))
        q = tl.fma(r, q, _number(2.7557402797393253e-07, x))
        q = tl.fma(r, q, _number(2.75572442546385e-06, x))
        q = tl.fma(r, q, _number(2.4801587172206217e-05, x))
        q = tl.fma(r, q, _number(0.00019841269886073013, x))
        q = tl.fma(r, q, _number(0.0013888888888962617, x))
        q = tl.fma(r, q, _number(0.008333333333321655, x))
        q = tl.fma(r, q, _number(0.041666666666666505, x))
        q = tl.fma(r, q, _number(0.16666666666666677, x))
        q = tl.fma(r, q, _number(0.5, x))
        exponent = tl.add(shifted.to(tl.int64, bitcast=True) << 52, 0x3FF0000000000000, sanitize_overflow=False)
    else:
        kept = tl.where(x < -87.0, _number(-87.0, x), x)
        rounding = _number(12582912.0, x)  # 1.5 2^23
        shifted = tl.fma(kept, _number(1.44269504, x), rounding)
        n = shifted - rounding
        r = tl.fma(n, _number(-0.693145752, x), kept)
        r = tl.fma(n, _number(-1.42860677e-6, x), r)
        q = tl.fma(r, _number(0.00019845881615765393, x), _number(0.0013940668432042003, x))
        q = tl.fma(r, q, _number(0.008333389647305012, x))
        q = tl.fma(r, q, _number(0.04166635870933533, x))
        q = tl.fma(r, q, _number(0.1666666567325592, x))
        q = tl.fma(r, q, _number(0.5, x))
        exponent = tl.add(shifted.to(tl.int32, bitcast=True) << 23, 0x3F800000, sanitize_overflow=False)
    return tl.fma(r * r, q, r), exponent.to(x.dtype, bitcast=True)


@triton.jit
def expm1_nonpositive(x):
    """exp(x) - 1 for x <= 0, or NaN."""
    part, scale = _reduced(x)
    return tl.fma(scale, part, scale - 1.0)


@triton.jit
def exp_nonpositive(x):
    """exp(x) for x <= 0, or NaN; 0 where float32 has ended, below -87 (float64: -708)."""
    part, scale = _reduced(x)
    least: tl.constexpr = -708.0 if x.dtype == tl.float64 else -87.0
    return tl.where(x < least, 0.0, tl.fma(scale, part, scale))


@triton.jit
def elu(x):
    """x where x > 0, else exp(x) - 1. Zeros keep their sign."""
    return tl.where(x >= 0, x, expm1_nonpositive(x))


@triton.jit
def elu_slope(x):
    """The derivative of ``elu``: 1 where x > 0, else exp(x)."""
    return tl.where(x > 0, 1.0, exp_nonpositive(x))
