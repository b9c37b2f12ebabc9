"""The probability-flow ODE by steps that each sample chooses for itself: torchode's solvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import NotConverged, require
from .._core.options import Option, choice
from ..paths import Path
from ._chain import Chain, How
from ._driver import finish
from ._grid import Point
from ._points import END_DENOISED, MAX_STEPS, NORMAL, conditioning, least, sigma_of_point, zero_or_more
from ._rows import Rows
from ._sampler import MOST, Options, Sampler
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
    (``fastscore-torch[ode]``); :func:`flow_ode` has fixed steps and needs nothing. Without ``steps`` the solver goes from the
    first point to the last in one update. At the points of a grid it begins anew: there the callback sees the samples, and
    what is ``known`` is put back.

    Args:
        rtol, atol: relative and absolute tolerance of a step.
        method: ``"dopri5"``, ``"tsit5"`` or ``"heun"``.
        max_steps: the most steps that a sample may take from a point to the next, refused ones too.
        score_fn, shape, path, how: as for :func:`ddim`; a network that takes any sigma, or t. No ``cuda_graph``. ``steps``: None
            is one update, and one to denoise; where there is something ``known``, as for the others.

    Returns:
        The samples [B, ...], after as many evaluations as it takes; all samples wait for the one that takes most steps.

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
    rows = Rows(chain, score_fn, points=True)
    points = [point for point in chain.points if point.sigma]
    if chain.asked == (None, None) and chain.known is None:
        points = [points[0], points[-1]]
    solve = _Solver(rows, require("torchode", "ode"), rtol, atol, METHODS[method], max_steps)
    x = chain.keep(chain.begin(len(points) - 1 + chain.denoise), 0)
    with Watch(len(points) - 1 + chain.denoise, **chain.watched) as watch:
        for i, (p, q) in enumerate(pairwise(points), start=1):
            x = chain.keep(solve(x, p, q), i)
            chain.finite.update += 1
            watch(x)
        if chain.denoise:
            x = rows.clean(x, points[-1])
            watch(x)
    return chain.end(finish(x, None if chain.known else chain.clamp))


class _Solver:
    """From point to point, by a method of ``torchode``, the module."""

    def __init__(self, rows: Rows, torchode: Any, rtol: float, atol: float, method: str, max_steps: int):
        self.rows, self.torchode, self.max_steps = rows, torchode, max_steps
        self.ends = [-float(rows.path.log_snr(t)) / 2 for t in (rows.path.t_min, rows.path.t_max)]
        term = torchode.ODETerm(self.slope)
        self.solver = torchode.AutoDiffAdjoint(
            getattr(torchode, method)(term=term),
            torchode.IntegralController(atol=atol, rtol=rtol, term=term),
            max_steps=max_steps,
        )

    def __call__(self, x: Tensor, p: Point, q: Point) -> Tensor:
        """``x`` at p to the samples at q.

        Raises:
            NotConverged: some are not there after ``max_steps`` steps, or their steps vanish.
        """
        self.shape, self.dtype, compute = x.shape, x.dtype, checks.compute_dtype(x)
        first, last = (torch.full(x.shape[:1], -r.log_snr, dtype=torch.float64, device=x.device) for r in (p, q))
        y = x.to(compute).reshape(len(x), -1) / p.alpha
        found = self.solver.solve(self.torchode.InitialValueProblem(y0=y, t_start=first, t_end=last))
        failed = found.status != 0
        if bool(failed.any()):
            self.rows.chain.finite.end()  # of a score that is NaN no step is small enough
            t = float(self.rows.path.t_of_log_snr(-2 * self.u[failed].max().clamp(*self.ends)))
            steps = int(found.stats["n_steps"].max())
            raise NotConverged(
                f"{int(failed.sum())} of {len(x)} samples were not there after max_steps={self.max_steps} steps (they took "
                f"{steps}), or took steps too small to count, the last at t = {t:.6g} on the way to {self.rows.t(q):g}: raise "
                "max_steps, rtol or atol"
            )
        return (found.ys[:, -1] * q.alpha).to(x.dtype).reshape(x.shape)

    def slope(self, u: Tensor, y: Tensor) -> Tensor:
        """dy/du [B, D] at ``u`` [B]."""
        compute, path = y.dtype, self.rows.path
        self.u = u.double()
        t = path.t_of_log_snr(-2 * self.u.clamp(*self.ends))
        alpha, sigma = path.alpha(t), path.sigma(t)
        at = (alpha.to(compute)[:, None] * y).to(self.dtype).reshape(self.shape)
        s = self.rows.score(at, t).to(compute).reshape(y.shape)
        return -(sigma.square() / alpha).to(compute)[:, None] * s


def _run(score_fn: Callable[..., Tensor], shape: Sequence[int], sigmas: Tensor, options: Options, **how: Any) -> Tensor:
    own = {name: value for name, value in options.items() if name != "steps"}
    on = conditioning(score_fn, sigmas, False, True)
    return adaptive_ode(score_fn, shape, sigmas, steps=options["steps"] or None, conditioning=on, **own, **how)


ADAPTIVE_ODE = Sampler(
    name="adaptive_ode",
    title="the probability-flow ODE (torchode)",
    source="Song et al. 2021",
    summary="as exact as asked, each sample by steps of its own; needs torchode and a network that takes any sigma",
    cost="as many as the tolerance takes",
    options=(
        Option("rtol", float, "Relative tolerance of a step", zero_or_more, default=1e-3),
        Option("atol", float, "Absolute tolerance of a step", checks.positive, default=1e-3),
        choice("method", METHODS, "Runge-Kutta method", default="dopri5"),
        MAX_STEPS,
        Option(
            "steps",
            int,
            "Updates in all, each as exact as asked; 0 is one, and one to denoise",
            partial(checks.integer, low=0, high=MOST),
            default=0,
        ),
        END_DENOISED,
        NORMAL,
    ),
    run=_run,
    updates=lambda L, options: options["steps"] or 1 + options["denoise"],
    evaluations=lambda L, options: None,
    sigma_after=lambda sigmas, options, step: (
        sigma_of_point(sigmas, options, step) if options["steps"] else least(sigmas)
    ),
    remedy="train longer",
    centred=True,
    recordable=lambda options: False,
    between=lambda options: True,
    grids=lambda L, options, budget, beyond: [{"rtol": tol, "atol": tol} for tol in (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)],
    needs=("torchode", "ode"),
    any_path=True,
)
