"""Every private part of torch that the library uses, in one file: the first place to look with a new torch.

Which transforms, modes and backward passes are on; forward mode inside forward mode; hints for torch.compile; and a
few functions and classes of torch that have no public name.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _DisableFuncTorch, _functorch
from torch._C import _current_graph_task_id as backward_pass  # a number that is the pass's own, -1 outside any
from torch._C import _dispatch_tls_local_include_set as included_keys
from torch._C import _increment_version as increment_version  # of a tuple of tensors
from torch._C import _len_torch_dispatch_stack as dispatch_modes  # how many: of FakeTensorMode and the like
from torch._C._functorch import get_dynamic_layer_stack_depth as depth  # of transforms; torch.compile knows it
from torch._C._functorch import get_unwrapped as unwrapped  # one level
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor, peek_interpreter_stack
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNormBase
from torch.nn.utils.parametrizations import _SpectralNorm as SpectralNormBase
from torch.utils.checkpoint import _StopRecomputationError as EndOfRecomputation  # control flow: let it through

__all__ = [
    "OPERATOR_TYPES",
    "BatchNormBase",
    "DropoutBase",
    "EndOfRecomputation",
    "InstanceNormBase",
    "SpectralNormBase",
    "apply",
    "assert_async",
    "backward_pass",
    "break_graph",
    "constant_to_dynamo",
    "copy_all",
    "depth",
    "dispatch_modes",
    "forward_rule",
    "increment_version",
    "is_wrapped",
    "lerp_all",
    "mapped_everywhere",
    "opaque_to_dynamo",
    "peek_interpreter_stack",
    "tracked",
    "transformed",
    "undispatched",
    "unwrapped",
    "without_overload",
]

OPERATOR_TYPES = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)  # of what torch.ops holds
assert_async = torch._assert_async  # (condition, text): raises when the values are there, on a device too
copy_all = torch._foreach_copy_  # (tensors, others): every tensor takes the other's values, of any dtype and device
lerp_all = torch._foreach_lerp_  # (tensors, others, weight): every tensor moves in place by weight towards the other


def transformed() -> bool:
    """Whether the call runs under torch.compile, a torch.func transform, or forward-mode differentiation."""
    return is_compiling() or peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def tracked(t: Tensor) -> bool:
    """Whether torch.func.grad, vjp or jacrev differentiates in ``t``, at whatever level; jvp does not count."""
    if is_compiling():
        return False
    while is_functorch_wrapped_tensor(t):
        if t.requires_grad:
            return True
        t = unwrapped(t)
    return False


def is_wrapped(t: Tensor) -> bool:
    """Whether ``t`` belongs to a transform: of torch.func, or of autograd's ``is_grads_batched`` and ``vectorize``."""
    return is_functorch_wrapped_tensor(t) or is_legacy_batchedtensor(t)


_PLAIN_KEYS = (DispatchKeySet(DispatchKey.BackendSelect) | DispatchKeySet(DispatchKey.ADInplaceOrView)).raw_repr()
_INFERENCE_KEYS = DispatchKeySet(DispatchKey.BackendSelect).raw_repr()
_PLAIN_TYPES = frozenset((Tensor, torch.nn.Parameter, int, float, bool, type(None)))


def undispatched(arguments: tuple) -> bool:
    """Whether torch's dispatcher would hand these arguments straight to a compiled function that knows no autograd.

    No mode, transform, trace or (legacy) vmap is on, and no tensor is of a class of its own; whether autograd records is
    not asked.
    """
    return included_keys().raw_repr() in (_PLAIN_KEYS, _INFERENCE_KEYS) and _PLAIN_TYPES.issuperset(
        {*map(type, arguments)}
    )


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


def _primal(t: Tensor) -> Tensor:
    """``t`` without the tangent of the innermost forward mode."""
    if not t.is_floating_point():
        return t
    if not _functorch.is_batchedtensor(t) or _functorch.maybe_get_level(t) != peek_interpreter_stack().level():
        return forward_ad.unpack_dual(t).primal
    with retrieve_current_functorch_interpreter().lower():  # vmap has no rule for taking tangents away
        primal = _primal(_functorch.get_unwrapped(t))
    return _functorch._add_batch_dim(primal, _functorch.maybe_get_bdim(t), _functorch.maybe_get_level(t))


class _Primals:
    """A ctx whose saved tensors have no tangents of the innermost forward mode."""

    def __init__(self, ctx: Any):
        self._ctx = ctx
        self.saved_tensors = tuple(None if t is None else _primal(t) for t in ctx.saved_tensors)

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


def without_overload(op: torch._ops.OpOverload) -> Callable:
    """What calls the dispatcher for ``op``, which does no more than call it: 0.3 us less a call."""
    return op._op


@cache
def _with_context(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """``function`` with ``forward(ctx, ...)`` in place of a ``forward`` and a ``setup_context``: the same derivatives."""

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = function.forward(*arguments)
        function.setup_context(ctx, arguments, output)
        return output

    base = torch.autograd.Function.setup_context  # torch knows by it that there is none
    parts = {"forward": staticmethod(forward), "setup_context": staticmethod(base), "__module__": function.__module__}
    return type(function.__name__, (function,), parts)


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply(*arguments)``, of a function that has a ``setup_context``.

    For such a function torch binds the arguments to the signature of ``forward``, at every call: it takes several times
    as long as all the rest (25 to 35 us). Only torch.func needs a ``setup_context``, so without it there is another way.
    """
    if is_compiling() or peek_interpreter_stack() is not None:
        return function.apply(*arguments)
    return _with_context(function).apply(*arguments)


def let_steps_vary() -> None:
    """Have torch.compile take the step of every Philox as an input, also of one that is a global or a network's
    attribute: the plain numbers of those are constants to it, and it would compile anew at every call."""
    config = torch.compiler.config
    if hasattr(config, "dynamic_sources"):
        config.dynamic_sources = ",".join(filter(None, (config.dynamic_sources, r".*\._philox_step$")))


class _WhenDynamoLoads:
    """Tells torch.compile of Philox, and calls ``torch.compiler.allow_in_graph`` on functions, once torch._dynamo is
    imported.

    It waits on ``sys.meta_path``: importing torch._dynamo here would take a second or more from everybody, for the sake
    of those who compile. The functions are those that apply an autograd.Function with rules for reverse mode, forward
    mode and vmap, into which torch.compile need not look: it records the call, and traces what it computes.

    ``torch.library.register_autograd`` would need none of this, but gives an operator reverse mode alone. Tried with
    torch 2.14, on an operator with a vmap rule: ``torch.func.grad``, ``vmap(grad(f))``, ``jacrev`` and all that hold
    them raise (its autograd.Function "must override the setup_context staticmethod"), also inside torch.compile, and
    forward mode loses the derivative without a word: ``jvp`` and ``jacfwd`` give 0, and a dual tensor comes back without
    its tangent. There is no call with which to register a forward-mode rule.
    """

    def __init__(self) -> None:
        self.functions: list[Callable] = []
        self.looking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch._dynamo" or self.looking:
            return None
        self.looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking = False
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def then_allow(module: ModuleType) -> None:  # not at once: who looks a module up need not import it
            execute(module)
            sys.meta_path.remove(self)
            let_steps_vary()
            for function in self.functions:
                torch.compiler.allow_in_graph(function)

        spec.loader.exec_module = then_allow  # type: ignore[method-assign]  # of this one loader
        return spec


_waiting = _WhenDynamoLoads()
if "torch._dynamo" not in sys.modules:
    sys.meta_path.insert(0, _waiting)
else:
    let_steps_vary()


def opaque_to_dynamo(function: Callable) -> Callable:
    """``torch.compiler.allow_in_graph``, as soon as torch._dynamo is there: torch.compile then does not look inside."""
    if "torch._dynamo" in sys.modules:
        return torch.compiler.allow_in_graph(function)
    _waiting.functions.append(function)
    return function


def break_graph(reason: str) -> None:
    """Have torch.compile stop here and go on in Python, or with ``fullgraph=True`` refuse, for this ``reason``."""
    torch._dynamo.graph_break(msg=reason)


def constant_to_dynamo(function: Callable) -> Callable:
    """``torch.compiler.assume_constant_result``, without importing torch._dynamo."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
