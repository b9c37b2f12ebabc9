"""Which transforms, modes and backward passes are on: the private parts of torch that say so, all in one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._C import _current_graph_task_id as backward_pass  # a number that is the pass's own, -1 outside any
from torch._C import _DisableFuncTorch, _functorch
from torch._C import _len_torch_dispatch_stack as dispatch_modes  # how many: of FakeTensorMode and the like
from torch._C._functorch import get_dynamic_layer_stack_depth as depth  # of transforms; torch.compile knows it
from torch._C._functorch import get_unwrapped as unwrapped  # one level
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor, peek_interpreter_stack
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.utils.checkpoint import _StopRecomputationError as EndOfRecomputation  # control flow: let it through

__all__ = [
    "EndOfRecomputation",
    "backward_pass",
    "depth",
    "dispatch_modes",
    "forward_rule",
    "is_wrapped",
    "mapped_everywhere",
    "peek_interpreter_stack",
    "unwrapped",
]


def is_wrapped(t: Tensor) -> bool:
    """Whether ``t`` belongs to a transform: of torch.func, or of autograd's ``is_grads_batched`` and ``vectorize``."""
    return is_functorch_wrapped_tensor(t) or is_legacy_batchedtensor(t)


def mapped_everywhere(device: torch.device) -> list[Tensor]:
    """For every vmap that is on, the outermost first, a tensor that it maps."""
    marks = []
    for interpreter in _functorch.get_interpreter_stack() or ():
        if interpreter.key() == _functorch.TransformType.Vmap:
            batch = _functorch.CVmapInterpreterPtr(interpreter).batchSize()
            with _DisableFuncTorch():  # else it would belong to the innermost transform
                plain = torch.empty(batch, device=device)
            marks.append(_functorch._add_batch_dim(plain, 0, interpreter.level()))
    return marks


def _primal(t: Tensor | None) -> Tensor | None:
    """``t`` without the tangent of the innermost forward mode."""
    if t is None or not t.is_floating_point():
        return t
    if not _functorch.is_batchedtensor(t) or _functorch.maybe_get_level(t) != peek_interpreter_stack().level():
        return forward_ad.unpack_dual(t).primal
    with retrieve_current_functorch_interpreter().lower():  # vmap has no rule for taking tangents away
        primal = _primal(_functorch.get_unwrapped(t))
    return _functorch._add_batch_dim(primal, _functorch.maybe_get_bdim(t), _functorch.maybe_get_level(t))


class _Primals:
    """A ctx whose saved tensors have no tangents of the innermost forward mode."""

    def __init__(self, ctx: Any):
        self._ctx, self.saved_tensors = ctx, tuple(map(_primal, ctx.saved_tensors))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def forward_rule(jvp: Callable) -> Callable:
    """The ``jvp`` of an autograd.Function for forward mode inside forward mode, too.

    torch turns forward mode off around ``jvp``, that of the passes further out with it, and their part of the
    derivative would be lost without a word: ``jacfwd(jacfwd(f))`` would give 0.
    """

    @wraps(jvp)
    def rule(ctx: Any, *tangents: Any) -> Any:
        modes = [i.key() for i in _functorch.get_interpreter_stack() or ()]
        if modes.count(_functorch.TransformType.Jvp) < 2:
            return jvp(ctx, *tangents)
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(_Primals(ctx), *tangents)

    return rule
