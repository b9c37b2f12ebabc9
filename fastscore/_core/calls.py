"""What a call of a network does: its own forward and no more, so that something equal may be called in its place?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .private_torch import transformed

_NO_INTERPOLATION = (
    "interpolate must be False for a score_fn without at_level(label) of its own, which NCSN has, alone and in "
    "fastscore.guidance's with_label, classifier_free and autoguidance, or whose at_level does not take what model_kwargs "
    "name, got True"
)


def leaving_x(name: str, f: Callable[..., Any], x: Tensor, /, *condition: Any, **keywords: Any) -> Any:
    """f(x, ...), once it is known that f, an argument called ``name``, left x as it was: whoever goes on with x after the call,
    or calls another function of it, would go on with something else.

    Raises:
        ValueError: f changed x in place (seen where torch counts that: not under torch.func, torch.compile or inference mode).
    """
    before = None if transformed() or x.is_inference() else x._version
    value = f(x, *condition, **keywords)
    if before is not None and x._version != before:
        raise ValueError(f"{name} must not change its input in place: let it work on a clone of that")
    return value


def score(name: str, f: Callable[..., Any], x: Tensor, /, *condition: Any, **keywords: Any) -> Tensor:
    """:func:`leaving_x`, whose value is known to be of x's shape."""
    return checks.like(f"the output of {name}", leaving_x(name, f, x, *condition, **keywords), "x", x)


def hooked(module: nn.Module) -> bool:
    """Whether a function is called with what goes into the module or comes out of it, or with their gradients."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def offers_levels(score_fn: Any, keywords: Iterable[str] = ()) -> bool:
    """Whether ``score_fn`` is a network with ``at_level``, which takes ``keywords``, and calling it does no more than its
    own ``forward``."""
    if not isinstance(score_fn, nn.Module) or torch.compiler.is_compiling():
        return False
    owner = next((c for c in type(score_fn).__mro__ if {"forward", "at_level"} & vars(c).keys()), nn.Module)
    own = {"forward", "at_level"} <= vars(owner).keys() and "forward" not in vars(score_fn)
    if not own or hooked(score_fn):
        return False
    method: Any = score_fn.at_level
    taken = inspect.signature(method).parameters.values() if keywords else ()
    return set(keywords) <= {p.name for p in taken} or any(p.kind is p.VAR_KEYWORD for p in taken)


def at_level(network: Callable[..., Tensor], label: float, **keywords: Any) -> Callable[[Tensor], Tensor]:
    """score(x), what ``network`` gives for the label ``label`` of every sample: by its own ``at_level``, or by a call.

    Raises:
        ValueError: ``label`` is between two levels, and the network has no ``at_level`` that takes ``keywords``.
    """
    if offers_levels(network, keywords):
        score: Callable[[Tensor], Tensor] = network.at_level(label, **keywords)  # type: ignore[attr-defined]  # just asked for
        return score
    if label % 1:
        raise ValueError(_NO_INTERPOLATION)
    return called(network, label, **keywords)


def called(network: Callable[..., Tensor], label: float, **keywords: Any) -> Callable[[Tensor], Tensor]:
    """score(x), a call of ``network`` with the label ``label`` of every sample.

    Raises:
        ValueError: ``label`` is between two levels.
    """
    if label % 1:
        raise ValueError(f"label must be a level's index for a network that blends no embeddings, got {label}")
    return lambda x: network(x, torch.full(x.shape[:1], label, dtype=torch.int64, device=x.device), **keywords)
