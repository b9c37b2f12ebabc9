"""Conditional score matching on any Gaussian path: csm, DDPM's epsilon loss (ddpm), and against a known score (esm)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core import calls, checks
from .._core.options import choice
from .._core.registration import per_row
from .._images import ImageBatch
from ..conversions import CONDITIONINGS, KINDS, check_path, condition, linear, times_of
from ..ops.dsm_loss import checked as dsm_loss
from ..ops.perturb import checked as perturb
from ..paths import Path
from ..rng import Philox, as_philox
from ._objective import BatchLoss, Objective, PathLoss
from ._on_path import weighted
from ._times import PROPOSALS, WEIGHTINGS, Weighting, check_weighting, draw_times, falls, relative
from .common import check_reduction, reduced, score_of, square
from .dsm import denoising


class Setting(NamedTuple):
    """Checked arguments of a loss on a path."""

    path: Path
    x: Tensor  # [B, ...]
    t: Tensor  # float64 [B]
    factor: Tensor  # [B], w(t) / sigma(t)^2 and what the proposal asks for, in the dtype of computation
    alpha: Tensor  # [B], in the dtype of computation
    sigma: Tensor


def csm(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    path: Path,
    *,
    t: float | Tensor | None = None,
    rng: Philox | None = None,
    weighting: Weighting = "sigma^2",
    proposal: str = "uniform",
    conditioning: str = "t",
    parametrization: str = "score",
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Conditional score matching: E 1/2 w(t) || s(x_t, t) + z / sigma_t ||^2, x_t = alpha_t x + sigma_t z.

    Least where s is the score of x_t. For x ~ N(m, c^2 I_D) twice the loss exceeds that of :func:`esm` by
    D alpha^2 c^2 / (sigma^2 (alpha^2 c^2 + sigma^2)) w(t), whatever the network.

    Args:
        score_fn: the network, called (x_t, c); c, [B], is what ``conditioning`` says.
        x: clean samples [B, ...].
        path: a :class:`fastscore.paths.Path`.
        t: times, a number or [B]. ``None`` draws them uniformly, of a path of noise levels these.
        rng: source of times and noise (two steps; one with ``t``). ``None``: seeded from torch's default generator.
        weighting: w(t): ``"1"``, ``"sigma^2"`` (all times count alike), ``"sigma^2/alpha^2"`` (the error of x0 as it is
            seen in the data), ``"g^2"`` (the likelihood's bound, Song et al. 2021), or a function of t [B], float64. Of
            noise levels g^2 is the slope of sigma^2 along them, spread evenly over [0, 1].
        proposal: which times are drawn: ``"uniform"``, or by ``"importance"``, in proportion to w / sigma^2, with the loss
            divided accordingly: the same expectation with less variance. For "g^2" that is uniform in the log-SNR.
        conditioning: ``"t"``, ``"sigma"``, ``"log_snr"``, ``"labels"`` (int64, on a path of noise levels) or ``"none"``.
        parametrization: what the network predicts: ``"score"``, ``"epsilon"``, ``"x0"``, ``"v"`` or ``"velocity"``;
            see :mod:`fastscore.conversions`.
        model_kwargs: what else ``score_fn`` is called with, by name.
        reduction: over the batch: ``"none"`` [B], ``"mean"`` or ``"sum"``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value; ``t`` is not on the path.

    Source: Vincent 2011; Song et al. 2021, "Maximum likelihood training of score-based diffusion models" (g^2).
    """
    checks.one_of("parametrization", parametrization, KINDS)
    keywords, at, rng = check_on_path(
        score_fn, x, path, t, rng, weighting, proposal, conditioning, model_kwargs, reduction
    )
    x_t, noise = perturb(x, at.sigma, rng, at.alpha)
    score = _score(score_fn, keywords, at, x_t, conditioning, parametrization)
    return reduced(at.factor * dsm_loss(score, noise, at.sigma, 2.0), reduction)


def ddpm(
    epsilon_fn: Callable[..., Tensor],
    x: Tensor,
    path: Path,
    *,
    t: float | Tensor | None = None,
    rng: Philox | None = None,
    conditioning: str = "t",
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """DDPM's simple loss: E 1/2 || epsilon(x_t, t) - z ||^2, sigma^2 times conditional score matching, per sample.

    Arguments as for :func:`csm`, of which it is the case ``parametrization="epsilon"``. With
    :func:`fastscore.paths.vp_discrete` and times that are drawn, t is any number from 0 to N - 1; pass whole ones,
    ``t=rng.randint(1000, len(x)).double()``, for a network that embeds those alone.

    Source: Ho, Jain & Abbeel 2020, "Denoising diffusion probabilistic models", equation 14.
    """
    keywords, at, rng = check_on_path(
        epsilon_fn, x, path, t, rng, "sigma^2", "uniform", conditioning, model_kwargs, reduction
    )
    x_t, noise = perturb(x, at.sigma, rng, at.alpha)
    epsilon = epsilon_fn(x_t, *condition(path, at.t, conditioning, x_t), **keywords)
    checks.like("the output of epsilon_fn", epsilon, "x", x)
    return reduced(dsm_loss(-epsilon, noise, torch.ones_like(at.sigma), 0.0), reduction)


def esm(
    score_fn: Callable[..., Tensor],
    true_score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    path: Path,
    *,
    t: float | Tensor | None = None,
    rng: Philox | None = None,
    weighting: Weighting = "sigma^2",
    proposal: str = "uniform",
    conditioning: str = "t",
    parametrization: str = "score",
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Explicit score matching, against a known score: E 1/2 w(t) || s(x_t, t) - true_score(x_t, t) ||^2.

    Of the true score it is 0, and its gradient is that of :func:`csm` in expectation, with less variance. With w = 1 it
    is half the Fisher divergence.

    Args:
        true_score: the gradient of the log density of x_t, a function of (x_t, t), t float64 [B]; no gradient is taken of
            it.
        score_fn, x, path, t, rng, weighting, proposal, conditioning, parametrization, model_kwargs, reduction: as for
            :func:`csm`.

    Source: Hyvarinen 2005; Vincent 2011, equation 7.
    """
    if not callable(true_score):
        raise TypeError(f"true_score must be a function of (x_t, t), got {checks.describe(true_score)}")
    checks.one_of("parametrization", parametrization, KINDS)
    keywords, at, rng = check_on_path(
        score_fn, x, path, t, rng, weighting, proposal, conditioning, model_kwargs, reduction
    )
    x_t, _ = perturb(x, at.sigma, rng, at.alpha)
    with torch.no_grad():
        truth = calls.score("true_score", true_score, x_t, at.t)
    score = _score(score_fn, keywords, at, x_t, conditioning, parametrization)
    return reduced(0.5 * at.factor * at.sigma.square() * square(score - truth), reduction)


def check_on_path(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    path: Path,
    t: float | Tensor | None,
    rng: Philox | None,
    weighting: Weighting,
    proposal: str,
    conditioning: str,
    model_kwargs: Mapping[str, Any] | None,
    reduction: str,
) -> tuple[dict[str, Any], Setting, Philox]:
    """Keywords, setting and source of a loss on a path; times that are not given are drawn, by one step."""
    if not callable(score_fn):
        raise TypeError(f"score_fn must be a function of (x, t), [B, ...] -> [B, ...], got {checks.describe(score_fn)}")
    checks.floating("x", x)
    check_path(path)
    check_weighting(weighting)
    checks.one_of("proposal", proposal, PROPOSALS)
    checks.one_of("conditioning", conditioning, CONDITIONINGS)
    if conditioning == "labels" and path.sigmas is None:
        raise ValueError(
            f"conditioning must not be 'labels' on {path.name}, which has no noise levels with an index: paths.levels has"
        )
    check_reduction(reduction, x)
    keywords = checks.keywords(model_kwargs, score_fn, *([] if conditioning == "none" else [conditioning]))
    given = None if t is None else times_of(t, path, x)
    rng = as_philox(rng)
    ratio = None
    if given is None:
        given, ratio = draw_times(path, weighting, proposal, x, rng)
    given = given.expand(len(x))
    factor = relative(path, weighting, given)
    factor = factor if ratio is None else factor * ratio
    compute = checks.compute_dtype(x)
    numbers = (factor, path.alpha(given), path.sigma(given))
    return keywords, Setting(path, x, given, *(v.to(compute).contiguous() for v in numbers)), rng


def _score(
    score_fn: Callable[..., Tensor],
    keywords: Mapping[str, Any],
    at: Setting,
    x_t: Tensor,
    conditioning: str,
    parametrization: str,
) -> Tensor:
    """The score at x_t, of a network that predicts it or anything else."""
    output = calls.score("score_fn", score_fn, x_t, *condition(at.path, at.t, conditioning, x_t), **keywords)
    if parametrization == "score":
        return output
    p, q = (v.to(at.sigma.dtype) for v in linear(parametrization, at.path, at.t))
    return per_row(p, x_t) * x_t + per_row(q, x_t) * output


def _bind(network: nn.Module, sigmas: Tensor, *, weight: float, weighting: str, proposal: str) -> BatchLoss:
    """:func:`csm` of each sample at its noise level, times sigma^(weight - 2)."""
    if proposal != "uniform":
        raise ValueError(
            f"proposal must be 'uniform' on noise levels, which are drawn alike (--path ve has the same noise at any "
            f"time), got {proposal!r}"
        )
    factors = _factors(sigmas.double(), weighting).to(sigmas)

    def loss(x: Tensor | ImageBatch, labels: Tensor, rng: Philox) -> Tensor:
        score = score_of(network, {}, labels=labels, conditioning="labels")
        return factors[labels] * denoising(score, x, sigmas[labels], rng, weight)

    return loss


def _bind_path(
    score_fn: Callable[..., Tensor], path: Path, *, weight: float, weighting: str, proposal: str
) -> PathLoss:
    """:func:`csm`, times sigma^(weight - 2)."""
    return weighted(score_fn, path, weight, weighting=weighting, proposal=proposal)


def _factors(sigmas: Tensor, weighting: str) -> Tensor:
    """w / sigma^2 of each noise level, [L], where alpha is 1; no number is read, which is on any device."""
    if weighting == "1":
        return 1 / sigmas.square()
    return falls(sigmas) / sigmas.square() if weighting == "g^2" else torch.ones_like(sigmas)


def _bind_ddpm(network: nn.Module, sigmas: Tensor, *, weight: float) -> BatchLoss:
    """:func:`ddpm` of -sigma s, times sigma^(weight - 2)."""

    def loss(x: Tensor | ImageBatch, labels: Tensor, rng: Philox) -> Tensor:
        score = score_of(network, {}, labels=labels, conditioning="labels")
        return denoising(score, x, sigmas[labels], rng, weight)

    return loss


def _bind_ddpm_path(score_fn: Callable[..., Tensor], path: Path, *, weight: float) -> PathLoss:
    """:func:`ddpm` of -sigma s, times sigma^(weight - 2)."""
    return weighted(score_fn, path, weight)


CONDITIONAL = Objective(
    name="csm",
    title="conditional score matching",
    source="Vincent 2011; Song et al. 2021",
    summary="denoising with a weighting by name, which --weight 2 leaves as it is",
    bind=_bind,
    bind_path=_bind_path,
    options=(
        choice("weighting", WEIGHTINGS, "What each noise level counts; g^2 bounds the likelihood", default="sigma^2"),
        choice(
            "proposal",
            PROPOSALS,
            "Which times of a path are drawn: all alike, or by what they count (importance)",
            default="uniform",
        ),
    ),
    reads_images=True,
    first_order=True,
)

EPSILON = Objective(
    name="ddpm",
    title="DDPM's epsilon loss",
    source="Ho, Jain & Abbeel 2020",
    summary="the error of the noise that -sigma s predicts: dsm at --weight 2, in its own words",
    bind=_bind_ddpm,
    bind_path=_bind_ddpm_path,
    reads_images=True,
    first_order=True,
)
