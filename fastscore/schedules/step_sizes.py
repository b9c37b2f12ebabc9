"""The two forms of a Langevin step size: a suggested one raises where the other form is expected."""

from __future__ import annotations

from typing import Any


class Alpha(float):
    """A step size in the form x + alpha/2 s + sqrt(alpha) z: a number that nothing takes for a step_lr."""

    __slots__ = ()


class StepLr(float):
    """A step size in the form x + step_lr s + sqrt(2 step_lr) z: a number that nothing takes for an alpha."""

    __slots__ = ()


def refuse_other_form(name: str, value: Any, form: str) -> None:
    """Raise where ``value``, the argument ``name``, is a suggestion's step size, but not of the ``form`` wanted here,
    "alpha" or "step_lr"."""
    if isinstance(value, StepLr if form == "alpha" else Alpha):
        given, factor = ("step_lr", "twice") if form == "alpha" else ("alpha", "half")
        raise ValueError(
            f"{name} must be {factor} the {given} that suggest found, got that {given} itself, {value}: "
            f"use suggestion.{form}; samplers take **suggestion.sampling() too"
        )
