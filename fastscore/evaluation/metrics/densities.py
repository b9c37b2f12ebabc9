"""Two plain densities of a data set, beside which a model's likelihood is good or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..._core import checks
from ._rows import centred, check_rows, mean_row

_ROUNDING = 64 * torch.finfo(torch.float64).eps  # of a variance for each dimension, below which it may be 0
_BANDWIDTHS = 12  # that are tried, from a hundredth of the data's spread to all of it


def gaussian_log_prob(train: Tensor, x: Tensor) -> Tensor:
    """log N(x; m, C) in nats, m and C those of ``train``.

    Args:
        train: [N, D], more than D samples.
        x: [B, D].

    Returns:
        float64 [B].

    Raises:
        ValueError: other shapes, values that are not finite, or samples whose covariance is singular (images that were not
            dequantized).
    """
    train, x = _pair(train, x)
    if len(train) <= train.shape[1]:
        raise ValueError(f"train must have more than D = {train.shape[1]} samples, got {len(train)}")
    mean, covariance = train.mean(0), train.T.cov()
    factor, info = torch.linalg.cholesky_ex(covariance)
    left = factor.diagonal().square() / covariance.diagonal()  # of each variance, what the numbers before do not tell
    if int(info) or not bool((left > _ROUNDING * train.shape[1]).all()):
        raise ValueError("train must have a covariance that is not singular: dequantize images")
    z = torch.linalg.solve_triangular(factor, (x - mean).T, upper=False)
    size = train.shape[1]
    return -z.square().sum(0) / 2 - factor.diagonal().log().sum() - size / 2 * math.log(2 * math.pi)


def kernel_log_prob(train: Tensor, x: Tensor, bandwidth: float | None = None) -> tuple[Tensor, float]:
    """log of the mean of N(x; x_i, h^2 I) over the samples x_i of ``train``, in nats, and h.

    Args:
        train: [N, D], at least 2 samples.
        x: [B, D].
        bandwidth: h. None: of 12, the one of which each sample of ``train`` is likeliest given the others.

    Returns:
        float64 [B], and h.

    Raises:
        ValueError: other shapes, values that are not finite, or samples that are all equal.

    Source: Parzen 1962, "On estimation of a probability density function and mode"; Duin 1976 (the choice of h).
    """
    train, x = _pair(train, x)
    if len(train) < 2:
        raise ValueError(f"train must have at least 2 samples, got {len(train)}")
    if bandwidth is None:
        spread = float(train.var(0).mean().sqrt())
        if spread == 0:
            raise ValueError("bandwidth must be given where all samples of train are equal, got None")
        apart = torch.cdist(train, train).square()
        apart.fill_diagonal_(math.inf)
        tried = [spread * 100 ** (-i / (_BANDWIDTHS - 1)) for i in range(_BANDWIDTHS)]
        bandwidth = max(tried, key=lambda h: float(_log_mean(apart, h, train.shape[1], len(train) - 1).mean()))
    bandwidth = checks.positive("bandwidth", bandwidth)
    return _log_mean(torch.cdist(x, train).square(), bandwidth, train.shape[1], len(train)), bandwidth


def _log_mean(apart: Tensor, h: float, size: int, count: int) -> Tensor:
    return (-apart / (2 * h * h)).logsumexp(1) - math.log(count) - size / 2 * math.log(2 * math.pi * h * h)


def _pair(train: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    for name, value in (("train", train), ("x", x)):
        if checks.floating(name, value).dim() != 2 or value.numel() == 0:
            raise ValueError(f"{name} must have shape [N, D] and not be empty, got {checks.describe(value)}")
    if train.shape[1] != x.shape[1]:
        raise ValueError(f"x must have the width of train, {train.shape[1]}, got {checks.describe(x)}")
    train, x = check_rows(1, train=train, x=x)
    centre = mean_row(train)  # far from 0 the distances, made of products, would be lost in rounding
    return centred(train, centre), centred(x, centre)
