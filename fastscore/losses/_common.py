"""What the objectives share: how a network is called, its Jacobian products at one evaluation, and reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .._core import checks
from .._core.registration import per_row
from ..ops.fill_probes import DISTRIBUTIONS, Probes, fill_probes
from ..rng import Philox
from ..trace import modules
from ..trace.products import Products, Words

REDUCTIONS = ("none", "mean", "sum")
PARAMETRIZATIONS = ("score", "epsilon")
MODES = ("vjp", "jvp")
WORDS = Words("score_fn", "n_particles=1 or mode='vjp'", "mode='vjp'", "fastscore.losses.fd_ssm in place of this loss")

Score = Callable[[Tensor], Tensor]


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """[B] to [B], or its mean or sum over the batch. The mean of an empty batch is an error, not NaN."""
    checks.one_of("reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return loss
    if reduction == "mean" and loss.numel() == 0:
        raise ValueError("x must have at least one sample where reduction='mean', got an empty batch")
    return loss.mean() if reduction == "mean" else loss.sum()


def score_of(
    score_fn: Callable[..., Tensor],
    sigma: Tensor | None = None,
    labels: Tensor | None = None,
    conditioning: str = "none",
    parametrization: str = "score",
    model_kwargs: Mapping[str, Any] | None = None,
) -> Score:
    """The score as a function of x alone, its output checked. ``sigma`` [] or [B]; see the package's text."""
    keywords = checks.keywords(model_kwargs, score_fn, *([] if conditioning == "none" else [conditioning]))

    def score(x: Tensor) -> Tensor:
        if conditioning == "none":
            output = score_fn(x, **keywords)
        else:
            output = score_fn(x, labels if conditioning == "labels" else sigma.expand(x.shape[0]), **keywords)
        checks.like("the output of score_fn", output, "x", x)
        return output if parametrization == "score" else -output / per_row(sigma, x)

    return score


def probes_for(
    x: Tensor, n_particles: int, rng: Philox | None, projection: str, mode: str = "vjp", reduction: str = "none"
) -> Probes:
    """The handle on ``n_particles`` directions a sample, all arguments checked; takes as many steps of ``rng``."""
    checks.floating("x", x)
    n_particles = checks.integer("n_particles", n_particles, low=1)
    for name, value, allowed in (
        ("projection", projection, DISTRIBUTIONS),
        ("mode", mode, MODES),
        ("reduction", reduction, REDUCTIONS),
    ):
        checks.one_of(name, value, allowed)
    return Probes(x, n_particles, rng, distribution=projection)


def half_square(score: Tensor) -> Tensor:
    """1/2 ||s_b||^2, [B] in the dtype of computation."""
    return 0.5 * square(score)


def square(value: Tensor) -> Tensor:
    """||value_b||^2, [B] in the dtype of computation."""
    value = value.to(checks.compute_dtype(value))
    return value.reshape(value.shape[0], value.shape[1:].numel()).square().sum(1)


def products(
    score: Score, x: Tensor, probes: Probes, mode: str, layers: modules.Layers | None = None
) -> tuple[Tensor, Tensor]:
    """s(x) and its Jacobian's products with the probes, from ONE evaluation of ``score``.

    Args:
        score: maps [B, ...] to [B, ...], each sample alone.
        x: [B, ...].
        probes: K directions a sample.
        mode: ``"vjp"``: J^T v by torch.autograd, one reverse pass a probe; a gradient of the result is a double
            backward. ``"jvp"``: J v, one forward-mode pass for all probes (vmap); a gradient is forward-over-reverse.
        layers: what :func:`fastscore.trace.modules.check` found; ``None``: it is looked for here, and nothing refused.

    Returns:
        s(x) [B, ...] and the products [K, B, ...], differentiable where gradients are recorded.
    """
    layers = modules.check(score, mode, "score_fn", strict=False) if layers is None else layers
    v = fill_probes(probes)
    found = Products(score, x, mode=mode, chunk_size=len(v), layers=layers, words=WORDS, plainly=True)
    rows = found(v)
    return found.output, rows
