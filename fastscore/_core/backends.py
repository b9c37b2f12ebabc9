"""Which backend serves a call: the plain-torch reference, the native C++ extension, or the Triton kernels.

By default the device decides: native on the CPU where the extension was built, Triton on a GPU where triton is
installed, the reference everywhere else. :func:`use_backend` chooses by hand.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import torch
from torch.compiler import is_compiling

from . import checks
from .errors import BackendUnavailable, caller
from .operators import OPERATORS, ORDINARY
from .private_torch import transformed as transformed

BACKENDS = ("reference", "native", "triton")
_DEVICES = {"cpu": "the CPU", "cuda": "CUDA devices"}
ISAS = ("portable", "avx2", "avx512")
last: dict[str, str] = {}  # operator -> the backend that served its latest eager call
_chosen: str | None = None
_told: set[str] = set()  # the kinds of devices for which the slow reference was warned of


def _load(name: str, what: str, needs: str) -> str | None:
    """Load an extension, ``fastscore.<name>``; None, or why it is not there."""
    if not sorted(Path(__file__).parents[1].glob(f"{name}.*so")):
        return (
            f"the {what} extension is not built. With {needs} installed, run in fastscore's source folder: "
            "pip install ninja && pip install --no-build-isolation ."
        )
    try:
        import_module(f"fastscore.{name}")
    except ImportError as error:
        return f"the {what} extension does not load beside torch {torch.__version__}: {error}"
    return None


library = torch.library.Library("fastscore", "DEF")
library.define("native_isa(int wanted) -> int")
_native_problem = _load("_C", "C++", "a C++ compiler")
_cuda_problem = _load("_C_cuda", "CUDA", "nvcc and a CUDA build of torch")
_has_triton = importlib.util.find_spec("triton") is not None


def problem(backend: str, device: torch.device | str = "cpu", operator: str | None = None) -> str | None:
    """Why ``backend`` cannot serve ``operator`` (None: an ordinary one) for tensors on ``device``, or None where it can."""
    kind = torch.device(device).type
    if backend == "reference":
        return None
    served = _served(operator)
    if backend not in served:
        return f"it has no {backend.title()} version: its backends are {', '.join(('reference', *served))}"
    if backend == "triton":
        if not _has_triton:
            return "triton is not installed: pip install triton"
        if kind == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "on the CPU the Triton kernels run only in the interpreter: set TRITON_INTERPRET=1 before the start"
        if kind == "cpu":
            return None
    elif kind in served["native"]:
        return _cuda_problem if kind == "cuda" else _native_problem
    elif _native_problem:
        return _native_problem
    if kind in served[backend]:
        return None
    return f"{backend} serves {' and '.join(_DEVICES[kind] for kind in served[backend])}, not {kind}"


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every operator inside the ``with`` by one backend.

    Args:
        name: ``"reference"``, ``"native"`` or ``"triton"``.

    Raises:
        ValueError: there is no such backend.
        BackendUnavailable: it is not available (raised at once), or does not serve the device of a tensor (at
            the call); the text says what is missing and how to get it.

    Example:
        >>> import fastscore
        >>> x = torch.zeros(2, 3)
        >>> with use_backend("reference"):
        ...     loss = fastscore.losses.dsm(lambda x: -x, x, 0.5, rng=fastscore.Philox(0))
    """
    global _chosen
    checks.one_of("backend", name, BACKENDS)
    if name == "native" and _native_problem:
        raise BackendUnavailable(f"the native backend is not there: {_native_problem}")
    if name == "triton" and not _has_triton:
        raise BackendUnavailable(f"the triton backend is not there: {problem('triton')}")
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def _served(operator: str | None) -> Mapping[str, tuple[str, ...]]:
    return OPERATORS[operator].backends if operator else ORDINARY


def default(device: torch.device, operator: str | None = None) -> str:
    """The backend that serves ``operator`` (None: an ordinary one) on ``device`` where nothing else is asked for."""
    for backend, kinds in _served(operator).items():
        if device.type in kinds and not problem(backend, device, operator):
            return backend
    return "reference"


def serving(operator: str, device: torch.device) -> tuple[str, bool]:
    """:func:`choose`, and whether the call is :func:`transformed`."""
    if transformed():
        return choose(operator, device), True
    if _chosen is not None:
        return choose(operator, device), False
    last[operator] = backend = _default(operator, device, _native_problem, _cuda_problem, _has_triton)
    if backend == "reference":
        _say_that_it_is_slow(operator, device)
    return backend, False


def choose(operator: str, device: torch.device) -> str:
    """The backend of one call of ``operator``; remembered in :data:`last`."""
    compiling = is_compiling()
    if _chosen is None:
        if compiling:  # which does not know cached functions
            backend = default(device, operator)
        else:
            backend = _default(operator, device, _native_problem, _cuda_problem, _has_triton)
        if backend == "reference":
            _say_that_it_is_slow(operator, device)
    else:
        backend, reason = _chosen, problem(_chosen, device, operator)
        if reason:
            raise BackendUnavailable(f"the {backend} backend cannot serve {operator} here: {reason}")
    if not compiling:
        last[operator] = backend
    return backend


@lru_cache(maxsize=1024)
def _default(operator: str, device: torch.device, *_: object) -> str:
    """:func:`default`, for each state of what it depends on."""
    return default(device, operator)


def slow(operator: str, device: torch.device) -> str | None:
    """Why the reference is the default for ``operator`` where a compiled version could be, or None."""
    if default(device, operator) != "reference":
        return None
    served = (backend for backend, kinds in _served(operator).items() if device.type in kinds)
    return next((problem(backend, device, operator) for backend in served), None)


def _say_that_it_is_slow(operator: str, device: torch.device) -> None:
    """Warn once per process and kind of device, unless the reference was chosen by hand."""
    if is_compiling() or device.type in _told or not (reason := slow(operator, device)):
        return
    _told.add(device.type)
    warnings.warn(
        f"fastscore computes {operator} on {device.type} by its plain-torch reference, 10 to 100 times "
        f"slower than compiled (said once, and not inside use_backend('reference')): {reason}",
        stacklevel=caller(),
    )


@contextmanager
def native_isa(name: str) -> Iterator[None]:
    """Run the native backend on one instruction set, for tests: ``"portable"``, ``"avx2"`` or ``"avx512"``."""
    checks.one_of("isa", name, ISAS)
    before = torch.ops.fastscore.native_isa(ISAS.index(name))
    try:
        yield
    finally:
        torch.ops.fastscore.native_isa(before)


def isa() -> str:
    """The instruction set that the native backend uses."""
    return ISAS[torch.ops.fastscore.native_isa(-1)]
