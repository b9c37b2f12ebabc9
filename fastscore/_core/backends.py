"""Which backend serves a call: the plain-torch reference, the native C++ extension, or the Triton kernels.

By default the device decides: native on the CPU where the extension was built, Triton on a GPU where triton is
installed, the reference everywhere else. :func:`use_backend` chooses by hand.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import checks
from .errors import BackendUnavailable
from .private_torch import peek_interpreter_stack

BACKENDS = ("reference", "native", "triton")
TRACE = frozenset({"fill_probes", "probe_dot", "mlp_divergence"})  # native on CPU and CUDA, and no Triton version
ISAS = ("portable", "avx2", "avx512")
last: dict[str, str] = {}  # operator -> the backend that served its latest eager call
_chosen: str | None = None
_told: set[str] = set()  # the devices of which it was said that the reference serves them, slowly


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


def problem(backend: str, device: torch.device | str = "cpu", operator: str = "perturb") -> str | None:
    """Why ``backend`` cannot serve ``operator`` for tensors on ``device``, or None where it can."""
    kind = torch.device(device).type
    if backend == "native":
        if operator in TRACE and kind == "cuda":
            return _cuda_problem
        return _native_problem or (None if kind == "cpu" else f"native serves the CPU, not {kind}")
    if backend == "triton":
        if operator in TRACE:
            return "it has no Triton version: its backends are reference and native"
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


def default(device: torch.device, operator: str = "perturb") -> str:
    """The backend that serves ``operator`` on ``device`` where nothing else is asked for."""
    kind = device.type
    if operator in TRACE:
        return "reference" if problem("native", device, operator) else "native"
    if kind == "cpu":
        return "reference" if _native_problem else "native"
    return "triton" if kind == "cuda" and _has_triton else "reference"


def choose(operator: str, device: torch.device) -> str:
    """The backend of one call of ``operator``; remembered in :data:`last`."""
    if _chosen is None:
        backend = default(device, operator)
        if backend == "reference":
            _say_that_it_is_slow(operator, device)
    else:
        backend, reason = _chosen, problem(_chosen, device, operator)
        if reason:
            raise BackendUnavailable(f"the {backend} backend cannot serve {operator} here: {reason}")
    if not is_compiling():
        last[operator] = backend
    return backend


def slow(operator: str, device: torch.device) -> str | None:
    """Why the reference is the default for ``operator`` where a compiled version could be, or None."""
    if device.type not in ("cpu", "cuda") or default(device, operator) != "reference":
        return None
    return problem("native" if operator in TRACE or device.type == "cpu" else "triton", device, operator)


def _say_that_it_is_slow(operator: str, device: torch.device) -> None:
    """Once a process and kind of device; not where the reference was chosen by hand."""
    if is_compiling() or device.type in _told or not (reason := slow(operator, device)):
        return
    _told.add(device.type)
    warnings.warn(
        f"fastscore computes {operator} on {device.type} by its plain-torch reference, 10 to 100 times "
        f"slower than compiled (said once, and not inside use_backend('reference')): {reason}",
        stacklevel=checks.caller(),
    )


def serves_natively() -> bool:
    """Whether the native backend serves the CPU now."""
    return not _native_problem if _chosen is None else _chosen == "native"


def transformed() -> bool:
    """Whether the call runs under torch.compile, a torch.func transform, or forward-mode differentiation."""
    return is_compiling() or peek_interpreter_stack() is not None or forward_ad._current_level >= 0


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
