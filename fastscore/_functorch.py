"""Which transforms, modes and backward passes are on: the private parts of torch that say so, all in one place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _current_graph_task_id as backward_pass  # a number that is the pass's own, -1 outside any
from torch._C import _DisableFuncTorch, _functorch
from torch._C import _len_torch_dispatch_stack as dispatch_modes  # how many: of FakeTensorMode and the like
from torch._C._functorch import get_dynamic_layer_stack_depth as depth  # of transforms; torch.compile knows it
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor, peek_interpreter_stack

__all__ = ["backward_pass", "depth", "dispatch_modes", "is_wrapped", "mapped_everywhere", "peek_interpreter_stack"]


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
