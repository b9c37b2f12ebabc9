"""What each instruction does to the machine: ``step_of(instruction)`` is a function of the blocks and the threads.

A step returns the class that the instruction is counted in. What only computes is in values.py; here are memory, data
movement, comparisons, and what passes between the threads of a warp.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from . import values
from .memory import Fault
from .parser import Address, Instruction, Pair, UnknownPtx, Vector
from .values import BITS, UINT, alu, compare

if TYPE_CHECKING:
    from .machine import Blocks

WINDOWS = {"shared": 1 << 48, "local": 1 << 50}  # where generic addresses of these spaces begin
CACHE_HINTS = re.compile(r"nc|c[agsv]|lu|w[bt]|volatile|weak|relaxed|acquire|release|acq_rel|cta|gpu|sys|L[12]::\w+|"
                         r"level|unified")
Index = slice | np.ndarray


def step_of(i: Instruction) -> Callable[[Blocks, Index], str]:
    """The instruction as a function; an error that names it if it is not known."""
    special = {"mov": _move, "ld": _load, "ldu": _load, "st": _store, "setp": _setp, "selp": _selp, "shfl": _shuffle,
               "vote": _vote, "activemask": _vote, "atom": _atomic, "red": _atomic, "cvta": _cvta, "bar": _barrier,
               "barrier": _barrier, "membar": _nothing, "fence": _nothing, "nanosleep": _nothing, "bra": _nothing,
               "ret": _nothing, "exit": _nothing, "ldmatrix": _matrix, "stmatrix": _matrix}
    try:
        if i.op in special:
            return special[i.op](i)
        function = alu(i.op, i.mods, i.text)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UnknownPtx(f"instruction `{i.text}`") from error
    if function is None or len(i.operands) != len(function.sources) + 1:
        raise UnknownPtx(f"instruction `{i.text}`")

    def step(b: Blocks, index: Index) -> str:
        bits = [b.read(o, t, index) for o, t in zip(i.operands[1:], function.sources)]
        if function.reads_carry or function.writes_carry:
            carry = b.carry[index] if function.reads_carry else np.zeros(1, bool)
            value, carry = function.function(*bits, carry)
            if function.writes_carry:
                b.carry[index] = carry
        else:
            value = function.function(*bits)
        b.write(i.operands[0], value, index)
        return function.kind
    return step


def _nothing(i: Instruction) -> Callable:
    return lambda b, index: "control"


def _move(i: Instruction) -> Callable:
    target, source = i.operands
    t = i.mods[-1]
    if t not in BITS or len(i.mods) != 1:
        raise UnknownPtx(f"instruction `{i.text}`")

    def step(b: Blocks, index: Index) -> str:
        if isinstance(target, Vector):  # take apart
            bits, part = b.read(source, t, index), BITS[t] // len(target.parts)
            for k, piece in enumerate(target.parts):
                shifted = bits >> bits.dtype.type(k * part)
                b.write(piece, shifted.astype(UINT[part]), index)
        elif isinstance(source, Vector):  # put together
            part, total = BITS[t] // len(source.parts), UINT[BITS[t]](0)
            for k, piece in enumerate(source.parts):
                bits = b.read(piece, f"b{part}", index).astype(UINT[BITS[t]])
                total = total | bits << UINT[BITS[t]](k * part)
            b.write(target, total, index)
        elif isinstance(source, Address):
            raise UnknownPtx(f"instruction `{i.text}`")
        else:
            b.write(target, b.read(source, t, index), index)
        return "move"
    return step


def _space(i: Instruction) -> tuple[str, int, str]:
    """(state space, elements of a vector, type) of a memory instruction; the hints for caches do not matter."""
    *mods, t = i.mods
    space = next((m for m in mods if m in ("global", "shared", "local", "param", "const")), "generic")
    vector = next((int(m[1:]) for m in mods if m in ("v2", "v4", "v8")), 1)
    for m in mods:
        if m != space and m != f"v{vector}" and not CACHE_HINTS.fullmatch(m) and m != "shared::cta":
            raise UnknownPtx(f".{m} in `{i.text}`")
    if t not in BITS:
        raise UnknownPtx(f"instruction `{i.text}`")
    return ("shared" if "shared::cta" in mods else space), vector, t


def _load(i: Instruction) -> Callable:
    space, vector, t = _space(i)
    targets = i.operands[0].parts if isinstance(i.operands[0], Vector) else (i.operands[0],)
    size, dtype = BITS[t] // 8, UINT[BITS[t]]

    def step(b: Blocks, index: Index) -> str:
        address = i.operands[1]
        if space == "param":
            start, length = b.program.params[address.base.name]
            if not 0 <= address.offset <= length - size * vector:
                raise Fault("out of bounds", f"parameter {address.base.name} in `{i.text}`")
            row = np.frombuffer(b.program.param_bytes, dtype, vector, start + address.offset)[None]
            kind = "move"
        else:
            store, places, addresses, where = b.locate(space, address, index)
            row = store.load(places, addresses, size * vector, b.who(index)).view(dtype)
            b.count(where, addresses, index, size * vector, False)
            kind = f"{where} load"
        for k, target in enumerate(targets):
            bits = row[:, k]
            if t[0] == "s" and target is not None and b.program.entry.registers[target.name] > BITS[t]:
                bits = bits.view(values.SINT[BITS[t]]).astype(values.SINT[b.program.entry.registers[target.name]])
            b.write(target, bits, index)
        return kind
    return step


def _store(i: Instruction) -> Callable:
    space, vector, t = _space(i)
    sources = i.operands[1].parts if isinstance(i.operands[1], Vector) else (i.operands[1],)
    size = BITS[t] // 8 * vector

    def step(b: Blocks, index: Index) -> str:
        store, places, addresses, where = b.locate(space, i.operands[0], index)
        columns = [np.broadcast_to(b.read(s, t, index), places.shape) for s in sources]
        store.store(places, addresses, np.stack(columns, 1).view(np.uint8).reshape(len(places), size), b.who(index))
        b.count(where, addresses, index, size, True)
        return f"{where} store"
    return step


def _matrix(i: Instruction) -> Callable:
    """ldmatrix, stmatrix: 8 x 8 tiles of 16 bits; lane 8 k + r has the address of row r of tile k, 16 bytes.

    A thread has two neighbours of row lane / 4 in one register for each tile (of a column, with .trans).
    """
    load, trans = i.op == "ldmatrix", "trans" in i.mods
    mods = tuple(m.removesuffix("::cta") for m in i.mods if m != "trans")
    count = {"x1": 1, "x2": 2, "x4": 4}.get(mods[3] if len(mods) > 3 else "")
    if count is None or mods[:3] + mods[4:] != ("sync", "aligned", "m8n8", "shared", "b16"):
        raise UnknownPtx(f"instruction `{i.text}`")
    address, registers = i.operands[::-1] if load else i.operands
    parts = registers.parts if isinstance(registers, Vector) else (registers,)

    def step(b: Blocks, index: Index) -> str:
        threads = np.arange(b.n)[index]
        if len(threads) % 32 or (b.lane[threads].reshape(-1, 32) != np.arange(32)).any():
            raise Fault("shuffle", f"not all threads of a warp are there: `{i.text}`")
        rows = threads[b.lane[threads] < 8 * count]
        store, places, addresses, where = b.locate("shared", address, rows)
        if load:
            tiles = store.load(places, addresses, 16, b.who(rows)).view(np.uint16).reshape(-1, count, 8, 8)
            tiles = tiles.swapaxes(2, 3) if trans else tiles
            for k, part in enumerate(parts):
                b.write(part, np.ascontiguousarray(tiles[:, k]).reshape(-1, 2).view(np.uint32)[:, 0], index)
        else:
            columns = [np.broadcast_to(b.read(p, "b32", index), threads.shape) for p in parts]
            tiles = np.stack(columns, 1).reshape(-1, 32, count).swapaxes(1, 2)
            tiles = np.ascontiguousarray(tiles).view(np.uint16).reshape(-1, count, 8, 8)
            tiles = np.ascontiguousarray(tiles.swapaxes(2, 3) if trans else tiles)
            store.store(places, addresses, tiles.reshape(-1, 8).view(np.uint8), b.who(rows))
        b.count(where, addresses, rows, 16, not load)
        return f"shared {'load' if load else 'store'}"
    return step


def _setp(i: Instruction) -> Callable:
    name, *mods, t = i.mods
    function = compare(name, t)
    join = next((m for m in mods if m in ("and", "or", "xor")), None)
    if set(mods) - {join, "ftz"} or len(i.operands) != (4 if join else 3):
        raise UnknownPtx(f"instruction `{i.text}`")

    def step(b: Blocks, index: Index) -> str:
        x, y = (b.read(o, t, index) for o in i.operands[1:3])
        if "ftz" in mods:
            x, y = (values.encode(t, values.flush(t, values.decode(t, v))) for v in (x, y))
        first = function(x, y)
        results = (first, ~first)
        if join:
            third = b.read(i.operands[3], "pred", index)
            operator = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[join]
            results = tuple(operator(r, third) for r in results)
        target = i.operands[0]
        targets = (target.value, target.predicate) if isinstance(target, Pair) else (target,)
        for register, value in zip(targets, results):
            b.write(register, value, index)
        return "integer" if t not in values.FLOATS else "float"
    return step


def _selp(i: Instruction) -> Callable:
    t, = i.mods

    def step(b: Blocks, index: Index) -> str:
        yes, no = (b.read(o, t, index) for o in i.operands[1:3])
        b.write(i.operands[0], np.where(b.read(i.operands[3], "pred", index), yes, no), index)
        return "integer"
    return step


def _cvta(i: Instruction) -> Callable:
    to = "to" in i.mods
    space, t = i.mods[-2:]
    if space not in ("global", "shared", "local", "const"):
        raise UnknownPtx(f"instruction `{i.text}`")

    def step(b: Blocks, index: Index) -> str:
        shift = np.uint64(WINDOWS.get(space, 0))
        bits = b.read(i.operands[1], t, index).astype(np.uint64)
        b.write(i.operands[0], bits - shift if to else bits + shift, index)
        return "move"
    return step


def _barrier(i: Instruction) -> Callable:
    if "sync" not in i.mods or set(i.mods) - {"sync", "warp", "cta", "aligned"}:
        raise UnknownPtx(f"instruction `{i.text}`")

    def step(b: Blocks, index: Index) -> str:
        if "warp" in i.mods:
            b.warp_epoch[index] += 1
        else:
            b.epoch[index] += 1
        return "barrier"
    return step


def _shuffle(i: Instruction) -> Callable:
    mode = next((m for m in i.mods if m in ("up", "down", "bfly", "idx")), None)
    if mode is None or i.mods != ("sync", mode, "b32"):
        raise UnknownPtx(f"instruction `{i.text}`")
    target = i.operands[0]
    result, predicate = (target.value, target.predicate) if isinstance(target, Pair) else (target, None)

    def step(b: Blocks, index: Index) -> str:
        lane, warp, threads = b.lane[index], b.warp[index], np.arange(b.n)[index]
        value, by, clamp, mask = (np.broadcast_to(b.read(o, "b32", index), lane.shape) for o in i.operands[1:])
        by, clamp, segment = (by & 31).astype(int), (clamp & 31).astype(int), (clamp >> np.uint32(8) & 31).astype(int)
        top = lane & segment | clamp & ~segment & 31
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by,
                  "idx": lane & segment | by & ~segment & 31}[mode]
        inside = source >= top if mode == "up" else source <= top
        source = np.where(inside, source, lane)
        everyone = np.full(b.warps * 32, -1)
        everyone[warp * 32 + lane] = np.arange(len(threads))
        place = everyone[warp * 32 + source]
        if (place < 0).any() or (mask.astype(np.int64) >> lane & 1 == 0).any():
            raise Fault("shuffle", f"reads a lane that takes no part, or is not in its own mask: `{i.text}`")
        b.write(result, value[place], index)
        if predicate is not None:
            b.write(predicate, inside, index)
        b.warp_epoch[index] += 1
        return "shuffle"
    return step


def _vote(i: Instruction) -> Callable:
    if i.op == "activemask":
        mode = "active"
    elif i.mods[:1] == ("sync",) and i.mods[1] in ("all", "any", "uni", "ballot"):
        mode = i.mods[1]
    else:
        raise UnknownPtx(f"instruction `{i.text}`")

    def step(b: Blocks, index: Index) -> str:
        lane, warp = b.lane[index], b.warp[index]
        yes = np.ones(len(lane), bool)
        if mode != "active":
            yes = np.broadcast_to(b.read(i.operands[1], "pred", index), lane.shape)
        number = np.bincount(warp, minlength=b.warps)[warp]
        agree = np.bincount(warp, weights=yes, minlength=b.warps)[warp]
        ballot = np.bincount(warp, weights=yes * 2.0**lane, minlength=b.warps).astype(np.uint64)[warp].astype(np.uint32)
        b.write(i.operands[0], {"all": agree == number, "any": agree > 0, "uni": (agree == 0) | (agree == number),
                                "ballot": ballot, "active": ballot}[mode], index)
        return "shuffle"
    return step


def _atomic(i: Instruction) -> Callable:
    operation = next((m for m in i.mods if m in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc")), "")
    rest = Instruction(i.op, tuple(m for m in i.mods if m not in (operation, "noftz")), [], i.text)
    space, vector, t = _space(rest)
    if not operation or vector > 1 or operation == "inc":
        raise UnknownPtx(f"instruction `{i.text}`")
    target, address, *sources = i.operands if i.op == "atom" else [None, *i.operands]
    function = None
    if operation not in ("exch", "cas"):
        exact = ("rn", t) if t in values.FLOATS and operation == "add" else (t,)
        function = alu(operation, exact, i.text).function
    dtype = UINT[BITS[t]]

    def step(b: Blocks, index: Index) -> str:
        store, places, addresses, where = b.locate(space, address, index)
        given = [np.broadcast_to(b.read(s, t, index), places.shape) for s in sources]

        def change(k: int) -> Callable:
            if operation == "exch":
                return lambda old: int(given[0][k])
            if operation == "cas":
                return lambda old: int(given[1][k]) if old == int(given[0][k]) else old
            return lambda old: int(function(np.array([old], dtype), given[0][k:k + 1])[0])

        old = store.update(places, addresses, BITS[t] // 8, [change(k) for k in range(len(places))], b.who(index))
        b.count(where, addresses, index, BITS[t] // 8, True)
        b.write(target, old.astype(dtype), index)
        return "atomic"
    return step
