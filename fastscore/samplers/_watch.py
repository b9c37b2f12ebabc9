"""Watching a run: progress, callbacks, and the samples on their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.errors import require

Callback = Callable[[int, Tensor], None]


class Trajectory:
    """Copies of the samples along a run, kept in CPU memory. Off unless one is passed as ``trajectory=``.

    Args:
        every: keep the samples after each ``every``-th update (and after the last).
        num_samples: keep only the first so many samples of the batch; ``None`` keeps all.
        max_bytes: the most memory it may take; a run that would take more is refused before it starts.

    Attributes:
        steps: the numbers of the updates after which samples were kept; 1 is the first.
        frames: the samples [n, ...] after each of these.
    """

    def __init__(self, every: int = 1, *, num_samples: int | None = None, max_bytes: int = 1 << 30):
        self.every = checks.integer("every", every, low=1)
        self.num_samples = num_samples if num_samples is None else checks.integer("num_samples", num_samples, low=1)
        self.max_bytes = checks.integer("max_bytes", max_bytes, low=1)
        self.steps: list[int] = []
        self.frames: list[Tensor] = []

    def plan(self, total: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Raise if ``total`` updates of samples of ``shape`` [B, ...] would take more than ``max_bytes``."""
        kept = shape[0] if self.num_samples is None else min(self.num_samples, shape[0])
        needed = -(-total // self.every) * kept * math.prod(shape[1:]) * dtype.itemsize
        if needed > self.max_bytes:
            raise ValueError(
                f"trajectory would take {needed:,} bytes, more than its max_bytes={self.max_bytes:,}: "
                f"raise every (now {self.every}), keep fewer samples, or raise max_bytes"
            )

    def add(self, step: int, total: int | None, x: Tensor) -> None:
        """Keep ``x`` where ``step`` is due."""
        if step % self.every == 0 or step == total:
            self.steps.append(step)
            self.frames.append(x[: self.num_samples].detach().to("cpu", copy=True))


def check_watch(
    total: int,
    shape: Sequence[int],
    dtype: torch.dtype,
    callback: Callback | None,
    trajectory: Trajectory | None,
    progress: bool,
) -> None:
    """Raise unless ``total`` updates of samples of ``shape`` and ``dtype`` can be watched by these."""
    if trajectory is not None:
        if not isinstance(trajectory, Trajectory):
            raise TypeError(
                f"trajectory must be a fastscore.samplers.Trajectory or None, got {checks.describe(trajectory)}"
            )
        if backends.transformed():
            raise ValueError(
                "trajectory must be None under torch.func.vmap and torch.compile, from which nothing "
                "but what is returned can be kept"
            )
        trajectory.plan(total, shape, dtype)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function callback(step, x), got {checks.describe(callback)}")
    if progress:
        require("tqdm", "train")


class Watch:
    """Shows progress, calls ``callback(step, x)`` and fills the trajectory after each update; step 1 is the first.

    ``total``: how many updates there are; None: the last is told. What it is given passed :func:`check_watch`.
    """

    def __init__(self, total: int | None, callback: Callback | None, trajectory: Trajectory | None, progress: bool):
        self.total, self.step = total, 0
        self.copies = False  # whether what the callback is given will be written to
        self.callback, self.trajectory = callback, trajectory
        self.bar = require("tqdm", "train").tqdm(total=total, desc="sampling", unit="step") if progress else None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, x: Tensor, last: bool = False) -> None:
        self.step += 1
        if self.bar is not None:
            self.bar.update()
        if self.trajectory is not None:
            self.trajectory.add(self.step, self.step if last else self.total, x)
        if self.callback is not None:
            version = _version(x)
            given = x.clone() if version is None or self.copies else x
            self.callback(self.step, given)
            if version is not None and _version(given) != (0 if self.copies else version):
                raise ValueError("callback must not change x in place, the chain itself: let it work on x.clone()")


def _version(x: Tensor) -> int | None:
    """How often ``x`` was written to in place, where torch counts that."""
    return None if backends.transformed() or x.is_inference() else x._version
