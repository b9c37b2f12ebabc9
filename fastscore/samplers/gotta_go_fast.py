"""The reverse SDE by steps that each sample chooses for itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._core import checks
from .._core.counter import STEPS
from .._core.errors import NonFiniteSamples, NotConverged, caller
from .._core.options import Option
from ..ops.affine_step import affine_step
from ..paths import Path
from ..rng import Stream
from ._chain import Chain, How
from ._driver import finish
from ._points import END_DENOISED, MAX_STEPS, NORMAL, conditioning, least, zero_or_more
from ._rows import Rows
from ._sampler import Options, Sampler
from ._watch import Watch
from .predictor_corrector import row_sums

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SAFETY, _POWER = 0.9, 0.9
_MANY = 64  # elements, of Gaussian data of 2 the standard deviation was 1.5 times what it is, of 256 within 1 %


@torch.no_grad()
def gotta_go_fast(
    score_fn: Callable[..., Tensor],
    shape: Sequence[int],
    path: Path | Tensor | Sequence[float],
    *,
    rtol: float = 0.02,
    atol: float = 0.0039,
    first_step: float = 0.01,
    max_steps: int = 1000,
    **how: Unpack[How],
) -> Tensor:
    """Euler and Maruyama's step x', and a second from there, of the same noise; their mean x'' is kept where they agree.

    Of a sample of D elements, x- being x' of its step before::

        E^2 = 1/D sum (x' - x'')^2 / max(atol, rtol |x'|, rtol |x-|)^2;  accepted where E <= 1;  h <- 0.9 h E^(-0.9)

    Every sample has a time and a step h of its own, and does not depend on its batch. After a refused step the noise is drawn
    anew, as in the original, so that the noise of the steps that are kept is not quite normal: that is lost among thousands of
    elements, and not among a few, where there is a warning.

    Args:
        rtol, atol: relative and absolute tolerance (atol: a grey value of 256, of images in [0, 1]).
        first_step: of the length of the path in t.
        max_steps: the most steps, refused ones too, that a sample may take.
        score_fn, shape, path, how: as for :func:`ddim`, but for steps, rule and cuda_graph; a network that takes any sigma, or t.
            Noise levels stand for the VE path between the largest and the smallest. What is ``known`` has at each step the
            noise of each sample's own time. ``rng`` moves on by ``max_steps`` steps, whatever the samples take.

    Returns:
        The samples [B, ...], after two evaluations of all samples a step, as many steps as the last to arrive takes, and one to
        denoise. (Those that are there are evaluated with the others, so that what ``score_fn`` or ``model_kwargs`` hold for each
        sample, such as classes, stays aligned.) The callback sees all samples after each step, and at the end.

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`; a step itself was NaN, too.
        NotConverged: ``max_steps`` did not suffice.

    Source: Jolicoeur-Martineau et al. 2021, "Gotta go fast when generating data with score-based models", algorithm 1.
    """
    rtol, atol = checks.positive("rtol", rtol, zero_allowed=True), checks.positive("atol", atol)
    first_step, max_steps = part_of_path("first_step", first_step), checks.integer("max_steps", max_steps, low=1)
    chain = Chain(score_fn, shape, path, **how)
    rows = Rows(chain, score_fn, points=False)
    _warn(chain.shape[1:].numel())
    low, high = rows.path.t_min, rows.path.t_max
    x = before = chain.begin(max_steps + chain.denoise)
    t = torch.full(x.shape[:1], high, dtype=torch.float64, device=x.device)
    x = rows.keep(x, t, torch.ones_like(t, dtype=torch.bool))
    h = torch.full_like(t, first_step * (high - low))
    left, first = torch.arange(len(x), device=x.device), chain.rng.step
    with Watch(None, **chain.watched) as watch:
        while len(left):
            if chain.finite.update > max_steps:
                chain.finite.end()
                raise NotConverged(
                    f"{len(left)} of {len(x)} samples were not there after max_steps={max_steps} steps, the last at t = "
                    f"{float(t.max()):.6g} on the way to {low:g}: raise max_steps, rtol or atol"
                )
            z = chain.rng.randn(x.shape, stream=Stream.LANGEVIN, dtype=x.dtype, device=x.device)
            euler, mean = _steps(rows, x, t, h, z)
            error = _error(euler, mean, before, rtol, atol)[left]
            if bool(error.isnan().any()):
                chain.finite.end()
                raise NonFiniteSamples(
                    f"{int(error.isnan().sum())} of {len(x)} samples took a step to NaN or infinity in update "
                    f"{chain.finite.update}, of finite scores: they are too large for {x.dtype}"
                )
            kept = left[error <= 1]
            x, before = x.index_copy(0, kept, mean[kept]), before.index_copy(0, kept, euler[kept])
            t = t.index_copy(0, kept, (t - h)[kept].clamp(min=low))
            t = torch.where(t - low < 1e-12 * (high - low), low, t)
            longer = _SAFETY * h[left] * error.clamp(1e-6, 1e6) ** -_POWER
            h = h.index_copy(0, left, torch.minimum(longer, (t[left] - low)))
            x = rows.keep(x, t, torch.zeros_like(t, dtype=torch.bool).index_fill(0, kept, True))
            left = left[t[left] > low]
            chain.finite.update += 1
            watch(x, last=not len(left) and not chain.denoise)
        # as if all steps had been taken: what the rng draws next must not depend on which samples were in this batch
        chain.rng.step = min(first + max_steps * (1 if chain.known is None else 2), STEPS - 1)
        if chain.denoise:
            x = rows.clean(x, rows.last())
            watch(x, last=True)
    return chain.end(finish(x, None if chain.known else chain.clamp))


def part_of_path(name: str, value: Any) -> float:
    """A number above 0, and at most 1, the whole path."""
    value = checks.positive(name, value)
    if value > 1:
        raise ValueError(f"{name} must be at most 1, the whole path, got {value}")
    return value


def _warn(elements: int) -> None:
    if elements < _MANY:
        warnings.warn(
            f"samples of {elements} elements, fewer than {_MANY}, are too wide by this solver, which draws the noise of a "
            "refused step anew: take reverse_sde, dpm_solver(eta=1) or adaptive_ode",
            stacklevel=caller(),
        )


def _steps(rows: Rows, x: Tensor, t: Tensor, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Euler and Maruyama's x', and the mean of it and of the step whose slopes are those at x'."""
    f, g2 = h * rows.path.drift(t), h * rows.path.diffusion_squared(t)
    euler = affine_step(x, [rows.score(x, t), z], 1 - f, [g2, g2.sqrt()])
    to = (t - h).clamp(min=rows.path.t_min)
    f, g2 = h * rows.path.drift(to), h * rows.path.diffusion_squared(to)
    return euler, affine_step(euler, [x, rows.score(euler, to), z], (1 - f) / 2, [0.5, g2 / 2, g2.sqrt() / 2])


def _error(euler: Tensor, mean: Tensor, before: Tensor, rtol: float, atol: float) -> Tensor:
    """E of each sample, float64 [B]."""
    compute = checks.compute_dtype(euler)
    euler, mean, before = (v.to(compute).reshape(len(v), -1) for v in (euler, mean, before))
    scale = (rtol * torch.maximum(euler.abs(), before.abs())).clamp(min=atol)
    return (row_sums(((euler - mean) / scale).square()).double() / euler.shape[1]).sqrt()


def _run(score_fn: Callable[..., Tensor], shape: Sequence[int], sigmas: Tensor, options: Options, **how: Any) -> Tensor:
    return gotta_go_fast(
        score_fn, shape, sigmas, conditioning=conditioning(score_fn, sigmas, False, True), **options, **how
    )


GOTTA_GO_FAST = Sampler(
    name="gotta_go_fast",
    title="the reverse SDE (adaptive)",
    source="Jolicoeur-Martineau et al. 2021",
    summary="as exact as asked, each sample by steps of its own; needs a network that takes any sigma",
    cost="as many as the tolerance takes, two a step",
    options=(
        Option("rtol", float, "Relative tolerance of a step", zero_or_more, default=0.02),
        Option("atol", float, "Absolute tolerance of a step", checks.positive, default=0.0039),
        Option("first_step", float, "First step, of the length of the path", part_of_path, default=0.01),
        MAX_STEPS,
        END_DENOISED,
        NORMAL,
    ),
    run=_run,
    updates=lambda L, options: None,
    evaluations=lambda L, options: None,
    sigma_after=lambda sigmas, options, step: least(sigmas),
    remedy="train longer, or ask for a smaller --rtol",
    centred=True,
    recordable=lambda options: False,
    between=lambda options: True,
    grids=lambda L, options, budget, beyond: [{"rtol": rtol} for rtol in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3)],
    any_path=True,
)
