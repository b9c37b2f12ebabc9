"""Sliced score matching: the implicit objective with v^T (ds/dx) v, in random directions v, in place of the trace.

Directions are :class:`fastscore.Probes`, with E[v v^T] = I in every ``projection``, so that E[v^T A v] = tr A and each
loss here has the expectation of implicit score matching, E[1/2 ||s||^2 + tr ds/dx] (:func:`fastscore.losses.ism`). Note
the length: the directions of ``"sphere"`` have length sqrt(D). On the unit sphere, which the code of Song et al. takes
(and :mod:`fastscore.compat.ncsn`), E[v v^T] = I/D, and the loss is :func:`ssm` divided by D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.options import Option, choice
from ..ops.fill_probes import DISTRIBUTIONS, Probes
from ..ops.fill_probes import checked as fill_probes
from ..ops.perturb import checked as perturb
from ..ops.probe_dot import checked as probe_dot
from ..rng import Philox, as_philox
from ..trace import modules
from ..trace.products import DEFAULT_MODE
from ._objective import BatchLoss, Objective
from .common import (
    PARAMETRIZATIONS,
    Directions,
    Score,
    check_directions,
    check_reduction,
    check_sliced,
    half_square,
    products,
    reduced,
    score_of,
)
from .dsm import check_levels, noise_levels


def ssm(
    score_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    rng: Philox | None = None,
    projection: str = "rademacher",
    n_particles: int = 1,
    mode: str = DEFAULT_MODE,
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Sliced score matching: both terms along random directions v.

    ``loss_b = mean over v of 1/2 (v^T s(x_b))^2 + v^T (ds/dx)(x_b) v``

    Args:
        score_fn: the network, ``score_fn(x)``, [B, ...] to [B, ...]; it is evaluated once, whatever ``n_particles`` is.
        x: samples [B, ...]; float16, bfloat16, float32 or float64.
        rng: source of the directions; takes ``n_particles`` steps. ``None``: seeded from torch's default generator.
        projection: what the directions are: ``"rademacher"`` signs (the least variance where ds/dx is nearly diagonal),
            ``"gaussian"``, or ``"sphere"`` (uniform, of length sqrt(D), NOT 1: see the module's text).
        n_particles: directions for each sample; each costs one more Jacobian product, and all share s(x).
        mode: ``"vjp"``: reverse mode, and double backward for the gradient, which nearly every network can;
            ``"jvp"``: forward mode, and one reverse pass for the gradient, where each operation of the network has a
            forward-mode derivative. The same values and gradients, to rounding, but for what the network computes
            under ``no_grad``: that is a constant to vjp alone (what it detaches, to both). What each costs depends on
            the network (NCSN: vjp is the faster, at 0.6 of the peak memory). To compile, compile the loss with the
            network in it: a compiled network is run uncompiled here, for its gradient cannot be differentiated again.
        model_kwargs: what else ``score_fn`` is called with, by name, at each call.
        reduction: over the batch: ``"none"`` [B], ``"mean"`` or ``"sum"``.

    Returns:
        A number, or [B]; float64 for a float64 ``x``, else float32. Differentiable in the network's parameters, and in
        ``x`` where it requires a gradient.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value, a network that mixes samples (BatchNorm
            in training mode), or a score that is cut off from ``x`` though its values depend on it (a RuntimeError
            under ``torch.compile``); the message names it, and the cure.
        NotImplementedError: mode ``"jvp"``, and an operation of ``score_fn`` has no forward-mode derivative.
        RuntimeError: mode ``"vjp"``, and torch.autograd does not differentiate ``score_fn``.

    Source: Song, Garg, Shi & Ermon 2019, "Sliced score matching", equation 7.
    """
    along = check_sliced(score_fn, x, rng, projection, n_particles, mode, model_kwargs, reduction)
    dots, traces = sliced_terms(along)
    return reduced((0.5 * dots.square() + traces).mean(0), reduction)


def ssm_vr(
    score_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    rng: Philox | None = None,
    projection: str = "rademacher",
    n_particles: int = 1,
    mode: str = DEFAULT_MODE,
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Sliced score matching with reduced variance: E (v^T s)^2 = ||s||^2 is known, so only the trace is sliced.

    ``loss_b = 1/2 ||s(x_b)||^2 + mean over v of v^T (ds/dx)(x_b) v``

    Arguments, what is returned and what is raised are those of :func:`ssm`.

    Source: Song, Garg, Shi & Ermon 2019, "Sliced score matching", equation 8.
    """
    along = check_sliced(score_fn, x, rng, projection, n_particles, mode, model_kwargs, reduction)
    half, traces = reduced_terms(along)
    return reduced(half + traces.mean(0), reduction)


def annealed_ssm_vr(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    rng: Philox | None = None,
    labels: Tensor | None = None,
    weight: float = 2.0,
    projection: str = "rademacher",
    n_particles: int = 1,
    mode: str = DEFAULT_MODE,
    parametrization: str = "score",
    conditioning: str = "labels",
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """NCSN by sliced score matching: a noise level i ~ U{0..L-1} for each sample, and :func:`ssm_vr` at x_tilde.

    ``loss_b = sigma_i^weight (1/2 ||s(x_tilde, i)||^2 + v^T (ds/dx)(x_tilde, i) v)``, ``x_tilde = x_b + sigma_i z_b``

    In expectation it is :func:`fastscore.losses.ncsn` less a constant, and so has its gradient, but it does not use
    what the noise was. With weight 2 a perfect score costs about -D/2 at large noise, where ``ncsn`` costs about 0.

    Args:
        score_fn: the network; ``score_fn(x, labels)`` or, by ``conditioning``, ``score_fn(x, sigma)``.
        x: clean samples [B, ...].
        sigmas: noise levels [L], strictly decreasing, in the units of ``x``.
        rng: source of labels, noise and directions: one step (none where ``labels`` are given), one, and
            ``n_particles``. ``None``: seeded from torch's default generator.
        labels: noise level of each sample, int64 [B]; ``None`` draws them uniformly.
        weight: power of sigma; 2 makes the noise levels count alike.
        projection, n_particles, mode, model_kwargs, reduction: as for :func:`ssm`.
        parametrization: ``"score"``: the network gives s; ``"epsilon"``: s = -(what it gives) / sigma.
        conditioning: ``"labels"`` or ``"sigma"``.

    Returns, Raises:
        As :func:`ssm`.

    Source: Song & Ermon 2019, "Generative modeling by estimating gradients of the data distribution", section 3.1 and
    equation 6.
    """
    layers = modules.check(score_fn, mode, "score_fn")
    checks.floating("x", x)
    checks.one_of("conditioning", conditioning, ("labels", "sigma"))
    keywords = checks.keywords(model_kwargs, score_fn, conditioning)
    checks.one_of("parametrization", parametrization, PARAMETRIZATIONS)
    check_reduction(reduction, x)
    n_particles, weight = check_directions(projection, n_particles, mode), checks.number("weight", weight)
    sigmas, labels = check_levels(x, sigmas, labels)
    rng = as_philox(rng)
    sigma, labels = noise_levels(x, sigmas, labels, rng)
    score = score_of(
        score_fn,
        keywords,
        sigma=sigma,
        labels=labels,
        conditioning=conditioning,
        parametrization=parametrization,
    )
    return reduced(noisy_reduced(score, x, sigma, rng, weight, projection, n_particles, mode, layers), reduction)


def fd_ssm(
    score_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float = 0.1,
    variance_reduced: bool = False,
    rng: Philox | None = None,
    projection: str = "rademacher",
    n_particles: int = 1,
    model_kwargs: Mapping[str, Any] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Sliced score matching by finite differences: network evaluations alone, and a plain backward for the gradient.

    With h = eps / sqrt(D), so that the step h v is of length eps, and s+ = s(x + h v), s- = s(x - h v)::

        loss_b = mean over v of 1/2 (v^T (s+ + s-) / 2)^2 + v^T (s+ - s-) / (2 h)

    The even and the odd part of the Taylor series of s along v are::

        (s+ + s-) / 2   = s   + h^2/2 d^2s[v, v]    + O(h^4)
        (s+ - s-) / 2h  = J v + h^2/6 d^3s[v, v, v] + O(h^4)

    so the loss is that of :func:`ssm` (with ``variance_reduced`` the first term is 1/2 ||(s+ + s-) / 2||^2, and the
    loss that of :func:`ssm_vr`) with an error of O(eps^2), in its value and in its gradient; for a score that is linear
    in x there is none. For an energy, s = grad log p, v^T (s+ - s-) is a second-order difference of log p along v.

    Args:
        score_fn, x, projection, model_kwargs, reduction: as for :func:`ssm`. There are 2 ``n_particles`` evaluations.
        eps: length of the step, in the units of ``x``: less than the scale on which the score bends. The default is
            the paper's, for data of unit scale; at a noise level sigma, 0.1 sigma is a good choice. Far below, what is
            rounded away counts: of the order of 1e-7 D max|s| / eps in float32.
        variance_reduced: estimate :func:`ssm_vr` in place of :func:`ssm`.
        rng: source of the directions; takes ``n_particles`` steps. ``None``: seeded from torch's default generator.
        n_particles: directions for each sample.

    Raises:
        TypeError, ValueError: as :func:`ssm`; ``x`` is float16 or bfloat16, which hold no such differences; a network
            that draws a new mask at every call (Dropout in training mode).

    Source: Pang, Xu, Li, Song, Ermon & Zhu 2020, "Efficient learning of generative models via finite-difference score
    matching", section 3.
    """
    modules.check(score_fn, "fd", "score_fn")
    eps = checks.positive("eps", eps)
    checks.floating("x", x)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64 for finite differences, got {checks.describe(x)}")
    keywords = checks.keywords(model_kwargs, score_fn)
    n_particles = check_directions(projection, n_particles, DEFAULT_MODE)
    check_reduction(reduction, x)
    score, h = score_of(score_fn, keywords), eps / max(1, x.shape[1:].numel()) ** 0.5
    probes = Probes.checked(x, n_particles, as_philox(rng), distribution=projection)
    loss = torch.zeros((), dtype=x.dtype, device=x.device)
    for k in range(probes.num_probes):
        step = h * fill_probes(probes, k, 1)[0]
        plus, minus = score(x + step), score(x - step)
        mean, slope = (plus + minus) / 2, (plus - minus) / (2 * h)
        first = half_square(mean) if variance_reduced else 0.5 * probe_dot(mean[None], probes, k)[0].square()
        loss = loss + first + probe_dot(slope[None], probes, k)[0]
    return reduced(loss / probes.num_probes, reduction)


def sliced_terms(along: Directions) -> tuple[Tensor, Tensor]:
    """v^T s and v^T J v, both [K, B]."""
    output, rows = products(along)
    probes = along.probes
    return probe_dot(output.expand(probes.num_probes, *output.shape), probes, 0), probe_dot(rows, probes, 0)


def reduced_terms(along: Directions) -> tuple[Tensor, Tensor]:
    """1/2 ||s||^2 [B] and v^T J v [K, B]."""
    output, rows = products(along)
    return half_square(output), probe_dot(rows, along.probes, 0)


def noisy_reduced(
    score: Score,
    x: Tensor,
    sigma: Tensor,
    rng: Philox,
    weight: float,
    projection: str,
    n_particles: int,
    mode: str,
    layers: modules.Layers,
) -> Tensor:
    """[B]: sigma^weight (1/2 ||s||^2 + mean of v^T J v) at x + sigma z; takes 1 + ``n_particles`` steps of ``rng``.

    Of arguments that were checked: ``sigma`` [B], in the dtype of computation.
    """
    x_tilde, _ = perturb(x, sigma, rng)
    probes = Probes.checked(x_tilde, n_particles, rng, distribution=projection)
    half, traces = reduced_terms(Directions(score, x_tilde, probes, mode, layers))
    return sigma**weight * (half + traces.mean(0))


def _bind(network: nn.Module, sigmas: Tensor, *, weight: float, projection: str, n_particles: int) -> BatchLoss:
    """:func:`annealed_ssm_vr` of each sample; the network is looked through once, and not for every batch."""
    layers = modules.check(network, DEFAULT_MODE, "network")

    def loss(x: Tensor, labels: Tensor, rng: Philox) -> Tensor:
        score = score_of(network, {}, labels=labels, conditioning="labels")
        return noisy_reduced(score, x, sigmas[labels], rng, weight, projection, n_particles, DEFAULT_MODE, layers)

    return loss


SLICED = Objective(
    name="ssm",
    title="sliced score matching",
    source="Song, Garg, Shi & Ermon 2019",
    summary="looks at the score's divergence along random directions: slower, for the same score",
    bind=_bind,
    options=(
        choice("projection", DISTRIBUTIONS, "What the random directions are drawn from", default="rademacher"),
        Option(
            "n_particles",
            int,
            "Directions for each sample; each costs one more product with the score's Jacobian",
            partial(checks.integer, low=1, high=2**16),
            default=1,
        ),
    ),
)
