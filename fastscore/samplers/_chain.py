"""What the solvers share: their arguments, checked once, and the run from the first point of a grid to the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from .._core import checks
from .._core.options import boolean
from ..paths import RULES, Path
from ..rng import Philox, Stream, as_philox
from ._driver import check_clamp, run_chain
from ._finite import Finite
from ._given import Known, check_data, check_known
from ._grid import END, Point, check_decreasing, source
from ._replay import Level, Recorded, Table, check_graph
from ._start import check_covariance, check_device, check_shape, check_start, correlated, initial
from ._told import Told
from ._watch import Callback, Trajectory, check_watch


class ButSteps(TypedDict, total=False):
    """:class:`How` but for ``steps``."""

    rule: str | None
    rng: Philox | None
    start: str | Tensor
    mean: float | Tensor
    std: float | Tensor
    covariance: Tensor | None
    denoise: bool
    known: Known | None
    conditioning: str | None
    interpolate: bool
    clamp: tuple[float, float] | None
    model_kwargs: Mapping[str, Any] | None
    dtype: torch.dtype | None
    device: torch.device | str | None
    callback: Callback | None
    trajectory: Trajectory | None
    progress: bool
    cuda_graph: bool


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
            batch or of many begin alike, bit for bit: it is applied number by number, in float64. (Its Cholesky factor is LAPACK's,
            whose last bits may differ with the number of threads or the device.)
        denoise: end with the mean of the clean sample given the noisy one, which is one evaluation; else at the last point.
        known: (image, mask): where the bool ``mask`` (as for :func:`inpaint`) is True the samples are ``image`` [B, ...] plus each
            point's noise, and at the end ``image`` itself.
        conditioning: what ``score_fn(x, ...)`` is told: ``"labels"`` (int64 [B], an index of noise levels), ``"sigma"``
            or ``"t"`` ([B]). None: labels of noise levels; t of a path, and to what :func:`fastscore.as_score` gives.
        interpolate: let a network of labels (NCSN) be asked between its levels, its embeddings blended linearly in log sigma.
        clamp, model_kwargs, dtype, device, callback, trajectory, progress: as for :func:`annealed_langevin`.
        cuda_graph: record the updates as CUDA graphs, one of each kind (the first and the last differ from the others), and
            replay them, as for :func:`annealed_langevin`: the same samples bit for bit. Not where embeddings are blended.
    """

    steps: int | None


class Chain:
    """The arguments of a solver, checked, and nothing drawn yet.

    Attributes:
        points: of the grid, the last being :data:`END` where ``denoise``; update i goes from ``points[i]`` to the next.
        between: between(rhos), the points with other noise, where the network takes one.
        rng, shape, dtype, device: of the samples.
        recorded: whether the updates are to be CUDA graphs.
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
        known: Known | None = None,
        conditioning: str | None = None,
        interpolate: bool = False,
        clamp: tuple[float, float] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        callback: Callback | None = None,
        trajectory: Trajectory | None = None,
        progress: bool = False,
        cuda_graph: bool = False,
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
        self.device = check_device(device, path)
        self.recorded = check_graph(cuda_graph, self.device)
        self._told = Told(score_fn, levels, conditioning, model_kwargs, self.dtype, self.device)
        self.clamp, self.start = check_clamp(clamp), start
        self.mean, self.std = check_data("mean", mean, self.shape), check_data("std", std, self.shape)
        self.covariance = None if covariance is None else check_covariance(covariance, std, self.shape)
        self.known = None if known is None else check_known(known, self.shape, self.dtype, self.device)
        self.watched: dict[str, Any] = {"callback": callback, "trajectory": trajectory, "progress": progress}
        self.rng, self.finite = as_philox(rng), Finite()
        self._tables: list[Table] = []

    def table(self, rows: Sequence[Any]) -> Table:
        """What the step computes with in each of its updates, by number (see :meth:`run`)."""
        self._tables.append(Table(rows, checks.compute_dtype(torch.empty(0, dtype=self.dtype)), self.device))
        return self._tables[-1]

    def ask(self, points: Sequence[Point]) -> Callable[[Tensor, Level], Tensor]:
        """score(x, i), the score of ``x`` at the i-th of ``points``, once it is known to be finite."""
        told = self._told.at(points, recorded=self.recorded)

        def score(x: Tensor, i: Level) -> Tensor:
            where = f"at sigma {points[i].sigma:.6g}" if isinstance(i, int) else None
            return self.finite(told(x, i), where)

        return score

    def remember(self, before: list[Tensor], now: Sequence[Tensor]) -> None:
        """Make ``before`` the tensors ``now``, for the update after this; in a graph by copies, which stay."""
        if not self.recorded:
            before[:] = now
        elif not before:
            before[:] = [value.clone() for value in now]
        else:
            for old, new in zip(before, now):
                old.copy_(new)

    def run(
        self, step: Callable[[Tensor, Tensor, Level], Tensor], visits: Sequence[tuple[int, int]] | None = None
    ) -> Tensor:
        """The samples [B, ...] at the last point.

        Args:
            step: step(x, s, j), the samples after an update of the visit ``j``, s being the score there.
            visits: (i, n) of each visit: its point i, and how many updates there are at it in a row. The last update of the
                last visit to a point leads to the next. None: one of one update to each point.
        """
        visits = [(i, 1) for i in range(len(self.points) - 1)] if visits is None else visits
        updates = [times for _, times in visits]
        score, x = self.ask([self.points[i] for i, _ in visits]), self.begin(sum(updates))
        self.finite.begin(
            [self.points[i].sigma for i, times in visits for _ in range(times)], self.device, self.recorded
        )

        def update(x: Tensor, s: Tensor, j: Level) -> Tensor:
            x = step(x, s, j)
            if isinstance(j, Recorded):
                self.finite.count()
            return x

        def after(x: Tensor, j: int, last: bool) -> Tensor:
            self.finite.update += 1
            i = visits[j][0]
            leaves = last and (j + 1 == len(visits) or visits[j + 1][0] != i)
            return self.keep(x, i + 1) if leaves else x

        x = run_chain(
            score,
            self.keep(x, 0),
            update,
            updates,
            recorded=self.rng if self.recorded else None,
            after=after,
            kind=lambda j: tuple(table.kind(j) for table in self._tables),
            clamp=None if self.known else self.clamp,
            **self.watched,
        )
        return self.end(x)

    def keep(self, x: Tensor, i: int) -> Tensor:
        """``x`` with what is known, at the noise of point ``i``."""
        if self.known is None:
            return x
        (image, mask), point = self.known, self.points[i]
        if point.sigma:
            z = self.rng.randn(self.shape, stream=Stream.INPAINT, dtype=self.dtype, device=self.device)
            image = point.alpha * image + point.sigma * z
        return torch.where(mask, image, x)

    def end(self, x: Tensor) -> Tensor:
        """The samples as returned, what is known being the image itself, once all scores are known to be finite."""
        self.finite.end()
        if self.known is None:
            return x
        image, mask = self.known
        return torch.where(mask, image, x if self.clamp is None else x.clamp(*self.clamp))

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
