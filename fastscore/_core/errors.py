"""Errors that a user can act on, and where warnings point. The command line prints their text alone, without a traceback."""

from __future__ import annotations

import sys
from types import FrameType, ModuleType


class FastscoreError(Exception):
    """Base of the errors raised by fastscore that are not plain ``ValueError`` or ``TypeError``."""


class MissingDependency(FastscoreError, ImportError):
    """An optional package is not installed or does not import; the text says how to install it."""


class BackendUnavailable(FastscoreError, RuntimeError):
    """The backend asked for is not on this machine, or does not serve the tensor's device."""


class DataError(FastscoreError):
    """A data set is missing, empty or of the wrong form; the text says what to put where."""


class CheckpointError(FastscoreError):
    """A run folder or checkpoint is missing, damaged, another run's, of unknown origin, or in use."""


class CannotWrite(FastscoreError, OSError):
    """A file cannot be written, as on a full disk; ``errno`` and ``filename`` are those of the ``OSError``."""

    def __init__(self, text: str, errno: int | None = None, filename: str | None = None):
        super().__init__(text)
        self.errno, self.filename = errno, filename

    def __str__(self) -> str:
        return str(self.args[0])


class NonFiniteLoss(FastscoreError):
    """Training stopped because the loss was not finite; the last good checkpoint is kept."""


class NonFiniteSamples(FastscoreError):
    """Sampling ended in NaN or infinity; the text names the step size. Nothing was written."""


class NotConverged(FastscoreError):
    """A solver that chooses its steps had taken as many as it may before all samples were there."""


def how_to_install(extra: str) -> str:
    """The commands that install fastscore's ``extra``, for messages.

    In the source folder pip builds anew, and only without isolation is torch there to build the native operators against.
    What torchode names as its typeguard is too old for the command line's tyro, which pip would break.
    """
    beside = ""
    if extra == "ode":
        beside = "; beside fastscore's command line, which needs a newer typeguard than torchode names: "
        beside += "pip install --no-deps torchode torchtyping"
    return (
        f"pip install 'fastscore-torch[{extra}]', or in fastscore's source folder: "
        f"pip install --no-build-isolation '.[{extra}]'{beside}"
    )


def require(module: str, extra: str) -> ModuleType:
    """Import an optional ``module``, or raise :class:`MissingDependency` naming the ``extra`` that brings it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"this needs the package {module.split('.')[0]!r}, which is not installed ({error}); "
            f"to get it: {how_to_install(extra)}"
        ) from error
    except RuntimeError as error:  # torchvision raises this beside a torch it was not built for
        raise MissingDependency(
            f"the package {module.split('.')[0]!r} is installed but does not import: {error}; "
            "install the release that matches your torch"
        ) from error


def caller() -> int:
    """The ``stacklevel`` at which the function that calls this one warns the caller of the library."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("fastscore.", "torch.")):
        frame, level = frame.f_back, level + 1
    return level
