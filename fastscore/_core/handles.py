"""Attributes of handles, which stand for numbers that are not drawn yet, and so must stay what they are."""

from __future__ import annotations

from typing import Any

from .checks import describe


def fixed(name: str) -> property:
    """An attribute of a handle, kept as ``_name``, that is read and never set again."""
    kept = "_" + name

    def get(self: Any) -> Any:
        return getattr(self, kept)

    def refuse(self: Any, value: Any) -> None:
        raise AttributeError(
            f"{name} of a {type(self).__name__} cannot be changed once it is made, got {describe(value)}: make another"
        )

    return property(get, refuse)
