"""How good images are: distances to the data, neighbours, classes, and pictures to look at."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import data
from .._core.errors import DataError
from ..evaluation import features, metrics, pictures
from ..evaluation.features import Features
from ..samplers import Trajectory
from . import checkpoint, extraction
from .build import make_data
from .ranks import ALONE, Ranks
from .scores import where_sampled
from .trained_run import TrainedRun

_CLASSIFIER_LIMIT = 20_000  # images; the classifier's time grows with their square
_LEAST = 4  # images of a data set: an image and its three nearest neighbours
_SUBSET = 1000  # images of a subset, of the kernel distance


def evaluate_images(
    trained: TrainedRun,
    run: Path,
    out: Path,
    drawn: Callable[[Trajectory | None], Tensor],
    feature: str,
    *,
    extract: Features | None = None,
    ranks: Ranks = ALONE,
    progress: bool = False,
) -> dict[str, Any]:
    """What metrics.json says of images, and their pictures in ``out``: on rank 0, while the others ``help_out``.

    Args:
        trained: the network of ``run``.
        run: the run folder.
        out: where the pictures go.
        drawn: draws the samples, and fills the trajectory that it is given, if any.
        feature: "pixels" or "inception".
        extract: makes these features; None: as :class:`Reference`.
        ranks: among which Inception's features are divided.
        progress: show a progress bar of these.

    Raises:
        DataError: the data set is not there, or too small.
    """
    config = trained.config
    reference = Reference(trained, run, feature, extract=extract, ranks=ranks, progress=progress)
    updates = trained.entry.updates(config.num_levels, trained.options)
    trajectory = None if updates is None else Trajectory(max(1, updates // config.num_levels), num_samples=8)
    images = drawn(trajectory)
    if trajectory is None:  # at each step every sample has noise of its own
        (out / "sampling.png").unlink(missing_ok=True)
    else:
        _draw_trajectory(trajectory, trained, out / "sampling.png")
    reference.share()
    train, fake = reference.train, reference.features(images)
    result = reference.distances(fake) | {"kernel_distance": reference.kernel_distance(fake)}
    real = data.to_float(train.images)
    nearest = metrics.nearest_neighbours(images[:20].flatten(1), real.flatten(1), k=4)
    pictures.save_neighbours(images[:20], real[nearest.indices], out / "neighbours.png")
    if feature == "inception":
        assert isinstance(reference.extract, features.ClassFeatures)
        score = metrics.inception_score(reference.extract.probabilities(fake))
        result["inception_score"] = {"mean": score.mean, "std": score.std}
    elif train.labels is not None and len(train) <= _CLASSIFIER_LIMIT:
        result |= _classes(images, train, train.labels, reference.heldout, out)
    return {"features": feature} | result


class Reference:
    """What a run's images are compared with: its data set, whose features are extracted once.

    Args:
        trained, run: the network, and the run folder.
        feature: "pixels" or "inception".
        extract: makes these features; None: made here, Inception's of torch hub's file.
        ranks, progress: of the extraction of Inception's features; see :func:`fastscore.experiment.extraction.extract`.

    Attributes:
        train, heldout: the training images, and those held out (None where the data set has none).
        extract: makes features [N, D] of images [N, C, H, W].

    Raises:
        DataError: the data set is not there, or too small. It warns of data that the run was not trained on.
    """

    def __init__(
        self,
        trained: TrainedRun,
        run: Path,
        feature: str,
        *,
        extract: Features | None = None,
        ranks: Ranks = ALONE,
        progress: bool = False,
    ):
        train, heldout = make_data(trained.config), make_data(trained.config, heldout=True)
        assert isinstance(train, data.ImageData)
        if changes := checkpoint.read_identity(run).changes(train):
            warnings.warn(
                f"{run} was trained on other data than what is compared with here, {train.describe()}: "
                f"{', '.join(changes)}",
                stacklevel=4,
            )
        self.train, self.heldout = train, heldout if isinstance(heldout, data.ImageData) else None
        for part in (self.train, self.heldout):
            if part is not None and len(part) < _LEAST:
                raise DataError(
                    f"{part.name} has {len(part)} images, and evaluation needs at least {_LEAST}: it looks "
                    "for the neighbours of each"
                )
        self.extract = extraction.make_features(feature, trained.device) if extract is None else extract
        slow = feature == "inception"  # pixels are there at once
        self._ranks, self._progress = (ranks, progress) if slow else (ALONE, False)
        self._device = trained.device

    def share(self) -> None:
        """Let the other ranks help with the features of samples, training images and those held out."""
        extraction.share(2 if self.heldout is None else 3, self._ranks)

    def features(self, images: Tensor) -> Tensor:
        """float32 [N, D], on the run's device, of images uint8 or in [0, 1]."""
        found = extraction.extract(self.extract, images, ranks=self._ranks, progress=self._progress)
        return found.to(self._device)

    @cached_property
    def _train(self) -> Tensor:
        return self.features(self.train.images)

    @cached_property
    def _heldout(self) -> Tensor | None:
        return None if self.heldout is None else self.features(self.heldout.images)

    @cached_property
    def of_train(self) -> dict[str, float]:
        """What the training images themselves reach against those held out; empty where none are."""
        if self._heldout is None:
            return {}
        ideal = metrics.precision_recall(self._heldout, self._train)
        return {
            "frechet_distance": metrics.frechet_distance(self._train, self._heldout),
            "precision": ideal.precision,
            "recall": ideal.recall,
        }

    def distances(self, fake: Tensor) -> dict[str, Any]:
        """Frechet distances, precision and recall; the training images' own distance says how small it can be.

        Args:
            fake: :meth:`features` of samples.
        """
        to_train = metrics.frechet_distance(fake, self._train)
        if self._heldout is None:
            neighbours = metrics.precision_recall(self._train, fake)
            return {
                "frechet_distance": {"samples_to_train": to_train},
                "precision": neighbours.precision,
                "recall": neighbours.recall,
            }
        to_heldout, floor = metrics.frechet_distance(fake, self._heldout), self.of_train["frechet_distance"]
        neighbours = metrics.precision_recall(self._heldout, fake)
        return {
            "frechet_distance": {
                "samples_to_train": to_train,
                "samples_to_heldout": to_heldout,
                "train_to_heldout": floor,
                "ratio": to_heldout / floor,
            },
            "precision": neighbours.precision,
            "recall": neighbours.recall,
            "precision_of_train": self.of_train["precision"],
            "recall_of_train": self.of_train["recall"],
        }

    def kernel_distance(self, fake: Tensor) -> dict[str, float]:
        """To the training images, on subsets of 1,000, or of as many as there are.

        Args:
            fake: :meth:`features` of samples.
        """
        size = min(_SUBSET, len(fake), len(self._train))
        return metrics.kernel_distance(self._train, fake, subset_size=size)._asdict()


def _draw_trajectory(trajectory: Trajectory, trained: TrainedRun, path: Path) -> None:
    """The last samples that were kept at each noise level."""
    sigmas = where_sampled(trained.config, trained.entry)
    at = [trained.entry.sigma_after(sigmas, trained.options, step) for step in trajectory.steps]
    last = dict(zip(at, trajectory.frames))
    if last:  # there are none where the only update is to denoise
        pictures.save_trajectory(list(last.values()), list(last), path)


def _classes(
    images: Tensor, train: data.ImageData, labels: Tensor, heldout: data.Data | None, out: Path
) -> dict[str, Any]:
    """Which classes the samples are of, by a classifier trained on the real ones."""
    classifier = features.classifier_features(data.to_float(train.images), labels)
    probabilities = classifier.probabilities(classifier(images))
    counts = metrics.class_histogram(probabilities.argmax(1), classifier.num_classes)
    real = metrics.class_histogram(labels, classifier.num_classes)
    pictures.save_bars({"training images": real.tolist(), "samples": counts.tolist()}, out / "classes.png")
    score = metrics.inception_score(probabilities)
    result: dict[str, Any] = {
        "class_histogram": counts.tolist(),
        "class_distance": metrics.histogram_distance(counts, real).total_variation,
        "classifier_score": {"mean": score.mean, "std": score.std},
    }
    if isinstance(heldout, data.ImageData) and heldout.labels is not None:
        result["classifier_accuracy"] = classifier.accuracy(data.to_float(heldout.images), heldout.labels)
    return result
