"""fastscore: losses, samplers and networks for score-based generative models. The README shows the three ways in."""

import typing as _typing
from importlib import import_module as _import_module
from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from . import conversions, diagnostics, guidance, likelihood, losses, paths, samplers, schedules, trace
from ._core.backends import use_backend
from ._core.errors import (
    BackendUnavailable,
    CannotWrite,
    CheckpointError,
    DataError,
    FastscoreError,
    MissingDependency,
    NonFiniteLoss,
    NonFiniteSamples,
    NotConverged,
)
from .conversions import as_prediction, as_score
from .ema import EMA
from .energy import energy_score
from .ops import (
    Coloring,
    Probes,
    affine_step,
    dsm_loss,
    fill_probes,
    langevin_step,
    mlp_divergence,
    perturb,
    probe_dot,
)
from .rng import Noise, Philox, Stream
from .trace import jacobian_trace

try:
    __version__ = _version("fastscore-torch")
except _PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "EMA",
    "BackendUnavailable",
    "CannotWrite",
    "CheckpointError",
    "Coloring",
    "DataError",
    "FastscoreError",
    "MissingDependency",
    "Noise",
    "NonFiniteLoss",
    "NonFiniteSamples",
    "NotConverged",
    "Philox",
    "Probes",
    "Stream",
    "affine_step",
    "as_prediction",
    "as_score",
    "conversions",
    "diagnostics",
    "dsm_loss",
    "energy_score",
    "fill_probes",
    "guidance",
    "jacobian_trace",
    "langevin_step",
    "likelihood",
    "losses",
    "mlp_divergence",
    "patch_ncsn",
    "paths",
    "perturb",
    "probe_dot",
    "samplers",
    "schedules",
    "trace",
    "use_backend",
]

_LAZY = frozenset({"compat", "data", "evaluation", "experiment", "models"})
"""The modules that ``import fastscore`` alone does not need: each loads when it is first asked for."""

if _typing.TYPE_CHECKING:
    from . import compat as compat
    from . import data as data
    from . import evaluation as evaluation
    from . import experiment as experiment
    from . import models as models
    from .compat.patch import patch_ncsn as patch_ncsn
else:

    def __getattr__(name: str):
        if name in _LAZY:
            return _import_module(f"fastscore.{name}")
        if name == "patch_ncsn":
            return _import_module("fastscore.compat.patch").patch_ncsn
        raise AttributeError(f"module 'fastscore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "patch_ncsn"})
