"""At which times of a path a loss is taken, and what each counts: weightings, and sampling by importance."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .._core import checks
from ..paths import Path
from ..rng import Philox, Stream

WEIGHTINGS = ("1", "sigma^2", "sigma^2/alpha^2", "g^2")
PROPOSALS = ("uniform", "importance")
_CELLS = 1024

Weighting = str | Callable[[Tensor], Tensor]


def check_weighting(weighting: Weighting) -> Weighting:
    """One of :data:`WEIGHTINGS`, or a function of t."""
    if not callable(weighting):
        checks.one_of("weighting", weighting, WEIGHTINGS)
    return weighting


def weights(path: Path, weighting: Weighting, t: Tensor) -> Tensor:
    """w(t) of t's shape, float64, for t that is on the path."""
    if callable(weighting):
        value = weighting(t)
        if not isinstance(value, Tensor) or value.shape != t.shape:
            raise ValueError(f"weighting must give a number for each t, got {checks.describe(value)}")
        checks.positive_values("weighting", value, zero_allowed=True)
        return value.to(t.device, torch.float64, non_blocking=True)
    if weighting == "1":
        return torch.ones_like(t)
    if weighting == "g^2":
        return (
            path.diffusion_squared(t)
            if path.sigmas is None
            else falls(path.sigmas).to(t.device, non_blocking=True)[path.labels(t)]
        )
    variance = path.sigma(t).square()
    return variance if weighting == "sigma^2" else variance / path.alpha(t).square()


def falls(sigmas: Tensor) -> Tensor:
    """g^2 of noise levels spread evenly over [0, 1]: the slope of sigma^2 along them, [L]."""
    if len(sigmas) < 2:
        raise ValueError("weighting must not be 'g^2' on a path of one noise level, along which sigma has no slope")
    return -torch.gradient(sigmas.square())[0] * (len(sigmas) - 1)


def relative(path: Path, weighting: Weighting, t: Tensor) -> Tensor:
    """w(t) / sigma(t)^2: what a network that is 0 costs, in units of D/2."""
    return weights(path, weighting, t) / path.sigma(t).square()


def draw_times(path: Path, weighting: Weighting, proposal: str, x: Tensor, rng: Philox) -> tuple[Tensor, Tensor | None]:
    """(t [B], ratio [B] or None), float64 on the device of ``x``; takes one step of ``rng``, of the stream LABELS.

    ``ratio`` is the uniform density at t divided by that which t was drawn from: its product with a loss has the
    expectation of the loss at uniform t.
    """
    if path.sigmas is not None and proposal == "uniform":
        label = rng.randint(len(path.sigmas), len(x), stream=Stream.LABELS, device=x.device, beside=(x,))
        return path.sigmas.to(x.device, non_blocking=True)[label], None
    u = rng.rand(len(x), stream=Stream.LABELS, dtype=torch.float64, device=x.device, beside=(x,))
    if proposal == "uniform":
        return path.t_min + u * (path.t_max - path.t_min), None
    with torch.inference_mode(False):  # the tables are kept
        tables = _cells(path, weighting)
    begin, width, mass = (table.to(x.device, non_blocking=True) for table in tables)
    ends = mass.cumsum(0)
    cell = torch.searchsorted(ends, u * ends[-1], right=True).clamp(max=len(mass) - 1)
    inside = ((u * ends[-1] - (ends - mass)[cell]) / mass[cell]).clamp(0, 1)
    return begin[cell] + inside * width[cell], ends[-1] * (_share(path, width) / mass)[cell]


def _share(path: Path, width: Tensor) -> Tensor:
    """The uniform probability of each cell."""
    return width / width.sum() if path.sigmas is None else torch.full_like(width, 1 / len(width))


@lru_cache(maxsize=64)
def _cells(path: Path, weighting: Weighting) -> tuple[Tensor, Tensor, Tensor]:
    """Begin, width and mass of the cells in which t is drawn uniformly; noise levels are cells without a width.

    The mass is the uniform probability times w / sigma^2 in the middle: where a network that is 0 costs most, there are
    most samples. Cells are even in the log-SNR, and in t.
    """
    if path.sigmas is not None:
        begin, width = path.sigmas, torch.zeros_like(path.sigmas)
        middle = begin
    else:
        ends = path.log_snr(torch.tensor([path.t_min, path.t_max], dtype=torch.float64, device="cpu")).tolist()
        even = torch.linspace(ends[1], ends[0], _CELLS + 1, dtype=torch.float64, device="cpu")[1:-1]
        also = torch.linspace(path.t_min, path.t_max, _CELLS + 1, dtype=torch.float64, device="cpu")
        edges = torch.cat([path.t_of_log_snr(even), also]).unique()
        begin, width, middle = edges[:-1], edges.diff(), (edges[:-1] + edges[1:]) / 2
    mass = _share(path, width) * relative(path, weighting, middle)
    if not bool((mass > 0).all()):
        raise ValueError("weighting must be greater than 0 on the whole path, to sample t by importance")
    return begin, width, mass
