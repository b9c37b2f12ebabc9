"""Which backend serves a call: the plain-torch reference, the native C++ extension, or the Triton kernels.

By default the device decides: native on the CPU where the extension was built, Triton on a GPU where triton is
installed, the reference everywhere else. :func:`use_backend` chooses by hand.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from . import _check
from .errors import BackendUnavailable

BACKENDS = ("reference", "native", "triton")
ISAS = ("portable", "avx2", "avx512")
last: dict[str, str] = {}  # operator -> the backend that served its latest eager call
_chosen: str | None = None


def _load_native() -> str | None:
    """Load the extension; None, or why it is not there."""
    libraries = sorted(Path(__file__).parent.glob("_C*.so"))
    if not libraries:
        return ("the C++ extension is not built. With a C++ compiler installed, run in fastscore's source folder: "
                "pip install ninja && pip install --no-build-isolation .")
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError as error:
        return f"the C++ extension does not load beside torch {torch.__version__}: {error}"
    return None


library = torch.library.Library("fastscore", "DEF")
library.define("native_isa(int wanted) -> int")
_native_problem = _load_native()
_has_triton = importlib.util.find_spec("triton") is not None


def problem(backend: str, device: torch.device | str = "cpu") -> str | None:
    """Why ``backend`` cannot serve tensors on ``device``, or None where it can."""
    kind = torch.device(device).type
    if backend == "native":
        return _native_problem or (None if kind == "cpu" else f"native serves the CPU, not {kind}")
    if backend == "triton":
        if not _has_triton:
            return "triton is not installed: pip install triton"
        if kind == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "on the CPU the Triton kernels run only in the interpreter: set TRITON_INTERPRET=1 before the start"
        return None if kind in ("cpu", "cuda") else f"triton serves CUDA devices, not {kind}"
    return None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every operator inside the ``with`` by one backend: ``"reference"``, ``"native"`` or ``"triton"``.

    Raises:
        ValueError: there is no such backend.
        BackendUnavailable: it is not there (at once), or does not serve the device of a tensor (at the call); the
            text says what is missing and how to get it.

    Example:
        >>> with fastscore.use_backend("reference"):
        ...     loss = fastscore.losses.dsm(score_fn, x, sigma)
    """
    global _chosen
    _check.one_of("backend", name, BACKENDS)
    if name == "native" and _native_problem:
        raise BackendUnavailable(f"the native backend is not there: {_native_problem}")
    if name == "triton" and not _has_triton:
        raise BackendUnavailable(f"the triton backend is not there: {problem('triton')}")
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def default(device: torch.device) -> str:
    """The backend that serves ``device`` where nothing else is asked for."""
    if device.type == "cpu":
        return "reference" if _native_problem else "native"
    return "triton" if device.type == "cuda" and _has_triton else "reference"


def choose(operator: str, device: torch.device) -> str:
    """The backend of one call of ``operator``; remembered in :data:`last`."""
    backend = _chosen or default(device)
    if _chosen is not None:
        reason = problem(backend, device)
        if reason:
            raise BackendUnavailable(f"the {backend} backend cannot serve {operator} here: {reason}")
    if not torch.compiler.is_compiling():
        last[operator] = backend
    return backend


def transformed() -> bool:
    """Whether the call runs under torch.compile, a torch.func transform, or forward-mode differentiation."""
    return (torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
            or torch.autograd.forward_ad._current_level >= 0)


def records_grad(*tensors: Tensor | None) -> bool:
    """Whether a derivative of any of the tensors may be asked for: the call then goes through autograd."""
    return transformed() or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


@contextmanager
def native_isa(name: str) -> Iterator[None]:
    """Run the native backend on one instruction set, for tests: ``"portable"``, ``"avx2"`` or ``"avx512"``."""
    _check.one_of("isa", name, ISAS)
    before = torch.ops.fastscore.native_isa(ISAS.index(name))
    try:
        yield
    finally:
        torch.ops.fastscore.native_isa(before)


def isa() -> str:
    """The instruction set that the native backend uses."""
    return ISAS[torch.ops.fastscore.native_isa(-1)]
