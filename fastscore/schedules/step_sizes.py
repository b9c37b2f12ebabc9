"""The two forms of a Langevin step size: a suggested one raises where the other form is expected."""

from __future__ import annotations

from typing import Any


class StepSize(float):
    """A step size in the form x + step_size/2 s + sqrt(step_size) z: a number that nothing takes for a step_lr."""

    __slots__ = ()


class StepLr(float):
    """A step size in the form x + step_lr s + sqrt(2 step_lr) z: a number that nothing takes for a step_size."""

    __slots__ = ()


def refuse_other_form(name: str, value: Any, form: str) -> None:
    """Raise where ``value``, the argument ``name``, is a suggestion's step size, but not of the ``form`` wanted here,
    "step_size" or "step_lr"."""
    if isinstance(value, StepLr if form == "step_size" else StepSize):
        given, factor = ("step_lr", "twice") if form == "step_size" else ("step_size", "half")
        raise ValueError(
            f"{name} must be {factor} the {given} that suggest found, got that {given} itself, {value}: "
            f"use suggestion.{form}; samplers take **suggestion.sampling() too"
        )
