"""What a comparison of samplers measures of the samples of a cell, by the functions of ``fastscore evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ...data import GaussianMixture
from ...evaluation.features import Features
from ..build import make_data
from ..evaluate_images import Reference
from ..evaluate_points import distances, mode_weights
from ..trained_run import TrainedRun

Measure = Callable[[Tensor, int], dict[str, float]]


def measure_of(
    trained: TrainedRun, run: Path, feature: str, extract: Features, samples: int
) -> tuple[Measure, dict[str, float]]:
    """measure(samples, seed), the numbers of a cell, by the functions of ``fastscore evaluate``; and the data's own.

    The first number is the one to be small.
    """
    if len(trained.shape) == 1:
        source = make_data(trained.config)

        def of_points(points: Tensor, seed: int) -> dict[str, float]:
            found = distances(points, source.batch(0, samples, seed=seed + 1))
            found["frechet_distance"] = found["frechet_distance"]["samples_to_data"]
            first = {"energy_distance": found.pop("energy_distance"), **found}
            if trained.config.data == "mixture":
                mixture = GaussianMixture()
                pairs = zip(mode_weights(points, mixture), mixture.weights.tolist())
                first["weight_error"] = max(abs(found - exact) for found, exact in pairs)
            return first

        return of_points, {}
    reference = Reference(trained, run, feature, extract=extract)

    def of_images(images: Tensor, seed: int) -> dict[str, float]:
        found = reference.distances(reference.features(images))
        distance = found["frechet_distance"]
        return {
            "frechet_distance": distance.get("samples_to_heldout", distance["samples_to_train"]),
            "precision": found["precision"],
            "recall": found["recall"],
        }

    return of_images, reference.of_train
