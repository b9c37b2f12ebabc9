"""What the objectives share: how a network is called, its Jacobian products at one evaluation, and reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _check, backends
from .._library import per_row
from ..ops.fill_probes import DISTRIBUTIONS, Probes, fill_probes
from ..rng import Philox

REDUCTIONS = ("none", "mean", "sum")
PARAMETRIZATIONS = ("score", "epsilon")
MODES = ("vjp", "jvp")

Score = Callable[[Tensor], Tensor]


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """[B] to [B], or its mean or sum over the batch. The mean of an empty batch is an error, not NaN."""
    _check.one_of("reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return loss
    if reduction == "mean" and loss.numel() == 0:
        raise ValueError("x must have at least one sample where reduction='mean', got an empty batch")
    return loss.mean() if reduction == "mean" else loss.sum()


def score_of(score_fn: Callable[..., Tensor], sigma: Tensor | None = None, labels: Tensor | None = None,
             conditioning: str = "none", parametrization: str = "score") -> Score:
    """The score as a function of x alone, its output checked. ``sigma`` [] or [B]; see the package's text."""
    def score(x: Tensor) -> Tensor:
        if conditioning == "none":
            output = score_fn(x)
        else:
            output = score_fn(x, labels if conditioning == "labels" else sigma.expand(x.shape[0]))
        _check.like("the output of score_fn", output, "x", x)
        return output if parametrization == "score" else -output / per_row(sigma, x)
    return score


def probes_for(x: Tensor, n_particles: int, rng: Philox | None, projection: str, mode: str = "vjp",
               reduction: str = "none") -> Probes:
    """The handle on ``n_particles`` directions a sample, all arguments checked; takes as many steps of ``rng``."""
    _check.floating("x", x)
    n_particles = _check.integer("n_particles", n_particles, low=1)
    for name, value, allowed in (("projection", projection, DISTRIBUTIONS), ("mode", mode, MODES),
                                 ("reduction", reduction, REDUCTIONS)):
        _check.one_of(name, value, allowed)
    return Probes(x, n_particles, rng, distribution=projection)


def half_square(score: Tensor) -> Tensor:
    """1/2 ||s_b||^2, [B] in the dtype of computation."""
    return 0.5 * square(score)


def square(value: Tensor) -> Tensor:
    """||value_b||^2, [B] in the dtype of computation."""
    value = value.to(_check.compute_dtype(value))
    return value.reshape(value.shape[0], value.shape[1:].numel()).square().sum(1)


def products(score: Score, x: Tensor, probes: Probes, mode: str) -> tuple[Tensor, Tensor]:
    """s(x) and its Jacobian's products with the probes, from ONE evaluation of ``score``.

    Args:
        score: maps [B, ...] to [B, ...], each sample alone.
        x: [B, ...].
        probes: K directions a sample.
        mode: ``"vjp"``: J^T v, one reverse pass a probe; a gradient of the result is a double backward. ``"jvp"``:
            J v, one forward-mode pass for all probes (vmap); a gradient is forward-over-reverse.

    Returns:
        s(x) [B, ...] and the products [K, B, ...], differentiable where gradients are recorded.
    """
    if mode == "jvp":
        return _pushforward(score, x, fill_probes(probes))
    if backends.transformed():
        output, pull = torch.func.vjp(score, x)
        return output, torch.stack([pull(v)[0] for v in fill_probes(probes)])
    return _pullback(score, x, probes)


def _pullback(score: Score, x: Tensor, probes: Probes) -> tuple[Tensor, Tensor]:
    """J^T v by torch.autograd, which any network serves; also where gradients are off, as in a validation loop."""
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        if not x.requires_grad or x.is_inference():
            x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        output = score(x)
        if not output.requires_grad:
            raise ValueError("the output of score_fn must depend on x in a way that autograd records: "
                             "is it detached, or computed under no_grad?")
        rows = []
        for k in range(probes.num_probes):
            v = fill_probes(probes, first=k, count=1)[0]
            rows += torch.autograd.grad(output, x, v, retain_graph=True, create_graph=recording,
                                        materialize_grads=True)
        return output, torch.stack(rows)


def _pushforward(score: Score, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """J v by forward-mode differentiation: vmap over the probes alone, so that s(x) is computed once."""
    def push(v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(score, (x,), (v,))

    try:
        if len(v) == 1:
            output, row = push(v[0])
            return output, row[None]
        output, rows = torch.func.vmap(push, randomness="same")(v)  # out_dims=None is refused inside another vmap
        return output[0], rows
    except RuntimeError as error:  # NotImplementedError, which it includes, for an operation of torch
        if not any(words in str(error) for words in ("forward AD", "forward mode AD", "setup_context", "vmap support")):
            raise
        raise NotImplementedError("score_fn has an operation without a forward-mode derivative (or a vmap rule, which "
                                  "several particles need), so mode='jvp' cannot serve it: use mode='vjp'. Torch says: "
                                  f"{error}") from error
