"""How much disk a reproduction takes."""

from __future__ import annotations

import math

from ..config import TrainConfig
from .data import SHAPE
from .hours import ROLES, Work

_FLOAT, _INCEPTION = 4, 2048  # bytes of a number; numbers that Inception makes of an image


def needed(work: Work, config: TrainConfig, parameters: int, feature: str) -> int:
    """Bytes: snapshots, the checkpoints that are kept, samples, and the features that are kept while they are measured.

    A snapshot has the weights and each of their moving averages, a checkpoint Adam's two moments too. The run keeps the mean and
    the covariance of its data, of which half are numbers of their own, in float64.
    """
    numbers = math.prod(SHAPE)
    copies = 1 + len(config.averages)
    weights = work.snapshots(config.iterations) * copies + config.keep * (copies + 2)
    samples = ROLES * work.seeds * work.samples * numbers
    moments = 8 * numbers * (numbers + 1) // 2 + _FLOAT * numbers
    features = (work.train + work.samples) * _INCEPTION if feature == "inception" else 0
    return _FLOAT * (weights * parameters + features) + samples + moments
