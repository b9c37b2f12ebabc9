"""How long a reproduction takes: the arithmetic of hours, from three measured rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The part of ``--hours`` that is planned; the rest is for checkpoints, distances and the report.
PLANNED = 0.95
ROLES = 2  # the chosen snapshot and the last


@dataclass(frozen=True)
class Work:
    """What there is to do, and how fast this machine does it.

    Attributes:
        iterations, batch_size, snapshot_every: of the training.
        weights: how many of each snapshot are compared: the weights, or moving averages of them.
        selection_images: samples of each.
        samples, seeds: of the chosen and of the last.
        train: images of the data set, whose features are extracted once.
        iteration: seconds of one.
        evaluated: images that the network is evaluated on, a second.
        extracted: images whose features are extracted, a second.
    """

    iterations: int
    batch_size: int
    snapshot_every: int
    weights: int
    selection_images: int
    samples: int
    seeds: int
    train: int
    iteration: float
    evaluated: float
    extracted: float

    def snapshots(self, iterations: int) -> int:
        """How many snapshots there are of so many iterations."""
        return -(-iterations // self.snapshot_every)

    def training(self, iterations: int) -> float:
        """Seconds."""
        return iterations * self.iteration

    def selection(self, iterations: int, evaluations: int) -> float:
        """Seconds of drawing and measuring the samples of all snapshots, at so many network evaluations a sample."""
        images = self.snapshots(iterations) * self.weights * self.selection_images
        return self._measured(images, evaluations) + self.train / self.extracted

    def sampling(self, seeds: int, evaluations: int) -> float:
        """Seconds of drawing and measuring the samples of the chosen snapshot and the last, of so many seeds."""
        return self._measured(ROLES * seeds * self.samples, evaluations)

    def after(self, iterations: int, evaluations: int) -> float:
        """Seconds from the end of training to that of the first seed."""
        return self.selection(iterations, evaluations) + self.sampling(1, evaluations)

    def whole(self, iterations: int, seeds: int, evaluations: int) -> float:
        """Seconds of all of it."""
        return self.training(iterations) + self.selection(iterations, evaluations) + self.sampling(seeds, evaluations)

    def _measured(self, images: int, evaluations: int) -> float:
        return images * (evaluations / self.evaluated + 1 / self.extracted)


def fit(work: Work, evaluations: int, hours: float) -> tuple[int, int]:
    """(iterations, seeds) that fit into ``hours``, at so many network evaluations a sample.

    All iterations, and as many seeds as fit; where not even one does, one seed, and as many whole intervals between
    snapshots as fit.

    Raises:
        ValueError: not even the iterations to the first snapshot, and one seed, fit.
    """
    allowed = PLANNED * 3600 * hours
    for seeds in range(work.seeds, 0, -1):
        if work.whole(work.iterations, seeds, evaluations) <= allowed:
            return work.iterations, seeds
    iterations = _most(work, evaluations, allowed)
    if not iterations:
        least = work.whole(min(work.iterations, work.snapshot_every), 1, evaluations) / PLANNED / 3600
        raise ValueError(
            f"hours must be at least {least:.3g}, for the iterations to the first snapshot ({work.snapshot_every:,}) and "
            f"the samples of one seed, got {hours:g}: fewer --samples or --selection-images take less, as do a --sampler of fewer "
            "evaluations and a --snapshot-every that is smaller"
        )
    return iterations, 1


def _most(work: Work, evaluations: int, seconds: float) -> int:
    """The most iterations, in whole intervals between snapshots, for which all takes so many seconds; 0: none."""
    low, high = 0, work.iterations // work.snapshot_every  # intervals: the most that fit are at least low
    while low < high:
        middle = (low + high + 1) // 2
        if work.whole(middle * work.snapshot_every, 1, evaluations) <= seconds:
            low = middle
        else:
            high = middle - 1
    return low * work.snapshot_every


def rows(work: Work, samplers: dict[str, int]) -> list[dict[str, Any]]:
    """The table of hours: training, and for each sampler of so many evaluations the choice, the samples, and all."""

    def row(what: str, sampler: str | None, images: int, seconds: float) -> dict[str, Any]:
        evaluations = None if sampler is None else samplers[sampler]
        return {
            "what": what,
            "sampler": sampler,
            "evaluations": evaluations,
            "images": images,
            "hours": seconds / 3600,
        }

    n, s = work.iterations, work.seeds
    found = [row("training", None, n * work.batch_size, work.training(n))]
    for name, evaluations in samplers.items():
        chosen = work.snapshots(n) * work.weights * work.selection_images
        found += [
            row("selection", name, chosen, work.selection(n, evaluations)),
            row("samples", name, ROLES * s * work.samples, work.sampling(s, evaluations)),
            row("all", name, chosen + ROLES * s * work.samples, work.whole(n, s, evaluations)),
        ]
    return found
