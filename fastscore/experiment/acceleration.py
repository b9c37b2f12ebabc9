"""What a run may turn on for speed, TF32 and torch.compile, and what it may give up of it: to be the same each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, matrix products and convolutions of float32 on CUDA devices are in TF32, or else in float32 proper.

    TF32 has 10 bits of each factor's mantissa and sums in float32. torch allows it in convolutions unless told otherwise;
    what the process had set is set again at the end.
    """
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made at run time
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        for place, was in zip(places, before):
            place.fp32_precision = was


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
