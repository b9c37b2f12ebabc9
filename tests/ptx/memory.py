"""Memory that knows what was allocated, what was written, and who touched what since which barrier.

Whatever a GPU would do silently is a :class:`Fault` here: an access outside of an allocation, or not aligned to its
size; a read of bytes that nothing wrote; and a race: two threads at one byte, one of them writing, with no barrier
between them. Threads are numbered through the grid, every block starting at a multiple of 32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GLOBAL_BASE = 0x7F00_0000_0000
GUARD = 512  # bytes between allocations that belong to none


class Fault(Exception):
    """What the checker found; ``kind`` is one of the words that the tests ask for."""

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass
class Who:
    """The threads of one access: their numbers, and how many barriers of their block and warp they have passed."""

    thread: np.ndarray
    epoch: np.ndarray
    warp_epoch: np.ndarray
    block_size: int  # threads a block, rounded up to warps
    text: str = ""

    def expand(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As columns, for [threads, bytes]."""
        return self.thread[:, None], self.epoch[:, None], self.warp_epoch[:, None]


@dataclass
class Region:
    """One allocation: where it starts in its memory, and the array that it is a copy of."""

    name: str
    start: int
    size: int
    array: np.ndarray | None = None


class Memory:
    """``copies`` equal memories of ``size`` bytes, one for each block or thread (or one for the grid)."""

    def __init__(self, space: str, size: int, copies: int = 1, *, base: int = 0, track: bool = True):
        self.space, self.size, self.base, self.track = space, size, base, track
        self.regions: list[Region] = []
        total = size * copies
        self.data = np.zeros(total, np.uint8)
        self.state = np.zeros(total, np.uint8)  # 0 not allocated, 1 allocated, 2 written
        if track:
            self.writer = np.full(total, -1, np.int64)
            self.reader = np.full(total, -1, np.int64)
            self.many = np.zeros(total, np.uint8)  # readers: 1 several of one block, 2 of several blocks
            self.atomic = np.zeros(total, bool)
            self.write_epoch, self.write_warp, self.read_epoch, self.read_warp = (
                np.zeros(total, np.int32) for _ in range(4))

    # -- allocation

    def place(self, name: str, start: int, array: np.ndarray, written: bool) -> Region:
        """Make ``array`` (its bytes, copied) an allocation at ``start``."""
        raw = array.reshape(-1).view(np.uint8)
        region = Region(name, start, raw.size, array)
        self.data[start:start + raw.size] = raw
        self.state[start:start + raw.size] = 2 if written else 1
        self.regions.append(region)
        return region

    def footprint(self) -> int:
        """Bytes of the 32-byte sectors that were read, and of those that were written."""
        return sum(32 * int((who[:len(who) // 32 * 32].reshape(-1, 32) >= 0).any(1).sum())
                   for who in (self.reader, self.writer))

    def copy_back(self) -> None:
        for region in self.regions:
            if region.array is not None and region.array.flags.writeable:
                region.array.reshape(-1).view(np.uint8)[:] = self.data[region.start:region.start + region.size]

    # -- access

    def _check(self, places: np.ndarray, addresses: np.ndarray, size: int, who: Who) -> np.ndarray:
        """[threads, bytes]: the place of every byte, all of them allocated and the first aligned."""
        if (addresses % np.uint64(size)).any():
            i = int(np.argmax(addresses % np.uint64(size) != 0))
            self._fault("misaligned", i, places, who, f"{size} bytes at address {int(addresses[i]):#x}")
        limit = self.data.size
        outside = (places < 0) | (places > limit - size)
        if not outside.any():
            cells = places[:, None] + np.arange(size)
            if (self.state[cells] != 0).all():
                return cells
            outside = (self.state[cells] == 0).any(1)
        self._fault("out of bounds", int(np.argmax(outside)), places, who, f"{size} bytes")

    def _fault(self, kind: str, i: int, places: np.ndarray, who: Who, what: str) -> None:
        place = int(places.reshape(len(who.thread), -1)[i, 0])
        near = min(self.regions, key=lambda r: max(r.start - place, place - r.start - r.size), default=None)
        where = f"byte {place % max(self.size, 1)}"
        if near:
            where = f"{near.name}[byte {place - near.start} of {near.size}]"
        thread = int(who.thread[i])
        raise Fault(kind, f"{what}, {self.space} {where}, thread {thread % who.block_size} of block "
                          f"{thread // who.block_size}, in `{who.text}`")

    def _unordered(self, cells: np.ndarray, who: Who, reads: bool) -> np.ndarray:
        """Where an earlier read (or write) by another thread has no barrier between it and now."""
        thread, epoch, warp_epoch = who.expand()
        then = (self.reader if reads else self.writer)[cells]
        then_epoch = (self.read_epoch if reads else self.write_epoch)[cells]
        then_warp = (self.read_warp if reads else self.write_warp)[cells]
        same_block = then // who.block_size == thread // who.block_size
        ordered = same_block & (then_epoch < epoch)
        warp = (then // 32 == thread // 32) & (then_warp < warp_epoch)
        if reads:
            many = self.many[cells]
            ordered = (ordered | warp & (many == 0)) & (many < 2)
            return (then >= 0) & ((then != thread) | (many > 0)) & ~ordered
        return (then >= 0) & (then != thread) & ~ordered & ~warp

    def load(self, places: np.ndarray, addresses: np.ndarray, size: int, who: Who) -> np.ndarray:
        """[threads, size] bytes."""
        cells = self._check(places, addresses, size, who)
        if (self.state[cells] != 2).any():
            self._fault("unwritten", int(np.argmax((self.state[cells] != 2).any(1))), places, who, "nothing wrote this")
        if self.track:
            if (race := self._unordered(cells, who, reads=False)).any():
                self._fault("race", int(np.argmax(race.any(1))), places, who,
                            "read what another thread wrote, with no barrier between")
            thread, epoch, warp_epoch = who.expand()
            before = self.reader[cells]
            fresh = (before < 0) | (before == thread) | ~self._unordered(cells, who, reads=True)
            same = before // who.block_size == thread // who.block_size
            many = np.where(fresh & (before != thread), 0, np.maximum(self.many[cells], np.where(
                fresh, 0, np.where(same, 1, 2)))).astype(np.uint8)
            self.many[cells] = many
            self.reader[cells], self.read_epoch[cells], self.read_warp[cells] = thread, epoch, warp_epoch
            last = self.reader[cells]
            if (shared := last != thread).any():
                apart = last // who.block_size != thread // who.block_size
                np.maximum.at(self.many, cells[shared], np.where(apart, 2, 1)[shared].astype(np.uint8))
        return self.data[cells]

    def store(self, places: np.ndarray, addresses: np.ndarray, values: np.ndarray, who: Who) -> None:
        """``values`` [threads, size] bytes.

        That threads write the same value to shared memory in one instruction is let pass: the lanes of a warp all have
        the sum after Triton's reductions, and all store it. In global memory it is a fault like any other.
        """
        cells = self._check(places, addresses, values.shape[1], who)
        if self.track:
            self._claim(cells, places, who)
        self.data[cells] = values
        self.state[cells] = 2
        if (race := self.data[cells] != values).any():
            self._fault("race", int(np.argmax(race.any(1))), places, who, "two threads write one address at once")
        if self.space == "global" and self.track and (race := self.writer[cells] != who.thread[:, None]).any():
            self._fault("race", int(np.argmax(race.any(1))), places, who, "two threads write one address at once")

    def _claim(self, cells: np.ndarray, places: np.ndarray, who: Who) -> None:
        """Enter the threads as writers, unless that is a race."""
        for reads, what in ((False, "wrote what another thread wrote"), (True, "wrote what another thread read")):
            if (race := self._unordered(cells, who, reads)).any():
                self._fault("race", int(np.argmax(race.any(1))), places, who, what + ", with no barrier between")
        thread, epoch, warp_epoch = who.expand()
        self.writer[cells], self.write_epoch[cells], self.write_warp[cells] = thread, epoch, warp_epoch
        self.atomic[cells] = False

    def update(self, places: np.ndarray, addresses: np.ndarray, size: int, change: list, who: Who) -> np.ndarray:
        """Atomics: thread by thread, ``change[i](old) -> new`` on ``size`` bytes; the old values, as integers."""
        cells = self._check(places, addresses, size, who)
        if (self.state[cells] != 2).any():
            self._fault("unwritten", int(np.argmax((self.state[cells] != 2).any(1))), places, who, "nothing wrote this")
        if self.track:
            plain = self._unordered(cells, who, reads=False) & ~self.atomic[cells]
            if (race := plain | self._unordered(cells, who, reads=True)).any():
                self._fault("race", int(np.argmax(race.any(1))), places, who, "atomic beside a plain access")
            thread, epoch, warp_epoch = who.expand()
            self.writer[cells], self.write_epoch[cells], self.write_warp[cells] = thread, epoch, warp_epoch
            self.atomic[cells] = True
        old = []
        for row, function in zip(cells, change):
            before = int.from_bytes(self.data[row].tobytes(), "little")
            after = function(before) % (1 << 8 * size)
            self.data[row] = np.frombuffer(after.to_bytes(size, "little"), np.uint8)
            old.append(before)
        return np.array(old, np.uint64)


def lay_out(arrays: list[tuple[str, np.ndarray, bool]]) -> tuple[Memory, dict[int, int]]:
    """Global memory that holds ``arrays`` (name, array, written), each as far off a multiple of 16 bytes as it is here.

    Returns:
        The memory, and the device address of every host address; an array given twice is there once.
    """
    starts: dict[int, tuple[str, np.ndarray, bool, int]] = {}
    end = GUARD
    for name, array, written in arrays:
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} must be contiguous")
        host = array.ctypes.data
        if array.size == 0 or (host in starts and starts[host][1].nbytes >= array.nbytes):
            if array.size and written:
                starts[host] = (*starts[host][:2], True, starts[host][3])
            continue
        start = -(-end // 256) * 256 + host % 16
        starts[host] = (name, array, written, start)
        end = -(-(start + array.nbytes + GUARD) // 32) * 32
    memory = Memory("global", end, base=GLOBAL_BASE)
    for name, array, written, start in starts.values():
        memory.place(name, start, array, written)
    return memory, {host: GLOBAL_BASE + entry[3] for host, entry in starts.items()}
