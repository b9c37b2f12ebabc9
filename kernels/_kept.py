"""Launches by what was compiled before.

Triton finds a compiled kernel again by specialising every argument of every launch, in Python: that takes longer than
most of these kernels run. Here the compiled kernel that its first launch returned is kept under all that it was
specialised on, and launched again by the runner that Triton documents for it, ``compiled[grid](*arguments)``. What it
was compiled from, its source and the constants of its module, is taken not to change while the process runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton
from torch import Tensor
from triton import JITFunction, knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

_known: dict[tuple, Any] = {}
_RUNNER = triton.__version__.startswith(("3.6.", "3.8.", "3.9."))  # whose runner ends in the call below
_layouts: dict[Callable, tuple[int, tuple[int, ...]] | None] = {}


def launch(
    kernel: Any, grid: tuple[int, int, int], on: Tensor, arguments: tuple, constants: tuple, options: Mapping[str, Any]
) -> None:
    """``kernel[grid](*arguments, *constants, **options)``, on the device of ``on`` and its current stream.

    Args:
        kernel: whose parameters are pointers and numbers, and then ``constexpr``.
        arguments: contiguous tensors, or None, and integers: see :func:`layout`.
        constants: the values of the ``constexpr``.
        options: of the compiler.
    """
    if type(kernel) is not JITFunction or _watched(kernel):
        with torch.cuda.device_of(on):
            kernel[grid](*arguments, *constants, **options)
        return
    active, index = driver.active, on.get_device()
    device = active.get_current_device()
    if 0 <= index != device:
        with torch.cuda.device(index):
            return launch(kernel, grid, on, arguments, constants, options)
    found = specialised(kernel, device, on, arguments, constants, options)
    compiled = None if found is None else _known.get(found[0])
    if found is None or compiled is None:
        compiled = kernel[grid](*arguments, *constants, **options)
        # elsewhere than on CUDA devices a pointer is specialised on more
        if found and isinstance(compiled, CompiledKernel) and compiled.metadata.target.backend == "cuda":
            _known[found[0]] = compiled
        return
    stream, runtime = active.get_current_stream(device), knobs.runtime
    if _RUNNER and not (_hooked(runtime.launch_enter_hook) or _hooked(runtime.launch_exit_hook)):
        # what the runner does where nobody is told of the launch; of an address the driver is not asked whose it is
        packed = compiled.packed_metadata
        compiled.run(*grid, stream, compiled.function, packed, None, None, None, *found[1], *constants)
    else:
        compiled[grid](*arguments, *constants, stream=stream)


def specialised(
    kernel: Any, device: int, on: Tensor, arguments: tuple, constants: tuple, options: Mapping[str, Any]
) -> tuple[tuple, list] | None:
    """All that the code of a launch depends on, and the arguments with addresses in place of tensors.

    That is the kernel, the device, the constants and options, and of every pointer whether it is there, its dtype and
    whether 16 divides it. Integers that are annotated and not specialised on have one type whatever their values.

    None where an integer's value may count (see :func:`layout`), and where a tensor is not on the device of ``on``: Triton
    then says so.
    """
    function, index = kernel.fn, on.get_device()
    if function not in _layouts:
        _layouts[function] = layout(kernel)
    places = _layouts[function]
    if places is None:
        return None
    count, pointers = places
    if len(arguments) != count:
        raise TypeError(f"{kernel.__name__} takes {count} arguments before its constants, got {len(arguments)}")
    key, values = [function, device, constants, *options.items()], list(arguments)
    for i in pointers:
        pointer = arguments[i]
        if pointer is not None:
            if pointer.get_device() != index:
                return None
            values[i] = address = pointer.data_ptr()
            pointer = (pointer.dtype,) if address & 15 else pointer.dtype
        key.append(pointer)
    return tuple(key), values


def layout(kernel: JITFunction) -> tuple[int, tuple[int, ...]] | None:
    """How many parameters come before the constants, and which of those are pointers.

    None for a kernel whose integers' values Triton may look at, which is then found again by Triton itself: of each it
    must be said what type it has, and that it is not specialised on.
    """
    constant = [parameter.is_constexpr for parameter in kernel.params]
    count = len(constant) - sum(constant)
    given = kernel.params[:count]
    if any(constant[:count]) or any(p.annotation_type and not p.do_not_specialize for p in given):
        return None
    return count, tuple(i for i, parameter in enumerate(given) if not parameter.annotation_type)


def _hooked(hook: Any) -> bool:
    """Whether a hook of launches, or the chain of them, calls anything."""
    return bool(getattr(hook, "calls", hook))


def _watched(kernel: JITFunction) -> bool:
    """Whether Triton itself must see the launch, because it is debugged or instrumented."""
    return bool(
        knobs.runtime.debug
        or kernel.debug
        or kernel.pre_run_hooks
        or knobs.compilation.instrumentation_mode
        or knobs.runtime.add_stages_inspection_hook
    )
