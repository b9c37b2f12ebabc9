"""mlp_divergence: the exact divergence tr(df/dx) of a small MLP in closed form, without a Jacobian product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import backends, checks
from .._core.operators import Function, Operator, example
from .._core.private_torch import apply, forward_rule, opaque_to_dynamo
from .._core.registration import declare, per_row, raw, wants_grad


def _tanh_curves(a: Tensor) -> tuple[Tensor, Tensor]:
    t = torch.tanh(a)
    slope = 1 - t.square()
    return -2 * t * slope, slope * (4 - 6 * slope)


def _sigmoid_slopes(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first three derivatives, without cancellation where a is large."""
    s, rest = torch.sigmoid(a), torch.sigmoid(-a)
    return s * rest, s * rest * (rest - s), s * rest * (1 - 6 * s * rest)


def _silu_curves(a: Tensor) -> tuple[Tensor, Tensor]:
    first, second, third = _sigmoid_slopes(a)
    return 2 * first + a * second, 3 * second + a * third


def _elu_curves(a: Tensor) -> tuple[Tensor, Tensor]:
    curve = torch.where(a > 0, 0.0, torch.where(a > 0, 0.0, a).exp())
    return curve, curve


# name: phi, phi', and (phi'', phi'''); in the order in which csrc/activation.h counts them
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Any], ...]] = {
    "tanh": (torch.tanh, lambda a: 1 - torch.tanh(a).square(), _tanh_curves),
    "sigmoid": (
        torch.sigmoid,
        lambda a: torch.sigmoid(a) * torch.sigmoid(-a),
        lambda a: _sigmoid_slopes(a)[1:],
    ),
    "softplus": (F.softplus, torch.sigmoid, lambda a: _sigmoid_slopes(a)[:2]),
    "silu": (F.silu, lambda a: torch.sigmoid(a) * (1 + a * torch.sigmoid(-a)), _silu_curves),
    "elu": (F.elu, lambda a: torch.where(a > 0, 0.0, a).exp(), _elu_curves),
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
        x: [B, D]; float16, bfloat16, float32 or float64.
        layers: an ``nn.Sequential`` of ``nn.Linear`` with one kind of activation module between them, or two or three
            ``nn.Linear`` or (weight [out, in], bias [out] or None) in their order.
        activation: ``"tanh"``, ``"sigmoid"``, ``"softplus"``, ``"silu"`` or ``"elu"``; None: read off the Sequential.

    Returns:
        The output [B, D] and the divergence [B]. Backends: reference; native on CPU and CUDA (the sums over hidden
        units; the matrix products are torch's).

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
    phi, slope, _ = ACTIVATIONS[name]
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
    compute = checks.compute_dtype(a)
    a, w, activation = a.to(compute), w.to(compute), list(ACTIVATIONS).index(name)
    backend = backends.choose("mlp_divergence", a.device)
    if backend == "reference":
        return reference(a, w, activation)
    if backends.transformed() or wants_grad(a, w):
        return _differentiable(backend, a, w, activation)
    return raw("mlp_divergence", backend)(a, w, activation)


def reference(a: Tensor, w: Tensor, activation: int) -> Tensor:
    """sum_h phi'(a_bh) w_bh in plain torch; ``activation`` counts :data:`ACTIVATIONS`."""
    return (_slope(a, activation) * w).sum(1)


def reference_gradient(a: Tensor, w: Tensor, upstream: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    """(g_b phi''(a_bh) w_bh, g_b phi'(a_bh)), both [B, H], in plain torch."""
    g = per_row(upstream, a)
    return g * _curves(a, activation)[0] * w, g * _slope(a, activation)


def _slope(a: Tensor, activation: int) -> Tensor:
    return list(ACTIVATIONS.values())[activation][1](a)


def _curves(a: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    return list(ACTIVATIONS.values())[activation][2](a)


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    a = example(shape, dtype, device, seed).reshape(shape[0], torch.Size(shape[1:]).numel())
    one, each = example(a.shape[1:], dtype, device, seed + 1), example(a.shape, dtype, device, seed + 2)
    return {"": (a, one, 0), "w for each row": (a, each, 0)} | {
        name: (a, one, i) for i, name in enumerate(ACTIVATIONS) if i
    }


def _examples_gradient(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    upstream = example(shape[:1], dtype, device, seed + 3)
    return {name: (a, w, upstream, i) for name, (a, w, i) in _examples(shape, dtype, device, seed).items()}


declare(
    Operator(
        name="mlp_divergence",
        schema="(Tensor a, Tensor w, int activation) -> Tensor",
        maps=("batch", "channel", "none"),
        fake=lambda a, *_: a.new_empty(a.shape[0]),
        examples=_examples,
        reference=reference,
        public=mlp_divergence,
        call=lambda a, w, activation: _slope_dot(a, w, list(ACTIVATIONS)[activation]),
        stream=None,
        backends={"native": ("cpu", "cuda")},
        dtypes=(torch.float32, torch.float64),
        variants=(
            Function(
                name="mlp_divergence_gradient",
                schema="(Tensor a, Tensor w, Tensor upstream, int activation) -> (Tensor, Tensor)",
                maps=("batch", "channel", "batch", "none"),
                fake=lambda a, *_: (a.new_empty(a.shape), a.new_empty(a.shape)),
                examples=_examples_gradient,
                reference=reference_gradient,
            ),
        ),
    )
)


def _for_w(gradient: Tensor, w: Tensor) -> Tensor:
    """[B, H] in the shape of ``w``."""
    return gradient if w.dim() == 2 else gradient.sum(0)


class _SlopeDot(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, a: Tensor, w: Tensor, activation: int) -> Tensor:
        return raw("mlp_divergence", backend)(a, w, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.backend, a, w, ctx.activation = inputs
        ctx.save_for_backward(a, w)
        ctx.save_for_forward(a, w)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        a, w = ctx.saved_tensors
        to_a, to_w = _gradient(ctx.backend, a, w, upstream, ctx.activation)
        _, needs_a, needs_w, _ = ctx.needs_input_grad
        return None, to_a if needs_a else None, _for_w(to_w, w) if needs_w else None, None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, a_t: Tensor | None, w_t: Tensor | None, __: None) -> Tensor:
        a, w = ctx.saved_tensors
        to_a, to_w = _gradient(ctx.backend, a, w, a.new_ones(a.shape[0]), ctx.activation)
        tangent = torch.zeros_like(a)
        if a_t is not None:
            tangent = tangent + to_a * a_t
        if w_t is not None:
            tangent = tangent + to_w * w_t
        return tangent.sum(1)


class _SlopeDotGradient(torch.autograd.Function):
    """to_a = g phi''(a) w and to_w = g phi'(a), both [B, H]; its own derivatives are in plain torch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, a: Tensor, w: Tensor, upstream: Tensor, activation: int) -> tuple[Tensor, Tensor]:
        return raw("mlp_divergence_gradient", backend)(a, w, upstream, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _, a, w, upstream, ctx.activation = inputs
        ctx.save_for_backward(a, w, upstream)
        ctx.save_for_forward(a, w, upstream)

    @staticmethod
    def backward(ctx: Any, a_bar: Tensor, w_bar: Tensor) -> tuple:
        a, w, upstream = ctx.saved_tensors
        first, (second, third) = _slope(a, ctx.activation), _curves(a, ctx.activation)
        g = per_row(upstream, a)
        to_a, to_w = g * (a_bar * third * w + w_bar * second), _for_w(a_bar * g * second, w)
        return None, to_a, to_w, (a_bar * second * w + w_bar * first).sum(1), None

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: None, a_t: Tensor | None, w_t: Tensor | None, g_t: Tensor | None, __: None) -> tuple:
        a, w, upstream = ctx.saved_tensors
        first, (second, third) = _slope(a, ctx.activation), _curves(a, ctx.activation)
        g, to_a, to_w = per_row(upstream, a), torch.zeros_like(a), torch.zeros_like(a)
        if a_t is not None:
            to_a, to_w = to_a + g * third * w * a_t, to_w + g * second * a_t
        if w_t is not None:
            to_a = to_a + g * second * w_t
        if g_t is not None:
            to_a, to_w = to_a + per_row(g_t, a) * second * w, to_w + per_row(g_t, a) * first
        return to_a, to_w


def _gradient(backend: str, a: Tensor, w: Tensor, upstream: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    if backends.transformed() or wants_grad(a, w, upstream):
        return apply(_SlopeDotGradient, backend, a, w, upstream, activation)
    return raw("mlp_divergence_gradient", backend)(a, w, upstream, activation)


@opaque_to_dynamo
def _differentiable(backend: str, a: Tensor, w: Tensor, activation: int) -> Tensor:
    return apply(_SlopeDot, backend, a, w, activation)


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
