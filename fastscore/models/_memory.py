"""In which order the activations of a network lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.private_torch import constant_to_dynamo


def faster(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether convolutions are faster where activations are channels_last: on CUDA devices and, but for float64 (which
    oneDNN does not serve), on CPUs with AVX-512. The norms take both orders."""
    if device.type == "cpu":
        return dtype != torch.float64 and _has_avx512()
    return device.type == "cuda"


@constant_to_dynamo
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def channels_last(x: Tensor) -> Tensor:
    """``x`` [B, C, H, W] in channels_last order where that is :func:`faster`, else as it is; under any transform."""
    if not faster(x.device, x.dtype):
        return x
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def as_before(out: Tensor, x: Tensor) -> Tensor:
    """``out`` in the order in which ``x`` lies: channels_last, or else contiguous."""
    if x.stride(1) == 1 and not x.is_contiguous():
        return out
    return out.contiguous()
