"""Operations whose derivatives torch differentiates wrongly, without an error (found in torch 2.14, by comparing what it
lists for its own tests with finite differences):

- a gradient of J v, J v by forward mode: some of its formulas use what the operation saved on its way (a norm's mean
  and spread, the factors of a matrix), and take that for a constant. J v itself is right;
- the third derivative of ``layer_norm`` in reverse mode, which the gradient of a loss with the trace of an energy's
  score is. (``instance_norm`` has none.)

Here norms by a sample's own statistics become group norms, whose formulas hold; the values are the same, to rounding.
What factors a matrix is refused where the matrix is learned, or depends on x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name

_FACTORED = frozenset(
    (
        torch.det,
        torch.linalg.det,
        Tensor.det,
        torch.logdet,
        Tensor.logdet,
        torch.slogdet,
        torch.linalg.slogdet,
        Tensor.slogdet,
        torch.linalg.solve,
        torch.linalg.solve_ex,
        torch.linalg.tensorsolve,
        torch.orgqr,
        Tensor.orgqr,
        torch.linalg.householder_product,
    )
)


class WrongAgain(NotImplementedError):
    """An operation whose forward-mode derivative torch does not differentiate rightly."""

    def __init__(self, name: str):
        super().__init__(f"{name}, whose forward-mode derivative torch does not differentiate rightly")


def rightly(when: bool, *, forward: bool) -> Any:
    """A context in which what f computes is differentiated rightly, as often as asked, or (where ``forward`` mode is
    used) raises :class:`WrongAgain`; one without effect unless ``when``."""
    return _Rightly(forward) if when else nullcontext()


class _Rightly(TorchFunctionMode):
    def __init__(self, forward: bool):
        super().__init__()
        self.forward = forward

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _COMPOSED:
            return _COMPOSED[func](*args, **kwargs)
        if self.forward and func in _FACTORED and _varies(args[0] if args else kwargs.get("A", kwargs.get("input"))):
            raise WrongAgain(resolve_name(func))
        return func(*args, **kwargs)


def _varies(matrix: Any) -> bool:
    return isinstance(matrix, Tensor) and (matrix.requires_grad or forward_ad.unpack_dual(matrix).tangent is not None)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """As ``torch.nn.functional.layer_norm``: a group for each of the rows."""
    size = torch.Size(normalized_shape)
    if not input.numel() or input.shape[max(0, input.dim() - len(size)) :] != size:
        return functional.layer_norm(input, normalized_shape, weight, bias, eps)
    return _affine(_normed(input, input.numel() // size.numel(), eps), weight, bias)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """As ``torch.nn.functional.instance_norm``: a group for each sample's channel."""
    arguments = (running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if not use_input_stats or not input.numel():
        return functional.instance_norm(input, *arguments)
    if running_mean is not None or input.shape[2:].numel() == 1:
        functional.instance_norm(input.detach(), *arguments)  # which learns, or refuses
    each = (-1,) + (1,) * (input.dim() - 2)
    return _affine(
        _normed(input, input.shape[:2].numel(), eps),
        None if weight is None else weight.reshape(each),
        None if bias is None else bias.reshape(each),
    )


def _normed(input: Tensor, groups: int, eps: float) -> Tensor:
    return torch.group_norm(input.reshape(1, groups, -1), groups, None, None, eps).reshape(input.shape)


def _affine(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Beside the group norm: with weights of its own torch.compile does not take it in forward mode."""
    out = input if weight is None else input * weight
    return (out if bias is None else out + bias).to(input.dtype)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """As ``torch.nn.functional.glu``, whose forward-mode derivative has none."""
    if input.dim() == 0 or input.shape[dim] % 2:
        return functional.glu(input, dim)  # which refuses
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


_COMPOSED: dict[Any, Callable[..., Tensor]] = {
    functional.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    functional.instance_norm: instance_norm,
    torch.instance_norm: instance_norm,
    functional.glu: glu,
}
