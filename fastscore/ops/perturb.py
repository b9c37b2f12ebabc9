"""perturb: x_tilde = alpha x + sigma z, z ~ N(0, I)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Operator, Stream, example, example_row
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import declare, direct, inside, per_row, row_sum, wants_grad
from .._noise import regenerated
from ..rng import Noise, Philox, as_philox

_STREAM = int(Stream.PERTURB)


def perturb(
    x: Tensor, sigma: float | Tensor, rng: Philox | None = None, *, alpha: float | Tensor | None = None
) -> tuple[Tensor, Noise]:
    """Add Gaussian noise: a draw from p(x_tilde | x) = N(alpha x, sigma^2 I).

    ``x_tilde_b = alpha_b x_b + sigma_b z_b``, computed in float32 (float64 for a float64 ``x``) and rounded once.

    Args:
        x: clean samples [B, ...]; float16, bfloat16, float32 or float64.
        sigma: standard deviation of the noise, in the units of ``x``: a number or [B], greater than 0.
        rng: source of the noise; takes one step. ``None``: seeded from torch's default generator.
        alpha: factor on ``x``: a number or [B], at least 0; ``None`` is 1 (variance exploding, as in NCSN).

    Returns:
        ``x_tilde`` [B, ...] of ``x``'s dtype, and the handle of the noise: ``noise.tensor()`` is z [B, ...].

    Raises:
        TypeError: ``x`` is not a floating tensor, ``sigma`` or ``alpha`` not a number or tensor.
        ValueError: no batch dimension; ``sigma`` not positive and finite, ``alpha`` negative or not finite, or one of
            them of another shape.

    Source: Vincent 2011, "A connection between score matching and denoising autoencoders".
    """
    checks.floating("x", x)
    backend, transformed = backends.serving("perturb", x.device)
    fast = backend == "native" and not transformed  # which looks at the values itself
    sigma = checks.row_numbers("sigma", sigma, x, values=not fast)
    if alpha is not None:
        alpha = checks.row_numbers("alpha", alpha, x, zero_allowed=True, values=not fast)
    return _served(backend, transformed, x, sigma, as_philox(rng), alpha)


def checked(x: Tensor, sigma: Tensor, rng: Philox, alpha: Tensor | None = None) -> tuple[Tensor, Noise]:
    """:func:`perturb` of arguments that were checked: ``sigma`` and ``alpha`` [] or [B], in the dtype of computation."""
    return _served(*backends.serving("perturb", x.device), x, sigma, rng, alpha)


def _served(
    backend: str, transformed: bool, x: Tensor, sigma: Tensor, rng: Philox, alpha: Tensor | None
) -> tuple[Tensor, Noise]:
    noise = rng.noise_for(x, _STREAM, transformed=transformed, beside=(sigma, alpha))
    if backend == "reference":
        return reference(x, alpha, sigma, noise), noise
    try:
        if transformed or wants_grad(x, alpha, sigma):
            return _differentiable(backend, x, alpha, sigma, *noise.arguments()), noise
        return direct("perturb", backend)(x, alpha, sigma, *noise.arguments()), noise
    except RuntimeError:
        checks.positive_values("sigma", sigma)
        if alpha is not None:
            checks.positive_values("alpha", alpha, zero_allowed=True)
        raise


def reference(x: Tensor, alpha: Tensor | None, sigma: Tensor, noise: Noise) -> Tensor:
    """alpha x + sigma z in plain torch; ``sigma`` and ``alpha`` are [] or [B]."""
    compute = checks.compute_dtype(x)
    mean = x.to(compute) if alpha is None else per_row(alpha, x) * x.to(compute)
    return (mean + per_row(sigma, x) * noise.tensor(compute)).to(x.dtype)


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    x, sigma, alpha = (f(shape, dtype, device, seed + i) for i, f in enumerate((example, example_row, example_row)))
    one = torch.full_like(sigma[:1], 0.7).squeeze()
    return {"": (x, None, sigma), "alpha": (x, alpha, sigma), "one sigma": (x, None, one)}


declare(
    Operator(
        name="perturb",
        schema="(Tensor x, Tensor? alpha, Tensor sigma) -> Tensor",
        maps=("batch", "row", "row"),
        fake=lambda x, *_: torch.empty_like(x),
        examples=_examples,
        reference=reference,
        public=perturb,
        call=lambda x, alpha, sigma, rng: perturb(x, sigma, rng, alpha=alpha)[0],
        stream=Stream.PERTURB,
        backends=ORDINARY,
    )
)


class _Perturb(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, x: Tensor, alpha: Tensor | None, sigma: Tensor, *noise: Any) -> Tensor:
        return inside("perturb", backend)(x, alpha, sigma, *noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, x, alpha, sigma, *ctx.position, state, index = inputs
        tensors = (x, alpha, sigma, state, index)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def _noise(ctx: Any) -> Tensor:
        x, _, sigma, state, index = ctx.saved_tensors
        return regenerated(ctx.backend, x, sigma.dtype, (*ctx.position, state, index))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, alpha, sigma, _, _ = ctx.saved_tensors
        g = grad.to(sigma.dtype)
        _, needs_x, needs_alpha, needs_sigma, *rest = ctx.needs_input_grad
        grad_x = grad if alpha is None else (g * per_row(alpha, x)).to(x.dtype)
        grad_alpha = row_sum(g * x, alpha) if needs_alpha else None
        grad_sigma = row_sum(g * _Perturb._noise(ctx), sigma) if needs_sigma else None
        return None, grad_x if needs_x else None, grad_alpha, grad_sigma, *(None for _ in rest)

    @staticmethod
    @forward_rule
    def jvp(
        ctx: Any, _: None, x_t: Tensor | None, alpha_t: Tensor | None, sigma_t: Tensor | None, *rest: None
    ) -> Tensor:
        x, alpha, sigma, _, _ = ctx.saved_tensors
        tangent = torch.zeros_like(x, dtype=sigma.dtype)
        if x_t is not None:
            tangent = tangent + (x_t if alpha is None else per_row(alpha, x) * x_t)
        if alpha_t is not None:
            tangent = tangent + per_row(alpha_t, x) * x
        if sigma_t is not None:
            tangent = tangent + per_row(sigma_t, x) * _Perturb._noise(ctx)
        return tangent.to(x.dtype)


@opaque_to_dynamo
def _differentiable(backend: str, *arguments: Any) -> Tensor:
    return apply(_Perturb, backend, *arguments)
