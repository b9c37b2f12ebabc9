"""What is counted, on kernels whose traffic one can count by hand."""

import numpy as np
import pytest

from fastscore.kernels.ptx.counters import Counters
from fastscore.kernels.ptx.machine import Unwritten, launch

from .test_checker import kernel


def run(body: str) -> Counters:
    """Two warps; the first has written ``tile``, 16 bytes a lane, and all have passed a barrier."""
    fill = (
        "mov.u32 %r5, tile; shl.b32 %r6, %r2, 4; add.u32 %r6, %r5, %r6; setp.lt.u32 %p1, %r2, 32;"
        "@%p1 st.shared.v4.u32 [%r6], {%r2, %r2, %r2, %r2}; bar.sync 0;"
    )
    return launch(
        kernel(f"{fill} {body} ret;", shared=512),
        1,
        64,
        [Unwritten(np.zeros(64, np.int32)), np.arange(64, dtype=np.int32), 64],
    )


@pytest.mark.parametrize(
    "body, loads, stores, footprint",
    [
        ("ld.global.u32 %r4, [%rd5]; st.global.u32 [%rd4], %r4;", 8, 8, 512),  # 64 times 4 bytes, each way
        ("ld.global.u32 %r4, [%rd2];", 2, 0, 32),  # one sector, which both warps touch
        ("ld.global.u32 %r4, [%rd2]; ld.global.u32 %r4, [%rd2];", 4, 0, 32),  # at every instruction
        (
            "and.b32 %r7, %r2, 7; mul.wide.u32 %rd6, %r7, 32; add.s64 %rd6, %rd2, %rd6; ld.global.u32 %r4, [%rd6];",
            16,
            0,
            256,
        ),
        ("setp.lt.u32 %p2, %r2, 4; @%p2 ld.global.u32 %r4, [%rd5];", 1, 0, 32),
    ],
)
def test_sectors(body, loads, stores, footprint):
    counters = run(body)
    assert (counters.load_sectors, counters.store_sectors, counters.footprint) == (loads, stores, footprint)


@pytest.mark.parametrize(
    "body, accesses, conflicts",
    [
        ("ld.shared.u32 %r4, [tile];", 2, 0),  # one word for all
        ("add.u32 %r6, %r5, %r3; ld.shared.u32 %r4, [%r6];", 2, 0),  # every lane another bank
        (
            "and.b32 %r7, %r2, 1; shl.b32 %r7, %r7, 7; add.u32 %r6, %r5, %r7; ld.shared.u32 %r4, [%r6];",
            2,
            2,
        ),  # two words
        ("and.b32 %r7, %r2, 3; shl.b32 %r7, %r7, 7; add.u32 %r6, %r5, %r7; ld.shared.u32 %r4, [%r6];", 2, 6),  # four
        (
            "and.b32 %r7, %r2, 31; shl.b32 %r7, %r7, 4; add.u32 %r6, %r5, %r7; ld.shared.v4.u32 {%r4, %r8, %r9, %r10}, [%r6];",
            8,
            0,
        ),  # 16 bytes a lane: four passes a warp, without a conflict
        ("", 0, 0),
    ],
)
def test_bank_conflicts(body, accesses, conflicts):
    counters = run(body)
    assert (counters.shared_accesses - 4, counters.bank_conflicts) == (accesses, conflicts)  # four to fill the tile


def test_threads_and_warps():
    """What a predicate stops is issued by the warp, and executed by nobody else."""
    before, after = run(""), run("setp.lt.u32 %p2, %r2, 5; @%p2 add.u32 %r4, %r2, 1; @!%p2 add.u32 %r4, %r2, 2;")
    assert after.threads["integer"] - before.threads["integer"] == 64 + 5 + 59
    assert after.warps - before.warps == 3 * 2 and after.partial == before.partial == 0
    assert before.threads["barrier"] == before.threads["control"] == 64 and before.threads["shared store"] == 32
