"""mlp_divergence: the exact divergence tr(df/dx) of a small MLP in closed form, without a Jacobian product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import backends, checks
from .._core.backends import library
from .._core.registration import wants_grad

# name: phi, phi'; in the order in which csrc/activation.h counts them
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tanh": (torch.tanh, lambda a: 1 - torch.tanh(a).square()),
    "sigmoid": (torch.sigmoid, lambda a: torch.sigmoid(a) * torch.sigmoid(-a)),
    "softplus": (F.softplus, torch.sigmoid),
    "silu": (F.silu, lambda a: torch.sigmoid(a) * (1 + a * torch.sigmoid(-a))),
    "elu": (F.elu, lambda a: torch.where(a > 0, 0.0, a).exp()),
}
_MODULES = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Softplus: "softplus", nn.SiLU: "silu", nn.ELU: "elu"}
Layer = nn.Linear | tuple[Tensor, Tensor | None]


def mlp_divergence(
    x: Tensor, layers: nn.Sequential | Sequence[Layer], *, activation: str | None = None
) -> tuple[Tensor, Tensor]:
    """An MLP's output and the exact trace of its Jacobian, for one or two hidden layers.

    With a_1 = W_1 x + b_1 and a_2 = W_2 phi(a_1) + b_2, elementwise products written o,

    - one hidden layer, f = W_2 phi(a_1) + b_2: ``tr J = sum_h phi'(a_1)_h w_h``, w_h = (W_1 W_2)_hh;
    - two, f = W_3 phi(a_2) + b_3: ``tr J = phi'(a_2)^T P phi'(a_1)``, P = W_2 o (W_1 W_3)^T,

    because tr(W_3 D_2 W_2 D_1 W_1) = sum_ij (D_2)_i (W_2)_ij (D_1)_j (W_1 W_3)_ji for diagonal D. One forward pass
    and one product more, where D Jacobian products were needed; differentiable in ``x`` and every weight, twice.

    Args:
        x: [B, D]; float32 or float64 (half precision is computed in float32, by the reference).
        layers: an ``nn.Sequential`` of ``nn.Linear`` with one kind of activation module between them, or two or three
            ``nn.Linear`` or (weight [out, in], bias [out] or None) in their order.
        activation: ``"tanh"``, ``"sigmoid"``, ``"softplus"``, ``"silu"`` or ``"elu"``; None: read off the Sequential.

    Returns:
        The output [B, D] and the divergence [B]. Backends: reference; native on CPU and CUDA (the sums over hidden
        units; the matrix products are torch's). Under ``torch.func`` and ``torch.compile``: reference.

    Raises:
        TypeError, ValueError: ``layers`` is another network, shapes do not fit; the message says how.
    """
    pairs, name = _read(layers, activation)
    checks.floating("x", x)
    sizes = [pairs[0][0].shape[1], *(weight.shape[0] for weight, _ in pairs)]
    if any(weight.dtype != x.dtype for weight, _ in pairs):
        raise TypeError(
            f"x must have the dtype of the weights, {', '.join(str(w.dtype)[6:] for w, _ in pairs)}, "
            f"got {checks.describe(x)}"
        )
    if x.dim() != 2 or x.shape[1] != sizes[0] or sizes[-1] != sizes[0]:
        raise ValueError(
            f"x must be [B, D] and the layers lead from D to D, got {checks.describe(x)} and layers of "
            f"sizes {' -> '.join(map(str, sizes))}"
        )
    phi, slope = ACTIVATIONS[name]
    (w1, b1), *middle, (w_last, b_last) = pairs
    a = F.linear(x, w1, b1)
    if not middle:
        weights = (w1 * w_last.T).sum(1)
    else:
        w2, b2 = middle[0]
        weights = F.linear(slope(a), w2 * (w1 @ w_last).T)
        a = F.linear(phi(a), w2, b2)
    return F.linear(phi(a), w_last, b_last), _slope_dot(a, weights, name)


def _slope_dot(a: Tensor, w: Tensor, name: str) -> Tensor:
    """sum_h phi'(a_bh) w_h, w [H] or [B, H]."""
    backend = backends.choose("mlp_divergence", a.device)
    if backend == "reference" or backends.transformed() or a.dtype not in (torch.float32, torch.float64):
        return reference(a, w, name)
    kind = list(ACTIVATIONS).index(name)
    return _SlopeDot.apply(a, w, kind) if wants_grad(a, w) else torch.ops.fastscore.mlp_divergence_native(a, w, kind)


def reference(a: Tensor, w: Tensor, name: str) -> Tensor:
    """sum_h phi'(a_bh) w_bh in plain torch."""
    compute = checks.compute_dtype(a)
    return (ACTIVATIONS[name][1](a.to(compute)) * w.to(compute)).sum(1)


library.define("mlp_divergence_native(Tensor a, Tensor w, int activation) -> Tensor")
library.define(
    "mlp_divergence_gradient_native(Tensor a, Tensor w, Tensor upstream, int activation) -> (Tensor, Tensor)"
)


class _SlopeDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor, kind: int) -> Tensor:
        ctx.save_for_backward(a, w)
        ctx.kind = kind
        return torch.ops.fastscore.mlp_divergence_native(a, w, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        a, w = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a derivative of this one
            wanted = [t for t, needed in zip((a, w), ctx.needs_input_grad) if needed]  # others may be frozen
            with torch.enable_grad():
                value = reference(a, w, list(ACTIVATIONS)[ctx.kind])
                found = iter(torch.autograd.grad(value, wanted, grad, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), None
        to_a, to_w = torch.ops.fastscore.mlp_divergence_gradient_native(a, w, grad, ctx.kind)
        return to_a, to_w if w.dim() == 2 else to_w.sum(0), None


def _read(layers: Any, activation: str | None) -> tuple[list[tuple[Tensor, Tensor | None]], str]:
    """(weight, bias) of each layer, and the activation's name."""
    found = activation
    if isinstance(layers, nn.Sequential):
        modules = list(layers)
        names = [_name(module) for module in modules[1::2]]
        plain = type(layers).forward is nn.Sequential.forward and not any(map(_has_hooks, (layers, *modules)))
        if (
            len(set(names)) != 1
            or None in names
            or len(modules) % 2 == 0
            or not all(map(_is_linear, modules[::2]))
            or not plain
        ):
            raise ValueError(
                "layers must be nn.Linear modules with one kind of activation between them, none at the "
                f"end, no hooks and no forward of its own, of {', '.join(m.__name__ for m in _MODULES)} "
                "(with their default parameters), "
                f"got {checks.describe(layers)}"
            )
        if activation not in (None, names[0]):
            raise ValueError(f"activation must be the Sequential's own, {names[0]!r}, or None, got {activation!r}")
        layers, found = modules[::2], names[0]
    if found is None:
        raise ValueError(
            f"activation must be one of {', '.join(map(repr, ACTIVATIONS))} beside separate layers, got None"
        )
    checks.one_of("activation", found, tuple(ACTIVATIONS))
    layers = [(layer.weight, layer.bias) if _is_linear(layer) else layer for layer in layers]
    if len(layers) not in (2, 3) or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in layers):
        raise ValueError(
            "layers must be two or three nn.Linear or (weight, bias) pairs (one or two hidden layers; for "
            f"deeper networks use fastscore.jacobian_trace), got {checks.describe(layers)}"
        )
    for i, (weight, _) in enumerate(layers):
        checks.floating(f"the weight of layer {i}", weight, batched=False)
        if weight.dim() != 2 or (i and weight.shape[1] != layers[i - 1][0].shape[0]):
            raise ValueError(
                f"the weight of layer {i} must be [out, in] with the layer before's out as its in, "
                f"got {checks.describe(weight)}"
            )
    return layers, found


def _is_linear(layer: Any) -> bool:
    """Whether a layer is ``nn.Linear`` in what it does; subclasses that only make its weight are."""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and not _has_hooks(layer)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _name(module: nn.Module) -> str | None:
    plain = all(getattr(module, key, value) == value for key, value in (("beta", 1), ("threshold", 20), ("alpha", 1)))
    return _MODULES.get(type(module)) if plain else None
