"""Options of what is looked up by name in a table: what each is called, means and may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import checks


@dataclass(frozen=True)
class Option:
    """An option of a table's entry. The command line makes a flag of it, and the documentation a row.

    Attributes:
        name: a Python identifier; the flag has dashes for its underscores.
        default: an int, a float, a bool or a text, whose type is the option's.
        help: a sentence for ``--help``.
        check: ``check(name, value)`` gives the value in the form in which it is used, or raises TypeError or
            ValueError with the name, what it was and what it must be.
        choices: what it may be, where that is one of a few texts.
    """

    name: str
    default: Any
    help: str
    check: Callable[[str, Any], Any]
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"name must be an identifier, got {checks.describe(self.name)}")
        if type(self.default) not in (int, float, bool, str):
            raise TypeError(f"default must be an int, float, bool or str, got {checks.describe(self.default)}")
        self.check(self.name, self.default)

    @classmethod
    def choice(cls, name: str, default: str, choices: Iterable[str], help: str) -> Option:
        """An option that is one of a few texts."""
        choices = tuple(choices)

        def check(name: str, value: Any) -> Any:
            if not isinstance(value, str):  # a list, say, which cannot be looked up
                raise TypeError(f"{name} must be one of {', '.join(choices)}, got {checks.describe(value)}")
            checks.one_of(name, value, choices)
            return value

        return cls(name, default, help, check, choices)


def complete(owner: str, options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option's value: as ``given``, checked, or its default.

    Args:
        owner: what has the options, for the message: "objective 'ssm'".

    Raises:
        TypeError, ValueError: an option that ``owner`` does not have, or a value that it may not have.
    """
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise ValueError(
                f"{checks.plain(name)} must be left out: {owner} has "
                + (f"the options {', '.join(known)} alone" if known else "no options")
            )
    return {
        name: option.check(name, given[name]) if name in given else option.default for name, option in known.items()
    }
