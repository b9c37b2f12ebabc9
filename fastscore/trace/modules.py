"""What can be seen of the networks inside a function: layers that mix samples, that draw masks, or that torch
differentiates in a way of their own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from .. import _check
from ..energy import EnergyScore


class Layers(NamedTuple):
    """Which kinds of layers a function holds that torch differentiates in a way of their own."""

    recurrent: bool = False
    compiled: bool = False  # by torch.compile
    parallel: bool = False  # in a DistributedDataParallel


NOTHING = Layers()


def check(f: Callable, mode: str, name: str = "f") -> Layers:
    """What f holds; raise if f, an argument called ``name``, is not callable, or has a layer that the estimate cannot
    bear."""
    if not callable(f):
        raise TypeError(f"{name} must be a function of x, [B, ...] -> [B, ...], got {_check.describe(f)}")
    if torch.compiler.is_compiling():
        return NOTHING
    recurrent = compiled = parallel = False
    for part in parts(f):
        if not isinstance(part, torch.nn.Module):
            refuse_script(part, mode, name)
            compiled |= hasattr(part, "_torchdynamo_orig_callable")
            continue
        for where, layer in part.named_modules():
            refuse(layer, where, mode, name)
            recurrent |= isinstance(layer, torch.nn.RNNBase)
            compiled |= "_orig_mod" in layer._modules or getattr(layer, "_compiled_call_impl", None) is not None
            parallel |= isinstance(layer, DistributedDataParallel)
    return Layers(recurrent, compiled, parallel)


def refuse_script(part: Any, mode: str, name: str) -> None:
    """Raise for TorchScript in forward mode: from its second call on its executor loses the tangents, in silence."""
    if mode == "jvp" and isinstance(part, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ValueError(f"{name} must not hold TorchScript, here {type(part).__name__}, for mode='jvp', which its "
                         "executor does not differentiate: pass mode='vjp', or the network before it was scripted")


def refuse(layer: torch.nn.Module, where: str, mode: str, name: str) -> None:
    """Raise if the layer mixes samples, draws masks for differences, or is a wrapper that forward mode cannot enter."""
    which = f"a network whose {type(layer).__name__} {where!r}"
    refuse_script(layer, mode, name)
    if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
        advice = "call .eval() on the network" if layer.training else "give it track_running_stats=True"
        raise ValueError(f"{name} must act on each sample by itself, got {which} normalises by statistics of the "
                         f"batch: {advice}")
    if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0 and mode == "fd":
        raise ValueError(f"{name} must be the same function at every call for finite differences, got {which} draws a "
                         "mask: call .eval() on the network")
    if isinstance(layer, DistributedDataParallel) and mode == "jvp":
        raise ValueError(f"{name} must not be in a DistributedDataParallel for mode='jvp', which its forward pass does "
                         "not take: pass mode='vjp', or the network inside, its .module (whose gradients are then not "
                         "averaged over the ranks)")


def networks(f: Any) -> Iterator[torch.nn.Module]:
    """The modules that f is, is a method of, is a ``functools.partial`` of, or that its code names: in its closure, as
    defaults, as attributes of what it holds there, or as global variables."""
    return (part for part in parts(f) if isinstance(part, torch.nn.Module))


def parts(f: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """The same, and the functions among them."""
    seen = set() if seen is None else seen
    if id(f) in seen:
        return
    seen.add(id(f))
    if isinstance(f, torch.nn.Module):
        yield f
        within = [f.energy] if isinstance(f, EnergyScore) else []
    elif isinstance(f, functools.partial):
        within = [f.func, *f.args, *f.keywords.values()]
    elif inspect.ismethod(f):
        within = [f.__self__, f.__func__, *named(f.__func__, f.__self__)]
    elif isinstance(f, torch.jit.ScriptFunction):
        yield f
        return
    elif inspect.isfunction(f):
        yield f
        held = [part for cell in f.__closure__ or () for part in contents(cell)]
        held += [*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()]
        within = held + [part for value in held for part in named(f, value)]
        within += [value for name in f.__code__.co_names if is_part(value := f.__globals__.get(name), f.__globals__)]
    elif callable(f) and inspect.isfunction(called := vars(type(f)).get("__call__")):
        within = named(called, f)
    else:
        return
    for part in within:
        yield from parts(part, seen)


def is_part(value: Any, variables: dict[str, Any]) -> bool:
    """Whether a global variable is a network, or a function of the same file, which may call one."""
    return isinstance(value, torch.nn.Module) or (inspect.isfunction(value) and value.__globals__ is variables)


def named(function: Any, value: Any) -> list[Any]:
    """The networks among the attributes of ``value`` that the code of ``function`` names, as in ``self.net(x)``."""
    code = getattr(function, "__code__", None)
    if code is None or isinstance(value, torch.nn.Module) or not hasattr(value, "__dict__"):
        return []
    return [part for name in code.co_names if isinstance(part := vars(value).get(name), torch.nn.Module)]


def contents(cell: Any) -> list[Any]:
    """What a cell of a closure holds: nothing where it was not set yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []
