"""Energies: the score s = -dE/dx of a density p(x) proportional to exp(-E(x))."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._core import backends, checks, second_derivatives


class EnergyScore(nn.Module):
    """s(x, ...) = -dE/dx; see :func:`energy_score`. ``energy`` is the E that it was given, and ``name`` what errors call it."""

    def __init__(self, energy: Callable[..., Tensor], name: str = "energy_fn"):
        super().__init__()
        if not callable(energy):
            raise TypeError(f"{name} must be a function E(x, ...) -> [B], got {checks.describe(energy)}")
        self.energy, self.name = energy, name

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """-dE/dx, of x's shape; the other arguments are E's."""
        checks.floating("x", x)

        def total(y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            with second_derivatives.rightly(record, forward=False):
                energy = _energies(self.energy(y, *args, **kwargs), y, self.name)
            if not torch.compiler.is_compiling() and not energy.requires_grad:
                raise ValueError(
                    f"{self.name} must depend on x in a way that autograd records: its result is constant in "
                    "x, detached, or computed under no_grad"
                )
            return energy.sum()

        record = torch.is_grad_enabled() or backends.transformed()
        if backends.transformed():
            return -torch.func.grad(total)(x, *args, **kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            args, kwargs = tuple(map(_ordinary, args)), {key: _ordinary(value) for key, value in kwargs.items()}
            y = _ordinary(x)
            y = y.view_as(y) if record and y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(total(y, *args, **kwargs), y, create_graph=record, allow_unused=True)
        if slope is None:
            raise ValueError(
                f"{self.name} must depend on x in a way that autograd records: nothing of x is in its result"
            )
        return -slope

    def with_energy(self, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """(-dE/dx, E), of x's shape and [B], by one evaluation of the energy; neither is recorded for autograd.

        Raises:
            ValueError: as for a call.
        """
        found: list[Tensor] = []

        def kept(y: Tensor) -> Tensor:
            found.append(self.energy(y, **kwargs))
            return found[-1]

        with torch.no_grad():
            score = EnergyScore(kept)(x)
        return score, found[-1].detach().reshape(len(x))

    def extra_repr(self) -> str:
        return "" if isinstance(self.energy, nn.Module) else checks.describe(self.energy)


def energy_score(energy_fn: Callable[..., Tensor]) -> EnergyScore:
    """The score of an energy-based model, s(x) = d log p / dx = -dE/dx for p(x) = exp(-E(x)) / Z.

    It is differentiated as is needed: by losses and traces in either mode, in the energy's parameters and in x, under
    ``torch.func`` and ``torch.compile``; where gradients are off, as in every sampler, it keeps no graph.

    Args:
        energy_fn: E(x, ...), [B, ...] -> [B] or [B, 1], each sample by itself; a function or a network. What the score
            is called with beside x (labels, sigma, keywords) is handed to it.

    Returns:
        A module s(x, ...) -> [B, ...] of the shape and dtype of x. A network ``energy_fn`` is its submodule
        ``energy``, with its parameters and buffers; ``train()``, ``to()`` and ``state_dict()`` reach it.

    Raises:
        TypeError: ``energy_fn`` is not callable. At a call: x or the energy is not a floating tensor.
        ValueError: at a call: the energy is not of shape [B] or [B, 1], or nothing of x is in it.

    Source: LeCun et al. 2006, "A tutorial on energy-based learning"; Song & Kingma 2021, "How to train your
    energy-based models", section 2.

    Example:
        >>> score = energy_score(lambda x: x.square().sum(1) / 2)  # of N(0, I)
        >>> score(torch.tensor([[1.0, -2.0]])).detach()
        tensor([[-1.,  2.]])
    """
    return EnergyScore(energy_fn)


def _energies(value: Any, x: Tensor, name: str) -> Tensor:
    """[B] or [B, 1], checked."""
    checks.floating(f"the output of {name}", value, batched=False)
    if value.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(
            f"the output of {name} must be one energy for each sample, of shape ({len(x)},) or ({len(x)}, 1), "
            f"got {checks.describe(value)}"
        )
    return value


def _ordinary(value: Any) -> Any:
    """A tensor that autograd may save; what is made in inference mode it may not."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
