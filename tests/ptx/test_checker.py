"""Faults planted in small kernels: each must be found, and the kernel without it must pass."""

import numpy as np
import pytest

from fastscore.kernels.ptx.machine import Unwritten, launch
from fastscore.kernels.ptx.memory import Fault
from fastscore.kernels.ptx.parser import UnknownPtx


def kernel(body: str, params: str = ".param .u64 out, .param .u64 x, .param .u32 n", shared: int = 0) -> str:
    """A kernel around ``body``: %rd1 = out, %rd2 = x, %r1 = n, %r2 = thread in the block, %rd3 = 4 %r2."""
    variable = f".shared .align 16 .b8 tile[{shared}];" if shared else ""
    return f""".version 9.0
.target sm_90
.address_size 64
.visible .entry planted({params})
{{
.reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<30>; .reg .b64 %rd<30>; .reg .f32 %f<9>;
{variable}
ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [x]; ld.param.u32 %r1, [n];
mov.u32 %r2, %tid.x; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
shl.b32 %r3, %r2, 2;
{body}
}}"""


def run(body: str, *, threads: int = 64, out: int = 64, n: int = 64, grid: int = 1) -> np.ndarray:
    result, x = np.zeros(out, np.int32), np.arange(64, dtype=np.int32)
    launch(kernel(body, shared=256), grid, threads, [Unwritten(result), x, n])
    return result


GUARDED = """
setp.ge.u32 %p1, %r2, {limit};
@%p1 bra END;
ld.global.u32 %r4, [%rd5];
st.global.u32 [%rd4], %r4;
END: ret;
"""
THROUGH_SHARED = """
mov.u32 %r5, tile; add.s32 %r6, %r5, %r3;
ld.global.u32 %r4, [%rd5];
st.shared.u32 [%r6], %r4;
{first}
xor.b32 %r7, %r3, {other}; add.s32 %r8, %r5, %r7;
ld.shared.u32 %r9, [%r8];
{second}
st.shared.u32 [%r6], %r2;
st.global.u32 [%rd4], %r9;
ret;
"""


TWO_READERS = """
setp.eq.u32 %p1, %r2, 3; @%p1 ld.global.u32 %r4, [%rd2]; {between}
setp.eq.u32 %p2, %r2, 40; @%p2 ld.global.u32 %r4, [%rd2];
@%p2 st.global.u32 [%rd2], %r4; ret;
"""


def test_the_guarded_copy_passes_and_one_more_is_out_of_bounds():
    assert (run(GUARDED.format(limit="%r1"), out=50, n=50)[:50] == np.arange(50)).all()
    with pytest.raises(Fault, match=r"out of bounds: 4 bytes, global out\[byte 200 of 200\], thread 50 of block 0"):
        run(GUARDED.format(limit=51), out=50)
    with pytest.raises(Fault, match="out of bounds"):
        run("ld.global.u32 %r4, [%rd2+-4]; ret;")
    with pytest.raises(Fault, match="out of bounds"):
        run("st.shared.u32 [tile+256], %r2; ret;", threads=1)
    with pytest.raises(Fault, match="out of bounds"):  # a null pointer
        run("mov.u64 %rd9, 0; ld.global.u32 %r4, [%rd9]; ret;")
    with pytest.raises(Fault, match="out of bounds: parameter"):
        run("ld.param.u64 %rd9, [n]; ret;")


def test_shared_memory_ends_with_the_block():
    for beyond in (256, 1280 + 16):  # not into the memory of the block that runs beside it, which repeats after 1280
        with pytest.raises(Fault, match="out of bounds"):
            run(
                f"mov.u32 %r5, tile; mov.u32 %r6, %ctaid.x; setp.eq.u32 %p1, %r6, 0;"
                f"@%p1 st.shared.u32 [%r5+{beyond}], %r2; ret;",
                threads=1,
                grid=4,
            )


@pytest.mark.parametrize(
    "access, fault",
    [
        ("ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd2+16]", None),
        ("ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd2+8]", "misaligned: 16 bytes"),
        ("ld.global.v2.u32 {%r4, %r5}, [%rd2+4]", "misaligned: 8 bytes"),
        ("ld.global.u64 %rd9, [%rd2+4]", "misaligned"),
        ("st.shared.v2.u32 [tile+4], {%r2, %r2}", "misaligned"),
    ],
)
def test_misaligned_vectors(access, fault):
    if fault is None:
        run(access + "; ret;", threads=1)
        return
    with pytest.raises(Fault, match=fault):
        run(access + "; ret;", threads=1)


def test_variables_are_aligned_and_scopes_have_registers_of_their_own():
    run(
        ".shared .b8 odd[3]; .shared .align 16 .b8 wide[16]; st.shared.v4.u32 [wide], {%r2, %r2, %r2, %r2}; ret;",
        threads=1,
    )
    out = run("mov.u32 %r9, 5; { .reg .b32 %r9; mov.u32 %r9, 7; } st.global.u32 [%rd4], %r9; ret;")
    assert (out == 5).all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("sign", "su")
def test_narrow_loads_fill_a_wider_register(sign, bits):
    out = run(
        f"mov.u32 %r5, tile; add.s32 %r6, %r5, %r3; sub.s32 %r4, 10, %r2; st.shared.u{bits} [%r6], %r4;"
        f"ld.shared.{sign}{bits} %r9, [%r6]; st.global.u32 [%rd4], %r9; ret;"
    )
    wanted = 10 - np.arange(64)
    assert (out == (wanted if sign == "s" else wanted % (1 << bits))).all()


@pytest.mark.parametrize(
    "body, fault",
    [
        ("ld.global.u32 %r4, [%rd4]; ret;", "unwritten: nothing wrote this, global out"),
        ("ld.shared.u32 %r4, [tile+8]; ret;", "unwritten: nothing wrote this, shared"),
        ("add.s32 %r4, %r9, 1; ret;", "unwritten: register %r9"),
        ("setp.lt.u32 %p1, %r2, 7; @%p1 mov.u32 %r9, 1; add.s32 %r4, %r9, 1; ret;", "unwritten: register %r9"),
        ("@%p1 bra END; END: ret;", "unwritten: register %p1"),
        ("setp.lt.u32 %p1, %r2, 7; @%p1 mov.u32 %r9, 1; @%p1 add.s32 %r4, %r9, 1; ret;", None),
        ("mov.u32 %r9, 1; st.shared.u32 [tile+8], %r9; ld.shared.u32 %r4, [tile+8]; ret;", None),
    ],
)
def test_what_nothing_wrote(body, fault):
    if fault is None:
        run(body, threads=1)
        return
    with pytest.raises(Fault, match=fault):
        run(body, threads=32)


@pytest.mark.parametrize(
    "first, second, other, fault",
    [
        ("bar.sync 0;", "bar.sync 0;", 4 * 33, None),
        ("", "bar.sync 0;", 4 * 33, "read what another thread wrote"),
        ("bar.sync 0;", "", 4 * 33, "wrote what another thread read"),
        ("", "", 0, None),
        ("bar.warp.sync -1;", "bar.warp.sync -1;", 4, None),
        ("bar.warp.sync -1;", "bar.sync 0;", 4 * 33, "race"),
    ],
)
def test_missing_barriers(first, second, other, fault):
    body = THROUGH_SHARED.format(first=first, second=second, other=other)
    if fault is None:
        assert (run(body) == np.arange(64) ^ other // 4).all()
        return
    with pytest.raises(Fault, match=fault):
        run(body)


@pytest.mark.parametrize(
    "body, grid, fault",
    [
        ("st.global.u32 [%rd1], %r2; ret;", 1, "two threads write one address at once"),
        ("mov.u32 %r4, 7; st.global.u32 [%rd1], %r4; ret;", 1, "two threads write one address at once"),
        ("st.global.u32 [%rd4], %r2; ret;", 2, "race"),  # both blocks
        ("st.shared.u32 [tile], %r2; ret;", 1, "two threads write one address at once"),
        ("mov.u32 %r4, 7; st.shared.u32 [tile], %r4; ret;", 1, None),  # the same value, as reductions do
        (
            "and.b32 %r4, %r2, 31; mul.wide.u32 %rd6, %r4, 4; add.s64 %rd6, %rd1, %rd6; setp.lt.u32 %p1, %r2, 32;"
            "@%p1 st.global.u32 [%rd6], %r2; @!%p1 st.global.u32 [%rd6], %r2; ret;",
            1,
            "wrote what another thread wrote",
        ),
        ("red.global.add.u32 [%rd2], 1; ret;", 2, None),
        ("red.global.add.u32 [%rd2], 1; ld.global.u32 %r4, [%rd2]; ret;", 1, "race"),
        ("red.global.add.u32 [%rd2], 1; red.global.add.u32 [%rd2], 2; ret;", 2, None),
        (
            "setp.eq.u32 %p1, %r2, 0; @%p1 st.global.u32 [%rd2], %r2; red.global.add.u32 [%rd2], 1; ret;",
            1,
            "atomic beside a plain access",
        ),
        (
            "mov.u32 %r5, %ctaid.x; setp.eq.u32 %p1, %r5, 0; @%p1 st.global.u32 [%rd4], %r2; bar.sync 0;"
            "@!%p1 st.global.u32 [%rd4], %r2; ret;",
            2,
            "wrote what another thread wrote",
        ),  # a barrier is its block's alone
        (TWO_READERS.format(between=""), 1, "wrote what another thread read"),
        (TWO_READERS.format(between="bar.sync 0;"), 1, None),
        (
            "ld.global.u32 %r4, [%rd2]; bar.warp.sync -1; setp.eq.u32 %p1, %r2, 31; @%p1 st.global.u32 [%rd2], %r4; ret;",
            1,
            "wrote what another thread read",
        ),  # the other warp
        (
            "setp.lt.u32 %p1, %r2, 32; @!%p1 exit; ld.global.u32 %r4, [%rd2]; bar.warp.sync -1; setp.eq.u32 %p1, %r2, 31;"
            "@%p1 st.global.u32 [%rd2], %r4; ret;",
            1,
            None,
        ),
        ("ld.global.u32 %r4, [%rd2]; st.global.u32 [%rd5], %r4; ret;", 1, "race"),  # thread 0 writes what all have read
        ("ld.global.u32 %r4, [%rd5]; st.global.u32 [%rd5], %r4; ret;", 1, None),
    ],
)
def test_races(body, grid, fault):
    if fault is None:
        run(body, grid=grid)
        return
    with pytest.raises(Fault, match=fault):
        run(body, grid=grid)


@pytest.mark.parametrize(
    "body",
    [
        "setp.lt.u32 %p1, %r2, 40; @%p1 bra END; bar.sync 0; END: ret;",
        "setp.eq.u32 %p1, %r2, 3; @%p1 exit; bar.sync 0; ret;",
        "setp.lt.u32 %p1, %r2, 32; @%p1 bra OTHER; bar.sync 0; ret; OTHER: bar.sync 0; ret;",
        "setp.lt.u32 %p1, %r2, 8; @%p1 exit; shfl.sync.bfly.b32 %r4, %r2, 1, 31, -1; ret;",
    ],
)
def test_barriers_that_not_all_threads_reach(body):
    with pytest.raises(Fault, match="barrier: only"):
        run(body)


@pytest.mark.parametrize(
    "body, name",
    [
        ("frobnicate.b32 %r4, %r2; ret;", "frobnicate"),
        ("add.rz.f32 %f1, %f2, %f3; ret;", "rz"),
        ("ld.global.v3.u32 %r4, [%rd2]; ret;", "v3"),
        ("mov.u32 %r4, %pm0; ret;", "%pm0"),
        ("bra NOWHERE; ret;", "NOWHERE"),
        ("cvt.rn.satfinite.e4m3x2.f32 %rs1, %f1, %f2; ret;", "e4m3x2"),
        ("wgmma.fence.sync.aligned; ret;", "wgmma"),
        ("shl.wrap.b32 %r4, %r2, %r2; ret;", "shl.wrap"),
        ("setp.foo.u32 %p1, %r2, %r2; ret;", "foo"),
        ("add.s32 %r4, %r2; ret;", "add.s32 %r4, %r2"),
        ("atom.global.inc.u32 %r4, [%rd2], 1; ret;", "inc"),
    ],
)
def test_what_is_not_known_is_an_error_that_names_it(body, name):
    with pytest.raises(UnknownPtx, match=name.replace("%", "%")):
        run(body)
