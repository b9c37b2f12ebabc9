"""What a call of a network does: its own forward and no more, so that something equal may be called in its place?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NO_INTERPOLATION = (
    "interpolate must be False for a score_fn without at_level(label) of its own, which NCSN has, and with model_kwargs: "
    "interpolation cannot be combined with a class or other guidance (fastscore.guidance), got True"
)


def hooked(module: nn.Module) -> bool:
    """Whether a function is called with what goes into the module or comes out of it, or with their gradients."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def offers_levels(score_fn: Any) -> bool:
    """Whether ``score_fn`` is a network with ``at_level``, and calling it does no more than its own ``forward``."""
    if not isinstance(score_fn, nn.Module) or torch.compiler.is_compiling():
        return False
    owner = next((c for c in type(score_fn).__mro__ if {"forward", "at_level"} & vars(c).keys()), nn.Module)
    own = {"forward", "at_level"} <= vars(owner).keys() and "forward" not in vars(score_fn)
    return own and not hooked(score_fn)


def at_level(network: Callable[..., Tensor], label: float) -> Callable[[Tensor], Tensor]:
    """score(x), what ``network`` gives for the label ``label`` of every sample: by its own ``at_level``, or by a call."""
    if offers_levels(network):
        score: Callable[[Tensor], Tensor] = network.at_level(label)  # type: ignore[attr-defined]  # just asked for
        return score
    return called(network, label)


def called(network: Callable[..., Tensor], label: float) -> Callable[[Tensor], Tensor]:
    """score(x), a call of ``network`` with the label ``label`` of every sample.

    Raises:
        ValueError: ``label`` is between two levels.
    """
    if label % 1:
        raise ValueError(f"label must be a level's index for a network that blends no embeddings, got {label}")
    return lambda x: network(x, torch.full(x.shape[:1], label, dtype=torch.int64, device=x.device))
