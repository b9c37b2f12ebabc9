"""How far images are from the training images, whose features are extracted once and kept on the disk."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data import ImageData
from ...evaluation import metrics
from ...evaluation.features import ClassFeatures, Features
from ..extraction import extract
from ..ranks import ALONE, Ranks
from . import folder
from .folder import of_leader
from .parts import Parts

_SUBSET = 1000  # of the kernel distance
_BATCH = 100  # images whose features are extracted at a time, of a rank
_BATCHES = 20  # of a part that is kept, for each rank
_WIDTH = 2048  # Inception's features
_TRAIN = "train"


class Distances:
    """To the features of the training images ``data``. All ranks make the same calls; what is found is rank 0's.

    Args:
        features: makes features [N, D] of images.
        data: the training images.
        out: the folder of the reproduction, in which features that take long are kept until they are no longer needed.
        device: where distances are computed.
        ranks: which extract features together.
    """

    def __init__(self, features: Features, data: ImageData, out: Path, device: torch.device, ranks: Ranks):
        self._features, self._data, self._device, self._ranks = features, data, device, ranks
        self._out = out / folder.FEATURES

    @cached_property
    def _train(self) -> Tensor:
        return self._of(self._data.images, _TRAIN)

    @cached_property
    def _factor(self) -> metrics.GaussianFactor:
        return metrics.gaussian_factor(self._train)

    def of(self, images: Tensor | None, name: str = "", *, neighbours: bool = False) -> dict[str, Any]:
        """Frechet and kernel distance, Inception score, and where ``neighbours`` precision and recall.

        Args:
            images: uint8 [N, C, H, W]; of the other ranks whatever.
            name: under which their features are kept, until :meth:`forget`; "": they are not.
            neighbours: whether there is to be what takes the square of the number of images.
        """
        real, fake = self._train, self._of(images, name)
        if not self._ranks.leads:
            return {}
        kernel = metrics.kernel_distance(real, fake, subset_size=min(_SUBSET, len(real), len(fake)))
        result: dict[str, Any] = {
            "frechet_distance": metrics.frechet_distance(self._factor, fake),
            "kernel_distance": {"mean": kernel.mean, "std": kernel.std},
            "inception_score": None,
        }
        if isinstance(self._features, ClassFeatures):
            score = metrics.inception_score(self._features.probabilities(fake))
            result["inception_score"] = {"mean": score.mean, "std": score.std}
        if neighbours:
            near = metrics.precision_recall(real, fake)
            result |= {"precision": near.precision, "recall": near.recall}
        return result

    def forget(self, name: str = "") -> None:
        """Delete the features of that name, where they were kept; "": all of them. Rank 0's alone."""
        shutil.rmtree(self._out / name, ignore_errors=True)

    def _of(self, images: Tensor | None, name: str) -> Tensor:
        """float32 [N, D] on the device, on rank 0; those of Inception, which take long, by parts that are kept."""
        slow = isinstance(self._features, ClassFeatures)
        if not slow and not self._ranks.leads:
            return torch.empty(0, 0)
        if not slow or not name:
            ranks = self._ranks if slow else ALONE
            return extract(self._features, images, ranks=ranks, batch_size=_BATCH).to(self._device)
        kept = Parts(self._out / name, (_WIDTH,), torch.float32)
        there, count = of_leader(self._ranks, lambda: [kept.count(), len(images if images is not None else [])])
        step = _BATCH * _BATCHES * self._ranks.count
        for first in range(there, count, step):
            some = images[first : first + step] if images is not None and self._ranks.leads else None
            found = extract(self._features, some, ranks=self._ranks, batch_size=_BATCH)
            with self._ranks.together():
                if self._ranks.leads:
                    kept.append(found)
        return kept.read().to(self._device) if self._ranks.leads else torch.empty(0, 0)
