"""Score networks: s(x, labels), an estimate of grad log p_sigma(x) at the noise levels that labels name.

In place of labels (int64 [B], indices into the noise levels) every network takes sigma itself (floating [B]), as losses
and samplers pass it by ``conditioning="sigma"``: NCSNv2 and its deeper kinds, and a ScoreMLP with ``sigmas``, at any
noise level; NCSN with ``sigmas`` at these.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .._core import checks
from .mlp import ScoreMLP
from .ncsn import NCSN, NCSNdeeper
from .ncsnv2 import NCSNv2, NCSNv2Deeper, NCSNv2Deepest
from .noise_classifier import NoiseClassifier
from .original import load_original_checkpoint
from .preconditioned import Preconditioned

__all__ = [
    "MODELS",
    "NCSN",
    "NCSNdeeper",
    "NCSNv2",
    "NCSNv2Deeper",
    "NCSNv2Deepest",
    "NoiseClassifier",
    "Preconditioned",
    "ScoreMLP",
    "build_model",
    "load_original_checkpoint",
]

MODELS: dict[str, type[nn.Module]] = {
    "ncsn": NCSN,
    "ncsndeeper": NCSNdeeper,
    "ncsnv2": NCSNv2,
    "ncsnv2deeper": NCSNv2Deeper,
    "ncsnv2deepest": NCSNv2Deepest,
    "mlp": ScoreMLP,
}


def build_model(name: str, **kwargs: Any) -> nn.Module:
    """The network called ``name`` in ``MODELS``, built with ``kwargs``.

    Raises:
        ValueError: no network has that name; the text lists those that are.

    >>> sum(p.numel() for p in build_model("ncsn", channels=1, image_size=8, ngf=8).parameters())
    143505
    """
    return MODELS[checks.one_of("name", name, MODELS)](**kwargs)
