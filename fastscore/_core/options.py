"""Options of what a registry holds: named, explained and checked in one place, for Python, command line and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import checks


@dataclass(frozen=True)
class Option:
    """One option of a registry's entry.

    Args:
        name: its name in Python; the command line's is this with dashes.
        kind: float, int, bool or str; what the command line reads.
        help: what it is: a sentence without its full stop, starting with a capital.
        check: check(name, value) returns the value, of ``kind``, or raises an error that begins with the name.
        default: the value where none is given; None where one must be given.
        setting: the setting of a trained network's run that is the value where none is given.
        choices: of a str, the words that it may be.
    """

    name: str
    kind: type
    help: str
    check: Callable[[str, Any], Any]
    default: Any = None
    setting: str | None = None
    choices: tuple[str, ...] = ()


def choice(name: str, words: Iterable[str], help: str, *, default: str, setting: str | None = None) -> Option:
    """The option whose value is one of ``words``."""
    allowed = tuple(words)
    return Option(name, str, help, partial(checks.one_of, allowed=allowed), default, setting, allowed)


def boolean(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {checks.describe(value)}")
    return value


def complete(options: Sequence[Option], given: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Every option's value, checked: the one given, or its default.

    Args:
        options: those that there are.
        given: values by name; None counts as not given.
        whose: words for the messages, such as "sampler 'annealed'".

    Raises:
        TypeError, ValueError: a value that its check refuses; a name that no option has; an option without a default
            that is not given.
    """
    given = {name: value for name, value in given.items() if value is not None}
    names = [option.name for option in options]
    for name, value in given.items():
        if name not in names:
            takes = f"which takes {', '.join(names)}" if names else "which takes no options"
            raise ValueError(f"{name} must be left out for {whose}, {takes}, got {checks.describe(value)}")
    for option in options:
        if option.name not in given and option.default is None:
            raise ValueError(f"{option.name} must be given for {whose}: {option.help}")
    return {option.name: option.check(option.name, given.get(option.name, option.default)) for option in options}
