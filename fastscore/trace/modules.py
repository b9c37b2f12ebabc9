"""What can be seen of the networks inside a function: layers that mix samples, or that draw masks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
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


def networks(f: Any, seen: set[int] | None = None) -> Iterator[torch.nn.Module]:
    """The modules that f is, is a method of, is a ``functools.partial`` of, or holds in its closure."""
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
        parts = [f.__self__, f.__func__]
    elif inspect.isfunction(f):
        parts = [part for cell in f.__closure__ or () for part in contents(cell)]
    else:
        return
    for part in parts:
        yield from networks(part, seen)


def contents(cell: Any) -> list[Any]:
    """What a cell of a closure holds: nothing where it was not set yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []
