"""An operator's providers as CUDA graphs: what the GPU takes, without what the host takes to ask for it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .operators import Case

WARM_UP = 3


def captured(case: Case) -> Case:
    """The case whose providers replay a recording of one call; those that cannot be recorded are left out."""
    recordings = {}
    for name, work in case.providers.items():
        try:
            recordings[name] = _recording(work)
        except RuntimeError:  # it reads a value on the host, say
            torch.cuda.synchronize()
    return Case(f"{case.operator}, captured", case.shape, case.elements, recordings)


def _recording(work: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()

    def replay() -> object:
        graph.replay()
        return kept

    return replay
