"""CUDA graphs: the kernels of a call, recorded once and launched again together, so that the host is not waited for.

A replay runs the recorded kernels on the recorded memory with the recorded numbers; Python does not run. What differs
from call to call must therefore be in tensors that stay where they are, a number as well as a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import checks

WARM_UP = 3  # calls before the recording: kernels are compiled, buffers made, libraries choose their algorithms
KINDS = {"cuda"}  # of devices that have graphs


def check(name: str, wanted: Any, device: torch.device) -> bool:
    """``wanted``, a bool that says whether to record graphs for tensors on ``device``.

    Raises:
        TypeError: it is no bool.
        ValueError: it is True, and ``device`` has no graphs.
    """
    if not isinstance(wanted, bool):
        raise TypeError(f"{name} must be True or False, got {checks.describe(wanted)}")
    if wanted and device.type not in KINDS:
        raise ValueError(f"{name} must be False on {device}, got True: only CUDA devices have graphs")
    return wanted


class Graph:
    """``function()``, whose calls are the replays of one recording from the fourth on.

    The first :data:`WARM_UP` calls run it as it is. It takes what changes from tensors that stay, writes what it computes
    into such tensors, and reads no value on the host.

    Args:
        function: what is recorded.
        device: whose graph.
        what: what an error calls it, with the setting that does without.
    """

    def __init__(self, function: Callable[[], object], device: torch.device, what: str):
        self._function, self._device, self._what = function, device, what
        self._calls, self._replay = 0, None  # type: int, Callable[[], None] | None

    def __call__(self) -> None:
        """Run it, or the recording.

        Raises:
            RuntimeError: it does what a graph cannot hold: reads a value on the host, say.
        """
        if self._replay is not None:
            self._replay()
        elif self._calls < WARM_UP:
            self._calls += 1
            with _aside(self._device):
                self._function()
        else:
            try:
                self._replay = recorded(self._function, self._device)
            except RuntimeError as error:
                raise RuntimeError(f"{self._what} cannot be recorded as a CUDA graph. Torch says: {error}") from error
            self._replay()


def recorded(function: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """What launches the kernels of ``function()``, which are recorded here and do not run yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        function()
    return graph.replay


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """On a stream of its own, as torch wants it before a recording: not on the default stream, which is never recorded."""
    if device.type != "cuda":
        yield
        return
    now, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(now)
    with torch.cuda.stream(aside):
        yield
    now.wait_stream(aside)
