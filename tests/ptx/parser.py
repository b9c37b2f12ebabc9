"""PTX text to instructions: only what is executed; debug sections, line numbers and comments are dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


class UnknownPtx(Exception):
    """The text has something that the parser or the machine does not know; the message names it."""


@dataclass(frozen=True)
class Reg:
    """A register, by its name (with a number of the scope where inline assembly declares its own)."""

    name: str


@dataclass(frozen=True)
class Special:
    """A register that the hardware sets, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Imm:
    """A constant: an int (of the bits, for 0f... and 0d...) or a decimal float."""

    value: Any


@dataclass(frozen=True)
class Symbol:
    """The address of a variable, or a parameter in the address of ld.param."""

    name: str


@dataclass(frozen=True)
class Address:
    """[base + offset]."""

    base: Reg | Symbol | Imm
    offset: int


@dataclass(frozen=True)
class Vector:
    """{a, b, ...}; None is an element that is thrown away."""

    parts: tuple


@dataclass(frozen=True)
class Pair:
    """``value|predicate``: two results."""

    value: Any
    predicate: Reg | None


@dataclass(frozen=True)
class Not:
    """``!predicate``."""

    reg: Reg


@dataclass
class Instruction:
    """One instruction, with the predicate that guards it and (for a branch) where it goes."""

    op: str
    mods: tuple[str, ...]
    operands: list
    text: str
    guard: Reg | None = None
    negated: bool = False
    target: int = -1


@dataclass
class Variable:
    """A variable in global, shared or local memory, or a parameter."""

    name: str
    space: str
    size: int
    align: int
    type: str = "b8"
    data: bytes = b""
    extern: bool = False


@dataclass
class Entry:
    """A kernel: its parameters, variables, registers (name to bits) and instructions."""

    name: str
    params: list[Variable]
    variables: list[Variable] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    reqntid: int | None = None


@dataclass
class Module:
    """All of one PTX text."""

    target: str
    variables: list[Variable]
    entries: dict[str, Entry]


_DECLARATION = re.compile(r"\.(global|const|shared|local|param)\s+((?:\.\w+\s+(?:\d+\s+)?)*?)"
                          r"\.([subf](?:8|16|32|64))\s+"
                          r"(?:\.ptr\s+)?(?:\.(?:global|shared|const)\s+)?(?:\.align\s+\d+\s+)?"
                          r"([\w$.]+)\s*(\[\s*\d*\s*\])?(?:\s*=\s*(.*))?$", re.S)


def _variable(text: str) -> Variable:
    text = text.strip()
    extern = text.startswith(".extern")
    text = re.sub(r"^(\.extern|\.visible|\.weak|\.common)\s+", "", text)
    match = _DECLARATION.match(text)
    if not match:
        raise UnknownPtx(f"declaration: {text}")
    space, attributes, kind, name, array, initial = match.groups()
    item = BYTES[kind[1:]]
    aligned = re.search(r"\.align\s+(\d+)", attributes)
    count = 1 if not array else int(array[1:-1].strip() or 0)
    data = b""
    if initial:
        numbers = [int(n.rstrip("U"), 0) for n in re.findall(r"-?\w+", initial)]
        data = b"".join((n % (1 << 8 * item)).to_bytes(item, "little") for n in numbers)
    return Variable(name, space, item * count, int(aligned[1]) if aligned else item, kind, data, extern)


def _matching(text: str, start: int, pair: str) -> int:
    """The place of the bracket that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == pair[0]) - (text[i] == pair[1])
        if depth == 0:
            return i
    raise UnknownPtx(f"no {pair[1]} for the {pair[0]} in: {text[start:start + 60]}")


def parse(text: str) -> Module:
    """The kernels and variables of a PTX text."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^[ \t]*(\.loc|\.file|\.version|\.address_size)[ \t][^\n]*$", "", text, flags=re.M)
    target = re.search(r"^\s*\.target\s+(\S+)", text, re.M)
    text = re.sub(r"^\s*\.target\s[^\n]*$", "", text, flags=re.M)
    module = Module(target[1] if target else "", [], {})
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text.startswith(".section", at):
            at = _matching(text, text.index("{", at), "{}") + 1
        elif re.compile(r"(\.visible\s+|\.weak\s+)?\.entry\s").match(text, at):
            open_ = text.index("(", at)
            name, close = text[at:open_].split()[-1], _matching(text, open_, "()")
            body = text.index("{", close)
            end = _matching(text, body, "{}")
            entry = Entry(name, [_variable(p) for p in text[open_ + 1:close].split(",") if p.strip()])
            if fixed := re.search(r"\.reqntid\s+(\d+)", text[close:body]):
                entry.reqntid = int(fixed[1])
            _Body(entry, text[body + 1:end]).parse()
            module.entries[name] = entry
            at = end + 1
        else:
            end = text.find(";", at)
            if end < 0 or ".func" in text[at:end]:
                raise UnknownPtx(text[at:at + 80])
            module.variables.append(_variable(text[at:end]))
            at = end + 1
    return module


class _Body:
    """The statements of one kernel."""

    def __init__(self, entry: Entry, text: str):
        self.entry, self.text = entry, text
        self.scopes: list[tuple[int, dict[str, int], dict[str, int]]] = [(0, {}, {})]  # number, names, prefixes
        self.labels: dict[str, int] = {}
        self.pending: list[tuple[Instruction, str]] = []
        self.scope_count = 0

    def parse(self) -> None:
        at, text = 0, self.text
        label = re.compile(r"([\w$%.]+)\s*:(?!:)")
        while at < len(text):
            if text[at].isspace() or text[at] == ";":
                at += 1
            elif text[at] == "{":
                self.scope_count += 1
                self.scopes.append((self.scope_count, {}, {}))
                at += 1
            elif text[at] == "}":
                self.scopes.pop()
                at += 1
            elif match := label.match(text, at):
                self.labels[self._scoped(match[1])] = len(self.entry.code)
                at = match.end()
            else:
                end = text.index(";", at)
                self._statement(" ".join(text[at:end].split()))
                at = end + 1
        for instruction, name in self.pending:
            places = [self.labels[n] for n in (name, name.split("#")[0]) if n in self.labels]
            if not places:
                raise UnknownPtx(f"label {name}")
            instruction.target = places[0]

    def _scoped(self, name: str) -> str:
        number = self.scopes[-1][0]
        return f"{name}#{number}" if number else name

    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self._registers(text)
        elif text.startswith((".shared", ".local", ".extern")):
            self.entry.variables.append(_variable(text))
        elif not text.startswith(".pragma"):
            self.entry.code.append(self._instruction(text))

    def _registers(self, text: str) -> None:
        _, kind, names = text.split(None, 2)
        bits = 1 if kind == ".pred" else 8 * BYTES[kind[2:]]
        _, exact, prefixes = self.scopes[-1]
        for name in names.split(","):
            name = name.strip()
            if "<" in name:
                prefixes[name.split("<")[0]] = bits
            else:
                exact[name] = bits

    def _register(self, name: str) -> Reg | None:
        prefix = re.sub(r"\d+$", "", name)
        for number, exact, prefixes in reversed(self.scopes):
            bits = exact.get(name) or (prefixes.get(prefix) if prefix != name else None)
            if bits:
                scoped = f"{name}#{number}" if number else name
                self.entry.registers[scoped] = bits
                return Reg(scoped)
        return None

    def _instruction(self, text: str) -> Instruction:
        guard, rest, negated = None, text, False
        if text.startswith("@"):
            name, rest = text[1:].split(None, 1)
            negated = name.startswith("!")
            guard = self._register(name.lstrip("!"))
            if guard is None:
                raise UnknownPtx(f"predicate in: {text}")
        opcode, _, operands = rest.partition(" ")
        op, *mods = opcode.split(".")
        result = Instruction(op, tuple(mods), [], text, guard, negated)
        if op == "bra":
            self.pending.append((result, self._scoped(operands.strip())))
        else:
            result.operands = [self._operand(o, text) for o in _split(operands)]
        return result

    def _operand(self, text: str, where: str) -> Any:
        if text.startswith("{"):
            return Vector(tuple(self._operand(p, where) for p in _split(text[1:-1])))
        if text.startswith("["):
            base, sign, offset = re.fullmatch(r"\[\s*([^\s+]+?)\s*(?:([+])\s*(-?\w+))?\s*\]", text).groups()
            return Address(self._operand(base, where), int(offset, 0) if sign else 0)
        if text == "_":
            return None
        if "|" in text:
            value, predicate = (self._operand(p.strip(), where) for p in text.split("|"))
            return Pair(value, predicate)
        if text.startswith("!"):
            return Not(self._operand(text[1:].strip(), where))
        if register := self._register(text):
            return register
        if text.startswith("%"):
            return Special(text)
        if match := re.fullmatch(r"0[fFdD]([0-9a-fA-F]{8}|[0-9a-fA-F]{16})", text):
            return Imm(int(match[1], 16))
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return Imm(int(text.rstrip("U"), 0))
        if re.fullmatch(r"-?\d+\.\d*(e[+-]?\d+)?", text):
            return Imm(float(text))
        if re.fullmatch(r"[\w$.]+", text):
            return Symbol(text)
        raise UnknownPtx(f"operand {text!r} in: {where}")


def _split(text: str) -> list[str]:
    """Operands: split at the commas outside of brackets."""
    parts, depth, current = [], 0, ""
    for c in text:
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += c
    return [*parts, current.strip()] if current.strip() else parts
