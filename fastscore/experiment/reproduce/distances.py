"""How far images are from the training images, whose features are extracted once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...data import ImageData, to_float
from ...evaluation import metrics
from ...evaluation.features import ClassFeatures, Features

_SUBSET = 1000  # of the kernel distance


class Distances:
    """To the features of the training images ``data``.

    Args:
        extract: makes features [N, D] of images.
        data: the training images.
    """

    def __init__(self, extract: Features, data: ImageData):
        self.extract, self.data = extract, data

    @cached_property
    def _train(self) -> Tensor:
        return self.extract(to_float(self.data.images))

    @cached_property
    def _factor(self) -> metrics.GaussianFactor:
        return metrics.gaussian_factor(self._train)

    def of(self, images: Tensor, *, neighbours: bool) -> dict[str, Any]:
        """Frechet and kernel distance, Inception score, and where ``neighbours`` precision and recall.

        Args:
            images: uint8 [N, C, H, W].
        """
        fake, real = self.extract(to_float(images)), self._train
        kernel = metrics.kernel_distance(real, fake, subset_size=min(_SUBSET, len(real), len(fake)))
        score = None
        if isinstance(self.extract, ClassFeatures):
            found = metrics.inception_score(self.extract.probabilities(fake))
            score = {"mean": found.mean, "std": found.std}
        result = {
            "frechet_distance": metrics.frechet_distance(self._factor, fake),
            "kernel_distance": {"mean": kernel.mean, "std": kernel.std},
            "inception_score": score,
        }
        if neighbours:
            near = metrics.precision_recall(real, fake)
            result |= {"precision": near.precision, "recall": near.recall}
        return result


def eight_bit(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded: as they would be on the disk."""
    return images.mul(255).round().clamp(0, 255).to(torch.uint8)
