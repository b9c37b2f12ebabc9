"""CUDA graphs without a GPU: the operations of a call, recorded on the CPU and run again on the memory that they had.

What a replay does is what a graph's does: Python does not run, numbers are those of the recording, tensors are read and
written where they lay. A step that hides a number of its own in Python gives there what it would on a GPU: wrong numbers.
"""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from fastscore._core import checks, graphs


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value is read on the host")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, [t for t in tree_flatten(out)[0] if isinstance(t, Tensor)]))
        return out

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, outs in self.calls:
                again = [t for t in tree_flatten(func(*args, **kwargs))[0] if isinstance(t, Tensor)]
                for old, new in zip(outs, again, strict=True):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)


def recorded(function, device):
    """In place of :func:`graphs.recorded`. The recording is a run, and so the first replay is none."""
    tape = _Tape()
    with tape, patch.object(checks, "readable", lambda value: False):  # as on a device
        function()
    first = iter([True])

    def replay():
        if not next(first, False):  # the recording was the first of them
            tape.replay()

    return replay


def graphs_on_the_cpu(monkeypatch):
    """Have graphs on the CPU too, by these recordings; returns a list of all graphs, to see that there were any."""
    made, on_cuda = [], graphs.recorded

    def record(function, device):
        made.append((function, device))
        return (recorded if torch.device(device).type == "cpu" else on_cuda)(function, device)

    monkeypatch.setattr(graphs, "KINDS", {"cuda", "cpu"})
    monkeypatch.setattr(graphs, "recorded", record)
    return made
