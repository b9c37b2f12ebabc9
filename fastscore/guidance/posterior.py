r"""Scores of the posterior of a linear measurement y = A x_0 + N(0, noise_std^2 I).

With the denoiser x_0^ = (x_t + sigma^2 s) / alpha, the mean of x_0 given x_t, and J its Jacobian in x_t, all add to the score
a part of

    grad log p(y | x_t)  =  J^T A^T (r^2 A A^T + noise_std^2)^-1 (y - A x_0^)          if p(x_0 | x_t) is N(x_0^, r^2 I)

- :func:`pigdm`: this, with r^2 = c^2 sigma^2 / (alpha^2 c^2 + sigma^2), which is exact for data N(m, c^2 I);
- :func:`dps`: r = 0, that is p(y | x_0^), whose size is then set by a rule of thumb;
- :func:`projection`: J = 1 / alpha and r = sigma / alpha, the limit of data without bounds. x_0^ becomes the nearest sample
  that was measured so; with a mask its known part is y. It needs no gradient.

J is (1 + sigma^2 ds/dx) / alpha, of which the two parts all but cancel where alpha is small: keep to float32 there. (Of Gaussian data
at alpha = 0.007 the score of :func:`pigdm` was 5e-6 off in float32, 2 % in float16 and 17 % in bfloat16; at alpha = 1 as x is.)

The vector-Jacobian product of the network takes about as long as an evaluation, once more for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import backends, calls, checks
from .._core.registration import rows_of
from ..paths import Path
from ._noise import Held, NoiseOf, check_score
from .measurements import Measurement

Levels = Path | Tensor | Sequence[float]


class Posterior(nn.Module):
    """The score of x_t given y; ``method`` names the function of this module that made it."""

    def __init__(
        self,
        method: str,
        score_fn: Callable[..., Tensor],
        measurement: Measurement,
        y: Tensor,
        path: Levels,
        *,
        noise_std: float | None,
        conditioning: str,
        scale: float = 1.0,
        data_std: float = 1.0,
    ):
        super().__init__()
        check_score("score_fn", score_fn)
        if not isinstance(measurement, Measurement):
            raise TypeError(
                "measurement must be a fastscore.guidance.Measurement, such as inpainting(mask), or Measurement(f) of a "
                f"linear function f, got {checks.describe(measurement)}"
            )
        self.method, self.score_fn, self.measurement = method, score_fn, measurement
        self._y = Held(checks.floating("y", y).detach())
        divides = method == "dps"  # by the variance, or where it is not known by a length
        self.normalized = divides and noise_std is None
        self.noise_std = 0.0 if self.normalized else _width("noise_std", noise_std, zero_allowed=not divides)
        self.scale, self.data_std = checks.number("scale", scale, largest=checks.FLOAT32), _width("data_std", data_std)
        self._noise = NoiseOf(path, conditioning)

    def forward(self, x: Tensor, *condition: Tensor, **keywords: Any) -> Tensor:
        """The score at x, [B, ...]; ``keywords`` are those of ``score_fn``."""
        checks.floating("x", x)
        compute = checks.compute_dtype(x)
        alpha, sigma = self._noise(x, condition)

        def score_at(x: Tensor) -> Tensor:
            return calls.score("score_fn", self.score_fn, x, *condition, **keywords)

        if self.method == "projection":
            score, pull = score_at(x), None
        else:
            score, pull = _pulled(score_at, x)
        wide = score.to(compute)
        clean = (x.to(compute) + sigma.square() * wide) / alpha
        u = self._direction(clean, alpha, sigma)
        if pull is None:
            added = alpha / sigma.square() * u
        else:
            added = (u + sigma.square() * pull(u.to(x.dtype)).to(compute)) / alpha
        return (wide + self.scale * added).to(x.dtype)

    def _direction(self, clean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """A^T (...)^-1 (y - A x_0^), by which J^T or alpha / sigma^2 is multiplied."""
        A, missing = self.measurement, self.measurement.missing(self._y.on(clean.device, clean.dtype), clean)
        variance = torch.full_like(sigma, self.noise_std**2)
        if self.method == "pigdm":
            square = self.data_std**2
            spread = square * sigma.square() / (alpha.square() * square + sigma.square())
            return A.transposed(A.solve(missing, clean, spread, variance), clean)
        if self.method == "projection":
            ones = torch.ones_like(sigma)
            return A.transposed(A.solve(missing, clean, ones, variance * (alpha / sigma).square()), clean)
        if not self.normalized:
            return A.transposed(missing, clean) / variance
        length = rows_of(missing).norm(dim=1).reshape(sigma.shape)
        scaled = A.transposed(missing, clean) / length.clamp_min(torch.finfo(length.dtype).tiny)
        return scaled / sigma.square()

    def extra_repr(self) -> str:
        return f"{self.method}, {self.measurement.name}, noise_std={self.noise_std:g}, scale={self.scale:g}"


def _width(name: str, value: Any, *, zero_allowed: bool = False) -> float:
    """A standard deviation, whose square float32 holds."""
    found = checks.positive(name, value, zero_allowed=zero_allowed)
    if found and not 1e-18 < found < 1e18:
        zero = "0 or " if zero_allowed else ""
        raise ValueError(
            f"{name} must be {zero}between 1e-18 and 1e18, so that float32 holds its square, got {found:g}"
        )
    return found


def _pulled(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(x), and v -> (df/dx)^T v; of which a graph is kept where gradients are recorded."""
    if backends.transformed():
        out, pull = torch.func.vjp(f, x)[:2]
        return out, lambda v: pull(v)[0]
    record = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        given = x.clone() if x.is_inference() else x
        given = given.view_as(given) if record and given.requires_grad else given.detach().requires_grad_()
        out = f(given)

    def back(v: Tensor) -> Tensor:
        slope = None
        if out.requires_grad:
            with torch.inference_mode(False), torch.enable_grad():
                v = v.clone() if v.is_inference() else v
                (slope,) = torch.autograd.grad(out, given, v, create_graph=record, allow_unused=True)
        if slope is None:
            raise ValueError(
                "score_fn must depend on x in a way that autograd records, for the Jacobian of its denoiser: its result is "
                "constant in x, detached, or computed under no_grad; fastscore.guidance.projection needs no gradient"
            )
        return slope

    return out if record else out.detach(), back


def pigdm(
    score_fn: Callable[..., Tensor],
    measurement: Measurement,
    y: Tensor,
    path: Levels,
    *,
    noise_std: float = 0.0,
    data_std: float = 1.0,
    scale: float = 1.0,
    conditioning: str = "t",
) -> nn.Module:
    """The score of x_t given y = A x_0 + N(0, noise_std^2 I), by pseudoinverse guidance::

        s + scale J^T A^T (r^2 A A^T + noise_std^2)^-1 (y - A x_0^)     r^2 = c^2 sigma^2 / (alpha^2 c^2 + sigma^2)

    Exact where the data are N(m, c^2 I), with c the ``data_std``; else an approximation, better the smaller sigma is.

    Args:
        score_fn: s(x, c) of the data.
        measurement: A, such as :func:`inpainting`.
        y: what was measured, of the shape of A x, or [1, ...], one for all samples.
        path: noise levels [L], or the path, that c belongs to; see :mod:`fastscore.guidance`.
        noise_std: of the measurement, at least 0.
        data_std: c, the standard deviation of the data (Song et al. take 1, for data in [-1, 1]). Of data that vary far more in one
            direction than in others, as images do in brightness, c is between that of a single number and that of the widest
            direction (the square root of the covariance's largest eigenvalue), such as their geometric mean: with too small a c
            samples grow without bounds where steps are long, with too large a one what is not measured learns little of y.
        scale: of what is added.
        conditioning: see :mod:`fastscore.guidance`.

    Returns:
        A module s(x, c).

    Raises:
        TypeError, ValueError: an argument is not as said; at a call: ``y`` is of another shape than A x or not finite, or autograd
            sees no x in the score.
        NotConverged: the equations are too ill-conditioned, or overflow; where values cannot be read, on a GPU, the score of that
            sample is NaN, which samplers refuse.

    Source: Song, Vahdat, Mardani & Kautz 2023, "Pseudoinverse-guided diffusion models for inverse problems" (which, too,
    multiplies by r^2 in the steps of its sampler).
    """
    return Posterior(
        "pigdm",
        score_fn,
        measurement,
        y,
        path,
        noise_std=noise_std,
        data_std=data_std,
        scale=scale,
        conditioning=conditioning,
    )


def dps(
    score_fn: Callable[..., Tensor],
    measurement: Measurement,
    y: Tensor,
    path: Levels,
    *,
    scale: float = 1.0,
    noise_std: float | None = None,
    conditioning: str = "t",
) -> nn.Module:
    """The score of x_t given y, by diffusion posterior sampling.

    Without ``noise_std``, by the published rule of thumb, for which the noise of y need not be known::

        s - scale / sigma^2 grad_x ||y - A x_0^||

    The paper subtracts scale grad_x ||y - A x_0^|| in each step of a sampler whose steps grow with sigma^2; divided by sigma^2
    it is a part of a score, so more steps, or longer ones, need a smaller scale. With ``noise_std`` it is the gradient of
    log p(y | x_0^) itself::

        s + scale / noise_std^2 J^T A^T (y - A x_0^)

    which is right at small noise, and far too large at large noise, where x_0^ is uncertain: see :func:`pigdm`.

    Args:
        score_fn, measurement, y, path, conditioning: as for :func:`pigdm`.
        scale: of what is added; without ``noise_std`` a length, the paper's zeta (from 0.3 to 1 for images in [-1, 1]).
        noise_std: None, or that of the measurement, greater than 0.

    Returns:
        A module s(x, c).

    Raises:
        TypeError, ValueError: as for :func:`pigdm`.

    Source: Chung et al. 2023, "Diffusion posterior sampling for general noisy inverse problems".
    """
    return Posterior("dps", score_fn, measurement, y, path, noise_std=noise_std, scale=scale, conditioning=conditioning)


def projection(
    score_fn: Callable[..., Tensor],
    measurement: Measurement,
    y: Tensor,
    path: Levels,
    *,
    noise_std: float = 0.0,
    conditioning: str = "t",
) -> nn.Module:
    """The score whose denoiser is the nearest to x_0^ that was measured as y: no gradient of the network is needed::

        x_0^ + A^T (A A^T + noise_std^2 alpha^2 / sigma^2)^-1 (y - A x_0^)

    With a mask and no noise, its known part is y, and the known part of x_t is N(alpha y, sigma^2): what
    :func:`fastscore.samplers.inpaint` draws there. It is :func:`pigdm` for J = 1 / alpha and r = sigma / alpha, that is
    data_std -> infinity: what is not measured learns of y through the network alone.

    Arguments, what is returned and what is raised are those of :func:`pigdm`.

    Source: Wang, Yu & Zhang 2023, "Zero-shot image restoration using denoising diffusion null-space model".
    """
    return Posterior("projection", score_fn, measurement, y, path, noise_std=noise_std, conditioning=conditioning)
