"""What this machine can do: ``fastscore doctor``."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path

import torch

from .. import __version__
from .._core import backends
from .._core.errors import how_to_install
from .._core.operators import OPERATORS
from ..evaluation.inception import WEIGHTS
from . import precision, processors

_EXTRAS = {
    "train": ("torchvision", "safetensors", "tqdm", "matplotlib", "PIL", "sklearn", "scipy", "filelock", "tyro"),
    "eval": ("torch_fidelity",),
    "tensorboard": ("tensorboard",),
}


def report() -> str:
    """Versions, devices, cores left unused, which backend serves which operator, and what is missing with how to get it."""
    lines = [
        f"fastscore {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.system()} {platform.machine()}",
        f"CPU: {_plural(processors.cores(), 'core')}, {_plural(torch.get_num_threads(), 'thread')}",
        *(f"     {line}" for line in processors.unused()),
    ]
    if torch.cuda.is_available():
        lines += [f"GPU {i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    else:
        built = f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch is CPU-only"
        lines.append(f"GPU: none usable ({built}); everything runs on the CPU")
    devices = [torch.device(name) for name in ("cpu", "cuda") if name == "cpu" or torch.cuda.is_available()]
    for device in devices:
        multiplied = ", ".join(word for word in precision.PRECISIONS if precision.multiplies(word, device))
        lines.append(f"precisions that the {device} multiplies: {multiplied}")
    alike: dict[str, list[str]] = {}  # operators of the same backends
    for operator in OPERATORS.values():
        alike.setdefault(repr(dict(operator.backends)), []).append(operator.name)
    for names in alike.values():
        lines += ["", "operators (" + ", ".join(sorted(names)) + ")"]
        lines += [f"  {device:<16} {_served(names[0], torch.device(device))}" for device in ("cpu", "cuda")]
    on_cuda = [o.name for o in OPERATORS.values() if "cuda" in o.backends.get("native", ())]
    native, cuda = backends.problem("native"), backends.problem("native", "cuda", on_cuda[0])
    lines += [
        "",
        "backends",
        "  reference        plain torch, any device",
        f"  native           {native or f'C++ for the CPU, with {backends.isa()} instructions'}",
        f"  native, CUDA     {cuda or 'C++ for CUDA devices: ' + ', '.join(on_cuda)}",
        f"  triton           {backends.problem('triton', 'cuda') or 'kernels for CUDA devices'}",
    ]
    lines += ["", "optional packages"]
    for extra, modules in _EXTRAS.items():
        for module in modules:
            lines.append(f"  {module:<16} {_state(module, extra)}")
    weights = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    lines.append(
        f"  {'Inception':<16} "
        + (
            f"weights at {weights}"
            if weights.is_file()
            else f"no weights: evaluate --feature inception needs them at {weights}"
        )
    )
    return "\n".join(lines)


def _served(operator: str, device: torch.device) -> str:
    """The backend of an operator, with a note that it is slow where only the reference is left."""
    slow = backends.slow(operator, device)
    return backends.default(device, operator) + (f", 10 to 100 times slower than compiled: {slow}" if slow else "")


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _state(module: str, extra: str) -> str:
    try:
        found = importlib.import_module(module)
    except ImportError:
        return f"missing: {how_to_install(extra)}"
    except RuntimeError as error:
        return f"installed, but does not import beside this torch: {error}"
    return str(getattr(found, "__version__", "installed"))
