"""A grid of threads that execute parsed PTX: registers are arrays over the threads of a few blocks at a time.

Every thread has a place in the code. The machine always runs the threads that are furthest behind, all those at one
place together, and stops where others wait or the code branches: so threads that parted meet again at the first
common instruction. Barriers and warp instructions wait until all who must come are there; if nobody can go on, that
is a Fault. Threads of different blocks and warps are in no promised order, which the memory checker relies upon.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import memory
from .counters import Counters
from .memory import Access, Fault, Memory
from .parser import Address, Entry, Imm, Module, Not, Reg, Special, Symbol, UnknownPtx, Variable, parse
from .steps import WINDOWS, Index, step_of
from .values import BITS, UINT

SYMBOL_BASE = 1024  # no variable is at address 0
THREADS_AT_ONCE = 2048


@dataclass
class Unwritten:
    """An argument whose memory holds nothing yet: to read it is a fault. A launch leaves which bytes it wrote."""

    array: np.ndarray
    written: np.ndarray = field(init=False, repr=False)


# what all blocks of a launch share: bytes of the parameters, addresses of variables, sizes of memories by space
Program = namedtuple("Program", "entry steps grid block params symbols sizes memory counters")


def launch(
    ptx: str | Module,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any],
    *,
    entry: str | None = None,
    shared: int = 0,
) -> Counters:
    """Run a kernel over a whole grid, and count.

    Args:
        ptx: the text, or what :func:`parse` made of it.
        grid, block: one to three numbers.
        args: one for each parameter: a numpy array is device memory (written back in place; wrap it in
            :class:`Unwritten` where it holds nothing yet), None is a null pointer, a number is passed by value, and
            a tuple is a struct by value: its format for Python's ``struct``, and its members, each as above.
        entry: the kernel's name, where there are several.
        shared: bytes of dynamic shared memory.

    Raises:
        Fault: the memory checker found something.
        UnknownPtx: the text has something that is not known here.
    """
    module = parse(ptx) if isinstance(ptx, str) else ptx
    kernel = module.entries[entry] if entry else next(iter(module.entries.values()))
    grid, block = ((*np.atleast_1d(shape).tolist(), 1, 1)[:3] for shape in (grid, block))
    if len(args) != len(kernel.params):
        raise ValueError(f"{kernel.name} takes {len(kernel.params)} arguments, got {len(args)}")
    members = [(p.name, m) for p, a in zip(kernel.params, args) for m in (a if isinstance(a, tuple) else (a,))]
    arrays = [
        (name, m.array if isinstance(m, Unwritten) else m, isinstance(m, np.ndarray))
        for name, m in members
        if isinstance(m, (np.ndarray, Unwritten))
    ]
    constants = [
        (v.name, np.frombuffer(bytearray(v.data.ljust(v.size, b"\0")), np.uint8), True)
        for v in module.variables
        if v.space in ("global", "const")
    ]
    space, addresses = memory.lay_out(arrays + constants)
    symbols, sizes = _variables(kernel, module, shared)
    symbols |= {name: addresses[array.ctypes.data] for name, array, _ in constants}
    params = {p.name: _argument(p, value, addresses) for p, value in zip(kernel.params, args)}
    program = Program(kernel, [step_of(i) for i in kernel.code], grid, block, params, symbols, sizes, space, Counters())
    blocks, together = np.prod(grid), max(THREADS_AT_ONCE // np.prod(block), 1)
    with np.errstate(all="ignore"):
        for first in range(0, blocks, together):
            Blocks(program, np.arange(first, min(first + together, blocks))).run()
    space.copy_back()
    for _, m in members:
        if isinstance(m, Unwritten) and m.array.size:
            start = addresses[m.array.ctypes.data] - memory.GLOBAL_BASE
            m.written = space.state[start : start + m.array.nbytes] == 2
    program.counters.footprint = space.reads.sectors() + space.writes.sectors()
    return program.counters


def _argument(parameter: Variable, value: Any, addresses: dict[int, int]) -> bytes:
    def number(value: Any) -> Any:
        array = value.array if isinstance(value, Unwritten) else value
        return addresses.get(array.ctypes.data, memory.GLOBAL_BASE) if isinstance(array, np.ndarray) else array or 0

    if isinstance(value, tuple):
        raw = struct.pack(value[0], *map(number, value[1:]))
    elif parameter.type[0] == "f":
        raw = np.dtype(f"f{parameter.size}").type(value).tobytes()
    else:
        raw = (int(number(value)) % (1 << 8 * parameter.size)).to_bytes(parameter.size, "little")
    if len(raw) != parameter.size:
        raise ValueError(f"{parameter.name} has {parameter.size} bytes, got {len(raw)}")
    return raw


def _variables(kernel: Entry, module: Module, dynamic: int) -> tuple[dict[str, int], dict[str, int]]:
    """The addresses of shared and local variables, and how large these memories are."""
    symbols, sizes = {}, {"shared": SYMBOL_BASE, "local": SYMBOL_BASE}
    for variable in sorted([*module.variables, *kernel.variables], key=lambda v: v.extern):
        if variable.space in sizes:
            start = -(-sizes[variable.space] // variable.align) * variable.align
            symbols[variable.name] = start
            sizes[variable.space] = start + (dynamic if variable.extern else variable.size)
    return symbols, sizes


class Blocks:
    """Some blocks of the grid, whose threads run together."""

    def __init__(self, program: Program, numbers: np.ndarray):
        self.program, (bx, by, bz), (gx, gy, _) = program, program.block, program.grid
        size = bx * by * bz
        self.size, self.n, self.padded = size, size * len(numbers), -(-size // 32) * 32
        inside, block = np.tile(np.arange(size), len(numbers)), np.repeat(numbers, size)
        self.local_block = np.repeat(np.arange(len(numbers)), size)
        self.thread, self.warps = block * self.padded + inside, len(numbers) * (self.padded // 32)
        self.lane, self.warp = inside % 32, self.local_block * (self.padded // 32) + inside // 32
        special = {
            "tid.x": inside % bx,
            "tid.y": inside // bx % by,
            "tid.z": inside // (bx * by),
            "ctaid.x": block % gx,
            "ctaid.y": block // gx % gy,
            "ctaid.z": block // (gx * gy),
            "laneid": self.lane,
            "warpid": inside // 32,
            "lanemask_lt": (1 << self.lane) - 1,
        }
        for c, threads, blocks in zip("xyz", program.block, program.grid):
            special |= {f"ntid.{c}": np.array([threads]), f"nctaid.{c}": np.array([blocks])}
        self.known = {f"%{name}": value for name, value in special.items()}  # special registers, addresses of variables
        self.known |= {name: np.array([address], np.uint64) for name, address in program.symbols.items()}
        self.registers: dict[str, np.ndarray] = {}
        self.valid: dict[str, np.ndarray] = {}  # which threads wrote a register
        self.carry, self.errors = np.zeros(self.n, bool), np.zeros(self.n)
        self.pc, self.epoch, self.warp_epoch = (np.zeros(self.n, np.int64) for _ in range(3))
        self.text = ""  # of the instruction that runs
        self.memories = {"global": program.memory}
        for space, copies in (("shared", len(numbers)), ("local", self.n)):
            self.memories[space] = m = Memory(space, program.sizes[space], copies)
            m.state[:] = 1
            m.state.reshape(copies, -1)[:, :SYMBOL_BASE] = 0

    # -- the order of execution

    def run(self) -> None:
        end = len(self.program.steps)
        while (self.pc < end).any():
            for pc in np.unique(self.pc[self.pc < end]).tolist():
                if len(threads := self._arrived(pc, np.flatnonzero(self.pc == pc))):
                    self._advance(pc, threads)
                    break
            else:
                raise Fault(
                    "barrier",
                    f"only {(self.pc == pc).sum()} of {self.n} threads reach "
                    f"`{self.program.entry.code[pc].text}`, the others wait elsewhere or have ended",
                )
        counters = self.program.counters
        counters.approx_tolerance = max(counters.approx_tolerance, float(self.errors.max()))

    def _arrived(self, pc: int, threads: np.ndarray) -> np.ndarray:
        """The threads; of those at a barrier or warp instruction, those for whom all have come."""
        instruction = self.program.entry.code[pc]
        if not instruction.waits:
            return threads
        if instruction.op in ("bar", "barrier") and "warp" not in instruction.mods:
            return threads[np.bincount(self.local_block[threads])[self.local_block[threads]] == self.size]
        mask = Imm(-1) if "matrix" in instruction.op else instruction.operands[-1]
        warp = self.warp[threads]
        missing = self.read(mask, "u32", threads) & self.lanes(np.arange(self.n))[warp] & ~self.lanes(threads)[warp]
        return threads[~np.isin(warp, warp[missing != 0])]

    def lanes(self, threads: np.ndarray) -> np.ndarray:
        """For every warp the mask of the lanes of ``threads`` in it."""
        weights = np.bincount(self.warp[threads], weights=2.0 ** self.lane[threads], minlength=self.warps)
        return weights.astype(np.uint64)

    def _advance(self, pc: int, threads: np.ndarray) -> None:
        """Run ``threads`` from ``pc`` until others stand there, a branch is taken, or something must be waited for."""
        steps, code, start, counters = self.program.steps, self.program.entry.code, pc, self.program.counters
        stop = int(self.pc[self.pc > pc].min(initial=len(steps)))
        everyone: Index = slice(None) if len(threads) == self.n else threads
        living = np.bincount(self.warp[self.pc < len(steps)], minlength=self.warps)
        active = np.bincount(self.warp[threads], minlength=self.warps)
        while pc < stop and (pc == start or not code[pc].waits):
            instruction, step = code[pc], steps[pc]
            self.text, pc = instruction.text, pc + 1
            counters.warps += int((active > 0).sum())
            counters.partial += int(((active > 0) & (active < living)).sum())
            index = everyone
            if instruction.guard:
                taken = np.broadcast_to(self.read(instruction.guard, "pred", everyone), threads.shape)
                index = everyone if taken.all() else threads[taken]
            count = self.n if isinstance(index, slice) else len(index)
            if count:
                counters.threads[step(self, index)] += count
            if count and instruction.op in ("bra", "ret", "exit"):
                self.pc[threads] = pc
                self.pc[index] = instruction.target if instruction.op == "bra" else len(steps)
                return
        self.pc[threads] = pc

    def approximate(self, op: str, error: float, index: Index) -> None:
        """Note that ``index`` ran an approximate instruction whose stated error is at most ``error``."""
        self.errors[index] += error
        self.program.counters.approx[op] += len(self.errors[index])

    # -- registers

    def read(self, operand: Any, t: str, index: Index) -> np.ndarray:
        """The bits of an operand, of type ``t``, for the threads of ``index`` (or one for all)."""
        dtype = UINT[BITS[t]]
        if isinstance(operand, Reg):
            name = operand.name
            if name not in self.registers or not self.valid[name][index].all():
                raise Fault("unwritten", f"register {name} is read in `{self.text}`, and nothing wrote it")
            if self.program.entry.registers[name] < BITS[t]:
                raise UnknownPtx(f"register {name} is too narrow for .{t} in `{self.text}`")
            return self.registers[name][index].astype(dtype, copy=False)
        if isinstance(operand, Imm):
            return np.array([operand.value % (1 << BITS[t])], dtype)
        if isinstance(operand, Not):
            return ~self.read(operand.reg, t, index)
        if isinstance(operand, (Special, Symbol)) and operand.name in self.known:
            bits = self.known[operand.name]
            return (bits if len(bits) == 1 else bits[index]).astype(dtype)
        raise UnknownPtx(f"operand {operand} in `{self.text}`")

    def write(self, operand: Any, bits: np.ndarray, index: Index) -> None:
        """Put bits into a register; wider registers are filled with zeros."""
        if operand is None:
            return
        if not isinstance(operand, Reg):
            raise UnknownPtx(f"result {operand} in `{self.text}`")
        name, dtype = operand.name, UINT[self.program.entry.registers[operand.name]]
        for table, content in ((self.registers, np.asarray(bits).astype(dtype, copy=False)), (self.valid, np.True_)):
            if isinstance(index, slice):
                table[name] = np.broadcast_to(content, (self.n,))
            else:  # a new array: registers may share one
                table[name] = np.array(table[name]) if name in table else np.zeros(self.n, content.dtype)
                table[name][index] = content

    # -- addresses

    def access(self, space: str, operand: Address, index: Index, size: int, *, store: bool) -> tuple[Memory, Access]:
        """The memory of an address operand, and the access of the threads to it, which is counted."""
        wide = isinstance(operand.base, Reg) and self.program.entry.registers[operand.base.name] == 64
        t = "u64" if wide or space in ("global", "generic", "const") else "u32"
        address = self.read(operand.base, t, index).astype(np.uint64) + operand.offset % (1 << 64)
        threads = np.arange(self.n)[index]
        address = np.broadcast_to(address if t == "u64" else address & 0xFFFFFFFF, threads.shape)
        if space == "generic":
            space = next((s for s in ("local", "shared") if (address >= WINDOWS[s]).all()), "global")
            address = address - np.uint64(WINDOWS[space])
        space = "global" if space == "const" else space
        store_, warp = self.memories[space], self.thread[index] // 32
        offsets = address.view(np.int64) - store_.base
        if space == "global":
            self.program.counters.global_access(address, warp, size, store)
        else:
            owner = self.local_block[index] if space == "shared" else threads
            inside = (offsets >= 0) & (offsets < store_.size)  # not into a neighbour's copy
            offsets = np.where(inside, offsets + owner * store_.size, -1)
        if space == "shared":
            self.program.counters.shared_access(address, warp, self.lane[index], size)
        return store_, Access(
            offsets,
            address,
            size,
            self.thread[index],
            self.epoch[index],
            self.warp_epoch[index],
            self.padded,
            self.text,
        )
