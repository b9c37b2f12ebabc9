"""dsm_loss: l_b = 1/2 sigma_b^weight || score_b + z_b / sigma_b ||^2."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Function, Operator, Stream, example, example_row
from .._core.registration import declare, direct, per_row, wants_grad
from ..rng import Noise, Philox
from ._dsm_loss_derivatives import OnePass, differentiable


def dsm_loss(score: Tensor, noise: Noise | Tensor, sigma: float | Tensor, weight: float = 2.0) -> Tensor:
    """Denoising score matching, one loss per sample.

    The score of N(alpha x, sigma^2 I) at x_tilde = alpha x + sigma z is -z / sigma, whatever alpha, so
    ``loss_b = 1/2 sigma_b^weight sum_d (score_bd + z_bd / sigma_b)^2``.

    Args:
        score: the network's score at x_tilde, [B, ...]; float16, bfloat16, float32 or float64.
        noise: what :func:`fastscore.perturb` returned, or z itself [B, ...] (which the reference serves).
        sigma: standard deviation of the noise: a number or [B], greater than 0.
        weight: the power p of sigma. 2 makes every noise level count alike (Song & Ermon 2019); 0 is Vincent's loss.

    Returns:
        [B]; float64 for a float64 ``score``, else float32.

    Raises:
        TypeError: ``score`` is not a floating tensor, ``noise`` neither handle nor tensor.
        ValueError: ``noise`` has another shape or device than ``score``; ``sigma`` not positive and finite.

    Source: Vincent 2011, equation 9; Song & Ermon 2019, equations 5 and 6.
    """
    checks.floating("score", score)
    if not isinstance(noise, Noise):
        if not isinstance(noise, Tensor):
            raise TypeError(
                f"noise must be the handle that perturb returned, or a tensor, got {checks.describe(noise)}"
            )
        checks.like("noise", noise, "score", score)
    elif not noise.fits(score):
        raise ValueError(
            f"noise must have the shape and device of score, {tuple(score.shape)} on {score.device}, "
            f"got noise of shape {tuple(noise.shape)} on {noise.device}"
        )
    weight = checks.number("weight", weight)
    if isinstance(noise, Tensor):
        backend, transformed = "reference", backends.transformed()
    else:
        backend, transformed = backends.serving("dsm_loss", score.device)
    fast = backend == "native" and not transformed  # which looks at the values itself
    sigma = checks.row_numbers("sigma", sigma, score, values=not fast)
    return _served(backend, transformed, score, noise, sigma, weight)


def checked(score: Tensor, noise: Noise, sigma: Tensor, weight: float) -> Tensor:
    """:func:`dsm_loss` of arguments that were checked, ``noise`` a handle and ``sigma`` [] or [B]."""
    sigma = sigma.to(checks.compute_dtype(score))
    return _served(*backends.serving("dsm_loss", score.device), score, noise, sigma, weight)


def _served(
    backend: str, transformed: bool, score: Tensor, noise: Noise | Tensor, sigma: Tensor, weight: float
) -> Tensor:
    if backend == "reference" or not isinstance(noise, Noise):
        return reference(score, sigma, weight, noise)
    try:
        if transformed or wants_grad(sigma):
            return differentiable(backend, score, sigma, weight, *noise.arguments())
        if wants_grad(score):
            return OnePass.apply(backend, score, sigma, weight, *noise.arguments())
        return direct("dsm_loss", backend)(score, sigma, weight, *noise.arguments())
    except RuntimeError:
        checks.positive_values("sigma", sigma)
        raise


def reference(score: Tensor, sigma: Tensor, weight: float, noise: Noise | Tensor) -> Tensor:
    """1/2 sigma^weight || score + z / sigma ||^2 in plain torch; ``sigma`` is [] or [B]."""
    compute = checks.compute_dtype(score)
    z = noise.tensor(compute) if isinstance(noise, Noise) else noise.to(compute)
    residual = (score.to(compute) + z / per_row(sigma, score)).reshape(score.shape[0], score.shape[1:].numel())
    return 0.5 * sigma**weight * residual.square().sum(1)


def reference_gradient(score: Tensor, sigma: Tensor, weight: float, upstream: Tensor, noise: Noise | Tensor) -> Tensor:
    """upstream sigma^weight (score + z / sigma) in plain torch; ``upstream`` is [] or [B]."""
    z = noise.tensor(sigma.dtype) if isinstance(noise, Noise) else noise.to(sigma.dtype)
    residual = score.to(sigma.dtype) + z / per_row(sigma, score)
    return (per_row(upstream * sigma**weight, score) * residual).to(score.dtype)


def _reference_pair(
    score: Tensor, sigma: Tensor, weight: float, scale: float, noise: Noise | Tensor
) -> tuple[Tensor, Tensor]:
    gradient = reference_gradient(score, sigma, weight, sigma.new_full((), scale), noise)
    return reference(score, sigma, weight, noise), gradient


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    score, sigma = example(shape, dtype, device, seed), example_row(shape, dtype, device, seed + 1)
    one = torch.full_like(sigma[:1], 0.7).squeeze()
    return {"": (score, sigma, 2.0), "weight 1.5": (score, sigma, 1.5), "one sigma": (score, one, 2.0)}


def _examples_pair(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    return {name: (*given, 0.3) for name, given in _examples(shape, dtype, device, seed).items()}


def _examples_gradient(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    score, sigma = example(shape, dtype, device, seed), example_row(shape, dtype, device, seed + 1)
    upstream = example_row(shape, dtype, device, seed + 2)
    return {
        "": (score, sigma, 1.5, upstream),
        "one upstream": (score, sigma, 2.0, torch.full_like(sigma[:1], 0.7).squeeze()),
    }


def _call(score: Tensor, sigma: Tensor, weight: float, rng: Philox) -> Tensor:
    noise = rng.noise(score.shape, stream=Stream.PERTURB, dtype=score.dtype, device=score.device, beside=(score,))
    return dsm_loss(score, noise, sigma, weight)


declare(
    Operator(
        name="dsm_loss",
        schema="(Tensor score, Tensor sigma, float weight) -> Tensor",
        maps=("batch", "row", "none"),
        fake=lambda score, sigma, *_: sigma.new_empty(score.shape[0]),
        examples=_examples,
        reference=reference,
        public=dsm_loss,
        call=_call,
        stream=Stream.PERTURB,
        backends=ORDINARY,
        variants=(
            Function(
                name="dsm_loss_and_gradient",  # the loss, and scale sigma^weight (score + z / sigma), in one pass
                schema="(Tensor score, Tensor sigma, float weight, float scale) -> (Tensor, Tensor)",
                maps=("batch", "row", "none", "none"),
                fake=lambda score, sigma, *_: (sigma.new_empty(score.shape[0]), torch.empty_like(score)),
                examples=_examples_pair,
                reference=_reference_pair,
            ),
            Function(
                name="dsm_loss_gradient",  # upstream_b sigma_b^weight (score_b + z_b / sigma_b)
                schema="(Tensor score, Tensor sigma, float weight, Tensor upstream) -> Tensor",
                maps=("batch", "row", "none", "row"),
                fake=lambda score, *_: torch.empty_like(score),
                examples=_examples_gradient,
                reference=reference_gradient,
            ),
        ),
    )
)
