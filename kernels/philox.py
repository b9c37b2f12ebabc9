"""Device code that the kernels share: which element a thread works on, and its random numbers.

The numbers follow the contract of :mod:`fastscore.rng`. The words are those of Philox4x32-10 bit for bit; the normals
are the same sequence of IEEE float32 operations as ``_core.sequence.box_muller``, with a true fma wherever that
one says ``_fma``. Compiled without contraction (``enable_fp_fusion=False``) they have the bits of the C++ backend.

A program works on ``BLOCK`` quads; a quad is the four consecutive elements of one sample that one Philox call serves.
Tensors are [BLOCK, 4] (a column [BLOCK, 1] for what a quad shares), so that one thread holds the four elements of a
quad: 128-bit accesses in float32, and no exchange between threads.
"""

import triton
import triton.language as tl

from fastscore._core import sequence

LOG_0, LOG_1, LOG_2, LOG_3, LOG_4, LOG_5, LOG_6, LOG_7, LOG_8 = map(tl.constexpr, sequence.LOG_POLY)
SIN_0, SIN_1, SIN_2 = map(tl.constexpr, sequence.SIN_POLY)
COS_0, COS_1, COS_2, COS_3 = map(tl.constexpr, sequence.COS_POLY)
EXPONENT = tl.constexpr(sequence.MINUS_2_LN_2 * 2.0**-23)
TURN = tl.constexpr(sequence.TURN)
SQRT_HALF_BITS = tl.constexpr(sequence.SQRT_HALF_BITS)
ESTIMATE = tl.constexpr("rsqrt.approx.ftz.f32 $0, $1;")
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def divide(n, magic, shift):
    """n // d for 0 <= n < 2^31, in three instructions; (magic, shift) are those of ``_launch.reciprocal(d)``."""
    return (tl.umulhi(n.to(tl.uint32) * 2, magic.to(tl.uint32)) >> shift.to(tl.uint32)).to(tl.int32)


@triton.jit
def elements(
    pid,
    rows,
    quads,
    tiles,
    magic,
    shift,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Where program ``pid`` works, for [rows, 4 quads - PAD] elements.

    The three ways to share out the quads (``_launch.plan`` chooses):

    - QUADS = BLOCK: a program has BLOCK quads of one row, ``tiles`` programs per row;
    - 0 < QUADS < BLOCK: a program has BLOCK / QUADS whole rows, QUADS (a power of two) places each;
    - QUADS = 0: all quads of all rows in one line, cut into blocks.

    Returns:
        row (scalar or column), quad inside the row (column), and the elements: a scalar int64 ``base``, offsets from
        it [BLOCK, 4], and which of them exist. Where a quad does not exist its row is still one that does.
    """
    local = tl.arange(0, BLOCK)[:, None]
    lane = tl.arange(0, 4)[None, :]
    width = 4 * quads.to(tl.int64) - PAD
    if QUADS == BLOCK:
        row = divide(pid, magic, shift)
        first = (pid - row * tiles) * BLOCK
        quad = first + local
        live = quad < quads
        base = row.to(tl.int64) * width + 4 * first.to(tl.int64)
        offset = 4 * local + lane
    elif QUADS > 0:
        row0 = pid.to(tl.int64) * (BLOCK // QUADS)
        quad = local % QUADS
        live = (row0 + local // QUADS < rows) & (quad < quads)
        row = tl.minimum(row0 + local // QUADS, rows - 1)
        base = row0 * width
        offset = local // QUADS * (4 * quads - PAD) + 4 * quad + lane
    else:
        if WIDE:
            first = pid.to(tl.int64) * BLOCK
            row0 = first // quads
            row = (first + local) // quads
        else:
            rows = rows.to(tl.int32)
            first = pid * BLOCK
            row0 = divide(first, magic, shift)
            row = divide(first + local, magic, shift)
        quad = first + local - row * quads
        live = row < rows
        row = tl.minimum(row, rows - 1)
        # every row before this one is PAD elements short of its quads
        base = 4 * first.to(tl.int64) - row0.to(tl.int64) * PAD
        offset = 4 * local + lane - (row - row0).to(tl.int32) * PAD
    if not MASK:
        live = tl.full([BLOCK, 1], 1, tl.int1)
    exists = tl.broadcast_to(live, [BLOCK, 4])
    if PAD > 0:
        exists = exists & ((quad < quads - 1) | (lane < 4 - PAD))
    return row, quad, base, offset, exists


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """The ten rounds, on uint32. One 64-bit product gives both halves: one wide multiplication on the device."""
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = p1.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = p0.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def words(quad, row, seed, step, stream, offset, state, index):
    """The four Philox words of block ``quad`` of the samples in ``row``; ``state`` and ``index`` replace numbers."""
    if state is not None:
        seed = tl.load(state)
        step = tl.load(state + 1)
    if index is not None:
        sample = tl.load(index + row).to(tl.uint32)
    else:
        sample = offset.to(tl.uint32) + row.to(tl.uint32)
    seed = seed.to(tl.int64) + tl.full([], 0, tl.int64)  # the interpreter holds 2^31 .. 2^32 - 1 in 32 bits: widen
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    return philox4x32(quad.to(tl.uint32), sample, step.to(tl.uint32), stream.to(tl.uint32), low, high)


@triton.jit
def interleave(a, b, c, d, BLOCK: tl.constexpr):
    """[BLOCK, 4] with columns a, b, c, d, each a column [BLOCK, 1]."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [BLOCK, 4])


@triton.jit
def root(x):
    """sqrt(x), rounded to nearest, for float32 x that is 0 or from 2^-100 to 2^100.

    The instructions that ptxas makes of sqrt.rn (for sm_80 to sm_120 alike), from the device's approximate 1 / sqrt(x)
    on, without its branch to what all other numbers need: such branches cut a thread's work into pieces.
    """
    if INTERPRETED:
        result = tl.sqrt_rn(x)
    else:
        start = tl.maximum(x, 2.0**-100)  # of 0 it would be infinite
        y = tl.inline_asm_elementwise(ESTIMATE, "=f,f", [start], dtype=tl.float32, is_pure=True, pack=1)
        near = x * y
        result = tl.fma(tl.fma(-near, near, x), 0.5 * y, near)
    return result


@triton.jit
def box_muller(r, angle):
    """sqrt(-2 ln u) cos a and sqrt(-2 ln u) sin a from two words, as ``_core.sequence.box_muller`` has it."""
    u = tl.fma((r >> 1).to(tl.int32, bitcast=True).to(tl.float32), 2.0**-31, 2.0**-32)
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - SQRT_HALF_BITS) & -0x00800000  # times 2^23
    f = (bits - e).to(tl.float32, bitcast=True) - 1.0
    p = tl.fma(f, LOG_0, LOG_1)
    p = tl.fma(f, p, LOG_2)
    p = tl.fma(f, p, LOG_3)
    p = tl.fma(f, p, LOG_4)
    p = tl.fma(f, p, LOG_5)
    p = tl.fma(f, p, LOG_6)
    p = tl.fma(f, p, LOG_7)
    p = tl.fma(f, p, LOG_8)
    radius = root(tl.fma(f, p, e.to(tl.float32) * EXPONENT))

    x = (angle << 2).to(tl.int32, bitcast=True).to(tl.float32) * TURN
    y = x * x
    sin = tl.fma(x * y, tl.fma(y, tl.fma(y, SIN_0, SIN_1), SIN_2), x)
    cos = tl.fma(y, tl.fma(y, tl.fma(y, tl.fma(y, COS_0, COS_1), COS_2), COS_3), 1.0)
    # the quadrant from the angle's top two bits: the lower swaps sin and cos, both give the signs
    odd = (angle & 0x40000000) != 0
    cos_sign = (angle ^ (angle << 1)) & 0x80000000
    sin_sign = angle & 0x80000000
    c = (tl.where(odd, sin, cos).to(tl.uint32, bitcast=True) ^ cos_sign).to(tl.float32, bitcast=True)
    s = (tl.where(odd, cos, sin).to(tl.uint32, bitcast=True) ^ sin_sign).to(tl.float32, bitcast=True)
    return radius * c, radius * s


@triton.jit
def normals(quad, row, seed, step, stream, offset, state, index, BLOCK: tl.constexpr):
    """z [BLOCK, 4] ~ N(0, 1), float32: the noise of elements 4 quad .. 4 quad + 3 of the samples in ``row``."""
    r0, r1, r2, r3 = words(quad, row, seed, step, stream, offset, state, index)
    a, b = box_muller(r0, r1)
    c, d = box_muller(r2, r3)
    return interleave(a, b, c, d, BLOCK)


@triton.jit
def row_value(pointer, row, PER_ROW: tl.constexpr):
    """The value of a [B] tensor for ``row``, or of a [] tensor for all rows."""
    if PER_ROW:
        value = tl.load(pointer + row)
    else:
        value = tl.load(pointer)
    return value


@triton.jit
def square_root(x):
    """sqrt(x), rounded to nearest."""
    if x.dtype == tl.float64:
        root = tl.sqrt(x)
    else:
        root = tl.sqrt_rn(x)
    return root


@triton.jit
def reciprocal(x):
    """1 / x, rounded to nearest."""
    if x.dtype == tl.float64:
        inverse = 1.0 / x
    else:
        inverse = tl.div_rn(1.0, x)
    return inverse
