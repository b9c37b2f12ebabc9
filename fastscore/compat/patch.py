"""The originals' networks on fastscore's operators: :func:`patch_ncsn`, for models that stay what they are otherwise.

A model is built by its own code, of ermongroup/ncsn or ncsnv2, and keeps its classes, parameters and ``state_dict``; what
changes is what computes InstanceNorm++ and the ELU after it::

    net = torch.nn.DataParallel(CondRefineNetDilated(config).to(config.device))
    print(fastscore.patch_ncsn(net))
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .._core import checks
from ..models import layers
from ..ops import instance_norm_plus
from ._flow import Flow, Slot, observe

__all__ = ["FusedInstanceNormPlus", "Patched", "patch_ncsn"]

#: The originals' classes, by name: their modules are not installed packages, and every copy has its own.
CONDITIONAL, PLAIN = "ConditionalInstanceNorm2dPlus", "InstanceNorm2dPlus"
OTHERS = (
    *("ConditionalBatchNorm2d", "ConditionalInstanceNorm2d", "ConditionalVarianceNorm2d", "ConditionalNoneNorm2d"),
    *("VarianceNorm2d", "NoneNorm2d"),
)


class FusedInstanceNormPlus(nn.Module):
    """InstanceNorm++ by fastscore's operator, with the parameters of an original's norm, and its names for them.

    Args:
        norm: an original's ConditionalInstanceNorm2dPlus, whose ``embed`` this one holds (gamma, alpha, beta in this
            order), or InstanceNorm2dPlus, with its ``gamma``, ``alpha`` and ``beta``. Either may lack beta.
        activation: ``"elu"``: what is returned is ELU of the norm. None: the norm.
    """

    def __init__(self, norm: nn.Module, activation: str | None = None) -> None:
        super().__init__()
        for name, parameter in norm.named_parameters(recurse=False):  # in their order, which optimizers go by
            self.register_parameter(name, parameter)
        self.embed: Any = getattr(norm, "embed", None)
        self.num_features: Any = norm.num_features
        self.eps: Any = norm.get_submodule("instance_norm").eps
        self.activation = activation
        self.training = norm.training

    def extra_repr(self) -> str:
        return f"{self.num_features}, activation={self.activation!r}"

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        gamma, alpha, *beta = self._gamma_alpha_beta(y)
        shift = beta[0] if beta else torch.zeros_like(gamma)
        return instance_norm_plus(x, gamma, alpha, shift, eps=self.eps, activation=self.activation)

    def _gamma_alpha_beta(self, y: Tensor | None) -> tuple[Tensor, ...]:
        if self.embed is None:
            return tuple(getattr(self, name) for name in ("gamma", "alpha", "beta") if hasattr(self, name))
        parts: tuple[Tensor, ...] = self.embed(y).split(self.num_features, -1)
        return parts


@dataclass(frozen=True)
class Patched:
    """What :func:`patch_ncsn` changed; ``print`` it.

    Attributes:
        fused: names of the norms that now are one operator with the ELU that follows them.
        norms: names of the norms that now are an operator, and whose activation stayed: with the reason.
        left: names of the norms that were not changed: with the reason.
        already: names of the norms that were fastscore's before.
    """

    fused: tuple[str, ...] = ()
    norms: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    already: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = []
        if self.fused or self.norms or not self.already:
            lines.append(f"patched: {len(self.fused) + len(self.norms)} InstanceNorm++, by instance_norm_plus")
        if self.fused:
            lines.append(f"  {len(self.fused)} with the ELU that follows: {_some(self.fused)}")
        lines += [f"  {len(names)} without: {why}: {_some(names)}" for why, names in _by_reason(self.norms)]
        lines += [f"left as it was: {len(names)}: {why}: {_some(names)}" for why, names in _by_reason(self.left)]
        if self.already:
            lines.append(f"fastscore's already: {len(self.already)} InstanceNorm++: {_some(self.already)}")
        return "\n".join(lines)


def patch_ncsn(module: nn.Module) -> Patched:
    """Have the InstanceNorm++ of a model of the originals' classes, and the ELU after it, computed by one operator.

    Each ConditionalInstanceNorm2dPlus (NCSN) and InstanceNorm2dPlus (NCSNv2) in ``module`` is replaced, in place, by
    :class:`FusedInstanceNormPlus` on the same parameters: outputs and gradients are equal to rounding, the
    ``state_dict`` keeps its keys, and optimizers keep what they hold. Where an ELU (alpha 1) takes the norm's output,
    it becomes part of the norm, and ``nn.Identity`` stands in its place. That is so only where it was seen: the model is
    run on two small images (16 x 16, in training and in evaluation, nothing of it changed), and every use of the
    output was that ELU's, and every use of that ELU was of such an output. Otherwise the norm alone is replaced. A norm
    is left as it is where it has hooks, or where, given random parameters, it does not compute InstanceNorm++. Hooks of
    other modules run with these images.

    Call it before ``torch.compile``. Who calls a fused norm by itself, outside of the model, gets the ELU too.

    Args:
        module: the model, or what it is wrapped in (``nn.DataParallel``).

    Returns:
        What was changed, what was not and why. A model that was patched before, and a network of
        :mod:`fastscore.models`, have the operator already: nothing changes, and that is said.

    Raises:
        TypeError, ValueError: ``module`` is no ``nn.Module``, is a norm itself, or holds none of these norms.

    Source: Song and Ermon 2019, arXiv:1907.05600, appendix A.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {checks.describe(module)}")
    names = {found: name for name, found in module.named_modules()}
    already = tuple(name for found, name in names.items() if isinstance(found, _OURS))
    originals = [found for found in names if _kind(found)]
    if module in originals or not (originals or already):
        raise ValueError(_not_ncsn(module, names))
    left = {norm: why for norm in originals if (why := _why_not(norm))}
    norms = [norm for norm in originals if norm not in left]
    slots = [
        Slot(owner, name)
        for owner in names
        for name, act in owner._modules.items()
        if type(act) is nn.ELU and act.alpha == 1 and not _hooked(act)
    ]
    flow = observe(norms, slots) if norms else Flow()
    pairs = flow.pairs(norms)
    alone = {names[norm]: _why_alone(norm, flow) for norm in norms if norm not in pairs}
    fused = {norm: FusedInstanceNormPlus(norm, "elu" if norm in pairs else None) for norm in norms}
    for owner in names:
        for name, child in owner._modules.items():
            if child in fused:
                owner._modules[name] = fused[child]
    for slot in set(pairs.values()):
        setattr(slot.owner, slot.name, nn.Identity())
    others = {found: "another norm" for found in names if type(found).__name__ in OTHERS}
    return Patched(
        fused=tuple(names[norm] for norm in norms if norm in pairs),
        norms=alone,
        left={names[norm]: why for norm, why in {**left, **others}.items()},
        already=already,
    )


_OURS = (FusedInstanceNormPlus, layers.InstanceNormPlus, layers.ConditionalInstanceNormPlus)


def _kind(module: nn.Module) -> str | None:
    """CONDITIONAL, PLAIN or None, by the names of the module's class and those it derives from."""
    found = {kind.__name__ for kind in type(module).__mro__} & {CONDITIONAL, PLAIN}
    return min(found) if found else None


def _not_ncsn(module: nn.Module, names: Collection[nn.Module]) -> str:
    wanted = f"module must hold norms of ermongroup/ncsn or ncsnv2, {CONDITIONAL} or {PLAIN}"
    if _kind(module):
        return f"{wanted}, got one of these norms itself: pass the network that it is in"
    kinds = Counter(type(found).__name__ for found in names if "Norm" in type(found).__name__)
    held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "no norm"
    return f"{wanted}, got a {type(module).__name__} with {held}"


def _hooked(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in hooks)


def _why_not(norm: nn.Module) -> str | None:
    """Why the norm is left as it is; None where it is InstanceNorm++ for certain."""
    inner, own = getattr(norm, "instance_norm", None), dict(norm.named_parameters())
    width: Any = getattr(norm, "num_features", 0)
    plain = {"gamma": (width,), "alpha": (width,), "beta": (width,)}
    shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
    if _kind(norm) == CONDITIONAL:
        known = list(shapes) == ["embed.weight"] and shapes["embed.weight"][1:] in {(2 * width,), (3 * width,)}
    else:
        known = shapes.keys() >= {"gamma", "alpha"} and all(plain.get(name) == shapes[name] for name in shapes)
    if not known or type(inner) is not nn.InstanceNorm2d or inner.affine or inner.track_running_stats:
        return "its parts are not the original's"
    if _hooked(norm) or _hooked(inner):
        return "it has hooks"
    if width < 2:
        return "the variance over one channel is 0/0"
    if not _computes_the_same(norm, shapes):
        return "it computes something else than InstanceNorm++"
    return None


def _computes_the_same(norm: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the norm and the operator agree on random images and parameters, in float64 on the CPU."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64, device="cpu")

    values = {
        name: normal(2, *shape[1:]) if name == "embed.weight" else normal(*shape) for name, shape in shapes.items()
    }
    width: Any = norm.num_features
    x = normal(2, width, 3, 3) + 2 * normal(2, width, 1, 1)
    given = (x, torch.tensor([1, 0], device="cpu")) if _kind(norm) == CONDITIONAL else (x,)
    with torch.no_grad():
        try:
            theirs = functional_call(norm, values, given)
        except Exception:  # a class that has the name alone may raise anything
            return False
        ours = functional_call(FusedInstanceNormPlus(norm), values, given)
    return isinstance(theirs, Tensor) and theirs.shape == ours.shape and torch.allclose(theirs, ours, 1e-9, 1e-9)


def _why_alone(norm: nn.Module, flow: Flow) -> str:
    """Why no ELU was fused with this norm."""
    if flow.users[norm]:
        return "no ELU takes its output, and it alone"
    raised = [why for owner, why in flow.failed.items() if norm in set(owner.modules())]
    return f"not seen at work ({raised[0][:100]})" if raised else "no ELU is beside it"


def _by_reason(reasons: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, why in reasons.items():
        found[why].append(name)
    return list(found.items())


def _some(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    first = ", ".join(list(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
