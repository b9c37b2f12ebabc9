"""One call for whoever does not want to choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..paths import Path
from ._chain import ButSteps
from ._grid import source
from .dpm_solver import dpm_solver

if TYPE_CHECKING:
    from typing_extensions import Unpack

_STEPS = 20


@torch.no_grad()
def sample(
    score_fn: Callable[..., Tensor],
    path: Path | Tensor | Sequence[float],
    shape: Sequence[int],
    steps: int | None = None,
    **how: Unpack[ButSteps],
) -> Tensor:
    """Samples in few evaluations: SDE-DPM-Solver++(2M), :func:`dpm_solver` with ``eta`` = 1.

    With alpha = 1 the chains begin about the ``mean`` of the data, which is worth giving: of images in [0, 1] it is not 0. So is
    their ``covariance`` where the largest noise is not far above their spread.

    Args:
        score_fn: ``score_fn(x, labels)`` for noise levels, ``score_fn(x, t)`` for a path, or by ``conditioning``.
        path: noise levels [L], strictly decreasing, or a :class:`fastscore.paths.Path`.
        shape: of the samples, [B, ...].
        steps: updates, and evaluations. None: 20, or the number of noise levels where that is less.
        how: rng, start, mean and others, see :class:`How`.

    Returns:
        The samples [B, ...].

    Raises:
        TypeError, ValueError, NonFiniteSamples: as for :func:`ddim`.
    """
    if steps is None:
        where, _ = source(path, how.get("conditioning"), how.get("interpolate", False), score_fn)
        steps = min(_STEPS, len(getattr(where, "sigmas", range(_STEPS))))
    return dpm_solver(score_fn, shape, path, eta=1.0, steps=steps, **how)
