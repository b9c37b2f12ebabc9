"""What can be seen of the networks inside a function: layers that mix samples, or that draw masks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Set
from types import CodeType, MemberDescriptorType
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from .. import _check


def check(f: Callable, mode: str, name: str = "f") -> None:
    """Raise if f, an argument called ``name``, is not callable, or has a layer that the estimate cannot bear."""
    if not callable(f):
        raise TypeError(f"{name} must be a function of x, [B, ...] -> [B, ...], got {_check.describe(f)}")
    if torch.compiler.is_compiling():
        return
    for network in networks(f):
        for where, layer in network.named_modules():
            which = f"a network whose {type(layer).__name__} {where!r}"
            if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
                advice = "call .eval() on the network" if layer.training else "give it track_running_stats=True"
                raise ValueError(f"{name} must act on each sample by itself, got {which} normalises by statistics of "
                                 f"the batch: {advice}")
            if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0 and mode == "fd":
                raise ValueError(f"{name} must be the same function at every call for finite differences, got {which} "
                                 "draws a mask: call .eval() on the network")


def networks(f: Any, seen: set[int] | None = None, names: frozenset[str] = frozenset()) -> Iterator[torch.nn.Module]:
    """The modules that f is or may call: f is a method or a ``functools.partial`` of one, or holds it in its closure,
    its defaults or a container, or its code mentions it by name, as a global or as an object's attribute.

    What a function makes, or looks up otherwise, while it runs is not seen.
    """
    seen = set() if seen is None else seen
    if id(f) in seen:
        return
    seen.add(id(f))
    if isinstance(f, torch.nn.Module):
        yield f
        return
    if isinstance(f, functools.partial):
        parts = [f.func, *f.args, *f.keywords.values()]
    elif inspect.ismethod(f):
        own = isinstance(f.__self__, torch.nn.Module)
        parts = [f.__func__, *([f.__self__] if own else _attributes(f.__self__, mentioned(f.__func__)))]
    elif inspect.isfunction(f):
        names = mentioned(f)
        parts = [part for cell in f.__closure__ or () for part in contents(cell)]
        parts += [*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()]
        if not _of_a_library(f.__globals__.get("__name__")):
            parts += [f.__globals__[name] for name in names if name in f.__globals__]
    elif isinstance(f, (list, tuple)):
        parts = list(f)
    elif isinstance(f, dict):
        parts = list(f.values())
    elif isinstance(f, type) or inspect.ismodule(f) or _of_a_library(type(f).__module__):
        return
    else:
        used = {name for name in names if inspect.getattr_static(f, name, None) is not None}
        parts = _attributes(f, used or {"__call__"})  # the code that holds it uses these, or calls it
    for part in parts:
        yield from networks(part, seen, names)


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
            if inspect.isfunction(held):
                wanted |= mentioned(held) - done
            parts.append(getattr(obj, name) if isinstance(held, MemberDescriptorType) else held)
    return parts


def mentioned(f: Any) -> frozenset[str]:
    """The names of globals and attributes in the code of a function, and of the functions inside it."""
    return _names(f.__code__) if inspect.isfunction(f) else frozenset()


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> frozenset[str]:
    inner = (_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return frozenset(code.co_names).union(*inner)


def contents(cell: Any) -> list[Any]:
    """What a cell of a closure holds: nothing where it was not set yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []
