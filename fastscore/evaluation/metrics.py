"""How good samples are: distances between sets of feature vectors, statistics of predicted classes.

Plain torch, in float64 on the tensors' device. :mod:`fastscore.evaluation.features` says what the feature vectors are.
Why not torchmetrics' FrechetInceptionDistance: it roots eigenvalues of the unsymmetric S_a S_b. Measured
(torchmetrics 1.9, float64): 100 vectors in 300 dimensions against themselves -1.5e-5, here 1e-13; at 2048
dimensions 13.5 s, here 3.3 s (2 CPU threads). Its Inception network is what ``features`` uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks

_CHUNK = 1 << 23  # distances computed at once: 64 MB of float64


class Gaussian(NamedTuple):
    mean: Tensor
    covariance: Tensor


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float


class InceptionScore(NamedTuple):
    mean: float
    std: float


class HistogramDistance(NamedTuple):
    total_variation: float
    chi_square: float
    degrees: int
    p_value: float


class Neighbours(NamedTuple):
    indices: Tensor
    distances: Tensor


def _pair(rows: int, **named: Tensor) -> list[Tensor]:
    """The named tensors as float64: each [N, D], N >= ``rows``, finite, of one width and on one device."""
    first_name, first = next(iter(named.items()))
    for name, value in named.items():
        checks.floating(name, value)
        if value.dim() != 2 or value.shape[0] < rows or value.shape[1] < 1:
            raise ValueError(f"{name} must be [N, D] with N >= {rows}, D >= 1, got {checks.describe(value)}")
        if value.shape[1] != first.shape[1] or value.device != first.device:
            raise ValueError(
                f"{name} must have the width {first.shape[1]} and the device {first.device} of "
                f"{first_name}, got {checks.describe(value)}"
            )
        bad = int((~torch.isfinite(value)).any(1).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {len(value)} rows")
    return [value.detach().double() for value in named.values()]


def gaussian(features: Tensor) -> Gaussian:
    """The sample mean and the unbiased sample covariance, 1/(N-1) sum (x - mean)(x - mean)^T.

    Args:
        features: [N, D], any floating dtype, N >= 2.

    Returns:
        ``mean`` [D] and ``covariance`` [D, D], float64: keep them, and a real set is gone through only once.

    Raises:
        TypeError, ValueError: not floating, not [N, D], fewer than two rows, not finite.
    """
    (x,) = _pair(2, features=features)
    mean = x.mean(0)
    centred = x - mean  # two passes: E[x x^T] - mean mean^T cancels where the mean is large
    return Gaussian(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The (squared) Frechet distance of the Gaussians fitted to two sets of features.

    ||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), by :func:`gaussian_distance`. On Inception's 2048
    features this is the FID. N samples make it too large by a term of order 1/N: compare only values of equal
    N (published FIDs: 50,000).

    Args:
        a: [N, D], any floating dtype, N >= 2. Columns may be constant, N may be smaller than D.
        b: [M, D], on the same device.

    Returns:
        The distance, at least 0.

    Raises:
        TypeError, ValueError: not floating, not [N, D] of one width, fewer than two rows, not finite.

    Source: Heusel et al., "GANs trained by a two time-scale update rule ...", 2017 (arXiv:1706.08500).

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3)
        9.0
    """
    return gaussian_distance(*(gaussian(x) for x in _pair(2, a=a, b=b)))


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    """||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): the squared 2-Wasserstein distance of Gaussians.

    With symmetric roots, S_a^(1/2) S_b S_a^(1/2) = M^T M for M = S_b^(1/2) S_a^(1/2), so the trace of the
    product's root is the sum of M's singular values. Taking those, and not roots of the eigenvalues of M^T M,
    keeps rounding at eps instead of sqrt(eps) for covariances without full rank, and treats a and b alike.

    Args:
        a, b: mean [D] and covariance [D, D] (symmetric, positive semidefinite) each, of one width D.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: shapes that do not agree, or values that are not finite.

    Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982.
    """
    width = a[0].numel()
    for name, (mean, covariance) in (("a", a), ("b", b)):
        shaped = mean.shape == (width,) and covariance.shape == (width, width)
        if not shaped or not bool(torch.isfinite(mean).all() & torch.isfinite(covariance).all()):
            raise ValueError(
                f"{name} must have finite mean [D], covariance [D, D], one D for a and b, got "
                f"{checks.describe(mean)} and {checks.describe(covariance)}"
            )
    mean_a, cov_a, mean_b, cov_b = (moment.double() for moment in (*a, *b))
    cross = torch.linalg.svdvals(_root(cov_b) @ _root(cov_a)).sum()
    return max(0.0, float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric positive root; eigenvalues within rounding of zero are zero."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return vectors * torch.where(values > floor, values, 0.0).sqrt() @ vectors.T


def _squared_distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, ||a_i - b_j||^2 [rows, M]) for one chunk of rows of ``a`` after another; float64.

    ||a||^2 + ||b||^2 - 2 a.b needs one matrix product; the caller centres, so that little cancels. What is
    left of equal vectors is rounding: it is set to exactly 0, so that copies count as copies.
    """
    a_norm, b_norm = a.square().sum(1, keepdim=True), b.square().sum(1)
    step = max(1, _CHUNK // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        squared = torch.addmm(b_norm[None], a[rows], b.T, alpha=-2).add_(a_norm[rows])
        yield rows, squared.masked_fill_(squared <= 1e-13 * a_norm[rows], 0.0)


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
        ``precision`` and ``recall``, from 0 to 1. Distances come in chunks, so 50,000 against 50,000 fits.

    Raises:
        TypeError, ValueError: not floating, not [N, D] of one width, N or M not above k, k < 1, not finite.

    Source: Kynkaanniemi et al., "Improved precision and recall metric ...", 2019 (arXiv:1904.06991).
    """
    k = checks.integer("k", k, low=1)
    real, fake = _pair(k + 1, real=real, fake=fake)
    centre = real.mean(0)
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    inside, covered = [], torch.zeros_like(real_radii, dtype=torch.bool)
    for rows, squared in _squared_distances(fake, real):
        inside.append((squared <= real_radii).any(1))
        covered |= (squared <= fake_radii[rows, None]).any(0)
    return PrecisionRecall(float(torch.cat(inside).double().mean()), float(covered.double().mean()))


def inception_score(probabilities: Tensor, splits: int = 10) -> InceptionScore:
    """exp E_x KL(p(y|x) || p(y)): from 1 (all images look alike) to K (confident and evenly spread).

    Each of ``splits`` consecutive parts has its own marginal p(y). The score is exp(H(p(y)) - E_x H(p(y|x))),
    with 0 log 0 = 0. Rows must be in random order: samples are, a sorted data set is not.

    Args:
        probabilities: [N, K] class probabilities p(y|x), any floating dtype, rows sum to 1.
        splits: the number of parts, at most N; 10 is customary. Parts differ in size by at most one.

    Returns:
        ``mean`` and population standard deviation ``std`` over the splits, as in the original code.

    Raises:
        TypeError, ValueError: not [N, K], negative, rows that do not sum to 1, splits not from 1 to N.

    Source: Salimans et al., "Improved techniques for training GANs", 2016.
    """
    (p,) = _pair(1, probabilities=probabilities)
    splits = checks.integer("splits", splits, low=1, high=len(p))
    low, sums = float(p.min()), p.sum(1)
    if low < 0 or float((sums - 1).abs().max()) > 1e-3:
        raise ValueError(
            f"probabilities must be at least 0, rows summing to 1 (not logits), got {low:.4g} "
            f"and sums from {float(sums.min()):.4g} to {float(sums.max()):.4g}"
        )
    entropy = torch.special.entr
    scores = [(entropy(q.mean(0)).sum() - entropy(q).sum(1).mean()).exp() for q in p.tensor_split(splits)]
    return InceptionScore(float(torch.stack(scores).mean()), float(torch.stack(scores).std(correction=0)))


def class_histogram(labels: Tensor, num_classes: int) -> Tensor:
    """[num_classes] int64: how many of ``labels`` ([N] int64 or int32) are 0, 1, ..., num_classes - 1.

    Raises:
        TypeError, ValueError: labels that are not integers, not [N], or out of range.
    """
    num_classes = checks.integer("num_classes", num_classes, low=1)
    checks.tensor("labels", labels)
    if labels.dtype not in (torch.int64, torch.int32) or labels.dim() != 1:
        raise ValueError(f"labels must be an int64 tensor of shape [N], got {checks.describe(labels)}")
    counts = torch.bincount(labels.clamp(0, num_classes), minlength=num_classes)
    if len(counts) > num_classes or bool((labels < 0).any()):
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    return counts


def histogram_distance(a: Tensor, b: Tensor) -> HistogramDistance:
    """How far two histograms of counts are apart, and how likely so far by chance.

    With shares p = a / N and q = b / M: total variation 1/2 sum |p_i - q_i|, in [0, 1]; and Pearson's
    two-sample chi-square sum (O - E)^2 / E over both, where E is what the pooled shares (a + b) / (N + M)
    expect. The p-value is the chance of that much or more under equal shares (good where all E are >= 5).

    Args:
        a, b: counts [K], integer or floating, at least 0, not all 0: say, the samples' and the real data's.

    Returns:
        ``total_variation``, ``chi_square``, ``degrees`` of freedom (classes seen, minus 1), ``p_value``.

    Raises:
        TypeError, ValueError: not [K], different K, negative, not finite or all zero.
    """
    for name, counts in (("a", a), ("b", b)):
        shaped = checks.tensor(name, counts).dim() == 1 and counts.shape == a.shape
        if not shaped or not (bool((counts >= 0).all()) and 0 < float(counts.sum()) < float("inf")):
            raise ValueError(
                f"{name} must be counts [K], one K for a and b, finite, at least 0, not all 0, got {counts.tolist()}"
            )
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    pooled = (a + b) / (a.sum() + b.sum())
    seen = pooled > 0
    observed = torch.stack([a, b])[:, seen]
    expected = observed.sum(1, keepdim=True) * pooled[seen]
    statistic = ((observed - expected).square() / expected).sum()
    degrees = int(seen.sum()) - 1
    p_value = float(torch.special.gammaincc(a.new_tensor(degrees / 2), statistic / 2)) if degrees else 1.0
    variation = float((a / a.sum() - b / b.sum()).abs().sum() / 2)
    return HistogramDistance(variation, float(statistic), degrees, p_value)


def nearest_neighbours(samples: Tensor, train: Tensor, k: int = 1) -> Neighbours:
    """The k training vectors nearest to each sample, in the Euclidean distance: are the samples copies?

    Args:
        samples: [N, ...], any floating dtype; images are flattened.
        train: [M, ...] of the same sizes after the first, on the same device.
        k: from 1 to M.

    Returns:
        ``indices`` [N, k] int64 into ``train`` and ``distances`` [N, k] float64, nearest first (of equal ones
        the lower index). An exact copy has distance 0.

    Raises:
        TypeError, ValueError: not floating, different shapes or devices, k out of range, not finite.
    """
    for name, value in (("samples", samples), ("train", train)):
        if checks.floating(name, value).dim() < 2 or value.numel() == 0 or value.shape[1:] != train.shape[1:]:
            raise ValueError(f"{name} must be [N, ...], the same sizes after N, got {checks.describe(value)}")
    k = checks.integer("k", k, low=1, high=len(train))
    samples, train = _pair(1, samples=samples.flatten(1), train=train.flatten(1))
    centre = train.mean(0)
    indices, distances = [], []
    for rows, squared in _squared_distances(samples - centre, train - centre):
        index = squared.topk(k, dim=1, largest=False).indices.sort(1).values
        exact = torch.stack([(samples[rows] - train[i]).norm(dim=1) for i in index.T], 1)  # nothing cancels
        order = exact.argsort(dim=1, stable=True)
        indices.append(index.gather(1, order))
        distances.append(exact.gather(1, order))
    return Neighbours(torch.cat(indices), torch.cat(distances))
