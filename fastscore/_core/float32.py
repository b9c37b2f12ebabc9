"""What float32 means on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
