"""What a network may predict on a Gaussian path, and how each is had from the others: all are linear in x_t and each other.

With x_t = alpha x_0 + sigma z, and hats for a network's estimates (f and g are the path's drift and diffusion)::

    score     s     the gradient of log p_t(x_t)
    epsilon   z^    = -sigma s
    x0        x_0^  = (x_t + sigma^2 s) / alpha
    v         v     = alpha z^ - sigma x_0^           (Salimans & Ho 2022, where alpha^2 + sigma^2 = 1; here on any path)
    velocity  u     = dx_t/dt = f x_t - g^2/2 s       (of the probability-flow ODE; rectified flow and flow matching)

Each is written as s = p x_t + q output; p and q are numbers, made in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._core import calls, checks
from ._core.registration import per_row
from .paths import Path

__all__ = ["CONDITIONINGS", "KINDS", "Converted", "as_prediction", "as_score", "convert"]

KINDS = ("score", "epsilon", "x0", "v", "velocity")
CONDITIONINGS = ("t", "sigma", "log_snr", "labels", "none")


def linear(kind: str, path: Path, t: Tensor, *, rescale: bool = False) -> tuple[Tensor, Tensor]:
    """(p, q) of t's shape in float64: a network's output of this ``kind`` is the score p x_t + q output.

    With ``rescale`` the output is of x_t / alpha and sigma / alpha.
    """
    t = t.double()
    alpha, sigma = path.alpha(t), path.sigma(t)
    if rescale:
        p, q = _linear(kind, path, t, torch.ones_like(alpha), sigma / alpha)
        return p / alpha.square(), q / alpha
    return _linear(kind, path, t, alpha, sigma)


def _linear(kind: str, path: Path, t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    zero = torch.zeros_like(t)
    if kind == "score":
        return zero, zero + 1
    if kind == "epsilon":
        return zero, -1 / sigma
    if kind == "x0":
        return -1 / sigma.square(), alpha / sigma.square()
    if kind == "v":
        square = alpha.square() + sigma.square()
        return -1 / square, -alpha / (sigma * square)
    half = path.diffusion_squared(t) / 2
    return path.drift(t) / half, -1 / half


def convert(output: Tensor, x: Tensor, t: float | Tensor, path: Path, *, source: str, target: str) -> Tensor:
    """An estimate of one kind at x_t, as another.

    Args:
        output: what was predicted, [B, ...].
        x: where, x_t [B, ...].
        t: the time of the path, a number or [B].
        path: that of x_t.
        source, target: of :data:`KINDS`.

    Returns:
        [B, ...], of x's dtype, computed in float32 (float64 for a float64 x).

    Raises:
        TypeError, ValueError: an argument of the wrong kind or value; ``t`` is not on the path.

    Example:
        >>> from fastscore import paths
        >>> x, z = torch.ones(1, 1), torch.full((1, 1), 0.5)
        >>> convert(z, x, 0.5, paths.rectified(), source="epsilon", target="x0")  # (x - 0.5 z) / 0.5
        tensor([[1.5000]])
    """
    checks.one_of("source", source, KINDS)
    checks.one_of("target", target, KINDS)
    checks.floating("x", x)
    checks.like("output", output, "x", x)
    return _converted(output, x, times_of(t, check_path(path), x), path, source, target, False)


def _converted(output: Tensor, x: Tensor, t: Tensor, path: Path, source: str, target: str, rescale: bool) -> Tensor:
    """``t`` [] or [B], on the device of ``x``."""
    (p, q), (p_target, q_target) = linear(source, path, t, rescale=rescale), linear(target, path, t)
    on_x, on_output = (per_row(v.to(checks.compute_dtype(x)), x) for v in ((p - p_target) / q_target, q / q_target))
    return (on_x * x + on_output * output).to(x.dtype)


def check_path(path: Any) -> Path:
    """``path``, if it is one."""
    if not isinstance(path, Path):
        raise TypeError(f"path must be a fastscore.paths.Path, such as paths.vp_linear(), got {checks.describe(path)}")
    return path


def times_of(t: float | Tensor, path: Path, x: Tensor) -> Tensor:
    """t in float64 on the device of ``x``, [] or [B]."""
    t = path.times(t)
    if t.dim() > 1 or (t.dim() and len(t) != len(x)):
        raise ValueError(f"t must be a number or have shape ({len(x)},), one for each sample, got {checks.describe(t)}")
    return t.to(x.device, non_blocking=True)


def condition(path: Path, t: Tensor, conditioning: str, x: Tensor, *, rescale: bool = False) -> tuple[Tensor, ...]:
    """What a network is called with beside x_t, for t [] or [B]: nothing, or one [B] in the dtype of computation."""
    if conditioning == "none":
        return ()
    if conditioning == "labels":
        return (path.labels(t).expand(len(x)),)
    value = t
    if conditioning == "log_snr":
        value = path.log_snr(t)
    elif conditioning == "sigma":
        value = path.sigma(t) / path.alpha(t) if rescale else path.sigma(t)
    return (value.to(checks.compute_dtype(x)).expand(len(x)),)


class Converted(nn.Module):
    """``model``, called as (x_t, t), with its output of another kind: see :func:`fastscore.as_score` and :func:`fastscore.as_prediction`."""

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        source: str,
        target: str,
        path: Path,
        conditioning: str | Callable[[Tensor], Tensor] = "t",
        rescale: bool = False,
        output: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be a function of (x, t), [B, ...] -> [B, ...], got {checks.describe(model)}")
        if not callable(conditioning):
            checks.one_of("conditioning", conditioning, CONDITIONINGS)
        if rescale and source in ("v", "velocity"):
            raise ValueError(f"rescale must be False for {source!r}, which is of one path, got True")
        if output is not None and not callable(output):
            raise TypeError(f"output must be a function of what the model returns, got {checks.describe(output)}")
        self.model, self.source, self.target, self.path = model, source, target, check_path(path)
        self.conditioning, self.rescale, self.output = conditioning, rescale, output

    def forward(self, x: Tensor, t: float | Tensor, **keywords: Any) -> Tensor:
        """Of the target's kind, [B, ...], at x_t [B, ...] and the time t, a number or [B]; keywords are the model's."""
        checks.floating("x", x)
        t = times_of(t, self.path, x)
        if callable(self.conditioning):
            given: tuple[Tensor, ...] = (self.conditioning(t.to(checks.compute_dtype(x)).expand(len(x))),)
        else:
            given = condition(self.path, t, self.conditioning, x, rescale=self.rescale)
        seen = x
        if self.rescale:
            seen = (x / per_row(self.path.alpha(t).to(checks.compute_dtype(x)), x)).to(x.dtype)
        found = calls.leaving_x("model", self.model, seen, *given, **keywords)
        found = _tensor(found) if self.output is None else self.output(found)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            raise ValueError(
                f"the output of model must have the shape of x, {tuple(x.shape)}, got {checks.describe(found)}: say by "
                "output= where in it the prediction is, as output=lambda out: out[:, :3] beside a learned variance"
            )
        return _converted(found, x, t, self.path, self.source, self.target, self.rescale)

    def extra_repr(self) -> str:
        return f"{self.source} to {self.target} on {self.path}"


def _tensor(found: Any) -> Any:
    """The tensor in what other packages' networks return: ``.sample`` (diffusers), ``.mean`` (azula), or a tuple's first."""
    if isinstance(found, Tensor):
        return found
    if isinstance(found, (tuple, list)) and found:
        return found[0]
    for name in ("sample", "mean"):
        if isinstance(value := getattr(found, name, None), Tensor):
            return value
    return found


def as_score(
    model: Callable[..., Any],
    *,
    kind: str,
    path: Path,
    conditioning: str | Callable[[Tensor], Tensor] = "t",
    rescale: bool = False,
    output: Callable[[Any], Tensor] | None = None,
) -> Converted:
    """Any network as the score s(x_t, t) of a path, for the samplers, losses and traces.

    Args:
        model: a network or function, called ``model(x_t, c)``; c, [B], is what ``conditioning`` says.
        kind: what it predicts, of :data:`KINDS`.
        path: the one it was trained on.
        conditioning: ``"t"``: the time of the path; ``"sigma"``, ``"log_snr"``: those at t; ``"labels"``: the index of the noise
            level, int64, on :func:`fastscore.paths.levels`; ``"none"``: the model is called with x alone; or a function of
            t [B], such as ``lambda t: 999 * t``.
        rescale: the model was made for alpha = 1: it is called with x_t / alpha and, by "sigma", sigma / alpha, which is the
            same inference on any path. So an NCSNv2 or a ScoreMLP serves every path.
        output: takes the prediction out of what the model returns. ``None``: a tensor is taken as it is; else the first of
            a tuple, or the attribute ``sample`` (diffusers) or ``mean`` (azula).

    Returns:
        A module s(x_t, t, **keywords), t a number or [B]; where ``model`` is a network, it is its submodule ``model``.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or value; at a call, ``t`` is not on the path, or the output has
            not the shape of x.

    Example:
        >>> from fastscore import paths
        >>> score = as_score(lambda x, t: torch.zeros_like(x), kind="x0", path=paths.edm())  # all data at 0
        >>> score(torch.ones(1, 2), 0.5)  # -x / sigma^2
        tensor([[-4., -4.]])
    """
    return Converted(
        model,
        source=checks.one_of("kind", kind, KINDS),
        target="score",
        path=path,
        conditioning=conditioning,
        rescale=rescale,
        output=output,
    )


def as_prediction(
    score_fn: Callable[..., Any],
    *,
    kind: str,
    path: Path,
    conditioning: str | Callable[[Tensor], Tensor] = "t",
    rescale: bool = False,
) -> Converted:
    """A score as a network that predicts another kind at (x_t, t): ours for the samplers of other packages.

    Arguments as for :func:`fastscore.as_score`; ``kind`` is what it then predicts.
    """
    return Converted(
        score_fn,
        source="score",
        target=checks.one_of("kind", kind, KINDS),
        path=path,
        conditioning=conditioning,
        rescale=rescale,
    )
