"""What can be seen of the networks inside a function: layers that mix samples, that draw masks, or that torch
differentiates in a way of their own."""

from __future__ import annotations

import dis
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Set
from types import CodeType, FunctionType, MemberDescriptorType, MethodType
from typing import Any, NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel

from .._core import checks
from .._core.private_torch import BatchNormBase, DropoutBase, InstanceNormBase


class Layers(NamedTuple):
    """Which kinds of layers a function holds that torch differentiates in a way of their own, or not at all."""

    recurrent: bool = False
    compiled: bool = False  # by torch.compile
    parallel: bool = False  # in a DistributedDataParallel
    scripted: bool = False  # by TorchScript
    normed: bool = False  # by a sample's own mean and spread


NOTHING = Layers()
_FUNCTIONS = (FunctionType, MethodType, functools.partial)
_PLAIN = frozenset({type(None), bool, int, float, str, tuple, list, set, dict, OrderedDict})


def check(f: Callable, mode: str, name: str = "f", *, strict: bool = True) -> Layers:
    """What f holds; raise if f, an argument called ``name``, is not callable, or (where ``strict``, and f does not
    call ``eval`` itself) has a layer that the estimate cannot bear."""
    if not callable(f):
        raise TypeError(f"{name} must be a function of x, [B, ...] -> [B, ...], got {checks.describe(f)}")
    if torch.compiler.is_compiling():
        return NOTHING
    held = list(parts(f))
    strict = strict and not sets_mode(held)
    recurrent = compiled = parallel = scripted = normed = False
    for part in held:
        if not isinstance(part, torch.nn.Module):
            scripted |= isinstance(part, torch.jit.ScriptFunction)
            compiled |= hasattr(part, "_torchdynamo_orig_callable")
            continue
        for path, layer in part.named_modules():
            if strict:
                refuse(layer, path, mode, name)
            recurrent |= isinstance(layer, torch.nn.RNNBase)
            compiled |= "_orig_mod" in layer._modules or getattr(layer, "_compiled_call_impl", None) is not None
            parallel |= isinstance(layer, DistributedDataParallel)
            scripted |= isinstance(layer, torch.jit.ScriptModule)
            normed |= isinstance(layer, (torch.nn.LayerNorm, InstanceNormBase))
    return Layers(recurrent, compiled, parallel, scripted, normed)


def sets_mode(held: Iterable[Any]) -> bool:
    """Whether one of these :func:`parts` puts a network in eval mode: the mode that it has before says nothing then."""
    return any(
        inspect.isfunction(part) and not _of_a_library(part.__module__) and "eval" in mentioned(part) for part in held
    )


def refuse(layer: torch.nn.Module, path: str, mode: str, name: str) -> None:
    """Raise if the layer mixes samples, or draws masks for differences."""
    which = f"a network whose {kind(layer)} {path!r}"
    if is_a(layer, BatchNormBase) and (layer.training or getattr(layer, "running_mean", None) is None):
        advice = "call .eval() on the network" if layer.training else "give it track_running_stats=True"
        raise ValueError(
            f"{name} must act on each sample by itself, got {which} normalises by statistics of the batch: {advice}"
        )
    if is_a(layer, DropoutBase) and layer.training and getattr(layer, "p", 1) > 0 and mode == "fd":
        raise ValueError(
            f"{name} must be the same function at every call for finite differences, got {which} draws a "
            "mask: call .eval() on the network"
        )


def kind(layer: torch.nn.Module) -> str:
    """The name of the layer's class, of what it was before TorchScript took it."""
    return getattr(layer, "original_name", "") if isinstance(layer, torch.jit.ScriptModule) else type(layer).__name__


def is_a(layer: torch.nn.Module, cls: type[torch.nn.Module]) -> bool:
    """Whether the layer is one, or was before TorchScript took it, which keeps the name of its class alone."""
    if not isinstance(layer, torch.jit.ScriptModule):
        return isinstance(layer, cls)
    return kind(layer) == cls.__name__ or any(is_a(layer, sub) for sub in cls.__subclasses__())


def refuse_forward_mode(layers: Layers, name: str) -> None:
    """Raise for wrappers that forward mode cannot enter, and for TorchScript, which silently loses tangents from its
    second call on."""
    if layers.parallel:
        raise ValueError(
            f"{name} must not be in a DistributedDataParallel for mode='jvp', which its forward pass does "
            "not take: pass mode='vjp', or the network inside, its .module (whose gradients are then not "
            "averaged over the ranks)"
        )
    if layers.scripted:
        raise ValueError(
            f"{name} must not hold TorchScript for mode='jvp', which its executor does not differentiate: "
            "pass mode='vjp', or the network before it was scripted"
        )


def networks(f: Any) -> list[torch.nn.Module]:
    """The modules among the :func:`parts` of f; none where f sets their mode itself."""
    held = list(parts(f))
    return [] if sets_mode(held) else [part for part in held if isinstance(part, torch.nn.Module)]


def parts(f: Any, seen: set[int] | None = None, names: frozenset[str] = frozenset()) -> Iterator[Any]:
    """The modules that f is or may call, and the functions among what leads to them.

    f is a method or a ``functools.partial`` of one, or holds it in its closure, its defaults or a container, or its
    code mentions it by name, as a global or as an attribute of an object, a class or a module. A network holds those
    that it has registered, and what the functions among its attributes hold, as ours have that were made of functions
    (guidance, energies, converted scores). What a function makes or looks up otherwise while it runs is not seen.
    """
    seen = set() if seen is None else seen
    if id(f) in seen:
        return
    seen.add(id(f))
    if isinstance(f, torch.nn.Module):
        yield f
        within = [held for part in f.modules() for held in _held(part)]
    elif isinstance(f, torch.jit.ScriptFunction):
        yield f
        return
    elif isinstance(f, functools.partial):
        within = [f.func, *f.args, *f.keywords.values()]
    elif inspect.ismethod(f):
        own = isinstance(f.__self__, torch.nn.Module)
        within = [f.__func__, *([f.__self__] if own else _attributes(f.__self__, mentioned(f.__func__)))]
    elif inspect.isfunction(f):
        yield f
        names, variables = mentioned(f), _names(f.__code__).variables
        within = [part for cell in f.__closure__ or () for part in contents(cell)]
        within += [*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()]
        if not _of_a_library(f.__globals__.get("__name__")):
            within += [f.__globals__[name] for name in variables if name in f.__globals__]
    elif isinstance(f, (list, tuple)):
        within = list(f)
    elif isinstance(f, dict):
        within = list(f.values())
    elif inspect.ismodule(f):  # what else a module has may be anything
        within = [net for name in names if isinstance(net := vars(f).get(name), torch.nn.Module)]
    elif isinstance(f, (staticmethod, classmethod)):
        within = [f.__func__]
    elif isinstance(f, type):
        within = [] if _of_a_library(f.__module__) else _attributes(f, names)
    elif _of_a_library(type(f).__module__):
        return
    else:
        used = {name for name in names if inspect.getattr_static(f, name, None) is not None}
        within = _attributes(f, used or {"__call__"})  # the code that holds it uses these, or calls it
    for part in within:
        yield from parts(part, seen, names)


def _held(network: torch.nn.Module) -> list[Any]:
    """The functions among a network's attributes, and of one of ours whatever else it may call."""
    ours = type(network).__module__.startswith("fastscore.")
    return [
        value
        for value in vars(network).values()
        if type(value) not in _PLAIN  # most, of hundreds of layers that are looked at in every call of a loss
        and (isinstance(value, _FUNCTIONS) or (ours and callable(value) and not isinstance(value, torch.nn.Module)))
    ]


def _of_a_library(module: str | None) -> bool:
    """Whether code of this module calls what it is given, and no network of its own."""
    return (module or "").partition(".")[0] in ("torch", "numpy", "fastscore", "builtins")


def _attributes(obj: Any, names: Set[str]) -> list[Any]:
    """What ``obj`` holds under ``names``, the names that the code which holds it mentions, and those that the methods
    among them mention, and so on."""
    parts, wanted, done = [], set(names), set()
    while wanted:
        done |= wanted
        found, wanted = wanted, set()
        for name in found:
            held = inspect.getattr_static(obj, name, None)
            code = next((getattr(held, of) for of in ("fget", "func", "__func__") if hasattr(held, of)), held)
            wanted |= mentioned(code) - done
            parts.append(getattr(obj, name) if isinstance(held, MemberDescriptorType) else held)
    return parts


def mentioned(f: Any) -> frozenset[str]:
    """The names of attributes in the code of a function, and of the functions inside it."""
    return _names(f.__code__).attributes if inspect.isfunction(f) else frozenset()


class _Names(NamedTuple):
    """The names in a piece of code."""

    variables: frozenset[str]  # global ones
    attributes: frozenset[str]


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> _Names:
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    loads = [(step.opname, step.argval) for step in dis.get_instructions(code) if step.opname.startswith("LOAD_")]
    variables = {name for kind, name in loads if kind in ("LOAD_GLOBAL", "LOAD_NAME")}
    attributes = {name for kind, name in loads if kind in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")}
    return _Names(
        frozenset(variables).union(*(part.variables for part in inner)),
        frozenset(attributes).union(*(part.attributes for part in inner)),
    )


def contents(cell: Any) -> list[Any]:
    """What a cell of a closure holds: nothing where it was not set yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []
