"""langevin_step: x' = x + step_size/2 score + sqrt(step_size) z, z ~ N(0, I)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Function, Operator, Stream, example, example_row
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import declare, direct, inside, per_row, row_sum, wants_grad, written
from .._noise import regenerated
from ..rng import Noise, Philox
from ..schedules import refuse_other_form
from ._memory import check_out
from ._source import drawn_from

_STREAM = int(Stream.LANGEVIN)


def langevin_step(
    x: Tensor,
    score: Tensor,
    step_size: float | Tensor,
    rng: Philox | None = None,
    *,
    noise: Noise | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """One step of (unadjusted) Langevin dynamics, uphill along the score.

    ``x'_b = x_b + step_size_b/2 score_b + sqrt(step_size_b) z_b``, where the papers call step_size alpha. The
    ``step_lr`` of the NCSN code, in x + step_lr s + sqrt(2 step_lr) z, is half of it. Computed in float32 (float64
    for float64) and rounded once.

    Args:
        x: samples [B, ...]; float16, bfloat16, float32 or float64.
        score: the score at ``x``, of its shape and device.
        step_size: in squared units of ``x``: a number or [B], at least 0.
        rng: source of the noise; takes one step. ``None``: seeded from torch's default generator.
        noise: noise to use in place of a draw from ``rng``: a handle, or a tensor of ``x``'s shape (which the
            reference serves, as there is nothing to fuse).
        out: where to write the result, of ``x``'s shape, dtype and device; may be ``x`` itself or another argument,
            but may not overlap one in part. Not differentiable.

    Returns:
        x' [B, ...] of ``x``'s dtype (``out`` where given).

    Raises:
        TypeError: ``x`` or ``score`` is not a floating tensor.
        ValueError: shapes or devices differ; ``step_size`` negative or not finite; ``out`` while gradients are
            recorded, or in memory that it shares with an argument in part, or with itself.

    Source: Welling & Teh 2011; Song & Ermon 2019, algorithm 1.
    """
    number = type(step_size) is float
    if not number:
        refuse_other_form("step_size", step_size, "step_size")
    checks.floating("x", x)
    checks.like("score", score, "x", x)
    if isinstance(noise, Tensor):
        backend, transformed = "reference", backends.transformed()
    else:
        backend, transformed = backends.serving("langevin_step", x.device)
    fast = backend == "native" and not transformed  # which looks at the values itself
    step_size = checks.row_numbers("step_size", step_size, x, zero_allowed=True, values=not fast)
    if out is not None:
        read = None if number else step_size
        check_out(out, x, transformed=transformed, score=score, step_size=read, noise=noise)
    return _served(backend, transformed, x, score, step_size, drawn_from(x, rng, noise), out)


def checked(x: Tensor, score: Tensor, step_size: Tensor, rng: Philox) -> Tensor:
    """:func:`langevin_step` of arguments that were checked: ``step_size`` [] or [B], in the dtype of computation."""
    return _served(*backends.serving("langevin_step", x.device), x, score, step_size, rng, None)


def _served(
    backend: str,
    transformed: bool,
    x: Tensor,
    score: Tensor,
    step_size: Tensor,
    noise: Philox | Noise | Tensor,
    out: Tensor | None,
) -> Tensor:
    """``noise``: where to draw it from, its handle, or its values, which the reference takes."""
    if backend == "reference" or isinstance(noise, Tensor):
        if isinstance(noise, Philox):
            noise = noise.noise_for(x, _STREAM, transformed=transformed, beside=(score, step_size))
        value = reference(x, score, step_size, noise)
        return value if out is None else out.copy_(value)
    if isinstance(noise, Noise):
        where = noise.arguments()
    else:
        where = noise.arguments_for(x, _STREAM, transformed=transformed, beside=(score, step_size))
    dtype = x.dtype
    if score.dtype != dtype:  # computed in the wider of the two, rounded once
        wide = torch.promote_types(dtype, score.dtype)
        x, score = x.to(wide), score.to(wide)
        step_size = step_size.to(checks.compute_dtype(x))
    try:
        if transformed or (out is None and wants_grad(x, score, step_size)):
            value = _differentiable(backend, x, score, step_size, *where)
        elif out is None or out.dtype != x.dtype or out.is_neg():  # a view by -1, as of an imaginary part: not in place
            value = direct("langevin_step", backend)(x, score, step_size, *where)
        else:
            direct("langevin_step_out", backend)(x, score, step_size, out, *where)
            return written(out)
    except RuntimeError:
        checks.positive_values("step_size", step_size, zero_allowed=True)
        raise
    if value.dtype != dtype:
        value = value.to(dtype)
    return value if out is None else out.copy_(value)


def reference(x: Tensor, score: Tensor, step_size: Tensor, noise: Noise | Tensor) -> Tensor:
    """x + step_size/2 score + sqrt(step_size) z in plain torch; ``step_size`` is [] or [B]."""
    compute = checks.compute_dtype(x)
    z = noise.tensor(compute) if isinstance(noise, Noise) else noise.to(compute)
    step_size = per_row(step_size, x)
    return (x.to(compute) + step_size / 2 * score.to(compute) + step_size.sqrt() * z).to(x.dtype)


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    x, score, step_size = (f(shape, dtype, device, seed + i) for i, f in enumerate((example, example, example_row)))
    return {"": (x, score, step_size), "one step_size": (x, score, torch.full_like(step_size[:1], 0.7).squeeze())}


def _examples_out(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    return {name: (*given, torch.empty_like(given[0])) for name, given in _examples(shape, dtype, device, seed).items()}


declare(
    Operator(
        name="langevin_step",
        schema="(Tensor x, Tensor score, Tensor step_size) -> Tensor",
        maps=("batch", "batch", "row"),
        fake=lambda x, *_: torch.empty_like(x),
        examples=_examples,
        reference=reference,
        public=langevin_step,
        call=langevin_step,
        stream=Stream.LANGEVIN,
        backends=ORDINARY,
        variants=(
            Function(
                name="langevin_step_out",
                schema="(Tensor x, Tensor score, Tensor step_size, Tensor(a!) out) -> ()",
                maps=("batch", "batch", "row", "batch"),
                fake=lambda *_: None,
                examples=_examples_out,
            ),
        ),
    )
)


class _LangevinStep(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, x: Tensor, score: Tensor, step_size: Tensor, *noise: Any) -> Tensor:
        return inside("langevin_step", backend)(x, score, step_size, *noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, _, score, step_size, *ctx.position, state, index = inputs
        ctx.save_for_backward(score, step_size, state, index)
        ctx.save_for_forward(score, step_size, state, index)

    @staticmethod
    def _slope(ctx: Any) -> Tensor:
        """d x' / d step_size = score/2 + z / (2 sqrt(step_size))."""
        score, step_size, state, index = ctx.saved_tensors
        z = regenerated(ctx.backend, score, step_size.dtype, (*ctx.position, state, index))
        return score / 2 + z / (2 * per_row(step_size, score).sqrt())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        score, step_size, _, _ = ctx.saved_tensors
        _, needs_x, needs_score, needs_step_size, *rest = ctx.needs_input_grad
        grad_score = (grad * per_row(step_size, score) / 2).to(score.dtype) if needs_score else None
        grad_step_size = row_sum(grad * _LangevinStep._slope(ctx), step_size) if needs_step_size else None
        return None, grad if needs_x else None, grad_score, grad_step_size, *(None for _ in rest)

    @staticmethod
    @forward_rule
    def jvp(
        ctx: Any, _: None, x_t: Tensor | None, score_t: Tensor | None, step_size_t: Tensor | None, *rest: None
    ) -> Tensor:
        score, step_size, _, _ = ctx.saved_tensors
        tangent = torch.zeros_like(score, dtype=step_size.dtype)
        if x_t is not None:
            tangent = tangent + x_t
        if score_t is not None:
            tangent = tangent + per_row(step_size, score) / 2 * score_t
        if step_size_t is not None:
            tangent = tangent + per_row(step_size_t, score) * _LangevinStep._slope(ctx)
        return tangent.to(score.dtype)


@opaque_to_dynamo
def _differentiable(backend: str, *arguments: Any) -> Tensor:
    return apply(_LangevinStep, backend, *arguments)
