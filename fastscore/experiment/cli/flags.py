"""The flags of the command line: how tyro is to read the commands.

The tables of samplers, objectives and paths say what there is to choose from, and each of their options has a flag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from ..._core.options import Option
from ...data import DATASETS
from ...losses import OBJECTIVES, Objective
from ...paths import PATHS, PathKind
from ...samplers import BEST_OF_FEW, DEFAULT, SAMPLERS, Sampler
from ..config import TrainConfig
from ..precision import PRECISIONS, Precision
from ..presets import PRESETS

_ON_PATHS = f"{DEFAULT} is {BEST_OF_FEW} on a path of continuous t"
Table = Mapping[str, Sampler] | Mapping[str, Objective] | Mapping[str, PathKind]


def annotate(train: Any, sample: Any, evaluate: Any, tyro: Any) -> None:
    """Write the annotations of the commands as tyro wants them, with the flags that come from the tables."""
    _annotate_tables(tyro)
    presets: Any = tyro.extras.subcommand_type_from_defaults(
        {name: _plain(config) for name, (_, config) in PRESETS.items()},
        {name: text for name, (text, _) in PRESETS.items()},
        prefix_names=False,
    )
    about = "; ".join(f"{e.name}: {e.title} ({e.source}), {e.summary}" for e in SAMPLERS.values())
    train.__annotations__ |= {
        "preset": Annotated[presets, tyro.conf.arg(name="")],
        "options": flags(OBJECTIVES, "objective", tyro),
        "path_options": flags(PATHS, "path", tyro),
    }
    for command, text in (
        (sample, f"{about}."),
        (evaluate, f"{' or '.join(SAMPLERS)}; see fastscore sample --help."),
    ):
        command.__annotations__ |= {
            "sampler": Annotated[
                Literal[tuple(SAMPLERS)] | None,
                tyro.conf.arg(
                    help=f"By default the run's own. {text}",
                    metavar=f"{{{','.join(SAMPLERS)}}}",
                    help_behavior_hint="",
                ),
            ],
            "options": flags(SAMPLERS, "sampler", tyro),
        }
    annotate_plain((train, sample, evaluate), tyro)


def annotate_samplers(command: Any, tyro: Any) -> None:
    """Write the annotation of a parameter that takes several samplers, and of how many samples, --num in other commands."""
    command.__annotations__["samples"] = Annotated[int, tyro.conf.arg(aliases=("--num",))]
    command.__annotations__["samplers"] = Annotated[
        tuple[Literal[tuple(SAMPLERS)], ...],  # type: ignore[misc]  # known when it runs
        tyro.conf.arg(metavar=f"{{{','.join(SAMPLERS)}}} ...", help_behavior_hint=""),
    ]


def annotate_reproduce(command: Any, request: type, samplers: Mapping[str, Sampler], tyro: Any) -> None:
    """Write the annotations of ``fastscore reproduce``: the fields of its ``request`` are flags, as are its samplers' options."""
    fields: dict[str, tuple[Any, str]] = {
        "hours": (float, "FLOAT"),
        "iterations": (int, "INT"),
        "width": (int, "INT"),
        "batch_size": (int, "INT"),
        "num_levels": (int, "INT"),
        "inception": (Path, "PATH"),
    }
    for name, (kind, metavar) in fields.items():
        request.__annotations__[name] = Annotated[kind | None, tyro.conf.arg(metavar=metavar, help_behavior_hint="")]
    for name in ("tf32", "compile"):
        request.__annotations__[name] = Annotated[
            bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")
        ]
    about = "; ".join(f"{e.name}: {e.title} ({e.source}), {e.summary}" for e in samplers.values())
    request.__annotations__["sampler"] = Annotated[
        Literal[tuple(samplers)],  # known when it runs
        tyro.conf.arg(help=f"What draws the samples. {about}.", metavar=f"{{{','.join(samplers)}}}"),
    ]
    request.__annotations__["sampler_options"] = tyro.conf.Suppress[dict[str, Any]]
    request.__annotations__["cuda_graph"] = tyro.conf.Suppress[bool | None]  # the command has two flags for it
    command.__annotations__ |= {
        "request": Annotated[request, tyro.conf.arg(name="")],
        "options": flags(samplers, "sampler", tyro),
    }
    annotate_plain((command,), tyro)


def annotate_plain(commands: Iterable[Any], tyro: Any) -> None:
    """Write the annotations of parameters that may be left out, and of those that are true where they are given."""
    kinds: dict[str, tuple[Any, str]] = {
        "out": (Path, "PATH"),
        "config": (Path, "PATH"),
        "data_dir": (Path, "PATH"),
        "inception": (Path, "PATH"),
        "checkpoint": (int, "INT"),
        "label": (str, "LABEL"),
        "guidance": (float, "FLOAT"),
        "classifier_scale": (float, "FLOAT"),
        "guidance_interval": (tuple[float, float], "FLOAT FLOAT"),
        "iteration": (int, "INT"),
        "precision": (Precision, f"{{{','.join(PRECISIONS)}}}"),
        "preset": (Literal[tuple(PRESETS)], f"{{{','.join(PRESETS)}}}"),
        "data": (Literal[tuple(DATASETS)], f"{{{','.join(DATASETS)}}}"),
    }  # tyro's own would be "{None}|PATH"
    for command in commands:
        for name, annotation in command.__annotations__.items():
            if name in kinds and str(annotation).endswith("| None"):
                kind, metavar = kinds[name]
                command.__annotations__[name] = Annotated[
                    kind | None, tyro.conf.arg(metavar=metavar, help_behavior_hint="")
                ]
            elif annotation == "bool":  # a preset's flags come in pairs, --decay and --no-decay; these do not
                command.__annotations__[name] = Annotated[
                    bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")
                ]


def _plain(config: TrainConfig) -> TrainConfig:
    """``config`` without options that have their defaults, so that another objective or path takes its own."""
    plain = dataclasses.replace(config)
    for field, entry in (("objective_options", OBJECTIVES[config.objective]), ("path_options", PATHS[config.path])):
        usual = {option.name: option.default for option in entry.options}
        others = {name: value for name, value in getattr(config, field).items() if value != usual[name]}
        object.__setattr__(plain, field, others)
    return plain


def _annotate_tables(tyro: Any) -> None:
    """Show --objective, --path and --sampler with their choices, and no flag for their options, which have flags of their own."""
    objectives = "; ".join(f"{e.name}, {e.title}, {e.summary}" for e in OBJECTIVES.values())
    paths = "; ".join(f"{kind.name}, {kind.title}" for kind in PATHS.values())
    for name, table, told in (
        ("objective", tuple(OBJECTIVES), f"Loss: {objectives}."),
        ("path", tuple(PATHS), f"How data become noise: {paths}."),
        ("sampler", tuple(SAMPLERS), f"Draws where none is asked for ({_ON_PATHS}): see fastscore sample --help."),
    ):
        TrainConfig.__annotations__[name] = Annotated[str, tyro.conf.arg(help=told, metavar=f"{{{','.join(table)}}}")]
        if name != "sampler":
            TrainConfig.__annotations__[f"{name}_options"] = tyro.conf.Suppress[dict[str, Any]]


def flags(table: Table, word: str, tyro: Any) -> Any:
    """The annotation of a command's parameter that takes the options of all entries of ``table``.

    It is a dataclass with a field for each flag, whose ``given()`` has the values by name of those that were given.

    Args:
        table: the samplers, the objectives or the paths.
        word: the flag that chooses one of them, without dashes.
        tyro: the module.

    Raises:
        TypeError: options of one name are of different kinds.
    """
    offered = _offered(table, word)
    fields = [
        (flag, annotation, False if options[0].kind is bool else None)
        for name, options in offered.items()
        for flag, annotation in _annotations(name, options, table, word, tyro).items()
    ]

    def given(chosen: Any) -> dict[str, Any]:
        values = {
            name: either(name, getattr(chosen, name), getattr(chosen, f"no_{name}"))
            if options[0].kind is bool
            else getattr(chosen, name)
            for name, options in offered.items()
        }
        return {name: value for name, value in values.items() if value is not None}

    made = dataclasses.make_dataclass("Options", fields, namespace={"given": given}, frozen=True)
    return Annotated[made, tyro.conf.arg(name="")]


def _offered(table: Table, word: str) -> dict[str, list[Option]]:
    """The different options of each name, in the order of the table."""
    offered: dict[str, list[Option]] = {}
    for entry in table.values():
        for option in entry.options:
            same_name = offered.setdefault(option.name, [])
            if option not in same_name:
                same_name.append(option)
            if option.kind is not same_name[0].kind:
                raise TypeError(f"option {option.name} of {word} {entry.name} must be of one kind in all {word}s")
    return offered


def _annotations(name: str, options: list[Option], table: Table, word: str, tyro: Any) -> dict[str, Any]:
    """Of the one flag of a number or a word, or the two of a yes or no."""
    text, kind = " ".join(_help(option, table, word) for option in options), options[0].kind
    if kind is bool:
        off = f"Turn --{name.replace('_', '-')} off for this call."
        return {
            flag: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=about, help_behavior_hint="")]
            for flag, about in ((name, text), (f"no_{name}", off))
        }
    words = tuple(dict.fromkeys(choice for option in options for choice in option.choices))
    metavar = f"{{{','.join(words)}}}" if words else kind.__name__.upper()  # tyro's own would be "{None}|FLOAT"
    arg = tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint="")
    return {name: Annotated[(Literal[words] if words else kind) | None, arg]}


def _help(option: Option, table: Table, word: str) -> str:
    text = option.help
    if option.setting:
        text += "; by default as the run's config.json has it"
    elif option.default is not None:
        text += f"; by default {option.default}"
    takers = [entry.name for entry in table.values() if option in entry.options]
    only = f" Only with --{word} {' or '.join(takers)}." if len(takers) < len(table) else ""
    return f"{text}.{only}"


def either(name: str, on: bool, off: bool) -> bool | None:
    """True, False, or None where neither flag of a yes or no was given."""
    if on and off:
        flag = name.replace("_", "-")
        raise ValueError(f"give one of --{flag} and --no-{flag}, or neither")
    return on if on or off else None
