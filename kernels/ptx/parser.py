"""PTX text to instructions: only what is executed; debug sections, line numbers and comments are dropped."""

from __future__ import annotations

import re
from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}

# operands
Reg = namedtuple("Reg", "name")  # a register (with a number of the scope where inline assembly declares its own)
Special = namedtuple("Special", "name")  # a register that the hardware sets, such as %tid.x
Imm = namedtuple("Imm", "value")  # a constant: an int, for 0f... and 0d... of the bits
Symbol = namedtuple("Symbol", "name")  # the address of a variable, or a parameter in the address of ld.param
Address = namedtuple("Address", "base offset")  # [base + offset]
Vector = namedtuple("Vector", "parts")  # {a, b, ...}; None is an element that is thrown away
Pair = namedtuple("Pair", "value predicate")  # value|predicate: two results
Not = namedtuple("Not", "reg")  # !predicate
Variable = namedtuple("Variable", "name space size align type data extern")  # a variable in memory, or a parameter


class UnknownPtx(Exception):
    """The text has something that the parser or the machine does not know; the message names it."""


@dataclass
class Instruction:
    """One instruction, with the predicate that guards it and (for a branch) where it goes."""

    op: str
    mods: tuple[str, ...]
    operands: list
    text: str
    guard: Reg | Not | None
    target: int = -1

    @property
    def waits(self) -> bool:
        """Whether threads have to wait for others here."""
        return self.op in ("bar", "barrier") or "sync" in self.mods


@dataclass
class Entry:
    """A kernel: its parameters, variables, registers (name to bits) and instructions."""

    name: str
    params: list[Variable]
    variables: list[Variable] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)


@dataclass
class Module:
    """All of one PTX text."""

    variables: list[Variable] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)


_DROPPED = re.compile(
    r"/\*.*?\*/|//[^\n]*|^[ \t]*\.(?:loc|file|version|address_size|target)[ \t][^\n]*$|"
    r"^[ \t]*\.section\s[^{]*\{[^}]*\}",
    re.S | re.M,
)
_TOKEN = re.compile(
    r"(?:(?P<entry>(?:\.visible\s+|\.weak\s+)?\.entry\s[^{]*)|(?P<brace>[{}])|"
    r"(?P<label>[\w$%.]+)\s*:(?!:)|(?P<statement>[^;{}][^;]*);|;)\s*"
)
_DECLARATION = re.compile(
    r"(\.extern\s+)?(?:\.(?:visible|weak|common)\s+)?"
    r"\.(global|const|shared|local|param)\s+((?:\.\w+\s+(?:\d+\s+)?)*?)"
    r"\.([subf](?:8|16|32|64))\s+"
    r"(?:\.ptr\s+)?(?:\.(?:global|shared|const)\s+)?(?:\.align\s+\d+\s+)?"
    r"([\w$.]+)\s*(\[\s*\d*\s*\])?(?:\s*=\s*(.*))?$",
    re.S,
)


def parse(text: str) -> Module:
    """The kernels and variables of a PTX text."""
    text, module, body, at = _DROPPED.sub(" ", text).strip(), Module(), None, 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            raise UnknownPtx(text[at : at + 80])
        at = token.end()
        if token["entry"]:
            head = re.search(r"\.entry\s+([\w$.]+)\s*\((.*?)\)", token["entry"], re.S)
            if not head:
                raise UnknownPtx(token["entry"][:80])
            body = _Body(Entry(head[1], [_variable(p) for p in head[2].split(",") if p.strip()]))
        elif token["statement"] and body is None:
            module.variables.append(_variable(token["statement"]))
        elif body is None:
            raise UnknownPtx(text[token.start() : token.start() + 80])
        elif body.take(token):
            module.entries[body.entry.name], body = body.entry, None
    if body is not None:
        raise UnknownPtx(f"no }} ends {body.entry.name}")
    return module


def _variable(text: str) -> Variable:
    match = _DECLARATION.match(text.strip())
    if not match:
        raise UnknownPtx(f"declaration: {text.strip()[:80]}")
    extern, space, attributes, kind, name, array, initial = match.groups()
    item, aligned = BYTES[kind[1:]], re.search(r"\.align\s+(\d+)", attributes)
    count = int(array[1:-1].strip() or 0) if array else 1
    numbers = [int(n.rstrip("U"), 0) for n in re.findall(r"-?\w+", initial or "")]
    data = b"".join((n % (1 << 8 * item)).to_bytes(item, "little") for n in numbers)
    return Variable(name, space, item * count, int(aligned[1]) if aligned else item, kind, data, bool(extern))


class _Body:
    """The statements of one kernel."""

    def __init__(self, entry: Entry):
        self.entry = entry
        self.scopes: list[tuple[str, dict[str, int]]] = []  # the ending of its names, and its registers' bits
        self.scope_count = 0
        self.labels: dict[str, int] = {}
        self.branches: list[tuple[Instruction, list[str]]] = []  # and what their label may be called in full

    def take(self, token: re.Match) -> bool:
        """Whether this was the end of the kernel."""
        if token["brace"] == "{":
            self.scopes.append((f"#{self.scope_count}" if self.scope_count else "", {}))
            self.scope_count += 1
        elif token["brace"]:
            self.scopes.pop()
        elif token["label"]:
            self.labels[token["label"] + self.scopes[-1][0]] = len(self.entry.code)
        elif token["statement"]:
            self._statement(" ".join(token["statement"].split()))
        if self.scopes:
            return False
        for instruction, names in self.branches:
            if not set(names) & set(self.labels):
                raise UnknownPtx(f"label {names[-1]}")
            instruction.target = next(self.labels[n] for n in names if n in self.labels)
        return True

    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            _, kind, names = text.split(None, 2)
            for name in names.split(","):  # %r<30> stands for %r0 to %r29: kept as the name %r<
                name = name.strip().partition(">")[0].rstrip("0123456789") if "<" in name else name.strip()
                self.scopes[-1][1][name] = 1 if kind == ".pred" else 8 * BYTES[kind[2:]]
        elif text.startswith((".shared", ".local", ".extern")):
            self.entry.variables.append(_variable(text))
        elif not text.startswith(".pragma"):
            guard, _, rest = text[1:].partition(" ") if text[0] == "@" else ("", "", text)
            opcode, _, operands = rest.strip().partition(" ")
            op, *mods = opcode.split(".")
            parts = [] if op == "bra" else [self._operand(o, text) for o in _split(operands)]
            predicate = self._operand(guard, text) if guard else None
            self.entry.code.append(Instruction(op, tuple(mods), parts, text, predicate))
            if op == "bra":
                labels = [operands.strip() + ending for ending, _ in reversed(self.scopes)]
                self.branches.append((self.entry.code[-1], labels))

    def _register(self, name: str) -> Reg | None:
        for ending, declared in reversed(self.scopes):
            if bits := declared.get(name) or declared.get(name.rstrip("0123456789") + "<"):
                self.entry.registers[name + ending] = bits
                return Reg(name + ending)
        return None

    def _operand(self, text: str, instruction: str) -> Any:
        if text == "_":
            return None
        if text[0] == "{":
            return Vector(tuple(self._operand(p, instruction) for p in _split(text[1:-1])))
        if match := re.fullmatch(r"\[\s*([^\s+]+?)\s*(?:\+\s*(-?\w+))?\s*\]", text):
            return Address(self._operand(match[1], instruction), int(match[2] or "0", 0))
        if "|" in text:
            return Pair(*(self._operand(p.strip(), instruction) for p in text.split("|")))
        if text[0] == "!":
            return Not(self._operand(text[1:].strip(), instruction))
        if register := self._register(text):
            return register
        if text[0] == "%":
            return Special(text)
        if match := re.fullmatch(r"0[fFdD]([0-9a-fA-F]{8}|[0-9a-fA-F]{16})", text):
            return Imm(int(match[1], 16))
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return Imm(int(text.rstrip("U"), 0))
        if re.fullmatch(r"[\w$.]+", text):
            return Symbol(text)
        raise UnknownPtx(f"operand {text!r} in: {instruction}")


def _split(text: str) -> list[str]:
    """Operands: split at the commas outside of brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", text) if part.strip()]
