"""The paths of the literature, by name; every parameter has one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .._core import checks
from .path import Path


def _geometric(t: Tensor, low: float, high: float) -> Tensor:
    return (math.log(low) + t * (math.log(high) - math.log(low))).exp()


def _one_minus(t: Tensor) -> Tensor:
    return 1 - t


def _same(t: Tensor) -> Tensor:
    return t.clone()


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Path:
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1]; Song et al. 2021."""
    low, high = _ends(sigma_min, sigma_max)
    return Path(
        torch.ones_like,
        partial(_geometric, low=low, high=high),
        t_min=0.0,
        name=f"ve(sigma_min={low:g}, sigma_max={high:g})",
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Path:
    """alpha = 1 and sigma = t, t in [sigma_min, sigma_max]: time is the noise itself; Karras et al. 2022."""
    low, high = _ends(sigma_min, sigma_max)
    return Path(torch.ones_like, _same, t_min=low, t_max=high, name=f"edm(sigma_min={low:g}, sigma_max={high:g})")


def levels(sigmas: Tensor | Sequence[float]) -> Path:
    """The noise levels of NCSN: alpha = 1, sigma = t, and no times but ``sigmas`` [L], strictly decreasing."""
    sigmas = checks.sigmas("sigmas", sigmas).detach()
    low, high = float(sigmas[-1]), float(sigmas[0])
    name = f"levels({len(sigmas)} from {high:g} to {low:g})"
    return Path(torch.ones_like, _same, t_min=low, t_max=high, sigmas=sigmas, name=name)


def _ends(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    low, high = checks.positive("sigma_min", sigma_min), checks.positive("sigma_max", sigma_max)
    if not low < high:
        raise ValueError(f"sigma_max must be greater than sigma_min, {low}, got {high}")
    return low, high


def _log_alpha_linear(t: Tensor, low: float, high: float) -> Tensor:
    """-1/2 of the integral of beta from 0 to t."""
    return -0.25 * t**2 * (high - low) - 0.5 * t * low


def _alpha_linear(t: Tensor, low: float, high: float) -> Tensor:
    return _log_alpha_linear(t, low, high).exp()


def _sigma_linear(t: Tensor, low: float, high: float) -> Tensor:
    return (-torch.expm1(2 * _log_alpha_linear(t, low, high))).sqrt()


def _sigma_sub(t: Tensor, low: float, high: float) -> Tensor:
    return -torch.expm1(2 * _log_alpha_linear(t, low, high))


def _betas(beta_min: float, beta_max: float) -> tuple[float, float]:
    low, high = checks.positive("beta_min", beta_min), checks.positive("beta_max", beta_max)
    if not low <= high:
        raise ValueError(f"beta_max must be at least beta_min, {low}, got {high}")
    return low, high


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0, *, t_min: float = 1e-3) -> Path:
    """alpha = exp(-1/2 int_0^t beta), sigma^2 = 1 - alpha^2, beta from ``beta_min`` to ``beta_max``, t in [t_min, 1].

    The continuous limit of DDPM in Song et al. 2021, whose values are the defaults: alpha(1) = 0.0066.
    """
    low, high = _betas(beta_min, beta_max)
    alpha, sigma = partial(_alpha_linear, low=low, high=high), partial(_sigma_linear, low=low, high=high)
    return Path(alpha, sigma, t_min=t_min, name=f"vp_linear(beta_min={low:g}, beta_max={high:g})")


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0, *, t_min: float = 1e-3) -> Path:
    """alpha of :func:`vp_linear` and sigma = 1 - alpha^2, whose variance is below that of every vp; Song et al. 2021."""
    low, high = _betas(beta_min, beta_max)
    alpha, sigma = partial(_alpha_linear, low=low, high=high), partial(_sigma_sub, low=low, high=high)
    return Path(alpha, sigma, t_min=t_min, name=f"sub_vp(beta_min={low:g}, beta_max={high:g})")


def _alpha_cosine(t: Tensor, offset: float) -> Tensor:
    return ((t + offset) / (1 + offset) * math.pi / 2).cos() / math.cos(offset / (1 + offset) * math.pi / 2)


def _sigma_cosine(t: Tensor, offset: float) -> Tensor:
    """sqrt(1 - (cos a / cos b)^2) = sqrt(sin(a + b) sin(a - b)) / cos b, without cancellation."""
    b = offset / (1 + offset) * math.pi / 2
    a = (t + offset) / (1 + offset) * math.pi / 2
    return ((a + b).sin() * (a - b).sin()).sqrt() / math.cos(b)


def vp_cosine(offset: float = 0.008, *, t_min: float = 1e-3, t_max: float = 0.9946) -> Path:
    """alpha = cos((t + s) / (1 + s) pi/2) / cos(s / (1 + s) pi/2), s the ``offset``, sigma^2 = 1 - alpha^2.

    Nichol & Dhariwal 2021. alpha(1) is 0: ``t_max`` is where Lu et al. 2022 (DPM-Solver) end it.
    """
    offset = checks.positive("offset", offset, zero_allowed=True)
    name = f"vp_cosine(offset={offset:g})"
    return Path(
        partial(_alpha_cosine, offset=offset),
        partial(_sigma_cosine, offset=offset),
        t_min=t_min,
        t_max=t_max,
        name=name,
    )


def rectified(*, t_min: float = 1e-3, t_max: float = 0.999) -> Path:
    """alpha = 1 - t, sigma = t: straight lines from data to noise; Liu et al. 2022, Lipman et al. 2022.

    At t = 0 there is no noise, and at 1 no data, of which no score can tell a mean: both are left out.
    """
    return Path(_one_minus, _same, t_min=t_min, t_max=t_max, name="rectified()")


class _Interpolated:
    """alpha or sigma of a table of log-SNR at t = 0 .. N - 1, linear in between, with alpha^2 + sigma^2 = 1."""

    def __init__(self, log_snr: Tensor, sign: float) -> None:
        self.log_snr, self.sign = log_snr, sign

    def __call__(self, t: Tensor) -> Tensor:
        table = self.log_snr.to(t.device, non_blocking=True)
        left = t.detach().floor().long().clamp(0, len(table) - 2)
        value = table[left] + (t - left) * (table[left + 1] - table[left])
        return torch.sigmoid(self.sign * value).sqrt()


def vp_discrete(
    beta_min: float = 1e-4,
    beta_max: float = 0.02,
    num_steps: int = 1000,
    *,
    betas: Tensor | Sequence[float] | None = None,
) -> Path:
    """DDPM's steps: alpha_k^2 = prod_{j <= k} (1 - beta_j), sigma_k^2 = 1 - alpha_k^2, t = k from 0 to N - 1.

    Networks of ``diffusers`` are called with k. Between two steps the log-SNR is linear.

    Args:
        beta_min, beta_max, num_steps: of Ho et al. 2020, evenly spaced; alpha at the end is 0.0064.
        betas: [N] in place of these, such as ``scheduler.betas``.
    """
    if betas is None:
        low, high = _betas(beta_min, beta_max)
        num_steps = checks.integer("num_steps", num_steps, low=2)
        betas = torch.linspace(low, high, num_steps, dtype=torch.float64, device="cpu")
        name = f"vp_discrete(beta_min={low:g}, beta_max={high:g}, num_steps={num_steps})"
    else:
        betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu").detach()
        name = f"vp_discrete(betas of {betas.numel()} steps)"
    if betas.dim() != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(f"betas must have shape (N,), N at least 2, each in (0, 1), got {checks.describe(betas)}")
    logs = torch.log1p(-betas).cumsum(0)  # log alpha^2
    log_snr = logs - (-torch.expm1(logs)).log()
    return Path(_Interpolated(log_snr, 1.0), _Interpolated(log_snr, -1.0), t_min=0.0, t_max=len(betas) - 1.0, name=name)
