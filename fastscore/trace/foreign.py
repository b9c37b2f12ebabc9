"""Operators from outside torch in forward mode: one that was registered without a forward-mode rule drops the tangent,
and with it its part of the derivative, in silence. Here that is seen.

Such operators are called from Python as ``torch.ops.namespace.name`` (``torch.library.custom_op`` does too). Where none
has been loaded, nothing is watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from .._core.private_torch import OPERATOR_TYPES

# what `list(torch.ops)` has without any extension, and ours, whose rules are tested
_OWN = frozenset(
    (
        "aten",
        "prim",
        "prims",
        "rngprims",
        "debugprims",
        "profiler",
        "inductor",
        "_inductor_test",
        "quantized",
        "_quantized",
        "quantized_decomposed",
        "coor",
        "export",
        "debug_mode_ops",
        "mkldnn",
        "mkl",
        "onednn",
        "_native",
        "fastscore",
        "_c10d_functional",
        "_c10d_functional_autograd",
        "c10d_functional",
        "_dtensor",
        "symm_mem",
        "fsdp",
        "flex_lib",
        "mempool",
        "streams",
        "onnx",
        "onnx_symbolic",
        "_test",
        "sparse",
        "tr_c10d",
    )
)


class LostTangent(NotImplementedError):
    """An operator gave a result without a tangent from arguments that had one."""


def watched() -> Any:
    """A context in which an operator that drops a tangent raises :class:`LostTangent`."""
    return nullcontext() if all(name in _OWN for name in torch.ops) else _Watch()


class _Watch(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(func, OPERATOR_TYPES) and str(func).split(".")[0] not in _OWN:
            given = [*tensors(args), *tensors((kwargs or {}).values())]
            if any(map(has_tangent, given)) and not all(map(has_tangent, tensors([output]))):
                raise LostTangent(f"torch.ops.{func}")
        return output


def has_tangent(value: Tensor) -> bool:
    """Whether forward mode follows ``value``."""
    return forward_ad.unpack_dual(value).tangent is not None


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The floating tensors among ``values``, and in the lists there."""
    for value in values:
        if isinstance(value, Tensor):
            if value.is_floating_point():
                yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)
