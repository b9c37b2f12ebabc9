"""Bits per dimension of images whose pixels have a few values, by uniform dequantization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._images import dequantize
from ..paths import Path
from ..rng import Philox, Stream, as_philox
from .log_prob import log_prob


class BitsPerDim(NamedTuple):
    """What :func:`bits_per_dim` returns; in bits for each pixel value, float64.

    Attributes:
        value: of each image [B].
        probes: the standard error that the probes leave [B].
        dequantization: that of the mean over the draws of U [B]; it holds what the probes change from draw to draw, too.
        solver: as :attr:`LogProb.solver` [B].
        offset: log2(num_values), which is in ``value``.
        evaluations: for each image, of all draws.
    """

    value: Tensor
    probes: Tensor
    dequantization: Tensor
    solver: Tensor
    offset: float
    evaluations: int

    @property
    def mean(self) -> float:
        """Over the images."""
        return float(self.value.mean())

    @property
    def parts(self) -> dict[str, float]:
        """What the mean's error is made of: ``probes`` and ``dequantization`` as standard errors for these images, ``solver`` as
        a mean difference, and ``images``, the standard error of the mean for which these images stand."""
        n = len(self.value)
        return {
            "probes": float(self.probes.square().mean() / n) ** 0.5,
            "dequantization": float(self.dequantization.square().mean() / n) ** 0.5,
            "solver": float(self.solver.mean()),
            "images": float(self.value.std()) / n**0.5 if n > 1 else math.nan,
        }

    @property
    def bar(self) -> float:
        """Half of the width of an interval for the mean over these images: 2.58 of the larger standard error, + ``solver``."""
        parts = self.parts
        return 2.58 * max(parts["probes"], parts["dequantization"]) + parts["solver"]


def bits_per_dim(
    score_fn: Callable[..., Tensor],
    images: Tensor,
    path: Path | Tensor | Sequence[float],
    *,
    num_values: int = 256,
    draws: int = 2,
    rng: Philox | None = None,
    **how: Any,
) -> BitsPerDim:
    """-E_U log2 p((k + U) / q) / D + log2 q, an upper bound on the bits that an image's values k take, for each of them.

    p is the model's density of images in [0, 1], each value k of q = ``num_values`` being an interval of width 1 / q there: the
    offset log2 q (8 bits for 256 values) turns a density into a probability. For images of other ranges it is another, and for
    images that are not of q values there is none: only uint8 images are taken.

    Args:
        score_fn, path, how: as for :func:`log_prob`; a score of images in [0, 1].
        images: uint8 [B, C, H, W]; value k is stored as round(255 k / (q - 1)), which is looked at.
        num_values: q, 2 to 256: 17 for the digits.
        draws: of U for each image, at least 2, from which its part of the error is told.
        rng: source of U (one step a draw, of the stream DEQUANTIZE) and of the probes.

    Returns:
        :class:`BitsPerDim`.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`log_prob`; images that are not uint8, or have other values.
    """
    num_values, draws = checks.integer("num_values", num_values, low=2, high=256), checks.integer("draws", draws, low=2)
    if checks.tensor("images", images).dtype != torch.uint8:
        raise TypeError(
            "images must be uint8, whose values are intervals of a known width: there are no bits of what was resized in "
            f"floating point or has 16 bits; log_prob gives its density. Got {checks.describe(images)}"
        )
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"images must have shape [B, C, H, W] and not be empty, got {checks.describe(images)}")
    k = (images.double() * ((num_values - 1) / 255)).round()
    if bool(((k * (255 / (num_values - 1))).round() != images).any()):
        raise ValueError(
            f"num_values must be how many values the pixels have, got {num_values} for images of which some are none of "
            f"round(255 k / {num_values - 1})"
        )
    rng, nats, found = as_philox(rng), images[0].numel() * math.log(2), []
    for _ in range(draws):
        u = rng.rand(images.shape, stream=Stream.DEQUANTIZE, device=images.device, dtype=torch.float32)
        found.append(log_prob(score_fn, dequantize(images, u, num_values), path, rng=rng, **how))
    values = torch.stack([-each.value / nats for each in found])
    probes = torch.stack([each.probes for each in found]).square().sum(0).sqrt() / (draws * nats)
    solver = torch.stack([each.solver for each in found]).mean(0) / nats
    return BitsPerDim(
        values.mean(0) + math.log2(num_values),
        probes,
        values.std(0) / draws**0.5,
        solver,
        math.log2(num_values),
        sum(each.evaluations for each in found),
    )
