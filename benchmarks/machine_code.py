"""The instructions that are in cubins, by nvdisasm: of many cubins at once, since it takes a third of a second to start."""

from __future__ import annotations

import re
import struct
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

# kinds of instructions by the start of their names; whatever is in none of these is control or data movement
MEMORY = ("LD", "ST", "ATOM", "RED", "ULDC", "CCTL")
MOVE = ("IMAD.MOV", "HFMA2")  # HFMA2 only ever loads constants here
INTEGER = (
    "IMAD",
    "UIMAD",
    "IADD",
    "UIADD",
    "VIADD",
    "LOP3",
    "ULOP3",
    "SHF",
    "USHF",
    "LEA",
    "ULEA",
    "ISETP",
    "UISETP",
    "SEL",
    "USEL",
    "IMNMX",
    "VIMNMX",
    "IABS",
    "PRMT",
    "UPRMT",
    "SGXT",
)
FLOAT = ("F", "MUFU", "I2F", "UI2F", "UF", "D")
DOUBLE = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)|MUFU\.\w+64H|\w+\.F64")


def functions(cubin: bytes) -> dict[str, bytes]:
    """The machine code of each function of a cubin (an ELF file of 64 bits): its sections .text.NAME."""
    (first,), (size, count, names) = struct.unpack_from("<Q", cubin, 40), struct.unpack_from("<3H", cubin, 58)
    heads = [struct.unpack_from("<IIQQQQ", cubin, first + size * k) for k in range(count)]
    found = {}
    for name, _, _, _, start, length in heads:
        at = heads[names][4] + name
        title = cubin[at : cubin.index(b"\0", at)].decode()
        if title.startswith(".text."):
            found[title.removeprefix(".text.")] = cubin[start : start + length]
    return found


def instructions(codes: Sequence[bytes], arch: int, tool: Callable[..., str]) -> list[list[str]]:
    """The names (with suffixes) of the instructions of each machine code, padding left out."""
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder) / "code"
        together.write_bytes(b"".join(codes))
        sass = tool("nvdisasm", "--binary", f"SM{arch}", str(together))
    found: list[list[str]] = [[] for _ in codes]
    ends = list(accumulate(map(len, codes)))
    for at, name in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?PT?\d*\s+)?([A-Z][A-Z0-9_.]*)", sass):
        if name != "NOP":
            found[bisect_right(ends, int(at, 16))].append(name)
    return found


def kind_of(name: str) -> str:
    if name.startswith(MEMORY):
        return "memory"
    if name.startswith(MOVE):
        return "other"
    if name.startswith(INTEGER):
        return "integer"
    return "float" if name.startswith(FLOAT) else "other"
