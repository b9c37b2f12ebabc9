"""How samplers call a network: which are refused, what they are called with, why they cannot change the samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from .._core import backends, calls, checks
from .._core.errors import caller
from .._core.private_torch import DropoutBase, InstanceNormBase, SpectralNormBase
from ..trace import modules
from ._replay import Level, PerLevel


class Score:
    """``score_fn`` as the samplers call it: with ``model_kwargs``, and without an effect on the samples it is given.

    The first evaluation is given a copy. Where it changes that, so are all that follow; where it does not, they get the
    samples themselves (detached: a gradient may be required of what they get), and one that changes them after all is
    an error.

    Args:
        score_fn: ``score_fn(x, ...)``, of ``x``'s shape.
        model_kwargs: more keyword arguments for it, or None.
        condition: what it is called with beside x: nothing, ``"labels"`` or ``"sigma"``.
        name: what messages call it.

    Raises:
        TypeError: ``score_fn`` is not callable, or ``model_kwargs`` not arguments of it.
        ValueError: a layer of ``score_fn``'s networks would mix the samples, or learn from them.
    """

    def __init__(
        self,
        score_fn: Callable[..., Tensor],
        model_kwargs: Mapping[str, Any] | None = None,
        *condition: str,
        name: str = "score_fn",
    ):
        check_network(score_fn, name)
        self.name, self.score_fn, self.kwargs = name, score_fn, checks.keywords(model_kwargs, score_fn, *condition)
        self.copies, self.evaluations = True, 0

    def __call__(self, x: Tensor, *condition: Tensor, at_level: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``at_level``: what gives the same of x alone."""
        given, version = (x.clone(), None) if self.copies else (x.detach(), x._version)
        try:
            value = self.score_fn(given, *condition, **self.kwargs) if at_level is None else at_level(given)
        except RuntimeError as error:
            if _wants_gradients(error):
                raise RuntimeError(
                    f"{self.name} takes a gradient with respect to x, but it is evaluated under torch.no_grad(), "
                    "which records none: give it as fastscore.energy_score(energy), or take the gradient inside `with "
                    f"torch.enable_grad():`, of x.detach().requires_grad_(). Torch says: {error}"
                ) from error
            raise
        self.evaluations += 1
        if version is None:
            self.copies = self.evaluations > 1 or _changed(given, x)
        elif x._version != version:
            raise ValueError(
                f"{self.name} must not change its x in place, as it did at evaluation {self.evaluations} "
                "though not at the first: let it work on x.clone()"
            )
        return checks.like(f"the output of {self.name}", value, "x", x)


def _changed(given: Tensor, x: Tensor) -> bool:
    """Whether the copy ``given`` is no longer ``x``, or nobody can tell, now or later."""
    if backends.transformed() or given.is_inference() or x.is_meta:
        return True
    return given._version > 0 or not torch.equal(given, x)


def conditioned(
    score_fn: Callable[..., Tensor],
    sigmas: Sequence[float],
    conditioning: str,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Callable[[Tensor, Level], Tensor]:
    """score(x, i) for level i, from a network that takes labels or sigma, [B]; checks what comes back."""
    checks.one_of("conditioning", conditioning, ("labels", "sigma"))
    score, table = Score(score_fn, model_kwargs, conditioning), None
    known: dict[int, Callable[[Tensor], Tensor]] = {}  # of the level that the chain is at
    once = conditioning == "labels" and not score.kwargs and calls.offers_levels(score_fn)

    def at_level(x: Tensor, i: Level) -> Tensor:
        nonlocal table
        batch, compute = x.shape[:1], checks.compute_dtype(x)
        if not isinstance(i, int):  # in a graph, which looks up anew whatever is of a level
            table = table or PerLevel(sigmas, compute, x.device)
            return score(x, (i.number if conditioning == "labels" else table[i]).repeat(batch))
        if once:
            if i not in known:
                known.clear()
                known[i] = calls.at_level(score_fn, i)
            return score(x, at_level=known[i])
        number, dtype = (i, torch.int64) if conditioning == "labels" else (sigmas[i], compute)
        return score(x, torch.full(batch, number, dtype=dtype, device=x.device))

    return at_level


def check_network(score_fn: Callable[..., Tensor], name: str = "score_fn") -> None:
    """Refuse layers that would mix the samples or learn from them; warn of those that differ from call to call."""
    if not callable(score_fn):
        raise TypeError(f"{name} must be callable, got {checks.describe(score_fn)}")
    modules.check(score_fn, "jvp", name)
    if torch.compiler.is_compiling():
        return
    fickle = []
    for network in modules.networks(score_fn):
        for path, layer in network.named_modules():
            which = f"{modules.kind(layer)} {path!r}"
            learned = getattr(layer, "running_mean", None)
            if modules.is_a(layer, InstanceNormBase) and layer.training and learned is not None:
                raise ValueError(
                    f"{name} must leave its network as it is while it is sampled from or judged, got a network whose "
                    f"{which} learns running statistics: call .eval() on the network"
                )
            if layer.training and _fickle(layer):
                fickle.append(which)
    if fickle:
        warnings.warn(
            f"{name} has a network whose {fickle[0]} is in training mode and makes it another function at "
            "every call: what is drawn or found then depends on torch's own random state, or on the calls before, not on rng "
            "alone. Call .eval() on the network",
            stacklevel=caller(),
        )


def _fickle(layer: nn.Module) -> bool:
    """Whether the layer, in training mode, draws masks or slopes, or moves on an iteration."""
    if modules.is_a(layer, DropoutBase):
        return getattr(layer, "p", 1) > 0  # which a trace has no more
    if isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)):
        return layer.dropout > 0 and getattr(layer, "num_layers", 2) > 1
    return isinstance(layer, (nn.RReLU, SpectralNormBase)) or any(
        isinstance(hook, SpectralNorm) for hook in layer._forward_pre_hooks.values()
    )


def _wants_gradients(error: RuntimeError) -> bool:
    """Whether ``error`` is torch.autograd's, about something that does not record gradients."""
    trace, inside = error.__traceback__, ""
    while trace is not None:
        inside, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return inside.startswith("torch.autograd") and "require grad" in str(error)
