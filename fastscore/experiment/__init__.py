"""The application: ``fastscore train``, ``sample``, ``evaluate`` and the other commands.

It imports the library; the library never imports it.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

__all__ = [
    "agreement",
    "build",
    "checkpoint",
    "classes",
    "classifier",
    "classifier_folder",
    "compare",
    "config",
    "config_bounds",
    "doctor",
    "evaluate",
    "evaluate_bits",
    "evaluate_images",
    "evaluate_points",
    "event_files",
    "export",
    "extraction",
    "heartbeat",
    "history",
    "import_original",
    "inspection",
    "learner",
    "learner_state",
    "limits",
    "moments",
    "presets",
    "preview",
    "progress",
    "ranks",
    "run_writer",
    "sample",
    "sample_folder",
    "sampler_options",
    "status",
    "terminal",
    "train",
    "trained_run",
]


def __getattr__(name: str) -> _ModuleType:
    """Each module loads when first asked for."""
    if name in __all__:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
