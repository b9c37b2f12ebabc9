"""What a run may turn on for speed, TF32 and torch.compile, and what it may give up of it: to be the same each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .._core.float32 import tf32 as tf32  # what a run may turn on


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Inside, where ``wanted``, a CUDA device's results are the same from run to run, bit for bit.

    Where torch has no such algorithm it raises, and names the operation. A CPU's results always are, and cost nothing.
    """
    if not wanted or device.type == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which torch refuses products
    memory: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # nothing here reads what nothing wrote
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = fill


def compiled(network: nn.Module, wanted: bool) -> nn.Module:
    """``network`` compiled by torch.compile when it is first called, with the same parameters; or itself."""
    return torch.compile(network) if wanted else network  # type: ignore[return-value]  # a module of a module
