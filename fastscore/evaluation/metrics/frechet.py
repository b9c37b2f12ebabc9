"""The Frechet distance of two sets of feature vectors, by the Gaussians fitted to them.

Why not torch-fidelity's or torchmetrics': they take the roots of the eigenvalues of S_a S_b, which is not symmetric.
Measured (torchmetrics 1.9, float64): 100 vectors in 300 dimensions against themselves give -1.5e-5, here 1e-13. Of sets
that differ all agree, to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._core import checks
from ._rows import blocks, centred, check_rows, mean_row


class Gaussian(NamedTuple):
    """The mean [D] and covariance [D, D] of a set of vectors, float64."""

    mean: Tensor
    covariance: Tensor


def gaussian(features: Tensor) -> Gaussian:
    """The sample mean and the unbiased sample covariance, 1/(N-1) sum (x - mean)(x - mean)^T.

    Args:
        features: [N, D], any floating dtype, N >= 2.

    Returns:
        ``mean`` [D] and ``covariance`` [D, D], float64: keep them, and a real set is gone through only once.

    Raises:
        TypeError, ValueError: not floating, not [N, D], fewer than two rows, not finite.
    """
    return _moments(*check_rows(2, features=features))


class GaussianFactor(NamedTuple):
    """The mean [D] of a set of vectors and a factor F [R, D] of its covariance F^T F, float64: R is at most D."""

    mean: Tensor
    factor: Tensor


def gaussian_factor(features: Tensor) -> GaussianFactor:
    """What :func:`frechet_distance` takes in place of a set that it is asked for again and again.

    Of N <= D vectors F is the vectors themselves, centred, over the root of N - 1; of more it is the symmetric root of the
    covariance, whose computation is most of a distance's time where D is large.

    Args:
        features: [N, D], any floating dtype, N >= 2.

    Raises:
        TypeError, ValueError: not floating, not [N, D], fewer than two rows, not finite.
    """
    return _factor(*check_rows(2, features=features))


def frechet_distance(a: Tensor | GaussianFactor, b: Tensor | GaussianFactor) -> float:
    """The (squared) Frechet distance of the Gaussians fitted to two sets of features.

    ||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), as of :func:`gaussian_distance`. On Inception's 2048
    features this is the FID. N samples make it too large by a term of order 1/N: compare only values of equal
    N (published FIDs: 50,000).

    With factors S = F^T F the trace of the product's root is the sum of the singular values of F_a F_b^T, a matrix no larger than
    the sets: of few vectors in many dimensions the distance takes a moment.

    Args:
        a: [N, D], any floating dtype, N >= 2; or their :func:`gaussian_factor`. Columns may be constant, N may be smaller than D.
        b: [M, D], on the same device; or their :func:`gaussian_factor`.

    Returns:
        The distance, at least 0. Beside the features it takes some 300 MB at D = 2048, whatever N and
        M are: blocks of them in float64, and a few matrices [D, D]. Operations: 2 (N + M) D^2 and about 50 D^3, 1.3e12 for
        50,000 and 50,000.

    Raises:
        TypeError, ValueError: not floating, not [N, D] of one width, fewer than two rows, not finite.

    Source: Heusel et al., "GANs trained by a two time-scale update rule ...", 2017 (arXiv:1706.08500).

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3)
        9.0
    """
    sets = {name: x for name, x in (("a", a), ("b", b)) if not isinstance(x, GaussianFactor)}
    made = dict(zip(sets, map(_factor, check_rows(2, **sets)))) if sets else {}
    a, b = (x if isinstance(x, GaussianFactor) else made[name] for name, x in (("a", a), ("b", b)))
    if a.mean.shape != b.mean.shape or a.mean.device != b.mean.device:
        raise ValueError(
            f"a and b must be of one width and on one device, got means {checks.describe(a.mean)} and "
            f"{checks.describe(b.mean)}"
        )
    cross = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    spread = a.factor.square().sum() + b.factor.square().sum()
    return max(0.0, float((a.mean - b.mean).square().sum() + spread - 2 * cross))


def _factor(x: Tensor) -> GaussianFactor:
    if len(x) > x.shape[1]:
        mean, covariance = _moments(x)
        return GaussianFactor(mean, _root(covariance))
    mean = mean_row(x)
    return GaussianFactor(mean, centred(x, mean).div_((len(x) - 1) ** 0.5))


def _moments(x: Tensor) -> Gaussian:
    """In two passes over blocks of rows: E[x x^T] - mean mean^T would cancel where the mean is large."""
    mean = mean_row(x)
    total = torch.zeros(len(mean), len(mean), dtype=mean.dtype, device=mean.device)
    for block in blocks(x):
        part = centred(block, mean)
        total.addmm_(part.T, part)
    return Gaussian(mean, total.div_(len(x) - 1))


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
