"""Whether a function is cut off from x.

To autograd a constant function and one that was cut off (``detach``, ``no_grad``, a gradient taken without
``create_graph``) look alike: nothing of x is in the result. The Jacobian of the first is 0; that of the second is not,
and a 0 in its place would be silently wrong. To tell them apart, f is evaluated at x and close to it. A function of x
changes there; a constant one does not.

That costs two evaluations, and only where autograd finds nothing of x. Under ``torch.compile``, where there are no
values yet, the comparison becomes part of the compiled function, and a RuntimeError (on a GPU an assertion there).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from .._core import backends
from .._core.private_torch import assert_async, dispatch_modes, is_wrapped, unwrapped
from .messages import Words


def require_constant(f: Callable[[Tensor], Tensor], x: Tensor, mode: str, words: Words) -> int:
    """Raise unless f is constant near x; the number of evaluations of f that it took."""
    compiling = torch.compiler.is_compiling()
    if not compiling and (x.is_meta or dispatch_modes()):
        return 0
    with nullcontext() if compiling else torch.inference_mode(False), torch.enable_grad():
        made = torch.Tensor.detach if backends.transformed() else leaf  # torch.func knows no leaves
        here = made(x)
        beside = made(here.detach() + near(here.detach()))
        first, second = f(here).detach(), f(beside).detach()
    changed = (first != second) & ~(first.isnan() & second.isnan())
    text = words.cut_off(mode)
    if compiling:  # in the graph, where the values will be
        assert_async(~changed.any(), text)
        return 2
    while is_wrapped(changed):
        changed = unwrapped(changed)
    if bool(changed.any()):
        raise ValueError(text)
    return 2


def near(x: Tensor) -> Tensor:
    """A step in no special direction, each element by about sqrt(eps) of its size, or of 1."""
    with torch.no_grad():
        count = torch.arange(x.numel(), device=x.device, dtype=torch.float32).reshape(x.shape)
        z = (1 + 2 * (0.618034 * count % 1)).to(x.dtype) * torch.where(count % 3 == 1, -1, 1)
        return torch.finfo(x.dtype).eps ** 0.5 * (1 + x.abs()) * z


def leaf(x: Tensor) -> Tensor:
    """x as a tensor that f may ask the gradient of, or change."""
    return x.detach().clone().requires_grad_()


def raise_own_error(f: Callable[[Tensor], Tensor], x: Tensor, error: Exception) -> None:
    """Raise f's own error where it fails without any derivative too; ``error`` is what was seen with one."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            f(leaf(x))
    except Exception as own:
        raise (error if same(own, error) else own) from None


def same(one: Exception, other: Exception) -> bool:
    """Whether two errors say the same."""
    return type(one) is type(other) and str(one) == str(other)
