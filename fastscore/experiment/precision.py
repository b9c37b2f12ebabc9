"""The precision that a network is computed in: what a config's word means on a device, and a network computed so.

- ``fp32``: all in float32.
- ``bf16``, ``fp16``: convolutions and matrix products in bfloat16 or float16, by ``torch.autocast``; the convolution of
  the image, the statistics of the norms, the score, the loss, the weights, their average and the optimizer are float32.
- ``auto``: ``bf16`` where that was seen to be faster and as good, else ``fp32``; see :func:`resolve`.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._core import calls
from ..losses import OBJECTIVES
from ..paths import PATHS
from .config import TrainConfig

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_WIDE = 32  # channels of the first layer, from which on bfloat16 is faster; at 16 a step takes as long in both


def multiplies(precision: str, device: torch.device) -> bool:
    """Whether ``device`` has instructions that multiply in this precision (else it is emulated, slowly, or not there)."""
    if precision == "fp32":
        return True
    if device.type == "cuda":
        return precision == "fp16" or (torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    ask = getattr(torch.cpu, "get_capabilities", dict)  # the oldest torch that is supported does not say
    has: dict[str, Any] = ask()
    return any(has.get(name, False) for name in (f"avx512_{precision}", f"amx_{precision}"))


def resolve(config: TrainConfig, device: torch.device) -> Precision:
    """The precision of a run of ``config`` that begins on ``device``: its word, or for ``auto`` ``bf16`` or ``fp32``.

    ``auto`` is ``bf16`` where the device multiplies it (AMX or AVX512_BF16; CUDA from sm_80 on), the network is one of
    images with a width of at least 32, and the objective one that was seen to be as good so (denoising score matching, on
    noise levels); else ``fp32``.
    """
    if config.precision != "auto":
        return config.precision
    wide = config.model != "mlp" and config.width >= _WIDE and not PATHS[config.path].continuous
    wide = wide and OBJECTIVES[config.objective].as_good_in_bf16
    return "bf16" if wide and multiplies("bf16", device) else "fp32"


def settled(config: TrainConfig, begun: TrainConfig, device: torch.device) -> TrainConfig:
    """``config`` with its precision; ``auto`` is that of ``begun``, the config that its run was begun with."""
    precision = resolve(begun if config.precision == "auto" else config, device)
    return dataclasses.replace(config, precision=precision)


def check(precision: str, device: torch.device) -> None:
    """Refuse what ``device`` cannot compute, and warn of what it only emulates.

    Raises:
        ValueError: ``fp16`` on a device that does not multiply float16.
    """
    if multiplies(precision, device):
        return
    if precision == "fp16":
        raise ValueError(
            f"precision must be bf16 or fp32 on {device}, which does not multiply float16 (--precision), got 'fp16'"
        )
    warnings.warn(
        f"{device} does not multiply bfloat16: precision bf16 is right there, and slower than fp32 (--precision fp32)",
        stacklevel=3,
    )


class InPrecision(nn.Module):
    """``network(x, labels, **keywords)``, computed under autocast to ``dtype``; what it gives is of the dtype of ``x``."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, labels: Tensor, **keywords: Any) -> Tensor:
        return self._computed(self.network, x, labels, **keywords)

    def at_level(self, label: float, **keywords: Any) -> Callable[[Tensor], Tensor]:
        """score(x), what the network gives for the label ``label`` of every sample: samplers ask for it."""
        return partial(self._computed, calls.at_level(self.network, label, **keywords))

    def _computed(self, score: Callable[..., Tensor], x: Tensor, *labels: Tensor, **keywords: Any) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return score(x, *labels, **keywords).to(x.dtype)


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """``network`` itself for ``fp32``; else one that computes by it, with the same parameters."""
    return network if precision == "fp32" else InPrecision(network, _DTYPES[precision])


def for_sampling(network: nn.Module, precision: str) -> nn.Module:
    """:func:`in_precision` of a copy of ``network`` for evaluations without gradients: the same values, bit for bit.

    The weights that autocast would round at every evaluation are rounded once. (Its own cache, besides lasting no
    longer than the block, is for weights that require gradients.)
    """
    if precision == "fp32":
        return network
    network = copy.deepcopy(network).requires_grad_(False)
    for layer in network.modules():
        # not FirstConv2d, which autocast leaves alone, nor one whose weight a hook makes of others
        if type(layer) in (nn.Conv2d, nn.Linear) and not calls.hooked(layer):
            layer.to(_DTYPES[precision])
    return in_precision(network, precision)
