"""EDM's loss: noise levels drawn from a log-normal, and weights under which a preconditioned network has unit targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.options import Option
from .._images import ImageBatch
from ..ops.dsm_loss import checked as dsm_loss
from ..ops.perturb import checked as perturb
from ..paths import Path
from ..rng import Philox, Stream, as_philox
from ._objective import BatchLoss, Objective, PathLoss
from ._on_path import bound
from .common import check_reduction, reduced, score_of
from .dsm import denoising


def edm(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    *,
    sigma: float | Tensor | None = None,
    rng: Philox | None = None,
    data_std: float = 0.5,
    p_mean: float = -1.2,
    p_std: float = 1.2,
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """E 1/2 lambda || D(x + sigma z) - x ||^2, D = x_tilde + sigma^2 s, lambda = (sigma^2 + c^2) / (sigma c)^2, c = data_std.

    Since D - x = sigma^2 (s + z / sigma), it is denoising score matching with the weight sigma^2 (1 + sigma^2 / c^2).

    Args:
        score_fn: the score, ``score_fn(x, sigma)``; :class:`fastscore.models.Preconditioned` makes one of any network.
        x: clean samples [B, ...].
        sigma: noise levels, a number or [B]. ``None``: log sigma ~ N(p_mean, p_std^2).
        rng: source of levels and noise (two steps; one with ``sigma``). ``None``: seeded from torch's default generator.
        data_std: c, of the data.
        p_mean, p_std: of the logarithm of the noise level; the defaults are for images in [-1, 1].
        model_kwargs, reduction: as for :func:`dsm`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value.

    Source: Karras, Aittala, Aila & Laine 2022, "Elucidating the design space of diffusion-based generative models",
    table 1, without whose 2 it is, as all losses here.
    """
    if not callable(score_fn):
        raise TypeError(
            f"score_fn must be a function of (x, sigma), [B, ...] -> [B, ...], got {checks.describe(score_fn)}"
        )
    checks.floating("x", x)
    data_std, p_mean, p_std = (
        checks.positive("data_std", data_std),
        checks.number("p_mean", p_mean),
        checks.positive("p_std", p_std),
    )
    check_reduction(reduction, x)
    keywords = checks.keywords(model_kwargs, score_fn, "sigma")
    if sigma is not None:
        sigma = checks.row_numbers("sigma", sigma, x).expand(len(x))
    rng = as_philox(rng)
    if sigma is None:
        z = rng.randn(len(x), stream=Stream.LABELS, dtype=torch.float64, device=x.device, beside=(x,))
        sigma = (p_mean + p_std * z).exp().to(checks.compute_dtype(x))
    sigma = sigma.contiguous()
    x_tilde, noise = perturb(x, sigma, rng)
    score = score_of(score_fn, keywords, sigma=sigma, conditioning="sigma")(x_tilde)
    return reduced((1 + (sigma / data_std).square()) * dsm_loss(score, noise, sigma, 2.0), reduction)


def _bind(
    network: nn.Module, sigmas: Tensor, *, weight: float, data_std: float, p_mean: float, p_std: float
) -> BatchLoss:
    """:func:`edm` of each sample at its level, times sigma^(weight - 2) and the log-normal's density there.

    The densities are divided by their mean: labels are uniform, and the noise levels taken for even in log sigma.
    """
    wide = sigmas.double()
    density = (-((wide.log() - p_mean) / p_std).square() / 2).exp()
    factors = ((1 + (wide / data_std).square()) * density / density.mean()).to(sigmas)

    def loss(x: Tensor | ImageBatch, labels: Tensor, rng: Philox) -> Tensor:
        score = score_of(network, {}, labels=labels, conditioning="labels")
        return factors[labels] * denoising(score, x, sigmas[labels], rng, weight)

    return loss


def _bind_path(
    score_fn: Callable[..., Tensor], path: Path, *, weight: float, data_std: float, p_mean: float, p_std: float
) -> PathLoss:
    """:func:`edm` of x_t / alpha, at the noise rho = sigma / alpha, times sigma^(weight - 2).

    log rho ~ N(p_mean, p_std^2), of which what is not on the path is left out.
    """
    ends = [(-float(path.log_snr(t)) / 2 - p_mean) / p_std for t in (path.t_min, path.t_max)]
    low, high = (0.5 * math.erfc(-end / math.sqrt(2)) for end in ends)
    if not high - low > 1e-6:
        raise ValueError(
            f"p_mean and p_std must leave the log-normal on {path!r}, whose log(sigma / alpha) is from "
            f"{ends[0] * p_std + p_mean:.3g} to {ends[1] * p_std + p_mean:.3g}, got {p_mean} and {p_std}"
        )

    def times(x: Tensor, rng: Philox) -> tuple[Tensor, None]:
        u = rng.rand(len(x), stream=Stream.LABELS, dtype=torch.float64, device=x.device, beside=(x,))
        z = torch.special.ndtri(low + u * (high - low)).clamp(*ends)
        return path.t_of_log_snr((-2 * (p_mean + p_std * z)).clamp(*spread)), None

    def factor(t: Tensor) -> Tensor:
        return 1 + (path.sigma(t) / (path.alpha(t) * data_std)).square()

    spread = float(path.log_snr(path.t_max)), float(path.log_snr(path.t_min))
    return bound(score_fn, path, weight, factor=factor, times=times)


EDM = Objective(
    name="edm",
    title="EDM's loss",
    source="Karras, Aittala, Aila & Laine 2022",
    summary="denoising with EDM's weights, and its log-normal over the noise levels as a factor",
    bind=_bind,
    bind_path=_bind_path,
    options=(
        Option("data_std", float, "Standard deviation of the data", checks.positive, default=0.5),
        Option("p_mean", float, "Mean of the logarithm of the noise level", checks.number, default=-1.2),
        Option("p_std", float, "Its standard deviation", checks.positive, default=1.2),
    ),
    reads_images=True,
    first_order=True,
)
