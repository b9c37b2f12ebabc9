"""The samplers' options on the command line: flags and help of a command, made from the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_type_hints

from .._core.options import Option
from ..samplers import SAMPLERS

_KINDS: dict[type, str] = {float: "FLOAT", int: "INT", str: "STR"}


def with_sampler_options(command: Callable[..., None], tyro: Any, *, long: bool) -> Callable[..., None]:
    """``command(..., sampler, ..., **options)`` with a flag for each option that any sampler takes, as tyro reads it.

    Args:
        command: called with ``sampler`` and a value for each option, None where it was not given.
        tyro: the module.
        long: whether the help of ``--sampler`` tells the samplers apart, or names the command whose help does.
    """
    offered = _offered()

    def wrapped(*arguments: Any, **given: Any) -> None:
        for name, options in offered.items():
            if options[0].kind is bool:
                given[name] = _either(name, given[name], given.pop(f"no_{name}"))
        command(*arguments, **given)

    flags = {"sampler": _sampler_flag(tyro, long)}
    for name, options in offered.items():
        flags |= _flags(name, options, tyro)
    annotations, parameters = get_type_hints(command, include_extras=True), []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "sampler":
            for name, (annotation, default) in flags.items():
                annotations[name] = annotation
                default = parameter.default if name == "sampler" else default
                parameters.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default))
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(parameter)
    # not functools.wraps: tyro would look through it, at the annotations of ``command``
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__annotations__ = {parameter.name: annotations[parameter.name] for parameter in parameters}
    vars(wrapped)["__signature__"] = inspect.Signature(parameters)
    return wrapped


def _either(name: str, on: bool, off: bool) -> bool | None:
    """True, False, or None where neither flag was given."""
    if on and off:
        flag = name.replace("_", "-")
        raise ValueError(f"give one of --{flag} and --no-{flag}, or neither")
    return on if on or off else None


def _offered() -> dict[str, list[Option]]:
    """The different options of each name, in the order of the registry."""
    offered: dict[str, list[Option]] = {}
    for entry in SAMPLERS.values():
        for option in entry.options:
            same_name = offered.setdefault(option.name, [])
            if option not in same_name:
                same_name.append(option)
            if option.kind is not same_name[0].kind:
                raise TypeError(f"option {option.name} of sampler {entry.name} must be of one kind in all samplers")
    return offered


def _sampler_flag(tyro: Any, long: bool) -> tuple[Any, Any]:
    about = [f"{entry.name}: {entry.title} ({entry.source}), {entry.summary}" for entry in SAMPLERS.values()]
    text = "; ".join(about) + "." if long else f"{' or '.join(SAMPLERS)}; see fastscore sample --help."
    return Annotated[Literal[tuple(SAMPLERS)], tyro.conf.arg(help=text)], None


def _flags(name: str, options: list[Option], tyro: Any) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of the one flag of a number or a word, or the two of a yes or no."""
    text, kind = " ".join(_help(option, options) for option in options), options[0].kind
    if kind is bool:
        off = f"Turn --{name.replace('_', '-')} off for this call."
        return {
            flag: (
                Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=about, help_behavior_hint="")],
                False,
            )
            for flag, about in ((name, text), (f"no_{name}", off))
        }
    words = tuple(dict.fromkeys(word for option in options for word in option.choices))
    metavar = f"{{{','.join(words)}}}" if words else _KINDS[kind]  # tyro's own would be "{None}|FLOAT"
    arg = tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint="")
    return {name: (Annotated[(Literal[words] if words else kind) | None, arg], None)}


def _help(option: Option, same_name: list[Option]) -> str:
    text = option.help
    if option.setting:
        text += "; by default as the run's config.json has it"
    elif option.default is not None:
        text += f"; by default {option.default}"
    takers = [entry.name for entry in SAMPLERS.values() if option in entry.options]
    only = f" Only with --sampler {' or '.join(takers)}." if len(takers) < len(SAMPLERS) else ""
    return f"{text}.{only}"
