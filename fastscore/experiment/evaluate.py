"""How good the samples of a run are: metrics.json, and pictures to look at."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import data, samplers
from .._core import checks
from .._core.errors import DataError
from ..evaluation import features, metrics, pictures, plots
from ..rng import Philox
from . import checkpoint, limits
from .build import make_data, make_sigmas
from .history import read_metrics
from .sample import SAMPLERS, TrainedRun, load_run, num_updates, sample_into, with_sampling
from .sample_folder import read_samples, versions

METRICS = "metrics.json"
_CLASSIFIER_LIMIT = 20_000  # images; the classifier's time grows with their square
_PIXEL_LIMIT = 4096  # pixel values an image; the covariance takes the square of them, its roots the cube
_FID_SAMPLES = 50_000
_LEAST = 4  # images of a data set: an image and its three nearest neighbours


def evaluate(
    run: str | Path,
    *,
    num: int = 1000,
    feature: str = "auto",
    seed: int = 0,
    sampler: str = "annealed",
    batch_size: int = 500,
    alpha: float | None = None,
    steps_per_level: int | None = None,
    denoise: bool | None = None,
    weights: str = "auto",
    step: int | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Sample from a run and compare with its data set; writes metrics.json, samples and pictures.

    Args:
        run: the run folder.
        num: how many samples.
        feature: what the Frechet distance is measured on: ``"pixels"`` (at most 4,096 of them), ``"inception"``
            (with ``num=50_000``, ``samples_to_train`` is the FID that papers publish), or ``"auto"``, which is
            Inception for CIFAR-10 and pixels otherwise.
        seed, sampler, batch_size: of the samples, as for :func:`fastscore.experiment.sample.sample`.
        alpha, steps_per_level, denoise: as for :func:`fastscore.experiment.sample.with_sampling`; None: the run's own.
        weights, step: which of the run's weights, as for :func:`fastscore.experiment.sample.load_run`.
        data_dir: the folder of the data set's files; None: where the run was trained on them.
        out: the folder to write into; None: the run folder.
        overwrite: replace the samples of other settings that are there.
        device: where the network runs.
        progress: show progress bars.

    Returns:
        What metrics.json holds.

    Raises:
        CheckpointError: not a trained run. DataError: its data set, or Inception's weights, are not on this machine.
        ValueError: a number out of its range, or a feature that these samples do not have. FastscoreError: samples of
            other settings are there. All before it samples.
        NonFiniteSamples: some samples are NaN or infinite. Nothing is replaced.
    """
    num = checks.integer("num", num, low=20)
    checks.one_of("feature", feature, ("auto", "pixels", "inception"))
    checks.one_of("sampler", sampler, SAMPLERS)
    trained = with_sampling(
        load_run(run, device=device, weights=weights, step=step),
        sampler=sampler,
        alpha=alpha,
        steps_per_level=steps_per_level,
        denoise=denoise,
    )
    if data_dir is not None:
        trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data_dir=str(data_dir)))
    limits.check_kept(num, trained.shape)
    feature = _resolve(feature, trained, num)
    run = Path(run)
    out = run if out is None else Path(out)
    report: dict[str, Any] = {
        "run": str(run),
        "step": trained.step,
        "weights": trained.weights,
        "data": trained.config.data,
        "samples": num,
        "seed": seed,
        "sampler": sampler,
        "alpha": trained.config.alpha,
        "steps_per_level": trained.config.steps_per_level if sampler == "annealed" else 1,
        "denoise": trained.config.denoise,
        "network_evaluations_a_sample": num_updates(trained.config, sampler) + trained.config.denoise,
    }

    def drawn(trajectory: samplers.Trajectory | None = None) -> Tensor:
        sample_into(
            out,
            trained,
            run,
            num,
            seed=seed,
            sampler=sampler,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=progress,
            trajectory=trajectory,
        )
        return read_samples(out)

    if len(trained.shape) == 1:
        report |= _evaluate_points(trained, out, drawn, num, seed, sampler)
    else:
        report |= _evaluate_images(trained, run, out, drawn, feature, sampler)
    _draw_training(run, out, trained)
    report["versions"] = versions()
    checkpoint.write_atomically(out / METRICS, lambda path: path.write_text(json.dumps(report, indent=2) + "\n"))
    return report


def _resolve(feature: str, trained: TrainedRun, num: int) -> str:
    """What ``feature`` means for this run; what cannot work is refused before hours of sampling."""
    if len(trained.shape) == 1:
        if feature == "inception":
            raise ValueError(
                f"feature must be 'auto' or 'pixels' for points such as {trained.config.data}: Inception "
                "is a network for images, got 'inception'"
            )
        return "pixels"
    if feature == "auto":
        feature = "inception" if trained.config.data == "cifar10" else "pixels"
    size = math.prod(trained.shape)
    if feature == "pixels" and size > _PIXEL_LIMIT:
        raise ValueError(
            f"feature must be 'inception' for images of {tuple(trained.shape)}, got 'pixels': the "
            f"covariance of {size:,} pixel values takes {size**2 * 8 / 2**30:,.1f} GiB, several times "
            f"over (the limit is {_PIXEL_LIMIT:,} values)"
        )
    if feature == "inception" and num < _FID_SAMPLES:
        warnings.warn(
            f"published FIDs compare {_FID_SAMPLES:,} samples with the training set: the Frechet distance of "
            f"{num:,} samples is larger, and not comparable with them",
            stacklevel=3,
        )
    return feature


def _draw_training(run: Path, out: Path, trained: TrainedRun) -> None:
    history = read_metrics(run)
    if history:
        plots.save_training_curves(history, out / "training.png", sigmas=make_sigmas(trained.config))


def _evaluate_images(
    trained: TrainedRun,
    run: Path,
    out: Path,
    drawn: Callable[[samplers.Trajectory], Tensor],
    feature: str,
    sampler: str,
) -> dict[str, Any]:
    config = trained.config
    train, heldout = make_data(config), make_data(config, heldout=True)
    if changes := checkpoint.read_identity(run).changes(train):
        warnings.warn(
            f"{run} was trained on other data than what is compared with here, {train.describe()}: "
            f"{', '.join(changes)}",
            stacklevel=3,
        )
    assert isinstance(train, data.ImageData)
    for images in (train, heldout):
        if images is not None and len(images) < _LEAST:
            raise DataError(
                f"{images.name} has {len(images)} images, and evaluation needs at least {_LEAST}: it looks "
                "for the neighbours of each"
            )
    extract = features.make(feature, **({"device": trained.device} if feature == "inception" else {}))
    updates = num_updates(config, sampler)
    trajectory = samplers.Trajectory(max(1, updates // config.num_levels), samples=8)
    images = drawn(trajectory)
    levels = make_sigmas(config)
    pictures.save_trajectory(trajectory.frames, levels if sampler == "annealed" else levels[1:], out / "sampling.png")
    real = data.to_float(train.images)
    result = _distances(extract, images, real, heldout)
    nearest = metrics.nearest_neighbours(images[:20].flatten(1), real.flatten(1), k=4)
    pictures.save_neighbours(images[:20], real[nearest.indices], out / "neighbours.png")
    if feature == "inception":
        score = metrics.inception_score(extract.probabilities(extract(images)))
        result["inception_score"] = {"mean": score.mean, "std": score.std}
    elif train.labels is not None and len(train) <= _CLASSIFIER_LIMIT:
        result |= _classes(images, train, heldout, out)
    return {"features": feature} | result


def _distances(extract: features.Features, images: Tensor, real: Tensor, heldout: data.Data | None) -> dict[str, Any]:
    """Frechet distances, precision and recall; the training images' own distance says how small it can be."""
    fake, train = extract(images), extract(real)
    to_train = metrics.frechet_distance(fake, train)
    if not isinstance(heldout, data.ImageData):
        neighbours = metrics.precision_recall(train, fake)
        return {
            "frechet_distance": {"samples_to_train": to_train},
            "precision": neighbours.precision,
            "recall": neighbours.recall,
        }
    test = extract(data.to_float(heldout.images))
    to_heldout, floor = metrics.frechet_distance(fake, test), metrics.frechet_distance(train, test)
    neighbours, ideal = metrics.precision_recall(test, fake), metrics.precision_recall(test, train)
    return {
        "frechet_distance": {
            "samples_to_train": to_train,
            "samples_to_heldout": to_heldout,
            "train_to_heldout": floor,
            "ratio": to_heldout / floor,
        },
        "precision": neighbours.precision,
        "recall": neighbours.recall,
        "precision_of_train": ideal.precision,
        "recall_of_train": ideal.recall,
    }


def _classes(images: Tensor, train: data.ImageData, heldout: data.Data | None, out: Path) -> dict[str, Any]:
    """Which classes the samples are of, by a classifier trained on the real ones."""
    classifier = features.classifier_features(data.to_float(train.images), train.labels)
    probabilities = classifier.probabilities(classifier(images))
    counts = metrics.class_histogram(probabilities.argmax(1), classifier.num_classes)
    real = metrics.class_histogram(train.labels, classifier.num_classes)
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


def _evaluate_points(
    trained: TrainedRun, out: Path, drawn: Callable[[], Tensor], num: int, seed: int, sampler: str
) -> dict[str, Any]:
    """2-D points: Frechet distance, and for the mixture the weights of its modes and both score fields."""
    points, source = drawn(), make_data(trained.config)
    real = source.batch(0, num, seed=seed + 1)
    result: dict[str, Any] = {"frechet_distance": {"samples_to_data": metrics.frechet_distance(points, real)}}
    if trained.config.data == "mixture":
        result |= _draw_mixture(trained, out, points, real, seed, sampler)
    return result


def _draw_mixture(
    trained: TrainedRun, out: Path, points: Tensor, real: Tensor, seed: int, sampler: str
) -> dict[str, Any]:
    """score_field.png, and the weights that ``sampler`` (the points) and plain Langevin dynamics find.

    Plain Langevin dynamics uses the network at its smallest noise level and as many updates as annealing.
    """
    mixture, config = data.GaussianMixture(), trained.config
    last, sigma = config.num_levels - 1, config.sigma_end

    def learned(x: Tensor) -> Tensor:
        x = x.to(trained.device)
        with torch.no_grad():
            return trained.network(x, torch.full((len(x),), last, device=x.device)).to(x.device)

    rng = Philox(seed)
    start = (16 * rng.rand(len(points), 2) - 8).to(trained.device)
    plain = samplers.langevin(learned, start, num_steps=num_updates(config), alpha=config.alpha, rng=rng).cpu()
    plots.save_score_field(
        lambda x: learned(x).cpu(),
        lambda x: mixture.score(x, sigma),
        out / "score_field.png",
        samples_plain=plain,
        samples_annealed=points if sampler == "annealed" else None,
        samples_data=real,
        log_density=lambda x: mixture.log_prob(x, sigma),
        modes=mixture.means,
    )
    field = mixture.score(real, sigma)
    error = (learned(real).cpu() - field).square().sum() / field.square().sum()

    def weights(x: Tensor) -> list[float]:
        """Shares of the modes; points that are not finite are of none."""
        nearest = torch.cdist(x[x.isfinite().all(1)].double(), mixture.means.double()).argmin(1)
        return (metrics.class_histogram(nearest, 2) / len(x)).tolist()

    return {
        "mode_weights": {
            "exact": mixture.weights.tolist(),
            "data": weights(real),
            sampler: weights(points),
            "plain": weights(plain),
        },
        "score_error": float(error.sqrt()),
    }


def table(report: dict[str, Any]) -> str:
    """The numbers of a report, one a line."""
    lines = []
    for name, value in report.items():
        if name == "versions":
            continue
        inner = value if isinstance(value, dict) else {"": value}
        for key, number in inner.items():
            if isinstance(number, list):
                number = " ".join(f"{v:.3g}" for v in number)
            text = f"{number:.4g}" if isinstance(number, float) else str(number)
            lines.append(f"  {(name + ' ' + key).strip().replace('_', ' '):<36} {text}")
    return "\n".join(lines)
