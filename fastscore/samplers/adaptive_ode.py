"""The probability-flow ODE by steps that each sample chooses for itself: torchode's solvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import NotConverged, require
from ..paths import Path
from ._chain import Chain, How
from ._driver import finish
from ._rows import Rows
from ._watch import Watch

if TYPE_CHECKING:
    from typing_extensions import Unpack

METHODS = {"dopri5": "Dopri5", "tsit5": "Tsit5", "heun": "Heun"}


@torch.no_grad()
def adaptive_ode(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    *,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    method: str = "dopri5",
    max_steps: int = 1000,
    **how: Unpack[How],
) -> Tensor:
    """dy/du = -rho sigma s, with y = x / alpha, rho = sigma / alpha and u = log rho, as exactly as is asked for.

    Every sample has steps of its own, so that to rounding it does not depend on its batch. Needs torchode
    (``fastscore-torch[ode]``); :func:`flow_ode` has fixed steps and needs nothing.

    Args:
        rtol, atol: relative and absolute tolerance of a step.
        method: ``"dopri5"``, ``"tsit5"`` or ``"heun"``.
        max_steps: the most steps that a sample may take.
        score_fn, shape, path, how: as for :func:`ddim`, but for steps, rule and known; a network that takes any sigma, or t.

    Returns:
        The samples [B, ...]. The callback, the trajectory and the progress bar see the end alone, update 1.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.
        NotConverged: ``max_steps`` did not suffice.
        MissingDependency: torchode is not there.

    Source: Song et al. 2021, "Score-based generative modeling through stochastic differential equations", section 4.3; Lienen &
    Guennemann 2022 (torchode).
    """
    rtol, atol = checks.positive("rtol", rtol, zero_allowed=True), checks.positive("atol", atol)
    checks.one_of("method", method, METHODS)
    max_steps = checks.integer("max_steps", max_steps, low=1)
    chain = Chain(score_fn, shape, path, **how)
    rows = Rows(chain, score_fn)
    torchode = require("torchode", "ode")
    x, (high, low) = chain.begin(1), (_half_log(rows.path, t) for t in (rows.path.t_max, rows.path.t_min))
    compute = checks.compute_dtype(x)

    def slope(u: Tensor, y: Tensor) -> Tensor:
        t = rows.path.t_of_log_snr(-2 * u.double().clamp(low, high))
        alpha, sigma = rows.path.alpha(t), rows.path.sigma(t)
        at = (alpha.to(compute)[:, None] * y).to(x.dtype).reshape(x.shape)
        s = rows.score(at, t).to(compute).reshape(y.shape)
        return -(sigma.square() / alpha).to(compute)[:, None] * s

    term = torchode.ODETerm(slope)
    solver = torchode.AutoDiffAdjoint(
        getattr(torchode, METHODS[method])(term=term),
        torchode.IntegralController(atol=atol, rtol=rtol, term=term),
        max_steps=max_steps,
    )
    u = torch.full(x.shape[:1], high, dtype=torch.float64, device=x.device)
    y = x.to(compute).reshape(len(x), -1) / float(rows.path.alpha(rows.path.t_max))
    found = solver.solve(torchode.InitialValueProblem(y0=y, t_start=u, t_end=torch.full_like(u, low)))
    if bool((found.status != 0).any()):
        raise NotConverged(
            f"{int((found.status != 0).sum())} of {len(x)} samples were not there after max_steps={max_steps} steps, or "
            "took steps too small to count: raise max_steps, rtol or atol"
        )
    x = (found.ys[:, -1] * float(rows.path.alpha(rows.path.t_min))).to(x.dtype).reshape(x.shape)
    x = rows.clean(x) if chain.denoise else x
    with Watch(1, **chain.watched) as watch:
        watch(x)
    chain.end()
    return finish(x, chain.clamp)


def _half_log(path: Path, t: float) -> float:
    """log rho at ``t``."""
    return -float(path.log_snr(t)) / 2
