"""What the objectives share: checked arguments, how a network is called, its Jacobian products, and reductions.

Each public loss checks its arguments once, before it draws or runs anything; the functions here named ``check_...`` do
that, and all others take what was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from .._core import checks
from .._core.registration import per_row
from ..ops.fill_probes import DISTRIBUTIONS, Probes
from ..ops.fill_probes import checked as fill_probes
from ..rng import Philox, as_philox
from ..trace import modules
from ..trace.messages import OF_LOSS
from ..trace.products import AUTOMATIC, Products

REDUCTIONS = ("none", "mean", "sum")
PARAMETRIZATIONS = ("score", "epsilon")

Score = Callable[[Tensor], Tensor]


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """The losses [B] of a batch as they are, or their mean or sum.

    Args:
        loss: [B].
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: another reduction, or the mean of an empty batch, which would be NaN.
    """
    check_reduction(reduction, loss)
    return reduced(loss, reduction)


def check_reduction(reduction: str, x: Tensor) -> None:
    """One of ``REDUCTIONS``, and not the mean of an empty batch ``x`` [B, ...]."""
    checks.one_of("reduction", reduction, REDUCTIONS)
    if reduction == "mean" and x.size(0) == 0:
        raise ValueError("x must have at least one sample where reduction='mean', got an empty batch")


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """:func:`reduce`, its arguments checked."""
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def score_of(
    score_fn: Callable[..., Tensor],
    keywords: Mapping[str, Any],
    *,
    sigma: Tensor | None = None,
    labels: Tensor | None = None,
    conditioning: str = "none",
    parametrization: str = "score",
) -> Score:
    """The score as a function of x alone, whose output is checked. ``sigma`` [] or [B]; see the package's text."""

    def score(x: Tensor) -> Tensor:
        if conditioning == "none":
            output = score_fn(x, **keywords)
        elif conditioning == "labels":
            output = score_fn(x, labels, **keywords)
        else:
            assert sigma is not None
            output = score_fn(x, sigma.expand(x.shape[0]), **keywords)
        checks.like("the output of score_fn", output, "x", x)
        if parametrization == "score":
            return output
        assert sigma is not None
        return -output / per_row(sigma, x)

    return score


def check_directions(projection: str, n_particles: int, mode: str) -> int:
    """``n_particles`` as an integer, once all three are known to be right."""
    n_particles = checks.integer("n_particles", n_particles, low=1)
    checks.one_of("projection", projection, DISTRIBUTIONS)
    checks.one_of("mode", mode, AUTOMATIC)
    return n_particles


class Directions(NamedTuple):
    """A score, where it is taken, and the directions along which its Jacobian is."""

    score: Score  # [B, ...] to [B, ...], each sample by itself
    x: Tensor  # [B, ...]
    probes: Probes  # K for each sample
    mode: str  # one of AUTOMATIC
    layers: modules.Layers


def check_sliced(
    score_fn: Callable[..., Tensor],
    x: Tensor,
    rng: Philox | None,
    projection: str,
    n_particles: int,
    mode: str,
    model_kwargs: Mapping[str, Any] | None,
    reduction: str,
) -> Directions:
    """The arguments of a loss along random directions, checked; takes ``n_particles`` steps of ``rng``."""
    layers = modules.check(score_fn, mode, "score_fn")
    keywords = checks.keywords(model_kwargs, score_fn)
    checks.floating("x", x)
    n_particles = check_directions(projection, n_particles, mode)
    check_reduction(reduction, x)
    probes = Probes.checked(x, n_particles, as_philox(rng), distribution=projection)
    return Directions(score_of(score_fn, keywords), x, probes, mode, layers)


def half_square(score: Tensor) -> Tensor:
    """1/2 ||s_b||^2, [B] in the dtype of computation."""
    return 0.5 * square(score)


def square(value: Tensor) -> Tensor:
    """||value_b||^2, [B] in the dtype of computation."""
    value = value.to(checks.compute_dtype(value))
    return value.reshape(value.shape[0], value.shape[1:].numel()).square().sum(1)


def products(along: Directions) -> tuple[Tensor, Tensor]:
    """s(x) [B, ...] and its Jacobian's products with the K directions [K, B, ...], from ONE evaluation of the score.

    In mode ``"vjp"`` they are J^T v by torch.autograd, one reverse pass for each direction, and a gradient of the
    result is a double backward. In ``"jvp"`` they are J v by one forward-mode pass for all (``vmap``), and a gradient
    is forward-over-reverse. Both results are differentiable where gradients are recorded.
    """
    v = fill_probes(along.probes, 0, along.probes.num_probes)
    engine = Products(
        along.score,
        along.x,
        mode=along.mode,
        chunk_size=len(v),
        layers=along.layers,
        words=OF_LOSS,
        batched=False,
    )
    rows = engine(v)
    assert engine.output is not None
    return engine.output, rows
