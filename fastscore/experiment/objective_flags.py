"""The flags of ``fastscore train`` that come from the table of objectives: --objective, and one for each option."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from ..losses import OBJECTIVES
from .config import TrainConfig


def annotate(tyro: Any) -> None:
    """Make tyro show --objective with its choices, and no flag for the field ``objective_options``, whose entries
    have flags of their own: those of :func:`flags`."""
    told = "; ".join(f"{o.name}, {o.title}, {o.summary}" for o in OBJECTIVES.values())
    TrainConfig.__annotations__["objective"] = Annotated[
        str, tyro.conf.arg(help=f"Loss: {told}.", metavar=f"{{{','.join(OBJECTIVES)}}}")
    ]
    TrainConfig.__annotations__["objective_options"] = tyro.conf.Suppress[dict[str, Any]]


def flags(tyro: Any) -> Any:
    """The annotation of a parameter without a default that takes the options of all objectives: a dataclass, whose
    fields are None where they are not given."""
    kinds: dict[str, tuple[type, str]] = {}
    helps: dict[str, list[str]] = {}
    for objective in OBJECTIVES.values():
        for option in objective.options:
            metavar = f"{{{','.join(option.choices)}}}" if option.choices else option.kind.__name__.upper()
            kinds[option.name] = option.kind, metavar
            text = f"{option.help}; by default {option.default}. Only with --objective {objective.name}."
            helps.setdefault(option.name, []).append(text)
    made = dataclasses.make_dataclass(
        "ObjectiveOptions",
        [
            (
                name,
                Annotated[
                    kind | None, tyro.conf.arg(metavar=metavar, help=" ".join(helps[name]), help_behavior_hint="")
                ],
                None,
            )
            for name, (kind, metavar) in kinds.items()
        ],
        frozen=True,
    )
    return Annotated[made, tyro.conf.arg(name="")]


def given(config: TrainConfig, chosen: Any) -> TrainConfig:
    """``config`` with the options that ``chosen``, of the type of :func:`flags`, has.

    Raises:
        TypeError, ValueError: one that the config's objective does not have, or a value that it may not have.
    """
    values = {name: value for name, value in vars(chosen).items() if value is not None}
    return dataclasses.replace(config, objective_options=config.objective_options | values)
