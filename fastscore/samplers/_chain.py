"""What the solvers share: their arguments, checked once, and the run from the first point of a grid to the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from .._core import backends, calls, checks
from .._core.errors import NonFiniteSamples
from .._core.options import boolean
from ..paths import RULES, Path
from ..rng import Philox, Stream, as_philox
from ._driver import check_clamp, run_chain
from ._grid import END, Point, check_decreasing, source
from ._mask import check_mask
from ._score import Score, conditioned
from ._start import check_covariance, check_shape, check_start, correlated, initial
from ._watch import Callback, Trajectory, check_watch

Noise = tuple[Tensor, Tensor]


class ButSteps(TypedDict, total=False):
    """:class:`How` but for ``steps``."""

    rule: str | None
    rng: Philox | None
    start: str | Tensor
    mean: float | Tensor
    std: float | Tensor
    covariance: Tensor | None
    denoise: bool
    known: Noise | None
    conditioning: str | None
    interpolate: bool
    clamp: tuple[float, float] | None
    model_kwargs: Mapping[str, Any] | None
    dtype: torch.dtype | None
    device: torch.device | str | None
    callback: Callback | None
    trajectory: Trajectory | None
    progress: bool


class How(ButSteps, total=False):
    """What every solver of a grid takes, beside ``score_fn, shape, path`` and its own options.

    Args:
        steps: number of updates, at least 1; None: one from each noise level (20 on a path). Of L noise levels that labels
            name, as many are taken, evenly; a network that takes any sigma may have more than L.
        rule: how the points of a grid lie, see :meth:`fastscore.paths.Path.grid`: ``"levels"``, ``"log_snr"``, ``"time"``
            or ``"karras"``. None: "log_snr" on a path; of noise levels as said.
        rng: source of start and noise, as for :func:`annealed_langevin`.
        start: ``"normal"`` N(alpha_0 mean, sigma_0^2 I + alpha_0^2 covariance), the Gaussian with the first two moments of the
            noisy data; ``"uniform"`` U[0, 1]; or a tensor of ``shape``.
        mean, std: of the data, numbers or tensors of a sample's shape: where ``start`` is ``"normal"``.
        covariance: of the data, [D, D] of the flattened samples, positive semidefinite; None: diagonal, std^2. Samples of one
            batch or of many begin alike, bit for bit: it is applied number by number, in float64.
        denoise: end with the mean of the clean sample given the noisy one, which is one evaluation; else at the last point.
        known: (image, mask): where the bool ``mask`` (as for :func:`inpaint`) is True the samples are ``image`` [B, ...] plus each
            point's noise, and at the end ``image`` itself.
        conditioning: what ``score_fn(x, ...)`` is told: ``"labels"`` (int64 [B], an index of noise levels), ``"sigma"``
            or ``"t"`` ([B]). None: labels of noise levels; t of a path, and to what :func:`fastscore.as_score` gives.
        interpolate: let a network of labels (NCSN) be asked between its levels, its embeddings blended linearly in log sigma.
        clamp, model_kwargs, dtype, device, callback, trajectory, progress: as for :func:`annealed_langevin`.
    """

    steps: int | None


class Chain:
    """The arguments of a solver, checked, and nothing drawn yet.

    Attributes:
        points: of the grid, the last being :data:`END` where ``denoise``; update i goes from ``points[i]`` to the next.
        between: between(rhos), the points with other noise, where the network takes one.
        rng, shape, dtype, device: of the samples.
    """

    def __init__(
        self,
        score_fn: Callable[..., Tensor],
        shape: Sequence[int],
        path: Path | Tensor | Sequence[float],
        *,
        steps: int | None = None,
        rule: str | None = None,
        rng: Philox | None = None,
        start: str | Tensor = "normal",
        mean: float | Tensor = 0.0,
        std: float | Tensor = 0.0,
        covariance: Tensor | None = None,
        denoise: bool = True,
        known: Noise | None = None,
        conditioning: str | None = None,
        interpolate: bool = False,
        clamp: tuple[float, float] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        callback: Callback | None = None,
        trajectory: Trajectory | None = None,
        progress: bool = False,
    ):
        steps = None if steps is None else checks.integer("steps", steps, low=1)
        rule = None if rule is None else checks.one_of("rule", rule, RULES)
        denoise, interpolate = boolean("denoise", denoise), boolean("interpolate", interpolate)
        where, conditioning = source(path, conditioning, interpolate, score_fn)
        self.where, self.conditioning, self.denoise, self.asked = where, conditioning, denoise, (steps, rule)
        self.kwargs = model_kwargs
        points = where.points(steps, rule, denoise)
        check_decreasing(points)
        self.points, self.between = [*points, *([END] if denoise else [])], where.at
        self.shape = check_shape(shape)
        self.dtype = check_start(start, self.shape, dtype)
        levels = getattr(where, "sigmas", None)
        self.device = torch.device(device or (path.device if isinstance(path, Tensor) else "cpu"))
        self._score = _told(score_fn, levels, conditioning, model_kwargs)
        self.clamp, self.start = check_clamp(clamp), start
        self.mean, self.std = _check_data("mean", mean, self.shape), _check_data("std", std, self.shape)
        self.covariance = None if covariance is None else check_covariance(covariance, std, self.shape)
        self.known = None if known is None else _check_known(known, self.shape, self.dtype, self.device)
        self.watched: dict[str, Any] = {"callback": callback, "trajectory": trajectory, "progress": progress}
        self.rng = as_philox(rng)
        self.update, self._finite = 1, list[tuple[str, Tensor]]()

    def score(self, x: Tensor, point: Point) -> Tensor:
        """The score at ``x``, once it is known to be finite.

        Raises:
            NonFiniteSamples: it is not. On an accelerator, which the host does not wait for, that is said at the end.
        """
        return self.finite(self._score(x, point), f"at sigma {point.sigma:.6g}")

    def finite(self, value: Tensor, where: str) -> Tensor:
        """``value``, a score, once it is known to be finite; ``where`` is for the message."""
        if not backends.transformed():
            where = f"in update {self.update}, {where}"
            if checks.readable(value):
                bad = ~torch.isfinite(value).reshape(len(value), value.shape[1:].numel()).all(1)
                if bool(bad.any()):
                    raise _not_finite(where, f"{int(bad.sum())} of {len(bad)}")
            else:
                self._finite.append((where, torch.isfinite(value).all()))
        return value

    def run(self, step: Callable[[Tensor, Tensor, int], Tensor], updates: Sequence[int] | None = None) -> Tensor:
        """The samples [B, ...] after ``updates[i]`` updates at each point i, one by default.

        Args:
            step: step(x, s, i), the samples after an update at point i, s being the score there; the last one at a
                point leads to the next.
            updates: how many there are at each point but the last.
        """
        updates = [1] * (len(self.points) - 1) if updates is None else updates
        left, x = list(updates), self.begin(sum(updates))

        def one(x: Tensor, s: Tensor, i: int) -> Tensor:
            x = step(x, s, i)
            left[i] -= 1
            self.update += 1
            return x if left[i] else self.keep(x, i + 1)

        x = run_chain(
            lambda x, i: self.score(x, self.points[i]),
            self.keep(x, 0),
            one,  # type: ignore[arg-type]
            updates,
            clamp=None if self.known else self.clamp,
            **self.watched,
        )
        self.end()
        if self.known is None:
            return x
        image, mask = self.known
        return torch.where(mask, image, x if self.clamp is None else x.clamp(*self.clamp))

    def keep(self, x: Tensor, i: int) -> Tensor:
        """``x`` with what is known, at the noise of point ``i``."""
        if self.known is None:
            return x
        (image, mask), point = self.known, self.points[i]
        if point.sigma:
            z = self.rng.randn(self.shape, stream=Stream.INPAINT, dtype=self.dtype, device=self.device)
            image = point.alpha * image + point.sigma * z
        return torch.where(mask, image, x)

    def end(self) -> None:
        """Say of an accelerator's scores which one was not finite."""
        if self._finite and not bool(torch.stack([good for _, good in self._finite]).all()):
            raise _not_finite(next(where for where, good in self._finite if not good), "some")

    def begin(self, updates: int) -> Tensor:
        """Where the chains begin [B, ...], once it is known that so many ``updates`` can be watched."""
        check_watch(updates, self.shape, self.dtype, **self.watched)
        first = self.points[0]
        if isinstance(self.start, Tensor) or self.start != "normal":
            return initial(self.start, self.shape, first.sigma, self.rng, self.dtype, self.device)
        z = initial("normal", self.shape, 1.0, self.rng, self.dtype, self.device)
        compute = checks.compute_dtype(z)
        if self.covariance is not None:
            spread = correlated(z, first.sigma, first.alpha, self.covariance)
            return (first.alpha * torch.as_tensor(self.mean, dtype=spread.dtype, device=z.device) + spread).to(z.dtype)
        mean, std = (torch.as_tensor(value, dtype=compute, device=z.device) for value in (self.mean, self.std))
        scale = (first.sigma**2 + (first.alpha * std).square()).sqrt()
        return (first.alpha * mean + scale * z.to(compute)).to(z.dtype)


def _told(
    score_fn: Callable[..., Tensor],
    levels: Sequence[float] | None,
    conditioning: str,
    model_kwargs: Mapping[str, Any] | None,
) -> Callable[[Tensor, Point], Tensor]:
    """score(x, point), of a network that takes labels, sigma or t, [B]."""
    if conditioning == "labels":
        assert levels is not None
        by_label = conditioned(score_fn, levels, conditioning, model_kwargs)
        blended: dict[float, Callable[[Tensor], Tensor]] = {}
        score = Score(score_fn, model_kwargs, conditioning)

        def at(x: Tensor, point: Point) -> Tensor:
            assert point.label is not None
            if point.label.is_integer() and point.sigma == levels[int(point.label)]:
                return by_label(x, int(point.label))
            if score.kwargs or not calls.offers_levels(score_fn):
                raise ValueError(
                    "interpolate must be False for a score_fn without at_level(label), which NCSN has, got True"
                )
            if point.label not in blended:
                blended.clear()
                blended[point.label] = score_fn.at_level(point.label)  # type: ignore[attr-defined]  # just asked for
            return score(x, at_level=blended[point.label])

        return at
    score = Score(score_fn, model_kwargs, conditioning)

    def told(x: Tensor, point: Point) -> Tensor:
        number = point.t if conditioning == "t" and point.t is not None else point.sigma  # which is the levels' t
        return score(x, torch.full(x.shape[:1], number, dtype=checks.compute_dtype(x), device=x.device))

    return told


def _not_finite(where: str, which: str) -> NonFiniteSamples:
    return NonFiniteSamples(
        f"score_fn gave NaN or infinity for {which} samples {where}: sampling stopped there. A network may do so for "
        "samples that are larger than any it was trained with (start, or more steps), or in half precision"
    )


def _check_data(name: str, value: float | Tensor, shape: torch.Size) -> float | Tensor:
    """A number, or a tensor of a sample's shape, that describes the data."""
    if not isinstance(value, Tensor):
        return checks.number(name, value)
    checks.floating(name, value, batched=False)
    if value.dim() and value.shape != shape[1:]:
        raise ValueError(
            f"{name} must be a number or have a sample's shape, {tuple(shape[1:])}, got {checks.describe(value)}"
        )
    return value


def _check_known(known: Any, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Noise:
    if not isinstance(known, (tuple, list)) or len(known) != 2:
        raise TypeError(f"known must be None or (image, mask), got {checks.describe(known)}")
    image, mask = known
    checks.floating("known[0], the image,", image)
    if image.shape != shape or image.device != device:
        raise ValueError(
            f"known[0], the image, must have shape {tuple(shape)} on {device}, got {checks.describe(image)}"
        )
    return image.to(dtype), check_mask(mask, image)
