"""A score against another one, against the truth at each noise level, and against being a gradient at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import NonFiniteSamples
from ..ops import Probes, fill_probes, perturb
from ..rng import Philox, as_philox
from ..samplers.parts import Score, conditioned
from ..trace import modules
from ..trace.exact import TOLERANCE
from ..trace.messages import Words
from ..trace.products import Products

Field = Callable[[Tensor], Tensor]
_ANOTHER = "a score that torch differentiates in both modes"
_WORDS = Words("score_fn", "num_probes=1", _ANOTHER, _ANOTHER, chooses=False)


class Estimate(NamedTuple):
    """A mean over samples, and its standard error (NaN of one sample)."""

    value: float
    stderr: float


class ScoreError(NamedTuple):
    """What :func:`score_error` returns; float64 [L], one for each noise level.

    Attributes:
        sigma: the level.
        error: sigma^2 E||s - s*||^2 / D: 0 of the exact score. It is what the score adds to twice the loss of weight sigma^2 for
            each element.
        stderr: its standard error.
        relative: E||s - s*||^2 / E||s*||^2: 1 of a network that says nothing.
    """

    sigma: Tensor
    error: Tensor
    stderr: Tensor
    relative: Tensor


class Curl(NamedTuple):
    """What :func:`curl` returns; float64 [B].

    Attributes:
        squared: an unbiased estimate of ||J - J^T||_F^2.
        stderr: its standard error; NaN of one probe.
        jacobian: one of ||J||_F^2, beside which ``squared`` is large or small; the quotient is at most 4.
    """

    squared: Tensor
    stderr: Tensor
    jacobian: Tensor


@torch.no_grad()
def fisher_divergence(score_a: Field, score_b: Field, x: Tensor) -> Estimate:
    """E ||s_a(x) - s_b(x)||^2 over the samples ``x``: of p_a from p_b where x is of p_a. Some texts have half of it.

    Args:
        score_a, score_b: [B, ...] -> [B, ...].
        x: [B, ...], samples of p_a.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape. NonFiniteSamples: a score is NaN or infinite.

    Source: Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching", equation 2; Johnson 2004,
    "Information theory and the central limit theorem", definition 1.13.
    """
    _check_x(x)
    a, b = (asked(name, score)(x) for name, score in (("score_a", score_a), ("score_b", score_b)))
    return _mean((a - b).square().flatten(1).sum(1))


@torch.no_grad()
def score_error(
    score_fn: Callable[..., Tensor],
    exact: Callable[[Tensor, float], Tensor],
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    conditioning: str = "labels",
    model_kwargs: Mapping[str, Any] | None = None,
    rng: Philox | None = None,
) -> ScoreError:
    """The error of a network of noise levels at each of them, where the true score s* is known.

    Args:
        score_fn: ``score_fn(x, labels)``, or with ``conditioning="sigma"`` ``score_fn(x, sigma)``.
        exact: exact(x, sigma), s* of the data with noise sigma, a number; [B, ...] of ``x``'s shape.
        x: clean samples [B, ...]; at each level they get new noise.
        sigmas: the noise levels [L].
        conditioning, model_kwargs: as for :func:`fastscore.samplers.annealed_langevin`.
        rng: source of the noise, one step a level. None: seeded from torch's default generator.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape. NonFiniteSamples: a score is NaN or infinite.
    """
    _check_x(x)
    if not callable(exact):
        raise TypeError(f"exact must be a function of (x, sigma), got {checks.describe(exact)}")
    levels, rng, truth = checks.levels("sigmas", sigmas), as_philox(rng), asked("exact", exact)
    score, rows = conditioned(score_fn, levels, conditioning, model_kwargs), []
    for i, sigma in enumerate(levels):
        noisy, _ = perturb(x, sigma, rng)
        true = truth(noisy, sigma)
        gap = _finite(f"score_fn at sigma {sigma:.6g}", score(noisy, i)) - true
        squared = gap.square().flatten(1).sum(1)
        error = _mean(sigma**2 * squared / x[0].numel())
        rows.append((sigma, *error, float(squared.sum() / true.square().sum())))
    return ScoreError(*torch.tensor(rows, dtype=torch.float64, device="cpu").unbind(1))


def curl(score_fn: Field, x: Tensor, *, num_probes: int = 8, rng: Philox | None = None) -> Curl:
    """How far a field is from a gradient: ||J - J^T||_F^2 = E_v ||J v - J^T v||^2 over Rademacher v, by jvp and vjp.

    Args:
        score_fn: [B, ...] -> [B, ...], each sample by itself, which torch differentiates in both modes.
        x: [B, ...].
        num_probes: directions for each sample, at least 1; each costs a jvp and a vjp.
        rng: source of the directions. None: seeded from torch's default generator.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or shape; or v^T (J v) is not v^T (J^T v), as where the score is
            another function at every call (dropout in training mode), or a part of it is computed under ``no_grad``.
        NotImplementedError: a layer without forward mode.

    Source: Chao et al. 2022, "On investigating the conservative property of score-based generative models", equation 10.
    """
    _check_x(x)
    probes = Probes(x, checks.integer("num_probes", num_probes, low=1), as_philox(rng))
    with torch.no_grad(), warnings.catch_warnings():  # torch compiles its forward mode by what it deprecates
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        forward, reverse = (
            Products(score_fn, x, mode=mode, layers=modules.check(score_fn, mode, "score_fn"), words=_WORDS)
            for mode in ("jvp", "vjp")
        )
        gaps, sizes = [], []
        for first, count in forward.chunks(probes.num_probes):
            v = fill_probes(probes, first=first, count=count)
            along, back = forward(v).double().flatten(2), reverse(v).double().flatten(2)
            _check_same(v.double().flatten(2), along, back, TOLERANCE[x.dtype])
            gaps.append((along - back).square().sum(2))
            sizes.append(along.square().sum(2))
    gap, size = torch.cat(gaps), torch.cat(sizes)
    stderr = gap.std(0) / len(gap) ** 0.5 if len(gap) > 1 else torch.full_like(gap[0], torch.nan)
    return Curl(gap.mean(0), stderr, size.mean(0))


def _check_x(x: Tensor) -> None:
    checks.floating("x", x)
    checks.not_differentiated("x", x)
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"x must be [B, ...] with at least one sample of one element, got {checks.describe(x)}")


def _check_same(v: Tensor, along: Tensor, back: Tensor, tolerance: float) -> None:
    """Raise unless v^T (J v) and v^T (J^T v), of [K, B, D], are one number, as they are of one J (not under vmap)."""
    one, other = v * along, v * back
    size = one.abs().sum(2) + other.abs().sum(2)
    bad = (one.sum(2) - other.sum(2)).abs() > tolerance * size
    if checks.has_values(bad) and bool(bad.any()):
        probe, row = bad.nonzero()[0].tolist()
        raise ValueError(
            f"score_fn must have one Jacobian J, got v^T (J v) = {float(one[probe, row].sum()):.6g} by jvp and v^T (J^T v) = "
            f"{float(other[probe, row].sum()):.6g} by vjp for sample {row}: call .eval() on a network with dropout, and compute nothing of x "
            "under no_grad, which vjp takes for a constant"
        )


def asked(name: str, score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``score``, an argument called ``name``, as a function whose values are in float64, known to be of x's shape and finite.

    Raises:
        TypeError, ValueError: it is no function, or its networks mix the samples; as for samplers. At a call: as said.
    """
    if not callable(score):
        raise TypeError(f"{name} must be a function [B, ...] -> [B, ...], got {checks.describe(score)}")
    of = Score(score, name=name)
    return lambda x, *condition: _finite(name, of(x, *condition))


def _finite(name: str, value: Tensor) -> Tensor:
    bad = ~torch.isfinite(value).flatten(1).all(1)
    if checks.has_values(bad) and bool(bad.any()):
        raise NonFiniteSamples(f"{name} is NaN or infinite for {int(bad.sum())} of {len(value)} samples")
    return value.double()


def _mean(values: Tensor) -> Estimate:
    """Of [B]."""
    spread = float(values.std()) if len(values) > 1 else float("nan")
    return Estimate(float(values.mean()), spread / len(values) ** 0.5)
