"""What is the originals' in a network: their norms, told by their names and by what they compute, and poolings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .._core.calls import hooked
from ._flow import Slot

#: The originals' classes, by name: their modules are not installed packages, and every copy has its own.
CONDITIONAL, PLAIN = "ConditionalInstanceNorm2dPlus", "InstanceNorm2dPlus"
_OTHERS = (
    *("ConditionalBatchNorm2d", "ConditionalInstanceNorm2d", "ConditionalVarianceNorm2d", "ConditionalNoneNorm2d"),
    *("VarianceNorm2d", "NoneNorm2d"),
)


def kind(module: nn.Module) -> str | None:
    """CONDITIONAL, PLAIN or None, by the names of the module's class and those it derives from."""
    found = {kind.__name__ for kind in type(module).__mro__} & {CONDITIONAL, PLAIN}
    return min(found) if found else None


def is_other(module: nn.Module) -> bool:
    """Whether it is one of the originals' other norms."""
    return type(module).__name__ in _OTHERS


def is_pool(module: nn.Module | None) -> TypeGuard[nn.AvgPool2d]:
    """Whether it is an average over a square window of odd size at stride 1, zeros counted, that keeps the size."""
    if type(module) is not nn.AvgPool2d or hooked(module):
        return False
    size, padding = (_square(value) for value in (module.kernel_size, module.padding))
    plain = module.count_include_pad and not module.ceil_mode and module.divisor_override is None
    return plain and _square(module.stride) == 1 and padding >= 0 and size == 2 * padding + 1


def _square(value: int | tuple[int, ...]) -> int:
    """The one number of a window, or -1 where its sides differ."""
    sides = {value} if isinstance(value, int) else set(value)
    return sides.pop() if len(sides) == 1 else -1


def elu_slots(modules: Iterable[nn.Module]) -> list[Slot]:
    """Where an ELU of alpha 1 is, without hooks; one that is in several places has as many slots."""
    return [
        Slot(owner, name)
        for owner in modules
        for name, act in owner._modules.items()
        if type(act) is nn.ELU and act.alpha == 1 and not hooked(act)
    ]


def not_ncsn(module: nn.Module, modules: Collection[nn.Module]) -> str:
    """The message for a model that has none of these norms: which it has."""
    wanted = f"module must hold norms of ermongroup/ncsn or ncsnv2, {CONDITIONAL} or {PLAIN}"
    if kind(module):
        return f"{wanted}, got one of these norms itself: pass the network that it is in"
    kinds = Counter(type(found).__name__ for found in modules if "Norm" in type(found).__name__)
    held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "no norm"
    return f"{wanted}, got a {type(module).__name__} with {held}"


def why_not(norm: nn.Module, ours: Callable[[nn.Module], nn.Module]) -> str | None:
    """Why the norm is left as it is; None where it is InstanceNorm++ for certain, which ``ours(norm)`` computes."""
    inner, own = getattr(norm, "instance_norm", None), dict(norm.named_parameters())
    width: Any = getattr(norm, "num_features", 0)
    plain = {"gamma": (width,), "alpha": (width,), "beta": (width,)}
    shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
    if kind(norm) == CONDITIONAL:
        known = list(shapes) == ["embed.weight"] and shapes["embed.weight"][1:] in {(2 * width,), (3 * width,)}
    else:
        known = shapes.keys() >= {"gamma", "alpha"} and all(plain.get(name) == shapes[name] for name in shapes)
    known = known and norm.state_dict().keys() == own.keys()  # no buffers
    if not known or type(inner) is not nn.InstanceNorm2d or inner.affine or inner.track_running_stats:
        return "its parts are not the original's"
    if hooked(norm) or hooked(inner):
        return "it has hooks"
    if width < 2:
        return "the variance over one channel is 0/0"
    if not _computes_the_same(norm, ours(norm), shapes):
        return "it computes something else than InstanceNorm++"
    return None


def _computes_the_same(norm: nn.Module, ours: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the norm and the operator agree on random images and parameters, in float64 on the CPU."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64, device="cpu")

    values = {
        name: normal(2, *shape[1:]) if name == "embed.weight" else normal(*shape) for name, shape in shapes.items()
    }
    width: Any = norm.num_features
    x = normal(2, width, 3, 3) + 2 * normal(2, width, 1, 1)
    given = (x, torch.tensor([1, 0], device="cpu")) if kind(norm) == CONDITIONAL else (x,)
    with torch.no_grad():
        try:
            theirs = functional_call(norm, values, given)
        except Exception:  # a class that has the name alone may raise anything
            return False
        found = functional_call(ours, values, given)
    return isinstance(theirs, Tensor) and theirs.shape == found.shape and torch.allclose(theirs, found, 1e-9, 1e-9)
