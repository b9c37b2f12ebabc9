"""How good 2-D points are: their distance to the data, and what is known exactly of the mixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import data, losses, samplers
from ..evaluation import metrics, plots
from ..rng import Philox
from .build import make_data
from .scores import near_the_data, on_any_path
from .trained_run import TrainedRun

_TIMES = 20  # of the path, at which the error of the score is measured

_TESTED = 2000


def evaluate_points(trained: TrainedRun, out: Path, drawn: Callable[[], Tensor], num: int, seed: int) -> dict[str, Any]:
    """What metrics.json says of 2-D points: for the mixture the weights of its modes, too, and a picture in ``out``."""
    points, real = drawn(), make_data(trained.config).batch(0, num, seed=seed + 1)
    result = distances(points, real)
    if trained.config.data == "mixture":
        result |= _draw_mixture(trained, out, points, real, seed)
    return result


def distances(points: Tensor, real: Tensor) -> dict[str, Any]:
    """Of ``points`` to ``real`` ones: Frechet distance, a two-sample test by the energy distance (of the first 2,000 of
    both, since it holds the distance of every two), precision and recall.
    """
    neighbours = metrics.precision_recall(real, points)
    test = metrics.two_sample_test(points[:_TESTED], real[:_TESTED])
    return {
        "frechet_distance": {"samples_to_data": metrics.frechet_distance(points, real)},
        "energy_distance": test.distance,
        "p_value": test.p_value,
        "precision": neighbours.precision,
        "recall": neighbours.recall,
    }


def mode_weights(points: Tensor, mixture: data.GaussianMixture) -> list[float]:
    """Shares of the modes, each point being of the nearest; points that are not finite are of none."""
    nearest = torch.cdist(points[points.isfinite().all(1)].double(), mixture.means.double()).argmin(1)
    return (metrics.class_histogram(nearest, len(mixture.means)).double() / len(points)).tolist()


def _draw_mixture(trained: TrainedRun, out: Path, points: Tensor, real: Tensor, seed: int) -> dict[str, Any]:
    """score_field.png, and the weights that the sampler (the points) and plain Langevin dynamics find.

    Plain Langevin dynamics uses the network at its smallest noise level (see :func:`near_the_data`) and as many updates as
    annealing.
    """
    mixture, config = data.GaussianMixture(), trained.config
    score, alpha, sigma = near_the_data(config, trained.score_fn)

    def learned(x: Tensor) -> Tensor:
        with torch.no_grad():
            return score(x.to(trained.device))

    def exact(x: Tensor) -> Tensor:  # x / alpha is the mixture with noise sigma / alpha
        return mixture.score(x / alpha, sigma / alpha) / alpha

    rng = Philox(seed)
    start = (16 * rng.rand(len(points), 2) - 8).to(trained.device)
    updates = config.num_levels * config.steps_per_level
    plain = samplers.langevin(learned, start, num_steps=updates, step_size=config.step_size, rng=rng).cpu()
    title = trained.entry.title
    plots.save_score_field(
        lambda x: learned(x).cpu(),
        exact,
        out / "score_field.png",
        samples={"Data": real, "Plain Langevin dynamics": plain, title[:1].upper() + title[1:]: points},
        log_density=lambda x: mixture.log_prob(x / alpha, sigma / alpha),
        modes=mixture.means,
    )
    field = exact(real)
    error = (learned(real).cpu() - field).square().sum() / field.square().sum()

    return {
        "mode_weights": {
            "exact": mixture.weights.tolist(),
            "data": mode_weights(real, mixture),
            trained.sampler: mode_weights(points, mixture),
            "plain": mode_weights(plain, mixture),
        },
        "score_error": float(error.sqrt()),
        "score_error_on_path": _error_on_path(trained, mixture, real),
    }


def _error_on_path(trained: TrainedRun, mixture: data.GaussianMixture, real: Tensor) -> float:
    """The mean, over times of the path, of the root mean square of sigma ||s - s*||, by explicit score matching."""
    score = on_any_path(trained.config, trained.score_fn)
    path, x = score.path, real.to(trained.device)

    def exact(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t), path.sigma(t)
        return mixture.score(x / alpha.to(x)[:, None], (sigma / alpha).to(x)) / alpha.to(x)[:, None]

    with torch.no_grad():
        found = [
            2 * losses.esm(score, exact, x, path, t=t, rng=Philox(k), weighting="sigma^2")
            for k, t in enumerate(path.grid(min(_TIMES, trained.config.num_levels)).t.tolist())
        ]
    return float(torch.stack(found).sqrt().mean())
