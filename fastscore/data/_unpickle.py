"""Pickled containers and arrays of bytes, read without running anything of the file.

A pickle names what is to be called while it is read. Here the names that an array of uint8 needs lead to stand-ins,
made anew for each file, which do that and nothing else; any other name is refused.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np


class _Refused(Exception):
    """The pickle asks for what it is not given."""


class _Held:
    """Stands for an array until the pickle is read."""

    values: np.ndarray | None = None


class _Unpickler(pickle.Unpickler):
    """Builds containers, strings, numbers and what the stand-ins give."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")  # the strings of Python 2
        self._allowed = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise _Refused(
                f"it asks to use {module}.{name} while it is read, which could run code; nothing of it was run"
            )
        return self._allowed[module, name]


def unpickle(content: bytes) -> Any:
    """What ``content`` holds: containers, strings, numbers, and as values of a dict that holds all else, uint8 arrays.

    Raises:
        ValueError: it asks for anything else (the text names it), or is damaged. Nothing of it was run.
    """
    try:
        found = _Unpickler(content).load()
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # damaged bytes raise nearly anything
        raise ValueError(
            f"it is damaged, cut short, or no pickle (reading its {len(content):,} bytes raised {type(error).__name__})"
        ) from None
    if not isinstance(found, dict):
        return found
    return {name: value.values if isinstance(value, _Held) else value for name, value in found.items()}


def _stand_ins() -> dict[tuple[str, str], Any]:
    """What a pickle may use, by the names that NumPy 1 and 2 give it in Python 2 and 3."""

    class Array(_Held):
        def __setstate__(self, state: Any) -> None:
            _, shape, _, fortran, content = state
            self.values = _array(content, shape, "F" if fortran else "C")

    class Type:
        def __init__(self, name: Any, *_: Any) -> None:
            if name not in ("u1", "|u1", "uint8"):
                raise _Refused(f"its arrays must be uint8, got {name!r:.40}")

        def __setstate__(self, state: Any) -> None:
            """Byte order and alignment, which a byte has not."""

    def reconstruct(*_: Any) -> Array:
        return Array()

    def from_buffer(content: Any, _: Any, shape: Any, order: Any) -> Array:
        array = Array()
        array.values = _array(content, shape, order)
        return array

    def encode(text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise _Refused(f"it asks to encode a {type(text).__name__} as {encoding!r:.40}")
        return text.encode("latin1")

    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Type,
        ("_codecs", "encode"): encode,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = reconstruct
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    return allowed


def _array(content: Any, shape: Any, order: str) -> np.ndarray:
    if isinstance(content, str):
        content = content.encode("latin1")
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape, order="F" if order == "F" else "C")
