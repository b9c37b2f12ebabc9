"""Statistics of predicted classes: the Inception score and histograms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._core import checks
from ._rows import check_rows


class InceptionScore(NamedTuple):
    """The mean over the splits, and their population standard deviation."""

    mean: float
    std: float


class HistogramDistance(NamedTuple):
    """Total variation in [0, 1], and Pearson's chi-square test of equal shares."""

    total_variation: float
    chi_square: float
    degrees: int
    p_value: float


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
    p = check_rows(1, probabilities=probabilities)[0].double()
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
