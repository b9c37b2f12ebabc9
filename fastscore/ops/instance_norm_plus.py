"""instance_norm_plus: InstanceNorm++, an instance norm that keeps the channels' relative means, and the ELU after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Function, Operator, example
from .._core.registration import declare, direct, wants_grad
from ._instance_norm_plus_derivatives import along, differentiable, recorded, reference_gradient, shares

ACTIVATIONS: dict[str | None, int] = {None: 0, "elu": 1}  # as the compiled functions count them
EPS = 1e-5


def instance_norm_plus(
    x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor, *, eps: float = EPS, activation: str | None = None
) -> Tensor:
    """InstanceNorm++, and where asked the activation that follows it.

    With mu and v the mean and biased variance of x over the pixels, h = (x - mu) / sqrt(v + eps), and m and q the mean
    and UNBIASED variance of mu over the C channels::

        out = phi(gamma (h + alpha t) + beta),    t = (mu - m) / sqrt(q + eps)

    with phi the identity, or ELU: a where a > 0, else exp(a) - 1. Computed in float32 (float64 for float64) and rounded
    once. Only x, the parameters and two numbers a channel are kept for the gradient.

    Args:
        x: [B, C, H, W], or [B, C, ...] with any number of dimensions of pixels; C >= 2, and 2 pixels or more; float16,
            bfloat16, float32 or float64. Contiguous and channels_last are read as they are, anything else is copied.
        gamma, alpha, beta: [C], or [B, C] for numbers of every sample's own; floating, on x's device.
        eps: added to both variances, greater than 0.
        activation: ``None`` or ``"elu"``.

    Returns:
        A tensor of x's shape, dtype and memory format. Backends: reference; native on the CPU; Triton on CUDA devices.

    Raises:
        TypeError: ``x`` or a parameter is not a floating tensor.
        ValueError: ``x`` has one channel or one pixel; a parameter has another shape or device; ``eps`` is not positive;
            ``activation`` is unknown.

    Source: Song and Ermon 2019, arXiv:1907.05600, appendix A.
    """
    checks.floating("x", x)
    if x.dim() < 3 or x.shape[1] < 2 or x.shape[2:].numel() < 2:
        raise ValueError(
            "x must be [B, C, H, W] (or [B, C, ...]) with at least 2 channels and 2 pixels, of which it takes variances, "
            f"got {checks.describe(x)}"
        )
    for name, value in (("gamma", gamma), ("alpha", alpha), ("beta", beta)):
        _check_channels(name, value, x)
    eps = checks.positive("eps", eps)
    if activation not in list(ACTIVATIONS):  # which need not be hashable
        raise ValueError(f"activation must be None or 'elu', got {activation!r}")
    return checked(x, gamma, alpha, beta, ACTIVATIONS[activation], eps)


def checked(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor, activation: int, eps: float = EPS) -> Tensor:
    """:func:`instance_norm_plus` of arguments that were checked, ``activation`` as :data:`ACTIVATIONS` counts it."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    if gamma.dtype != compute or alpha.dtype != compute or beta.dtype != compute:
        gamma, alpha, beta = gamma.to(compute), alpha.to(compute), beta.to(compute)
    backend, transformed = backends.serving("instance_norm_plus", x.device)
    if backend == "reference":
        return reference(x, gamma, alpha, beta, eps, activation)[0]
    if transformed:
        return differentiable(backend, x, gamma, alpha, beta, eps, activation)
    if wants_grad(x, gamma, alpha, beta):
        return recorded(backend, x, gamma, alpha, beta, eps, activation)
    return direct("instance_norm_plus", backend)(x, gamma, alpha, beta, eps, activation)[0]


def _check_channels(name: str, value: Any, x: Tensor) -> None:
    checks.floating(name, value)
    if value.shape not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(
            f"{name} must be [C] or [B, C], ({x.shape[1]},) or {tuple(x.shape[:2])} beside x of shape {tuple(x.shape)}, "
            f"got {checks.describe(value)}"
        )
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, got {checks.describe(value)}")


def reference(
    x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor, eps: float, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """out, and mu and (v + eps)^-1/2 [B, C], in plain torch: by means and products, whose derivatives torch has right."""
    compute, pixels = checks.compute_dtype(x), tuple(range(2, x.dim()))
    mean = x.to(compute).mean(pixels)
    centred = x.to(compute) - along(mean, x)
    rstd = (centred.square().mean(pixels) + eps).rsqrt()
    shift = gamma * alpha * shares(mean, eps)[0] + beta
    out = along(gamma, x) * (centred * along(rstd, x)) + along(shift, x)
    if activation:
        out = torch.where(out > 0, out, torch.where(out > 0, 0.0, out).expm1())
    return out.to(x.dtype), mean, rstd


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    if len(shape) < 3 or shape[1] < 2 or torch.Size(shape[2:]).numel() < 2:  # samples that it cannot take
        shape = (shape[0], 2, max(2, torch.Size(shape[1:]).numel()))
    x = example(shape, dtype, device, seed)
    compute = checks.compute_dtype(x)
    one, each = ([example(s, compute, device, seed + i) for i in (1, 2, 3)] for s in (x.shape[1:2], x.shape[:2]))
    return {
        "": (x, *each, 0.5, 0),
        "elu, one for all": (x, *one, 0.5, 1),
        "elu": (x, *each, 0.5, 1),
        "one for all": (x, *one, 0.5, 0),
    }


def _examples_gradient(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    found = {}
    for name, given in _examples(shape, dtype, device, seed).items():
        x, (_, mean, rstd) = given[0], reference(*given)
        found[name] = (example(x.shape, dtype, device, seed + 4), x, mean, rstd, *given[1:])
    return found


def _fake(x: Tensor, gamma: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), gamma.new_empty(x.shape[:2]), gamma.new_empty(x.shape[:2])


def _fake_gradient(upstream: Tensor, x: Tensor, mean: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    each = x.shape[:2]
    return torch.empty_like(x), mean.new_empty(each), mean.new_empty(each), mean.new_empty(each)


def _call(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor, eps: float, activation: int) -> Tensor:
    name = next(name for name, number in ACTIVATIONS.items() if number == activation)
    return instance_norm_plus(x, gamma, alpha, beta, eps=eps, activation=name)


declare(
    Operator(
        name="instance_norm_plus",
        schema="(Tensor x, Tensor gamma, Tensor alpha, Tensor beta, float eps, int activation) -> (Tensor, Tensor, Tensor)",
        maps=("batch", "channel", "channel", "channel", "none", "none"),
        fake=_fake,
        examples=_examples,
        reference=reference,
        public=instance_norm_plus,
        call=_call,
        stream=None,
        backends=ORDINARY,
        variants=(
            Function(
                name="instance_norm_plus_gradient",
                schema="(Tensor upstream, Tensor x, Tensor mean, Tensor rstd, Tensor gamma, Tensor alpha, Tensor beta, "
                "float eps, int activation) -> (Tensor, Tensor, Tensor, Tensor)",
                maps=("batch", "batch", "batch", "batch", "channel", "channel", "channel", "none", "none"),
                fake=_fake_gradient,
                examples=_examples_gradient,
                reference=reference_gradient,
            ),
        ),
    )
)
