"""Stein's identity: of a density's own score, E[A s(x) + div A] = 0 for every A that falls off at infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from ..rng import Philox, Stream, as_philox
from ..samplers.parts import check_data
from .fields import asked

STATISTICS = ("u", "v")


class SteinResidual(NamedTuple):
    """What :func:`stein_residual` returns.

    Attributes:
        matrix: the mean of (x - m) s^T + I, float64 [D, D].
        stderr: the standard error of each of its elements, [D, D].
        norm: sqrt(||matrix||_F^2 / D), which is 1 of a score that is 0.
        noise: what ``norm`` would be of the exact score: sqrt(sum of stderr^2 / D).
    """

    matrix: Tensor
    stderr: Tensor
    norm: float
    noise: float


class SteinTest(NamedTuple):
    """What :func:`kernel_stein_discrepancy` returns, of the batch shape of its samples, float64.

    Attributes:
        statistic: an estimate of the squared discrepancy: the U-statistic (unbiased, may be negative) or the V-statistic.
        p_value: the share of the bootstrap's statistics, counting this one, that are as large.
        bandwidth: c of the kernel.
    """

    statistic: Tensor
    p_value: Tensor
    bandwidth: Tensor


@torch.no_grad()
def stein_residual(
    score_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    mean: float | Tensor | None = None,
    conditional: Tensor | None = None,
) -> SteinResidual:
    """E[(x - m) s(x)^T] + I, which is 0 where ``x`` are samples of the density whose score s is.

    Args:
        score_fn: [B, ...] -> [B, ...].
        x: [B, ...], at least 2 samples.
        mean: m, any constant: a number or of a sample's shape. None: the mean of ``x``, which takes away most of the noise, and
            is no constant: the result is biased by 1/B. 0 is the identity as it is in textbooks.
        conditional: of noisy ``x`` = x_0 + sigma z, the score given x_0, -z / sigma, of x's shape. Its residual is 0 in
            expectation, too: E[(x - m) (s - conditional)^T] is the same, with far less noise where sigma is small.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape. NonFiniteSamples: the score is NaN or infinite.

    Source: Stein 1981, "Estimation of the mean of a multivariate normal distribution".
    """
    checks.floating("x", x)
    checks.not_differentiated("x", x)
    if x.dim() < 2 or len(x) < 2:
        raise ValueError(f"x must be [B, ...] with at least 2 samples, got {checks.describe(x)}")
    s, flat = asked("score_fn", score_fn)(x).flatten(1), x.double()
    if conditional is not None:
        s = s - checks.like("conditional", conditional, "x", x).double().flatten(1)
    mean = flat.mean(0) if mean is None else check_data("mean", mean, x.shape)
    flat = (flat - torch.as_tensor(mean, dtype=torch.float64, device=x.device)).flatten(1)
    n, size = flat.shape
    product = flat.T @ s / n
    variance = ((flat.square().T @ s.square()) / n - product.square()).clamp(min=0) / (n - 1)
    matrix = product
    if conditional is None:
        matrix = matrix + torch.eye(size, dtype=torch.float64, device=x.device)
    norm, noise = (float((total / size).sqrt()) for total in (matrix.square().sum(), variance.sum()))
    return SteinResidual(matrix, variance.sqrt(), norm, noise)


@torch.no_grad()
def kernel_stein_discrepancy(
    score_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    statistic: str = "u",
    bandwidth: float | None = None,
    beta: float = -0.5,
    num_bootstrap: int = 500,
    change: float = 0.5,
    rng: Philox | None = None,
) -> SteinTest:
    """Whether ``x`` are samples of the density whose score is s: the kernel Stein discrepancy, and its test.

    With k(x, y) = (c^2 + ||x - y||^2)^beta, the mean over pairs of::

        u(x, y) = s(x)^T s(y) k + s(x)^T grad_y k + s(y)^T grad_x k + tr grad_x grad_y k

    whose expectation is 0 where they are, and positive where not. The bootstrap gives each sample a sign, w_i w_j u_ij.

    Args:
        score_fn: [B, D] -> [B, D].
        x: [N, D], N at least 2; or many sets at once, [..., N, D]. A set takes memory of N^2 numbers.
        statistic: ``"u"``, the mean over i != j, or ``"v"``, over all pairs.
        bandwidth: c > 0. None: the median distance of each set's pairs.
        beta: -1 < beta < 0, for which small discrepancies mean that the samples converge.
        num_bootstrap: how many statistics the p value is told from.
        change: with what probability a sample's sign differs from the one before: 0.5 for independent samples; less for a
            chain whose samples, in their order, depend on each other: about 1 / (2 n) where every n-th would not.
        rng: source of the signs, one step; set k of many draws what is of row k. None: seeded from torch's default generator.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value. NonFiniteSamples: the score is NaN or infinite.

    Source: Liu, Lee & Jordan 2016 and Chwialkowski, Strathmann & Gretton 2016, "A kernel test of goodness of fit" (its wild
    bootstrap); Gorham & Mackey 2017, "Measuring sample quality with kernels" (the inverse multiquadric).
    """
    checks.floating("x", x)
    checks.not_differentiated("x", x)
    if x.dim() < 2 or x.shape[-2] < 2 or x.numel() == 0:
        raise ValueError(f"x must have shape [..., N, D] with N at least 2, got {checks.describe(x)}")
    checks.one_of("statistic", statistic, STATISTICS)
    beta, change = checks.number("beta", beta), checks.positive("change", change)
    if not -1 < beta < 0:
        raise ValueError(f"beta must be from -1 to 0, both left out, got {beta}")
    if change > 0.5:
        raise ValueError(f"change must be at most 0.5, where signs are independent, got {change}")
    num_bootstrap = checks.integer("num_bootstrap", num_bootstrap, low=1)
    n, size = x.shape[-2:]
    s = asked("score_fn", score_fn)(x.reshape(-1, size)).reshape(-1, n, size)
    sets = x.double().reshape(-1, n, size)
    apart = torch.cdist(sets, sets, compute_mode="donot_use_mm_for_euclid_dist").square()
    if bandwidth is None:
        above = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        c = apart[:, above].median(1).values.sqrt()
        if not bool((c > 0).all()):
            raise ValueError("bandwidth must be given where half of the samples of a set, or more, are equal, got None")
    else:
        c = torch.full_like(apart[:, 0, 0], checks.positive("bandwidth", bandwidth))
    u = _stein_kernel(sets, s, apart, c, beta)
    pairs = n * n
    if statistic == "u":
        u.diagonal(dim1=1, dim2=2).zero_()
        pairs -= n
    found, w = u.sum((1, 2)) / pairs, _signs(len(sets), num_bootstrap, n, change, as_philox(rng), x.device)
    boot = ((w @ u) * w).sum(2) / pairs
    p = (1 + (boot >= found[:, None]).sum(1)) / (1.0 + num_bootstrap)
    return SteinTest(*(value.double().reshape(x.shape[:-2]) for value in (found, p, c)))


def _stein_kernel(x: Tensor, s: Tensor, apart: Tensor, c: Tensor, beta: float) -> Tensor:
    """u(x_i, x_j), [S, N, N]; ``apart`` is ||x_i - x_j||^2."""
    q = c.square()[:, None, None] + apart
    across = x @ s.mT  # x_i . s_j
    own = (x * s).sum(2)
    # grad_y k = -2 beta q^(beta - 1) (x - y), and grad_x k its opposite: (s_j - s_i) . (x_i - x_j)
    gap = across - own[:, None, :] - own[:, :, None] + across.mT
    trace = -2 * beta * x.shape[2] * q ** (beta - 1) - 4 * beta * (beta - 1) * apart * q ** (beta - 2)
    return (s @ s.mT) * q**beta + 2 * beta * q ** (beta - 1) * gap + trace


def _signs(sets: int, draws: int, n: int, change: float, rng: Philox, device: torch.device) -> Tensor:
    """[S, draws, n] of -1 and 1, each row a chain that changes its sign with probability ``change``."""
    u = rng.rand(sets, draws, n, stream=Stream.PROBE, dtype=torch.float64, device=device)
    first = torch.where(u[..., :1] < 0.5, -1.0, 1.0)
    return torch.cat([first, first * torch.where(u[..., 1:] < change, -1.0, 1.0).cumprod(2)], 2).double()
