"""elu: y = x where x > 0, else exp(x) - 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Function, Operator, example
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import declare, direct, inside, wants_grad


def elu(x: Tensor) -> Tensor:
    """The exponential linear unit of alpha 1: ``y = x`` where x > 0, else ``exp(x) - 1``.

    Its derivative is of the output, ``y > 0 ? 1 : y + 1``, and nothing but the output is kept for it, which the layer
    that follows keeps as well. Computed in float32 (float64 for float64) without cancellation near 0, rounded once; NaN
    gives NaN, and zeros keep their sign. In half precision the slope below 0 is so exact as y + 1 is: to 2^-9 in
    bfloat16, 2^-12 in float16.

    Args:
        x: any shape and memory format; float16, bfloat16, float32 or float64.

    Returns:
        y, of ``x``'s shape, dtype and memory format. Backends: reference; native on the CPU; Triton on CUDA devices.

    Raises:
        TypeError: ``x`` is not a floating tensor.

    Source: Clevert, Unterthiner and Hochreiter 2016, arXiv:1511.07289.
    """
    checks.floating("x", x, batched=False)
    return checked(x)


def checked(x: Tensor) -> Tensor:
    """:func:`elu` of a tensor that was checked."""
    backend, transformed = backends.serving("elu", x.device)
    if backend == "reference":
        return reference(x)
    if x.dim() == 0:
        return checked(x[None])[0]
    if transformed or wants_grad(x):
        return _differentiable(backend, x)
    return direct("elu", backend)(x)


def reference(x: Tensor) -> Tensor:
    """x or exp(x) - 1 in plain torch; the part that is not taken gets no x, of which exp would overflow."""
    value = x.to(checks.compute_dtype(x))
    below = torch.expm1(torch.where(value > 0, 0.0, value))
    return torch.where(value > 0, value, below).to(x.dtype)


def reference_gradient(upstream: Tensor, out: Tensor) -> Tensor:
    """g (y > 0 ? 1 : y + 1) in plain torch."""
    y = out.to(checks.compute_dtype(out))
    return (upstream * torch.where(y > 0, 1.0, y + 1)).to(out.dtype)


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    return {"": (example(shape, dtype, device, seed),)}


def _examples_gradient(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    out = reference(example(shape, dtype, device, seed))
    return {"": (example(shape, dtype, device, seed + 1), out)}


declare(
    Operator(
        name="elu",
        schema="(Tensor x) -> Tensor",
        maps=("batch",),
        fake=torch.empty_like,
        examples=_examples,
        reference=reference,
        public=elu,
        stream=None,
        backends=ORDINARY,
        variants=(
            Function(
                name="elu_gradient",
                schema="(Tensor upstream, Tensor out) -> Tensor",
                maps=("batch", "batch"),
                fake=lambda upstream, out: torch.empty_like(out),
                examples=_examples_gradient,
                reference=reference_gradient,
            ),
        ),
    )
)


class _Elu(torch.autograd.Function):
    """What is saved is the output, which autograd takes for the function of x that it is: so its derivatives are right."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, x: Tensor) -> Tensor:
        return inside("elu", backend)(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, _ = inputs
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        (y,) = ctx.saved_tensors
        return None, _gradient(ctx.backend, upstream, y)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, x_t: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return _gradient(ctx.backend, x_t, y)


class _EluGradient(torch.autograd.Function):
    """g (y > 0 ? 1 : y + 1): linear in g, and in y of slope g where y <= 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, upstream: Tensor, out: Tensor) -> Tensor:
        return inside("elu_gradient", backend)(upstream, out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, upstream, y = inputs
        ctx.save_for_backward(upstream, y)
        ctx.save_for_forward(upstream, y)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple:
        upstream, y = ctx.saved_tensors
        _, needs_upstream, needs_y = ctx.needs_input_grad
        return (
            None,
            _gradient(ctx.backend, bar, y) if needs_upstream else None,
            _to_y(bar, upstream, y) if needs_y else None,
        )

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, upstream_t: Tensor | None, y_t: Tensor | None) -> Tensor:
        upstream, y = ctx.saved_tensors
        if upstream_t is None:
            return torch.zeros_like(y) if y_t is None else _to_y(y_t, upstream, y)
        tangent = _gradient(ctx.backend, upstream_t, y)
        return tangent if y_t is None else tangent + _to_y(y_t, upstream, y)


def _to_y(bar: Tensor, upstream: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, 0.0, bar * upstream)


def _gradient(backend: str, upstream: Tensor, y: Tensor) -> Tensor:
    if backends.transformed() or wants_grad(upstream, y):
        return apply(_EluGradient, backend, upstream, y)
    return direct("elu_gradient", backend)(upstream, y)


@opaque_to_dynamo
def _differentiable(backend: str, x: Tensor) -> Tensor:
    return apply(_Elu, backend, x)
