"""A CUDA device that is not there: tensors that say ``cuda:0`` and hold nothing, on which waiting for it is seen.

torch's FakeTensorMode runs everything but the arithmetic: Python, dispatch, autograd, the fakes of our operators. It
raises where tensors of different devices meet, and where a value is read. :func:`waits` notes those, and what it lets
pass: a copy between the devices for which the host would stand still.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda:0")
_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


class _Watching(TorchDispatchMode):
    """Notes where the host waits: for a value, or for a tensor that crosses over to the other device.

    The way to the device is free where the copy does not block; the way back always waits, since what has come is of
    use only once it is there. What is read is made up: a 1, or of whole numbers 0.
    """

    def __init__(self, seen: list[str]):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            self._crosses(func, args[0].device, kwargs.get("device") or args[0].device, kwargs.get("non_blocking"))
        elif func is torch.ops.aten.copy_.default:
            self._crosses(
                func, args[1].device, args[0].device, args[2] if len(args) > 2 else kwargs.get("non_blocking")
            )
        elif func is torch.ops.aten._fused_adam_.tensor_lr:  # of which torch has no fake
            assert {t.device for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)} == {CUDA}
            return None
        elif func in _READS and args[0].device.type == "cuda":
            self.seen.append(str(func))
            return func is torch.ops.aten.equal.default or (1.0 if args[0].is_floating_point() else 0)
        return func(*args, **kwargs)

    def _crosses(self, func, source, target, non_blocking):
        target = torch.device(target)
        if source.type != target.type and not (target.type == "cuda" and non_blocking):
            self.seen.append(f"{func} from {source} to {target}")


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Inside, ``cuda:0`` is there, and modules can be moved to it: what is set up here may read and copy."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            warnings.catch_warnings(),
            patch(
                "torch.cuda.amp.common.amp_definitely_not_available", lambda: False
            ),  # else no autocast and no scaler
            patch("torch.cuda.is_bf16_supported", lambda: True),
            patch("torch.autograd._engine_run_backward", _backward),
            patch("torch.autograd.graph._engine_run_backward", _backward),
        ):
            warnings.filterwarnings(
                "ignore", message="Accessing the data pointer of FakeTensor"
            )  # torch's own deepcopy
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


@contextmanager
def waits() -> Iterator[list[str]]:
    """Inside :func:`fake_cuda`: a list of what the host waited for."""
    seen: list[str] = []
    with _Watching(seen), patch("torch.cuda.synchronize", lambda *_: seen.append("torch.cuda.synchronize")):
        yield seen


def _backward(outputs, upstream, keep_graph, create_graph, inputs, *_, accumulate_grad, **__):
    """What torch's engine does, which asks the driver for the streams of a graph of CUDA tensors: here is none.

    Calls the same nodes, each once the gradients of all its outputs are there; in one thread.
    """
    wanted = {_edge(t): i for i, t in enumerate(inputs)}
    found: list = [None] * len(inputs)
    roots = [_edge(t) for t in outputs]
    gradients: dict = defaultdict(dict)  # node -> number of its output -> gradient
    for (node, number), gradient in zip(roots, upstream):
        _add(gradients[node], number, gradient)
    waiting = _uses([node for node, _ in roots])
    ready = [node for node in dict.fromkeys(node for node, _ in roots) if not waiting[node]]
    with torch.set_grad_enabled(create_graph):
        while ready:
            node = ready.pop()
            given = gradients.pop(node, {})
            for number, gradient in given.items():
                if (node, number) in wanted:
                    found[wanted[node, number]] = gradient
            results = _called(node, given) if given and (accumulate_grad or not hasattr(node, "variable")) else ()
            for k, (following, number) in enumerate(node.next_functions):
                if following is None:
                    continue
                if k < len(results) and results[k] is not None:
                    _add(gradients[following], number, _fitted(results[k], following._input_metadata[number]))
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)
    return None if accumulate_grad and not inputs else tuple(found)


def _edge(t):
    edge = torch.autograd.graph.get_gradient_edge(t)
    return edge.node, edge.output_nr


def _fitted(gradient, like):
    """As the engine sees to it: of the shape and dtype of what it is the gradient of."""
    assert gradient.device == like.device
    gradient = gradient if gradient.shape == torch.Size(like.shape) else gradient.sum_to_size(like.shape)
    return gradient.to(like.dtype)


def _add(given, number, gradient):
    given[number] = gradient if given.get(number) is None else given[number] + gradient


def _uses(roots):
    """How often each node of the graph gets a gradient from another."""
    uses, seen, stack = defaultdict(int), set(roots), list(roots)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                uses[following] += 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    return uses


def _called(node, given):
    """The gradients of the node's inputs."""
    arguments = [given.get(i) for i in range(max(len(node._input_metadata), max(given) + 1))]
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # written in Python
        made = [
            torch.zeros(m.shape, dtype=m.dtype, device=m.device) if g is None else g
            for g, m in zip(arguments, node._input_metadata)
        ]
        results = node.apply(*made)
        results = results if isinstance(results, tuple) else (results,)
        # one for each argument, where next_functions has the tensors among them alone
        needed = iter([r for r, needs in zip(results, node.needs_input_grad) if needs])
        return [None if following is None else next(needed) for following, _ in node.next_functions]
    else:
        results = node(*arguments)
    return results if isinstance(results, tuple) else (results,)
