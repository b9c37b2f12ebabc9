"""probe_dot: d_kb = sum_i v_kbi (J v)_kbi, the quadratic forms v^T J v, with v drawn again and never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import Operator, Stream, example
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import declare, raw, wants_grad
from .fill_probes import FORMS, NATIVE_ALONE, Probes, directions, directions_of_form, filled, probes_of_form


def probe_dot(product: Tensor, probes: Probes, *, first: int = 0) -> Tensor:
    """The inner product of each probe with its Jacobian product.

    ``d_kb = sum_i v_kbi product_kbi``; where product = J v (or J^T v), d is v^T J v, whose mean over the
    probes estimates tr J (with a colouring: the sum over a block's probes does).

    Args:
        product: [K, B, ...], for the probes ``first`` .. ``first`` + K - 1; float16, bfloat16, float32 or float64.
        probes: the handle that the directions were filled from.
        first: which probe row 0 belongs to.

    Returns:
        [K, B]; float64 for a float64 ``product``, else float32. The same bits for any split into calls, batch and
        number of threads. Backends: reference; native on CPU and CUDA.

    Raises:
        TypeError, ValueError: ``product`` is not floating, or not of the shape and device of the probes.
    """
    if not isinstance(probes, Probes):
        raise TypeError(f"probes must be a fastscore.Probes, got {checks.describe(probes)}")
    checks.floating("product", product)
    noise = probes.noise
    if product.dim() == 0 or product.shape[1:] != noise.shape or product.device != noise.device:
        raise ValueError(
            f"product must be [K, *{tuple(noise.shape)}] on {noise.device}, one row per probe, "
            f"got {checks.describe(product)}"
        )
    first, _ = probes.chunk(first, product.shape[0])
    return checked(product, probes, first)


def checked(product: Tensor, probes: Probes, first: int) -> Tensor:
    """:func:`probe_dot` of arguments that were checked."""
    noise = probes.noise
    backend = backends.choose("probe_dot", product.device)
    if backend == "reference":
        return reference(product, probes, first)
    distribution, coloring = probes.form()
    if backends.transformed() or wants_grad(product):
        return _differentiable(backend, product, first, distribution, *noise.arguments(), *coloring)
    return raw("probe_dot", backend)(product, distribution, first, coloring, *noise.arguments())


def reference(product: Tensor, probes: Probes, first: int = 0) -> Tensor:
    """sum v product in plain torch."""
    return _dot(product, directions(probes, first, product.shape[0], checks.compute_dtype(product)))


def _dot(product: Tensor, v: Tensor) -> Tensor:
    return (v * product.to(v.dtype)).reshape(*product.shape[:2], product.shape[2:].numel()).sum(2)


def _fake(product: Tensor, *_: Any) -> Tensor:
    return product.new_empty(product.shape[:2], dtype=checks.compute_dtype(product))


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    product = example((4, *shape), dtype, device, seed)
    forms = ((name, form) for name, form in FORMS.items() if name != "sphere")
    return {name: (product, distribution, 1, coloring) for name, (distribution, coloring) in forms}


declare(
    Operator(
        name="probe_dot",
        schema="(Tensor product, int distribution, int first, int[] coloring) -> Tensor",
        maps=("probe", "none", "none", "none"),
        fake=_fake,
        examples=_examples,
        reference=lambda product, distribution, first, coloring, noise: _dot(
            product,
            directions_of_form(distribution, first, len(product), coloring, noise, checks.compute_dtype(product)),
        ),
        batch=1,
        public=probe_dot,
        call=lambda product, distribution, first, coloring, rng: probe_dot(
            product, probes_of_form(product[0], distribution, first + len(product), coloring, rng), first=first
        ),
        stream=Stream.PROBE,
        backends=NATIVE_ALONE,
    )
)


class _ProbeDot(torch.autograd.Function):
    """Linear in ``product``: the derivative is v itself. The coloring comes last, number by number: vmap of a jvp takes
    no list."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        backend: str,
        product: Tensor,
        first: int,
        distribution: int,
        seed: int,
        step: int,
        stream: int,
        offset: int,
        state: Tensor | None,
        index: Tensor | None,
        *coloring: int,
    ) -> Tensor:
        return raw("probe_dot", backend)(
            product, distribution, first, list(coloring), seed, step, stream, offset, state, index
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, product, ctx.first, ctx.distribution, *ctx.position = inputs[:8]
        state, index, *ctx.coloring = inputs[8:]
        ctx.save_for_backward(product, state, index)
        ctx.save_for_forward(product, state, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        product, state, index = ctx.saved_tensors
        v = filled(
            ctx.backend,
            product.shape[1:],
            grad.dtype,
            product.device,
            ctx.first,
            product.shape[0],
            (ctx.distribution, ctx.coloring, *ctx.position, state, index),
        )
        scaled = v * grad.reshape(*grad.shape, *[1] * (product.dim() - 2))
        return None, scaled.to(product.dtype), *(None for _ in range(8 + len(ctx.coloring)))

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, tangent: Tensor, *rest: None) -> Tensor:
        _, state, index = ctx.saved_tensors
        return _differentiable(
            ctx.backend, tangent, ctx.first, ctx.distribution, *ctx.position, state, index, *ctx.coloring
        )


@opaque_to_dynamo
def _differentiable(backend: str, *arguments: Any) -> Tensor:
    return apply(_ProbeDot, backend, *arguments)
