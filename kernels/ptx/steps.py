"""What each instruction does to the machine: ``step_of(instruction)`` is a function of the blocks and the threads.

A step returns the class that the instruction is counted in. What only computes is in values.py; here are memory, data
movement, comparisons, and what passes between the threads of a warp.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .alu import alu, compare
from .memory import Fault
from .parser import Address, Instruction, Pair, UnknownPtx, Vector
from .values import BITS, FLOATS, SINT, UINT, Alu, decode, encode, flush, known

if TYPE_CHECKING:
    from .machine import Blocks

WINDOWS = {"global": 0, "const": 0, "shared": 1 << 48, "local": 1 << 50}  # where generic addresses of a space begin
CACHE_HINTS = re.compile(
    r"nc|c[agsv]|lu|w[bt]|volatile|weak|relaxed|acquire|release|acq_rel|cta|gpu|sys|L[12]::\w+|"
    r"level|unified|noftz"
)
Index = slice | np.ndarray
Step = Callable[["Blocks", Index], str]


def step_of(i: Instruction) -> Step:
    """The instruction as a function; an error that names it if it is not known."""
    special = {
        "mov": _move,
        "ld": _load,
        "st": _store,
        "setp": _setp,
        "selp": _selp,
        "shfl": _shuffle,
        "vote": _vote,
        "activemask": _vote,
        "atom": _atomic,
        "red": _atomic,
        "cvta": _cvta,
        "bar": _barrier,
        "barrier": _barrier,
        "ldmatrix": _matrix,
        "stmatrix": _matrix,
    }
    if i.op in ("bra", "ret", "exit", "membar", "fence", "nanosleep"):
        return lambda b, index: "control"
    try:
        return special.get(i.op, _compute)(i)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UnknownPtx(f"instruction `{i.text}`") from error


def _compute(i: Instruction, function: Alu | None = None) -> Step:
    function = function or alu(i.op, i.mods)
    known(len(i.operands) == len(function.sources) + 1)

    def step(b: Blocks, index: Index) -> str:
        bits = [b.read(o, t, index) for o, t in zip(i.operands[1:], function.sources)]
        if function.carry:
            bits.append(b.carry[index] & ("r" in function.carry))
        value = function.function(*bits)
        if function.carry:
            value, carry = value
            b.carry[index] = carry if "w" in function.carry else b.carry[index]
        if function.error:
            b.approximate(i.op, function.error, index)
        b.write(i.operands[0], value, index)
        return function.kind

    return step


def _parts(operand: Any) -> tuple:
    return operand.parts if isinstance(operand, Vector) else (operand,)


def _move(i: Instruction) -> Step:
    target, source = i.operands
    (t,) = i.mods
    known(t in BITS and not isinstance(source, Address))

    def step(b: Blocks, index: Index) -> str:
        if isinstance(source, Vector):  # put together
            part, bits = BITS[t] // len(source.parts), UINT[BITS[t]](0)
            for k, piece in enumerate(source.parts):
                bits = bits | b.read(piece, f"b{part}", index).astype(UINT[BITS[t]]) << k * part
        else:
            bits = b.read(source, t, index)
        part = BITS[t] // len(_parts(target))  # of a vector: take apart
        for k, piece in enumerate(_parts(target)):
            b.write(piece, bits if part == BITS[t] else (bits >> k * part).astype(UINT[part]), index)
        return "move"

    return step


def _space(mods: tuple[str, ...]) -> tuple[str, int, str]:
    """(state space, elements of a vector, type) of a memory instruction; the hints for caches do not matter."""
    *words, t = (m.removesuffix("::cta") for m in mods)
    space = next((m for m in words if m in ("global", "shared", "local", "param", "const")), "generic")
    vector = next((int(m[1:]) for m in words if m in ("v2", "v4", "v8")), 1)
    known(t in BITS and all(m in (space, f"v{vector}") or CACHE_HINTS.fullmatch(m) for m in words))
    return space, vector, t


def _load(i: Instruction) -> Step:
    space, vector, t = _space(i.mods)
    address, size, dtype = i.operands[1], BITS[t] // 8 * vector, UINT[BITS[t]]
    known(len(_parts(i.operands[0])) == vector)

    def step(b: Blocks, index: Index) -> str:
        rows: np.ndarray
        if space == "param":
            raw = b.program.params[address.base.name][address.offset : address.offset + size]
            if len(raw) != size or address.offset < 0:
                raise Fault("out of bounds", f"parameter {address.base.name} in `{i.text}`")
            rows, kind = np.frombuffer(raw, dtype)[None], "move"
        else:
            memory, access = b.access(space, address, index, size, store=False)
            rows, kind = memory.load(access).view(dtype), f"{memory.space} load"
        for k, target in enumerate(_parts(i.operands[0])):
            width = b.program.entry.registers[target.name] if target else 0
            signed = t[0] == "s" and width > BITS[t]  # a wider register is filled with the sign
            b.write(target, rows[:, k].view(SINT[BITS[t]]).astype(SINT[width]) if signed else rows[:, k], index)
        return kind

    return step


def _store(i: Instruction) -> Step:
    space, vector, t = _space(i.mods)
    known(len(_parts(i.operands[1])) == vector)

    def step(b: Blocks, index: Index) -> str:
        memory, access = b.access(space, i.operands[0], index, BITS[t] // 8 * vector, store=True)
        columns = [np.broadcast_to(b.read(s, t, index), access.offsets.shape) for s in _parts(i.operands[1])]
        memory.store(access, np.stack(columns, 1).view(np.uint8))
        return f"{memory.space} store"

    return step


def _matrix(i: Instruction) -> Step:
    """ldmatrix, stmatrix: 8 x 8 tiles of 16 bits; lane 8 k + r has the address of row r of tile k, 16 bytes.

    A thread has two neighbours of row lane / 4 in one register for each tile (of a column, with .trans).
    """
    load, trans = i.op == "ldmatrix", "trans" in i.mods
    mods = tuple(m.removesuffix("::cta") for m in i.mods if m != "trans")
    count = {"x1": 1, "x2": 2, "x4": 4}[mods[3]]
    known(mods[:3] + mods[4:] == ("sync", "aligned", "m8n8", "shared", "b16"))
    address, registers = i.operands[::-1] if load else i.operands

    def step(b: Blocks, index: Index) -> str:
        threads = np.arange(b.n)[index]
        if len(threads) % 32 or (b.lane[threads].reshape(-1, 32) != np.arange(32)).any():
            raise Fault("shuffle", f"not all threads of a warp are there: `{i.text}`")
        memory, access = b.access("shared", address, threads[b.lane[threads] < 8 * count], 16, store=not load)
        if load:
            tiles = memory.load(access).view(np.uint16)
        else:
            columns = [np.broadcast_to(b.read(p, "b32", index), threads.shape) for p in _parts(registers)]
            tiles = np.stack(columns, 1).reshape(-1, 32, count).swapaxes(1, 2).copy().view(np.uint16)
        tiles = tiles.reshape(-1, count, 8, 8)
        tiles = (tiles.swapaxes(2, 3) if trans else tiles).copy()
        if not load:
            memory.store(access, tiles.reshape(-1, 8).view(np.uint8))
        for k, part in enumerate(_parts(registers) if load else ()):
            b.write(part, tiles.view(np.uint32)[:, k].reshape(-1), index)
        return f"shared {'load' if load else 'store'}"

    return step


def _setp(i: Instruction) -> Step:
    """A comparison and its opposite; of a pair of halves (f16x2, bf16x2) that of the lower and that of the upper."""
    name, *mods, t = i.mods
    packed = t.endswith("x2")
    half = t.removesuffix("x2")
    function = compare(name, half)
    joins = [{"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[m] for m in mods if m != "ftz"]
    known(len(joins) < 2 and len(i.operands) == 3 + len(joins))
    targets = i.operands[0] if isinstance(i.operands[0], Pair) else (i.operands[0],)
    known(not packed or (len(targets) == 2 and "ftz" not in mods))

    def step(b: Blocks, index: Index) -> str:
        x, y = (b.read(o, t, index) for o in i.operands[1:3])
        if "ftz" in mods:
            x, y = (encode(t, flush(t, decode(t, v))) for v in (x, y))
        if packed:
            parts = ((x & 0xFFFF, y & 0xFFFF), (x >> 16, y >> 16))
            results = tuple(function(p.astype(np.uint16), q.astype(np.uint16)) for p, q in parts)
        else:
            results = (function(x, y), ~function(x, y))
        if joins:
            third = b.read(i.operands[3], "pred", index)
            results = tuple(joins[0](result, third) for result in results)
        for register, result in zip(targets, results):
            b.write(register, result, index)
        return "float" if half in FLOATS else "integer"

    return step


def _selp(i: Instruction) -> Step:
    (t,) = i.mods
    return _compute(i, Alu(lambda yes, no, pick: np.where(pick, yes, no), (t, t, "pred"), "integer"))


def _cvta(i: Instruction) -> Step:
    space, t = i.mods[-2:]
    shift = WINDOWS[space] * (-1 if "to" in i.mods else 1) % (1 << 64)
    return _compute(i, Alu(lambda address: address.astype(np.uint64) + shift, (t,), "move"))


def _barrier(i: Instruction) -> Step:
    known("sync" in i.mods and not set(i.mods) - {"sync", "warp", "cta", "aligned"} and len(i.operands) == 1)

    def step(b: Blocks, index: Index) -> str:
        (b.warp_epoch if "warp" in i.mods else b.epoch)[index] += 1
        return "barrier"

    return step


def _shuffle(i: Instruction) -> Step:
    _, mode, _ = i.mods
    known(mode in ("up", "down", "bfly", "idx") and i.mods == ("sync", mode, "b32"))
    result, predicate = i.operands[0] if isinstance(i.operands[0], Pair) else (i.operands[0], None)

    def step(b: Blocks, index: Index) -> str:
        lane, warp, threads = b.lane[index], b.warp[index], np.arange(b.n)[index]
        value, by, clamp, mask = (np.broadcast_to(b.read(o, "b32", index), lane.shape) for o in i.operands[1:])
        by, clamp, segment = (by & 31).astype(int), (clamp & 31).astype(int), (clamp >> 8 & 31).astype(int)
        top = lane & segment | clamp & ~segment & 31
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": lane & segment | by & ~segment & 31}[
            mode
        ]
        inside = source >= top if mode == "up" else source <= top
        everyone = np.full(b.warps * 32, -1)
        everyone[warp * 32 + lane] = np.arange(len(threads))
        other = everyone[warp * 32 + np.where(inside, source, lane)]
        if (other < 0).any() or (mask.astype(np.int64) >> lane & 1 == 0).any():
            raise Fault("shuffle", f"reads a lane that takes no part, or is not in its own mask: `{i.text}`")
        b.write(result, value[other], index)
        b.write(predicate, inside, index)
        b.warp_epoch[index] += 1
        return "shuffle"

    return step


def _vote(i: Instruction) -> Step:
    mode = i.mods[1] if i.op == "vote" else "active"
    known(i.op == "activemask" or (i.mods[0] == "sync" and mode in ("all", "any", "uni", "ballot")))

    def step(b: Blocks, index: Index) -> str:
        warp = b.warp[index]
        yes = np.ones(1, bool) if mode == "active" else b.read(i.operands[1], "pred", index)
        yes, everyone = np.broadcast_to(yes, warp.shape), np.arange(b.n)[index]
        number, agree = (np.bincount(w, minlength=b.warps)[warp] for w in (warp, warp[yes]))
        ballot = b.lanes(everyone[yes])[warp]
        b.write(
            i.operands[0],
            {
                "all": agree == number,
                "any": agree > 0,
                "uni": (agree == 0) | (agree == number),
                "ballot": ballot,
                "active": ballot,
            }[mode],
            index,
        )
        return "shuffle"

    return step


def _atomic(i: Instruction) -> Step:
    (operation,) = (m for m in i.mods if m in ("add", "min", "max", "and", "or", "xor", "exch", "cas"))
    space, vector, t = _space(tuple(m for m in i.mods if m != operation))
    known(vector == 1)
    target, address, *sources = i.operands if i.op == "atom" else [None, *i.operands]
    size, dtype = BITS[t] // 8, UINT[BITS[t]]
    if operation in ("exch", "cas"):

        def change(old: np.ndarray, *given: np.ndarray) -> np.ndarray:
            return np.where(old == given[0], given[1], old) if operation == "cas" else given[0]
    else:
        change = alu(operation, ("rn", t) if t in FLOATS and operation == "add" else (t,)).function

    def step(b: Blocks, index: Index) -> str:
        memory, access = b.access(space, address, index, size, store=True)
        given = [np.broadcast_to(b.read(s, t, index), access.offsets.shape) for s in sources]
        old = memory.update(access, dtype, lambda k, value: change(value, *(g[k : k + 1] for g in given)))
        b.write(target, old, index)
        return "atomic"

    return step
