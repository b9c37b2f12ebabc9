"""Step sizes, in one vocabulary for all samplers, and preconditioners.

``step_size`` is the papers' alpha, x + step_size/2 s + sqrt(step_size) z; ``step_lr`` is the NCSN code's, x + step_lr s
+ sqrt(2 step_lr) z: step_size = 2 step_lr. A sampler takes exactly one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..schedules import refuse_other_form
from ._replay import PerLevel

StepSizes = float | Sequence[float] | Tensor | Callable[[int], float]


def given_step_size(step_size: float | None, step_lr: float | None) -> float:
    """step_size, from the one of the two that is given."""
    name, value, factor = _given(step_size, step_lr)
    return factor * _number(name, name, value)


def schedule(step_size: StepSizes | None, step_lr: StepSizes | None, num_steps: int) -> list[float]:
    """step_size of every update, from a number, one number per update, or a function of the step (1 is the first)."""
    name, value, factor = _given(step_size, step_lr)
    if callable(value):
        return [factor * _number(name, f"{name}({step})", value(step)) for step in range(1, num_steps + 1)]
    values = value.tolist() if hasattr(value, "tolist") else value  # of a tensor or an array; a number where 0-dim
    if not isinstance(values, (list, tuple)):
        return [factor * _number(name, name, values)] * num_steps
    if len(values) != num_steps:
        raise ValueError(
            f"{name} must be a number, a function of the step, or have num_steps={num_steps} values, got {len(values)}"
        )
    return [factor * _number(name, f"{name}[{i}]", v) for i, v in enumerate(values)]


def per_level(step_size: float, sigma: Sequence[float]) -> list[float]:
    """step_size_i = step_size sigma_i^2 / sigma_L^2 of every level, from ``step_size`` = step_size_L."""
    return [step_size * (sigma_i / sigma[-1]) ** 2 for sigma_i in sigma]


def steps(step_sizes: Sequence[float], dtype: torch.dtype, device: torch.device) -> PerLevel:
    """The step sizes as ``langevin_step.checked`` takes them for samples of ``dtype`` on ``device``: checked once, here."""
    x = torch.empty(0, dtype=dtype, device=device)
    tensors = [checks.row_numbers("step_size", step_size, x) for step_size in step_sizes]
    return PerLevel(step_sizes, checks.compute_dtype(x), device, tensors)


def _given(step_size: Any, step_lr: Any) -> tuple[str, Any, float]:
    if (step_size is None) == (step_lr is None):
        raise ValueError(
            "give exactly one of step_size (x + step_size/2 s + sqrt(step_size) z) and step_lr (x + step_lr s + "
            f"sqrt(2 step_lr) z, so step_size = 2 step_lr), got step_size={step_size}, step_lr={step_lr}"
        )
    return ("step_size", step_size, 1.0) if step_lr is None else ("step_lr", step_lr, 2.0)


def _number(form: str, name: str, value: Any) -> float:
    """The step size ``value``, called ``name``, as a Python number."""
    refuse_other_form(name, value, form)
    return checks.positive(name, value)


def root(preconditioner: Tensor | None, x: Tensor) -> Tensor | None:
    """sqrt(M) in the dtype of computation, for a diagonal M of ``x``'s shape or of one sample's."""
    if preconditioner is None:
        return None
    checks.floating("preconditioner", preconditioner, batched=False)
    if preconditioner.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"preconditioner must have the shape of a sample, {tuple(x.shape[1:])}, or of x, "
            f"{tuple(x.shape)}, got {checks.describe(preconditioner)}"
        )
    if preconditioner.device != x.device:
        raise ValueError(
            f"preconditioner must be on the device of x, {x.device}, got {checks.describe(preconditioner)}"
        )
    checks.positive_values("preconditioner", preconditioner)
    return preconditioner.to(checks.compute_dtype(x)).sqrt()
