"""The originals' networks on fastscore's operators: :func:`patch_ncsn`, for models that stay what they are otherwise.

A model is built by its own code, of ermongroup/ncsn or ncsnv2, and keeps its classes, parameters and ``state_dict``; what
changes is what computes InstanceNorm++ and the ELU after it::

    net = torch.nn.DataParallel(CondRefineNetDilated(config).to(config.device))
    print(fastscore.patch_ncsn(net))
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from ..models import layers
from ..ops import elu, instance_norm_plus, mean_pool
from ._flow import Slot, observe
from ._originals import elu_slots, is_other, is_pool, kind, not_ncsn, why_not

__all__ = ["FusedELU", "FusedInstanceNormPlus", "FusedMeanPool", "Patched", "patch_ncsn"]


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


class FusedELU(nn.ELU):
    """ELU (alpha 1) by fastscore's operator."""

    def forward(self, input: Tensor) -> Tensor:
        return elu(input)


class FusedMeanPool(nn.AvgPool2d):
    """The mean over a square window at stride 1, by fastscore's operator; the size stays."""

    def forward(self, input: Tensor) -> Tensor:
        size = self.kernel_size if isinstance(self.kernel_size, int) else self.kernel_size[0]
        return mean_pool(input, size) if input.dim() == 4 else mean_pool(input[None], size)[0]


@dataclass(frozen=True)
class Patched:
    """What :func:`patch_ncsn` changed; ``print`` it.

    Attributes:
        fused: names of the norms that now are one operator with the ELU that follows them.
        norms: names of the norms that now are an operator, and whose activation stayed: with the reason.
        elus: names of the other ELUs that now are an operator.
        pools: names of the average poolings that now are an operator.
        left: names of the norms that were not changed: with the reason.
        already: names of the norms that were fastscore's before.
    """

    fused: tuple[str, ...] = ()
    norms: Mapping[str, str] = field(default_factory=dict)
    elus: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    already: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = []
        if self.fused or self.norms or not self.already:
            lines.append(f"patched: {len(self.fused) + len(self.norms)} InstanceNorm++, by instance_norm_plus")
        if self.fused:
            lines.append(f"  {len(self.fused)} with the ELU that follows: {_some(self.fused)}")
        lines += [f"  {len(names)} without: {why}: {_some(names)}" for why, names in _by_reason(self.norms)]
        if self.elus:
            lines.append(f"patched: {len(self.elus)} ELU, by elu: {_some(self.elus)}")
        if self.pools:
            lines.append(f"patched: {len(self.pools)} average poolings, by mean_pool: {_some(self.pools)}")
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
    output was that ELU's, and every use of that ELU was of such an output. Otherwise the norm alone is replaced. The
    other ELUs (:class:`FusedELU`) and average poolings of stride 1 (:class:`FusedMeanPool`) are replaced too. A norm is
    left as it is where it has hooks, or where, given random parameters, it does not compute InstanceNorm++. Hooks of
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
    originals = [found for found in names if kind(found)]
    if module in originals or not (originals or already):
        raise ValueError(not_ncsn(module, names))
    if not originals:
        return Patched(already=already)
    left = {norm: why for norm in originals if (why := why_not(norm, FusedInstanceNormPlus))}
    norms, slots = [norm for norm in originals if norm not in left], elu_slots(names)
    flow = observe(norms, slots)
    pairs = flow.pairs(norms)
    taken = set(pairs.values())
    lone = [slot for slot in slots if slot not in taken and not slot.act.inplace]
    changed = Patched(
        fused=tuple(names[norm] for norm in norms if norm in pairs),
        norms={names[norm]: flow.why_alone(norm) for norm in norms if norm not in pairs},
        elus=tuple(f"{names[slot.owner]}.{slot.name}".removeprefix(".") for slot in lone),
        pools=tuple(name for found, name in names.items() if is_pool(found)),
        left={
            name: left.get(found, "another norm") for found, name in names.items() if found in left or is_other(found)
        },
        already=already,
    )
    _replace(names, {norm: "elu" if norm in pairs else None for norm in norms}, taken, lone)
    return changed


def _replace(
    modules: Collection[nn.Module],
    norms: Mapping[nn.Module, str | None],
    taken: Collection[Slot],
    lone: Collection[Slot],
) -> None:
    """Put ours in the place of the norms, with the activation that each takes over, of poolings and of lone ELUs."""
    ours: dict[nn.Module, nn.Module] = {norm: FusedInstanceNormPlus(norm, act) for norm, act in norms.items()}
    ours |= {pool: FusedMeanPool(pool.kernel_size, 1, pool.padding) for pool in modules if is_pool(pool)}
    for owner in modules:
        for name, child in owner._modules.items():
            if child is not None and child in ours:
                owner._modules[name] = ours[child]
                ours[child].training = child.training
    for slots, kind_of in ((taken, nn.Identity), (lone, FusedELU)):
        for slot in slots:
            setattr(slot.owner, slot.name, kind_of().train(slot.act.training))


_OURS = (FusedInstanceNormPlus, layers.InstanceNormPlus, layers.ConditionalInstanceNormPlus)


def _by_reason(reasons: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, why in reasons.items():
        found[why].append(name)
    return list(found.items())


def _some(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    first = ", ".join(list(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
