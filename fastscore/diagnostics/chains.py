"""Whether chains have mixed, and how many independent samples theirs are worth.

Values of each quantity are replaced by normal scores of their ranks, so that what has no mean or variance is judged too, and each
chain counts as two halves, so that one that drifts is seen.

Source: Vehtari, Gelman, Simpson, Carpenter & Burkner 2021, "Rank-normalization, folding, and localization: an improved R-hat for
assessing convergence of MCMC"; Geyer 1992, "Practical Markov chain Monte Carlo" (where the sum of autocorrelations ends).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks

KINDS = ("bulk", "tail", "mean")


def split_rhat(chains: Tensor) -> Tensor:
    """The larger of the rank-normalised split R-hat of the values and of their distances from the median.

    Args:
        chains: [C, N, ...]: N >= 4 states of each of C >= 1 chains; what follows are quantities, each judged by itself.
            :func:`fastscore.samplers.langevin` with ``thin=1`` returns [N, C, ...]: give its ``transpose(0, 1)``.

    Returns:
        float64 [...]: about 1 where the chains agree; more than 1.01 says that they do not yet. NaN of a constant.

    Raises:
        TypeError, ValueError: another shape, or values that are not finite.
    """
    x = _halves(_checked(chains))
    folded = (x - _quantile(x, 0.5)).abs()
    return torch.maximum(_rhat(_normal_scores(x)), _rhat(_normal_scores(folded))).reshape(chains.shape[2:])


def effective_sample_size(chains: Tensor, *, kind: str = "bulk") -> Tensor:
    """How many independent samples estimate as well as these.

    Args:
        chains: as for :func:`split_rhat`.
        kind: ``"bulk"``: of the rank-normalised values, for the middle of the distribution; ``"tail"``: the smaller of those of
            the 5 % and 95 % quantiles; ``"mean"``: of the values as they are, for their mean.

    Returns:
        float64 [...], at most C N log10(C N): more than C N where states alternate. NaN of a constant.

    Raises:
        TypeError, ValueError: as :func:`split_rhat`.
    """
    x = _checked(chains)
    checks.one_of("kind", kind, KINDS)
    if kind == "tail":
        inside = [(x <= _quantile(x, q)).double() for q in (0.05, 0.95)]
        found = torch.minimum(*(_ess(_halves(each)) for each in inside))
    else:
        found = _ess(_normal_scores(_halves(x)) if kind == "bulk" else _halves(x))
    return found.reshape(chains.shape[2:])


def _checked(chains: Tensor) -> Tensor:
    """float64 [C, N, Q]."""
    checks.floating("chains", chains)
    if chains.dim() < 2 or chains.shape[1] < 4 or chains.numel() == 0:
        raise ValueError(f"chains must have shape [C, N, ...] with N at least 4, got {checks.describe(chains)}")
    checks.finite_values("chains", chains)
    return chains.detach().double().reshape(*chains.shape[:2], -1)


def _halves(x: Tensor) -> Tensor:
    """[2 C, N div 2, Q]; of an odd N the state in the middle is left out."""
    half = x.shape[1] // 2
    return torch.cat([x[:, :half], x[:, x.shape[1] - half :]])


def _quantile(x: Tensor, q: float) -> Tensor:
    """Linear between two values, [Q] of [C, N, Q]; torch's own takes no more than 2^24 values."""
    ordered = x.flatten(0, 1).sort(0).values
    place = q * (len(ordered) - 1)
    low = ordered[math.floor(place)]
    return low + (place - math.floor(place)) * (ordered[math.ceil(place)] - low)


def _normal_scores(x: Tensor) -> Tensor:
    """Phi^-1((r - 3/8) / (S + 1/4)), r the rank among all S values, its mean where some are equal."""
    flat = x.flatten(0, 1).T.contiguous()  # [Q, S]
    ordered = flat.sort(1).values
    below, upto = torch.searchsorted(ordered, flat), torch.searchsorted(ordered, flat, right=True)
    rank = (below + 1 + upto).double() / 2
    z = torch.special.ndtri((rank - 0.375) / (flat.shape[1] + 0.25))
    return z.T.reshape(x.shape)


def _rhat(x: Tensor) -> Tensor:
    """sqrt(((n - 1) / n W + B / n) / W), [Q]."""
    n = x.shape[1]
    within, between = x.var(1).mean(0), x.mean(1).var(0)
    return ((n - 1) / n + between / within).sqrt()


def _ess(x: Tensor) -> Tensor:
    """[Q] of [C, N, Q]."""
    c, n = x.shape[:2]
    gap = x - x.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(gap, n=2 * n, dim=1)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=1)[:, :n] / n
    within = covariance[:, 0].mean(0) * n / (n - 1)
    total = within * (n - 1) / n + (x.mean(1).var(0) if c > 1 else 0)
    rho = 1 - (within - covariance.mean(0)) / total  # [N, Q]
    rho[0] = 1
    count = max(0, (n - 3) // 2) + 1
    even, pairs = rho[: 2 * count : 2], rho[: 2 * count].unflatten(0, (-1, 2)).sum(1)  # [count, Q]
    counted = (pairs > 0).cummin(0).values
    counted[-1] = False  # the last that is looked at gives its even part alone
    end = counted.sum(0, keepdim=True)
    rest = torch.where(pairs.gather(0, end) < 0, even.gather(0, end).clamp(min=0), even.gather(0, end))[0]
    tau = -1 + 2 * torch.where(counted, pairs.cummin(0).values, 0.0).sum(0) + rest
    tau = tau.clamp(min=1 / math.log10(c * n))
    return torch.where(covariance[:, 0].sum(0) > 0, c * n / tau, torch.nan)
