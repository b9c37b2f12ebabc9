"""Memory that knows what was allocated, what was written, and who touched what since which barrier.

Whatever a GPU would do silently is a :class:`Fault` here: an access outside of an allocation, or not aligned to its
size; a read of bytes that nothing wrote; and a race: two threads at one byte, one of them writing, with no barrier
between them. Threads are numbered through the grid, every block starting at a multiple of 32.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable

import numpy as np

GLOBAL_BASE = 0x7F00_0000_0000
GUARD = 512  # at least half as many bytes between allocations belong to none
NO_BARRIER = ", with no barrier between"


class Fault(Exception):
    """What the checker found; ``kind`` is one of the words that the tests ask for."""

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


# Threads, ascending, that want ``size`` bytes each, and how many barriers of their block and warp they have passed;
# block_size: threads per block, rounded up to warps
Access = namedtuple("Access", "offsets addresses size thread epoch warp_epoch block_size text")
Region = namedtuple("Region", "name start array")  # an allocation: where it starts, and the array that it is a copy of


class Touched:
    """For every byte: the first and the last of the threads that touched it and are not known to have been before all
    who come now, and the barriers that they had passed."""

    def __init__(self, total: int):
        self.first, self.last = np.full(total, -1, np.int64), np.full(total, -1, np.int64)
        self.epoch, self.warp_epoch = np.zeros(total, np.int32), np.zeros(total, np.int32)

    def unordered(self, cells: np.ndarray, a: Access) -> np.ndarray:
        """Where another thread was, with no barrier of the block or the warp between it and now."""
        first, last, thread = self.first[cells], self.last[cells], a.thread[:, None]

        def all_in(size: int) -> np.ndarray:
            return (first // size == thread // size) & (last // size == thread // size)

        before = all_in(a.block_size) & (self.epoch[cells] < a.epoch[:, None]) | all_in(32) & (
            self.warp_epoch[cells] < a.warp_epoch[:, None]
        )
        return (first >= 0) & ~before & ~all_in(1)

    def enter(self, cells: np.ndarray, a: Access, beside: np.ndarray | bool = False) -> None:
        """Enter the threads, in place of those who were there, or (where ``beside``) besides them."""
        thread = np.broadcast_to(a.thread[:, None], cells.shape)
        for bound, extreme in ((self.first, np.minimum), (self.last, np.maximum)):
            bound[cells] = np.where(beside, bound[cells], thread)
            extreme.at(bound, cells.ravel(), thread.ravel())  # several may want one byte now
        self.epoch[cells], self.warp_epoch[cells] = a.epoch[:, None], a.warp_epoch[:, None]

    def sectors(self) -> int:
        """Bytes of the 32-byte sectors that anybody touched."""
        return 32 * len(np.unique(np.flatnonzero(self.first >= 0) // 32))


class Memory:
    """``copies`` equal memories of ``size`` bytes, one for each block or thread (or one for the grid)."""

    def __init__(self, space: str, size: int, copies: int = 1, *, base: int = 0):
        self.space, self.size, self.base, self.track = space, size, base, space != "local"
        self.regions: list[Region] = []
        total = size * copies
        self.data = np.zeros(total, np.uint8)
        self.state = np.zeros(total, np.uint8)  # 0 not allocated, 1 allocated, 2 written
        if self.track:
            self.reads, self.writes, self.atomic = Touched(total), Touched(total), np.zeros(total, bool)

    def place(self, name: str, start: int, array: np.ndarray, written: bool) -> None:
        """Make ``array`` (its bytes, copied) an allocation at ``start``."""
        self.data[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        self.state[start : start + array.nbytes] = 2 if written else 1
        self.regions.append(Region(name, start, array))

    def copy_back(self) -> None:
        for region in self.regions:
            if region.array.flags.writeable:
                region.array.reshape(-1).view(np.uint8)[:] = self.data[
                    region.start : region.start + region.array.nbytes
                ]

    # -- access

    def _cells(self, a: Access) -> np.ndarray:
        """[threads, bytes]: the offset of every byte, all of them allocated and the first aligned."""
        self._forbid(a.addresses % np.uint64(a.size) != 0, "misaligned", f"{a.size} bytes", a)
        self._forbid((a.offsets < 0) | (a.offsets > self.data.size - a.size), "out of bounds", f"{a.size} bytes", a)
        cells = a.offsets[:, None] + np.arange(a.size)
        self._forbid(self.state[cells] == 0, "out of bounds", f"{a.size} bytes", a)
        return cells

    def _forbid(self, bad: np.ndarray, kind: str, what: str, a: Access) -> None:
        """A Fault that names the first thread, if any of ``bad`` [threads] or [threads, bytes] is true."""
        if not bad.any():
            return
        i = int(np.argmax(bad.reshape(len(bad), -1).any(1)))
        offset, thread = int(a.offsets[i]), int(a.thread[i])
        near = min(self.regions, key=lambda r: max(r.start - offset, offset - r.start - r.array.nbytes), default=None)
        byte = f"byte {offset % self.size}"
        if near:
            byte = f"{near.name}[byte {offset - near.start} of {near.array.nbytes}]"
        raise Fault(
            kind,
            f"{what}, {self.space} {byte}, thread {thread % a.block_size} of block "
            f"{thread // a.block_size}, in `{a.text}`",
        )

    def load(self, a: Access) -> np.ndarray:
        """[threads, size] bytes."""
        cells = self._cells(a)
        self._forbid(self.state[cells] != 2, "unwritten", "nothing wrote this", a)
        if self.track:
            self._forbid(self.writes.unordered(cells, a), "race", "read what another thread wrote" + NO_BARRIER, a)
            self.reads.enter(cells, a, beside=self.reads.unordered(cells, a))
        return self.data[cells]

    def store(self, a: Access, values: np.ndarray) -> None:
        """``values`` [threads, size] bytes.

        That threads write the same value to shared memory in one instruction is let pass: the lanes of a warp all have
        the sum after Triton's reductions, and all store it. In global memory it is a fault like any other.
        """
        cells = self._cells(a)
        if self.track:
            self._forbid(self.writes.unordered(cells, a), "race", "wrote what another thread wrote" + NO_BARRIER, a)
            self._forbid(self.reads.unordered(cells, a), "race", "wrote what another thread read" + NO_BARRIER, a)
            self.writes.enter(cells, a)
            self.atomic[cells] = False
        self.data[cells], self.state[cells] = values, 2
        twice = self.data[cells] != values
        if self.space == "global":
            twice = twice | (self.writes.first[cells] != self.writes.last[cells])
        self._forbid(twice, "race", "two threads write one address at once", a)

    def update(self, a: Access, dtype: type, change: Callable) -> np.ndarray:
        """Atomics: thread by thread, ``change(thread, old) -> new`` on arrays of one number; the old values."""
        cells = self._cells(a)
        self._forbid(self.state[cells] != 2, "unwritten", "nothing wrote this", a)
        if self.track:
            plain = self.writes.unordered(cells, a) & ~self.atomic[cells] | self.reads.unordered(cells, a)
            self._forbid(plain, "race", "atomic beside a plain access", a)
            self.writes.enter(cells, a)
            self.atomic[cells] = True
        old: np.ndarray = np.zeros(len(cells), dtype)
        for k, row in enumerate(cells):
            old[k : k + 1] = self.data[row].view(dtype)
            self.data[row] = change(k, old[k : k + 1]).astype(dtype).view(np.uint8)
        return old


def lay_out(arrays: list[tuple[str, np.ndarray, bool]]) -> tuple[Memory, dict[int, int]]:
    """Global memory that holds ``arrays`` (name, array, written), each as far off a multiple of 16 bytes as it is here.

    Returns:
        The memory, and the device address of every host address; an array given twice is there once.
    """
    kept: dict[int, list] = {}
    for name, array, written in sorted(arrays, key=lambda entry: -entry[1].nbytes):
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} must be contiguous")
        if array.size:
            entry = kept.setdefault(array.ctypes.data, [name, array, written])
            entry[2] |= written
    memory, end = Memory("global", sum(e[1].nbytes + 2 * GUARD for e in kept.values()) + GUARD, base=GLOBAL_BASE), GUARD
    addresses = {}
    for host, (name, array, written) in kept.items():
        start = -(-end // 256) * 256 + host % 16
        memory.place(name, start, array, written)
        addresses[host], end = GLOBAL_BASE + start, start + array.nbytes + GUARD // 2
    return memory, addresses
