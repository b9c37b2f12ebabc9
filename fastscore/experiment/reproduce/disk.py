"""How much disk a reproduction takes."""

from __future__ import annotations

import math

from ..config import TrainConfig
from ..scores import begins_about_the_mean
from .data import SHAPE
from .hours import ROLES, Work

_FLOAT, _INCEPTION = 4, 2048  # bytes of a number; numbers that Inception makes of an image


def needed(work: Work, config: TrainConfig, parameters: int, feature: str) -> int:
    """Bytes: snapshots, the checkpoints that are kept, samples, and the features that are kept while they are measured.

    A snapshot has the weights and each of their moving averages, a checkpoint Adam's two moments too; beside them the run
    keeps half of the data's covariance, in float64, where its samples begin about the mean.
    """
    copies = 1 + len(config.averages)
    weights = work.snapshots(config.iterations) * copies + config.keep * (copies + 2)
    values = math.prod(SHAPE)
    covariance = 8 * values * (values + 1) // 2 if begins_about_the_mean(config) else 0
    samples = ROLES * work.seeds * work.samples * values
    features = (work.train + work.samples) * _INCEPTION if feature == "inception" else 0
    return _FLOAT * (weights * parameters + features) + covariance + samples
