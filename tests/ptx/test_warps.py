"""Instructions in which the threads of a warp take part together, against their definition lane by lane."""

import numpy as np
import pytest

from fastscore.kernels.ptx.machine import Unwritten, launch
from fastscore.kernels.ptx.memory import Fault

from .test_checker import kernel

STORE = "st.global.u32 [%rd4], %r9; ret;"


def run(body: str, threads: int = 64) -> np.ndarray:
    out, x = np.zeros(threads, np.uint32), (np.arange(64, dtype=np.uint32) * 2654435761) % 1000
    launch(kernel(f"ld.global.u32 %r4, [%rd5]; {body} {STORE}", shared=256), 1, threads, [Unwritten(out), x, 64])
    return out


X = ((np.arange(64, dtype=np.uint32) * 2654435761) % 1000).reshape(2, 32)


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("by", [0, 1, 5, 7, 31])
def test_shuffles(mode, by, width):
    """As __shfl_*_sync with a width: lanes beyond their segment keep their own value, and the predicate says so."""
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    got = run(f"shfl.sync.{mode}.b32 %r9|%p1, %r4, {by}, {clamp}, -1; @!%p1 add.u32 %r9, %r9, 5000;")
    wanted = []
    for lane in range(32):
        first, last = lane // width * width, lane // width * width + width - 1
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first + by % width}[mode]
        inside = source >= first if mode == "up" else source <= last
        wanted.append(X[:, source if inside else lane] + (0 if inside else 5000))
    assert (got.reshape(2, 32) == np.stack(wanted, 1)).all()


def test_votes():
    even = X % 2 == 0
    ballot = (even.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)
    ask = "and.b32 %r5, %r4, 1; setp.eq.u32 %p1, %r5, 0;"
    assert (run(f"{ask} vote.sync.ballot.b32 %r9, %p1, -1;").reshape(2, 32) == ballot[:, None]).all()
    for mode, wanted in (("all", even.all(1)), ("any", even.any(1)), ("uni", even.all(1) | ~even.any(1))):
        got = run(f"{ask} vote.sync.{mode}.pred %p2, %p1, -1; selp.u32 %r9, 1, 0, %p2;")
        assert (got.reshape(2, 32) == wanted[:, None]).all()
    active = run("mov.u32 %r9, 0; setp.lt.u32 %p1, %r2, 40; @!%p1 bra END; activemask.b32 %r9; END:")
    assert active.tolist() == [2**32 - 1] * 32 + [255] * 8 + [0] * 24


def test_part_of_a_warp_waits_for_the_rest():
    """Half of the lanes take a detour before the shuffle: all must have come before it is done."""
    got = run(
        "setp.lt.u32 %p1, %r2, 48; @%p1 bra LATER; add.u32 %r4, %r4, 1; bra MEET; LATER: add.u32 %r4, %r4, 2;"
        "MEET: shfl.sync.bfly.b32 %r9, %r4, 16, 31, -1;"
    )
    assert (got.reshape(2, 32) == (X + np.where(np.arange(64) < 48, 2, 1).reshape(2, 32))[:, np.arange(32) ^ 16]).all()
    with pytest.raises(Fault, match="shuffle: reads a lane that takes no part"):
        run("mov.u32 %r9, 0; setp.lt.u32 %p1, %r2, 8; @%p1 shfl.sync.bfly.b32 %r9, %r4, 8, 31, 255;")


def test_threads_that_parted_meet_at_the_first_common_instruction():
    out = np.zeros(64, np.uint32)
    body = (
        "setp.lt.u32 %p1, %r2, 48; @%p1 bra THEN; mov.u32 %r9, 1; bra END; THEN: mov.u32 %r9, 2; END: "
        "add.u32 %r9, %r9, 1; st.global.u32 [%rd4], %r9; ret;"
    )
    counters = launch(kernel(body), 1, 64, [Unwritten(out), np.zeros(64, np.int32), 64])
    assert out.tolist() == [3] * 48 + [2] * 16
    assert counters.partial == 3  # of the second warp alone: mov and bra of some, mov of the others


def test_a_lane_must_be_in_its_own_mask():
    with pytest.raises(Fault, match="not in its own mask"):
        run("shfl.sync.idx.b32 %r9, %r4, 0, 31, -2;")


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_tiles(trans):
    """ldmatrix and stmatrix of one 8 x 8 tile: a lane has two neighbours of row lane / 4, or of a column."""
    place = "mov.u32 %r5, tile; and.b32 %r6, %r2, 7; shl.b32 %r6, %r6, 4; add.u32 %r6, %r5, %r6; add.u32 %r7, %r5, %r3;"
    tile = X[0].astype(np.uint32).view(np.uint16).reshape(8, 8)
    wanted = np.ascontiguousarray(tile.T if trans else tile).reshape(-1).view(np.uint32)
    load = f"st.shared.u32 [%r7], %r4; bar.sync 0; ldmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 {{%r9}}, [%r6];"
    store = f"stmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 [%r6], {{%r4}}; bar.sync 0; ld.shared.u32 %r9, [%r7];"
    assert (run(place + load, 32) == wanted).all() and (run(place + store, 32) == wanted).all()


def test_generic_addresses_and_atomics():
    assert (
        run(
            "mov.u32 %r5, tile; cvt.u64.u32 %rd6, %r5; cvta.shared.u64 %rd6, %rd6; add.s64 %rd7, %rd6, %rd3;"
            "st.u32 [%rd7], %r4; ld.u32 %r9, [%rd7];"
        )
        == X.ravel()
    ).all()
    for op, wanted in (("add", X.sum()), ("max", X.max()), ("min", 0), ("or", np.bitwise_or.reduce(X.ravel()))):
        got = run(
            "setp.eq.u32 %p1, %r2, 0; mov.u32 %r5, 0; @%p1 st.shared.u32 [tile], %r5; bar.sync 0;"
            f"atom.shared.{op}.u32 %r6, [tile], %r4; bar.sync 0; ld.shared.u32 %r9, [tile];"
        )
        assert (got == wanted).all()
    got = run(
        "setp.eq.u32 %p1, %r2, 0; mov.u32 %r5, 99; @%p1 st.shared.u32 [tile], %r5; bar.sync 0;"
        "atom.shared.cas.b32 %r9, [tile], 99, %r4;"
    )
    assert got[0] == 99 and (got[1:] == X[0, 0]).all()  # thread after thread: only the first finds 99
