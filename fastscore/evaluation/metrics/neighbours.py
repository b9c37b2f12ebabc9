"""Distances between single vectors: precision and recall, and the training samples nearest to each sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..._core import checks
from ._rows import blocks, centred, check_rows, mean_row

_CHUNK = 1 << 23  # distances computed at once: 64 MB of float64


class PrecisionRecall(NamedTuple):
    """The share of samples that look real, and the share of real data that the samples reach; both in [0, 1]."""

    precision: float
    recall: float


class Neighbours(NamedTuple):
    """The nearest vectors of each row, nearest first: their indices, and how far away they are."""

    indices: Tensor
    distances: Tensor


def _squared_distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, ||a_i - b_j||^2 [rows, M]) for one chunk of rows of ``a`` after another; float64.

    ||a||^2 + ||b||^2 - 2 a.b needs one matrix product; the caller centres, so that little cancels. What is
    left of equal vectors is rounding: it is set to exactly 0, so that copies count as copies.
    """
    a_norm, b_norm = (torch.cat([block.square().sum(1) for block in blocks(x)]) for x in (a, b))
    step = max(1, _CHUNK // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        own = a_norm[rows, None]
        squared = torch.addmm(b_norm[None], a[rows], b.T, alpha=-2).add_(own)
        yield rows, squared.masked_fill_(squared <= 1e-13 * own, 0.0)


def _radii(x: Tensor, k: int) -> Tensor:
    """[N] squared distance of each row to its k-th nearest other row (the nearest is itself, at 0)."""
    return torch.cat([part.topk(k + 1, largest=False).values.amax(1) for _, part in _squared_distances(x, x)])


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall: fakes within the reals' manifold, reals within the fakes' manifold.

    A set's manifold is the union of balls, one about each of its vectors x, that reach to x's k-th nearest
    neighbour in the set, at NN_k(x). precision = mean over fakes f of [some real r has ||f - r|| <= NN_k(r)];
    recall the same with the sets exchanged. Low precision: bad samples. Low recall: missing modes.

    Args:
        real: features [N, D], any floating dtype, N > k.
        fake: features [M, D], M > k, on the same device.
        k: which neighbour sets the radius.

    Returns:
        ``precision`` and ``recall``, from 0 to 1. Distances come in chunks, so 50,000 against 50,000 fits: beside the
        features it takes (N + M) D numbers of float64 and some 300 MB, and 2 (N^2 + N M + M^2) D operations of float64:
        1.9 GB and 3.1e13 at D = 2048, ten minutes on one CPU core of 50 GFLOPS.

    Raises:
        TypeError, ValueError: not floating, not [N, D] of one width, N or M not above k, k < 1, not finite.

    Source: Kynkaanniemi et al., "Improved precision and recall metric ...", 2019 (arXiv:1904.06991).
    """
    k = checks.integer("k", k, low=1)
    real, fake = check_rows(k + 1, real=real, fake=fake)
    centre = mean_row(real)
    real, fake = centred(real, centre), centred(fake, centre)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    inside, covered = [], torch.zeros_like(real_radii, dtype=torch.bool)
    for rows, squared in _squared_distances(fake, real):
        inside.append((squared <= real_radii).any(1))
        covered |= (squared <= fake_radii[rows, None]).any(0)
    return PrecisionRecall(float(torch.cat(inside).double().mean()), float(covered.double().mean()))


def nearest_neighbours(samples: Tensor, training_samples: Tensor, k: int = 1) -> Neighbours:
    """The k training vectors nearest to each sample, in the Euclidean distance: are the samples copies?

    Args:
        samples: [N, ...], any floating dtype; images are flattened.
        training_samples: [M, ...] of the same sizes after the first, on the same device.
        k: from 1 to M.

    Returns:
        ``indices`` [N, k] int64 into ``training_samples`` and ``distances`` [N, k] float64, nearest first (of equal
        ones the lower index). An exact copy has distance 0.

    Raises:
        TypeError, ValueError: not floating, different shapes or devices, k out of range, not finite.
    """
    for name, value in (("samples", samples), ("training_samples", training_samples)):
        if (
            checks.floating(name, value).dim() < 2
            or value.numel() == 0
            or value.shape[1:] != training_samples.shape[1:]
        ):
            raise ValueError(f"{name} must be [N, ...], the same sizes after N, got {checks.describe(value)}")
    k = checks.integer("k", k, low=1, high=len(training_samples))
    samples, training_samples = check_rows(1, samples=samples.flatten(1), training_samples=training_samples.flatten(1))
    centre = mean_row(training_samples)
    indices, distances = [], []
    for rows, squared in _squared_distances(centred(samples, centre), centred(training_samples, centre)):
        index = squared.topk(k, dim=1, largest=False).indices.sort(1).values
        there = samples[rows].double()  # and the exact differences, in which nothing cancels
        exact = torch.stack([(there - training_samples[i].double()).norm(dim=1) for i in index.T], 1)
        order = exact.argsort(dim=1, stable=True)
        indices.append(index.gather(1, order))
        distances.append(exact.gather(1, order))
    return Neighbours(torch.cat(indices), torch.cat(distances))
