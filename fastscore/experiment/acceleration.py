"""What a run may turn on for speed: TF32 in the products of float32, and torch.compile of the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


def compiled(network: nn.Module, wanted: bool) -> nn.Module:
    """``network`` compiled by torch.compile when it is first called, with the same parameters; or itself."""
    return torch.compile(network) if wanted else network  # type: ignore[return-value]  # a module of a module
