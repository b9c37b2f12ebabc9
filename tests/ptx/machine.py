"""A grid of threads that execute parsed PTX: registers are arrays over the threads of a few blocks at a time.

Every thread has a place in the code. The machine always runs the threads that are furthest behind, all those at one
place together, and stops where others wait or the code branches: so threads that parted meet again at the first
common instruction. Barriers and warp instructions wait until all who must come are there; if nobody can go on, that
is a Fault. Threads of different blocks and warps are in no promised order, which the memory checker relies upon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import memory, values
from .counters import Counters
from .memory import Fault, Memory, Who
from .parser import Address, Entry, Imm, Module, Not, Reg, Special, Symbol, UnknownPtx, parse
from .steps import WINDOWS, Index, step_of
from .values import BITS, UINT

SYMBOL_BASE = 1024  # no variable is at address 0
THREADS_AT_ONCE = 2048


@dataclass
class Unwritten:
    """An argument whose memory holds nothing yet: to read it is a fault."""

    array: np.ndarray


@dataclass
class Result:
    """What a launch left behind besides its arrays."""

    counters: Counters
    memory: Memory
    addresses: dict[int, int]

    def written(self, array: np.ndarray) -> np.ndarray:
        """Which bytes of an argument hold something."""
        start = self.addresses[array.ctypes.data] - memory.GLOBAL_BASE
        return self.memory.state[start:start + array.nbytes] == 2


@dataclass
class Program:
    """What all blocks of a launch share."""

    entry: Entry
    steps: list[Callable]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    params: dict[str, tuple[int, int]]
    param_bytes: bytes
    symbols: dict[str, int]
    sizes: dict[str, int]
    memory: Memory
    counters: Counters = field(default_factory=Counters)


def launch(ptx: str | Module, grid: int | Sequence[int], block: int | Sequence[int], args: Sequence[Any], *,
           entry: str | None = None, shared: int = 0) -> Result:
    """Run a kernel over a whole grid.

    Args:
        ptx: the text, or what :func:`parse` made of it.
        grid, block: one to three numbers.
        args: one for each parameter: a numpy array is device memory (written back in place; wrap it in
            :class:`Unwritten` where it holds nothing yet), None is a null pointer, and a number is passed by value.
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
    plain = [a.array if isinstance(a, Unwritten) else a for a in args]
    arrays = [(p.name, a, not isinstance(given, Unwritten))
              for p, a, given in zip(kernel.params, plain, args) if isinstance(a, np.ndarray)]
    arrays += [(v.name, np.frombuffer(bytearray(v.data.ljust(v.size, b"\0")), np.uint8), True)
               for v in module.variables if v.space in ("global", "const")]
    space, addresses = memory.lay_out(arrays)
    symbols, sizes = _variables(kernel, module, shared)
    symbols |= {name: addresses[a.ctypes.data] for name, a, _ in arrays[len(arrays) - len(
        [v for v in module.variables if v.space in ("global", "const")]):]}
    params, raw = {}, b""
    for parameter, value in zip(kernel.params, plain):
        raw = raw.ljust(-(-len(raw) // parameter.align) * parameter.align, b"\0")
        params[parameter.name] = (len(raw), parameter.size)
        if isinstance(value, np.ndarray):
            value = addresses.get(value.ctypes.data, memory.GLOBAL_BASE)
        raw += _argument(parameter.type, parameter.size, value)
    program = Program(kernel, [step_of(i) for i in kernel.code], grid, block, params, raw, symbols, sizes, space)
    blocks = grid[0] * grid[1] * grid[2]
    together = max(THREADS_AT_ONCE // (block[0] * block[1] * block[2]), 1)
    with np.errstate(all="ignore"):
        for first in range(0, blocks, together):
            Blocks(program, np.arange(first, min(first + together, blocks))).run()
    space.copy_back()
    program.counters.footprint = space.footprint()
    return Result(program.counters, space, addresses)


def _argument(kind: str, size: int, value: Any) -> bytes:
    if kind in ("f32", "f64"):
        return np.dtype(f"f{size}").type(value).tobytes()
    return (int(value or 0) % (1 << 8 * size)).to_bytes(size, "little")


def _variables(kernel: Entry, module: Module, dynamic: int) -> tuple[dict[str, int], dict[str, int]]:
    """The addresses of shared and local variables, and how large these memories are."""
    symbols, sizes = {}, {"shared": SYMBOL_BASE, "local": SYMBOL_BASE}
    for variable in sorted([*module.variables, *kernel.variables], key=lambda v: v.extern):
        if variable.space in sizes:
            start = -(-sizes[variable.space] // variable.align) * variable.align
            symbols[variable.name] = start
            sizes[variable.space] = start + (dynamic if variable.extern else variable.size)
    return symbols, {space: -(-size // 16) * 16 if space == "local" else size for space, size in sizes.items()}


class Blocks:
    """Some blocks of the grid, whose threads run together."""

    def __init__(self, program: Program, numbers: np.ndarray):
        self.program, (bx, by, bz), (gx, gy, _) = program, program.block, program.grid
        size = bx * by * bz
        self.size, self.n, padded = size, size * len(numbers), -(-size // 32) * 32
        inside, block = np.tile(np.arange(size), len(numbers)), np.repeat(numbers, size)
        self.local_block = np.repeat(np.arange(len(numbers)), size)
        self.thread = block * padded + inside
        self.lane, self.warp = inside % 32, self.local_block * (padded // 32) + inside // 32
        self.padded, self.warps = padded, len(numbers) * (padded // 32)
        special = {"tid.x": inside % bx, "tid.y": inside // bx % by, "tid.z": inside // (bx * by),
                   "ctaid.x": block % gx, "ctaid.y": block // gx % gy, "ctaid.z": block // (gx * gy),
                   "laneid": self.lane, "warpid": inside // 32, "lanemask_lt": (1 << self.lane) - 1,
                   "lanemask_le": (2 << self.lane) - 1, "lanemask_eq": 1 << self.lane}
        special |= {f"{name}.{c}": np.array([v]) for name, shape in (("ntid", program.block), ("nctaid", program.grid))
                    for c, v in zip("xyz", shape)}
        self.special = {f"%{name}": value.astype(np.uint32) for name, value in special.items()}
        self.registers: dict[str, np.ndarray] = {}
        self.valid: dict[str, np.ndarray] = {}  # which threads wrote a register; absent: all did
        self.carry, self.epoch, self.warp_epoch = np.zeros(self.n, bool), np.zeros(self.n, int), np.zeros(self.n, int)
        self.pc, self.text = np.zeros(self.n, np.int64), ""
        self.memories = {"global": program.memory}
        for space, copies in (("shared", len(numbers)), ("local", self.n)):
            self.memories[space] = m = Memory(space, program.sizes[space], copies, track=space == "shared")
            m.state[:] = 1
            m.state.reshape(copies, -1)[:, :SYMBOL_BASE] = 0

    # -- the order of execution

    def run(self) -> None:
        end = len(self.program.steps)
        while (self.pc < end).any():
            for pc in np.unique(self.pc[self.pc < end]):
                threads = np.flatnonzero(self.pc == pc)
                if self._waits(pc):
                    threads = self._arrived(pc, threads)
                if len(threads):
                    self._advance(int(pc), threads)
                    break
            else:
                pc = self.pc[self.pc < end].max()
                here = int((self.pc == pc).sum())
                raise Fault("barrier", f"only {here} of {self.n} threads reach `{self.program.entry.code[pc].text}`, "
                                       "the others wait elsewhere or have ended")

    def _waits(self, pc: int) -> bool:
        instruction = self.program.entry.code[pc]
        return instruction.op in ("bar", "barrier") or "sync" in instruction.mods

    def _arrived(self, pc: int, threads: np.ndarray) -> np.ndarray:
        """Those of the threads at a barrier or warp instruction for whom all have come."""
        instruction = self.program.entry.code[pc]
        if instruction.op in ("bar", "barrier") and "warp" not in instruction.mods:
            present = np.bincount(self.local_block[threads], minlength=self.local_block[-1] + 1)
            needed = self.size
            if len(instruction.operands) > 1:
                needed = int(self.read(instruction.operands[1], "u32", threads).flat[0])
            return threads[present[self.local_block[threads]] >= needed]
        mask = Imm(-1) if "matrix" in instruction.op else instruction.operands[-1]
        masks = np.broadcast_to(self.read(mask, "u32", threads), threads.shape)
        exist = np.bincount(self.warp, weights=2.0**self.lane, minlength=self.warps).astype(np.uint64)
        here = np.bincount(self.warp[threads], weights=2.0**self.lane[threads], minlength=self.warps).astype(np.uint64)
        missing = masks.astype(np.uint64) & exist[self.warp[threads]] & ~here[self.warp[threads]]
        late = np.bincount(self.warp[threads], weights=missing != 0, minlength=self.warps)
        return threads[late[self.warp[threads]] == 0]

    def _advance(self, pc: int, threads: np.ndarray) -> None:
        """Run ``threads`` from ``pc`` until others stand there, a branch is taken, or something must be waited for."""
        steps, code, start = self.program.steps, self.program.entry.code, pc
        ahead = self.pc[self.pc > pc]
        stop = min(int(ahead.min()) if len(ahead) else len(steps), len(steps))
        everyone: Index = slice(None) if len(threads) == self.n else threads
        living = np.bincount(self.warp[self.pc < len(steps)], minlength=self.warps)
        active = np.bincount(self.warp[threads], minlength=self.warps)
        warps, partial = int((active > 0).sum()), int(((active > 0) & (active < living)).sum())
        counters = self.program.counters
        while pc < stop or pc == start:
            instruction = code[pc]
            if pc != start and self._waits(pc):
                break
            self.text = instruction.text
            counters.warps += warps
            counters.partial += partial
            index, count = everyone, len(threads)
            if instruction.guard:
                taken = np.broadcast_to(self.read(instruction.guard, "pred", everyone), threads.shape)
                taken = taken != instruction.negated
                count = int(np.count_nonzero(taken))
                if count < len(threads):
                    index = threads[taken]
            pc += 1
            if instruction.op in ("bra", "ret", "exit"):
                counters.threads["control"] += count
                if count:
                    self.pc[threads] = pc
                    self.pc[index] = instruction.target if instruction.op == "bra" else len(steps)
                    return
            elif count:
                counters.threads[steps[pc - 1](self, index)] += count
        self.pc[threads] = pc

    # -- registers

    def read(self, operand: Any, t: str, index: Index) -> np.ndarray:
        """The bits of an operand, of type ``t``, for the threads of ``index`` (or one for all)."""
        dtype = UINT[BITS[t]]
        if isinstance(operand, Reg):
            name = operand.name
            if name not in self.registers or (name in self.valid and not self.valid[name][index].all()):
                raise Fault("unwritten", f"register {name} is read in `{self.text}`, and nothing wrote it")
            bits = self.registers[name][index]
            if bits.dtype != dtype:
                if bits.dtype.itemsize < np.dtype(dtype).itemsize:
                    raise UnknownPtx(f"register {name} is too narrow for .{t} in `{self.text}`")
                bits = bits.astype(dtype)
            return bits
        if isinstance(operand, Imm):
            if isinstance(operand.value, float):
                return values.encode(t, np.array([operand.value]))
            return np.array([operand.value % (1 << BITS[t])], dtype)
        if isinstance(operand, Not):
            return ~self.read(operand.reg, t, index)
        if isinstance(operand, Special) and operand.name in self.special:
            bits = self.special[operand.name]
            return (bits if len(bits) == 1 else bits[index]).astype(dtype)
        if isinstance(operand, Symbol) and operand.name in self.program.symbols:
            return np.array([self.program.symbols[operand.name]], dtype)
        raise UnknownPtx(f"operand {operand} in `{self.text}`")

    def write(self, operand: Any, bits: np.ndarray, index: Index) -> None:
        """Put bits into a register; wider registers are filled with zeros."""
        if operand is None:
            return
        if not isinstance(operand, Reg):
            raise UnknownPtx(f"result {operand} in `{self.text}`")
        name, dtype = operand.name, UINT[self.program.entry.registers[operand.name]]
        bits = np.asarray(bits).astype(dtype, copy=False)
        if isinstance(index, slice):
            self.registers[name] = bits if bits.shape == (self.n,) else np.broadcast_to(bits, (self.n,))
            self.valid.pop(name, None)
            return
        fresh = name not in self.registers
        old = np.zeros(self.n, dtype) if fresh else self.registers[name].copy()
        old[index] = bits
        self.registers[name] = old
        if fresh or name in self.valid:
            valid = np.zeros(self.n, bool) if fresh else self.valid[name].copy()
            valid[index] = True
            self.valid[name] = valid
            if valid.all():
                del self.valid[name]

    # -- addresses

    def locate(self, space: str, operand: Address, index: Index) -> tuple[Memory, np.ndarray, np.ndarray, str]:
        """The memory of an address operand, the places in it, the addresses, and the space."""
        wide = isinstance(operand.base, Reg) and self.program.entry.registers[operand.base.name] == 64
        t = "u64" if wide or space in ("global", "generic", "const") else "u32"
        address = self.read(operand.base, t, index).astype(np.uint64) + np.uint64(operand.offset % (1 << 64))
        threads = np.arange(self.n)[index]
        address = np.broadcast_to(address if t == "u64" else address & np.uint64(0xFFFFFFFF), threads.shape)
        if space == "generic":
            space = next((s for s in ("local", "shared") if (address >= np.uint64(WINDOWS[s])).all()), "global")
            address = address - np.uint64(WINDOWS.get(space, 0))
        if space == "const":
            space = "global"
        store = self.memories[space]
        inside = address.view(np.int64) - store.base
        if space != "global":
            inside = np.where((inside < 0) | (inside >= store.size), -1, inside)  # not into a neighbour's copy
            owner = self.local_block[index] if space == "shared" else threads
            inside = np.where(inside < 0, -1, inside + owner * store.size)
        return store, inside, address, space

    def who(self, index: Index) -> Who:
        return Who(self.thread[index], self.epoch[index], self.warp_epoch[index], self.padded, self.text)

    def count(self, space: str, address: np.ndarray, index: Index, size: int, store: bool) -> None:
        if space == "global":
            self.program.counters.global_access(address, self.thread[index] // 32, size, store)
        elif space == "shared":
            self.program.counters.shared_access(address, self.thread[index] // 32, self.lane[index], size)
