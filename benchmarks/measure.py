"""How a case is timed, what memory it takes and which backend served it: one row, for every table of results.

A row is a dict of "operator", "shape", "elements", "rounds", "backend" (that served fastscore) and, for each provider,
"microseconds", "ns_per_element", "times_fastscore" (each p20, p50, p80 over rounds; the last one is the provider's time
over fastscore's) and, but for the floor, "extra_tensors".
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fastscore import __version__
from fastscore._core import backends

from .operators import Case


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def quantiles(values: list[float]) -> list[float]:
    """p20, p50, p80."""
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()


def measure(case: Case, device: str, seconds: float, *, backend: str | None = None) -> dict:
    """The row of a case whose providers are timed in turns for so many seconds.

    Replays of graphs hold nothing that a call would, and do not say which ``backend`` they recorded.
    """
    calls = {}
    for name, work in case.providers.items():
        for _ in range(3):
            work()
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        calls[name] = max(1, int(2e-3 / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in case.providers}
    end = time.perf_counter() + seconds
    while len(times["fastscore"]) < 15 or time.perf_counter() < end:
        for name, work in case.providers.items():
            synchronize(device)
            start = time.perf_counter()
            for _ in range(calls[name]):
                work()
            synchronize(device)
            times[name].append((time.perf_counter() - start) / calls[name])
    if backend:
        return row(case.operator, case.shape, case.elements, backend, times, {})
    extra = {
        name: extra_memory(work, device) / (4 * case.elements)
        for name, work in case.providers.items()
        if name != "floor"
    }
    return row(case.operator, case.shape, case.elements, backend_of(case.providers["fastscore"]), times, extra)


def row(
    operator: str,
    shape: str,
    elements: int,
    backend: str | None,
    times: dict[str, list[float]],
    extra: dict[str, float],
) -> dict:
    """A row from the seconds of each provider, round by round; without fastscore's there is no "times_fastscore"."""
    made: dict = {
        "operator": operator,
        "shape": shape,
        "elements": elements,
        "backend": backend,
        "rounds": max(map(len, times.values())),
    }
    for name, values in times.items():
        made[name] = {
            "microseconds": [t * 1e6 for t in quantiles(values)],
            "ns_per_element": [t * 1e9 / elements for t in quantiles(values)],
        }
        if "fastscore" in times:
            made[name]["times_fastscore"] = quantiles([v / f for v, f in zip(values, times["fastscore"])])
        if name in extra:
            made[name]["extra_tensors"] = extra[name]
    return made


def backend_of(work: Callable[[], object]) -> str:
    """Which of fastscore's backends serves one call of ``work``: those of all operators in it, as they report it."""
    backends.last.clear()
    work()
    return " + ".join(sorted(set(backends.last.values()))) or "none"


@contextmanager
def silence() -> Iterator[None]:
    """Without what the profiler's library writes to file descriptor 2."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def extra_memory(work: Callable[[], object], device: str) -> int:
    """The most bytes held at a time during one call, beyond what was held before it."""
    if device == "cpu":
        return most_held(work, device)[0]
    before = _reset_peak()
    result = work()
    synchronize(device)
    del result
    return torch.cuda.max_memory_allocated() - before


def _reset_peak() -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def most_held(work: Callable[[], object], device: str) -> tuple[int, torch.profiler.profile, float]:
    """:func:`extra_memory`, the profile of that call, and how many seconds it took under the profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        before = _reset_peak()
    with silence(), torch.profiler.profile(activities=activities, profile_memory=device != "cuda") as profile:
        start = time.perf_counter()
        result = work()
        synchronize(device)
        seconds = time.perf_counter() - start
    del result
    if device == "cuda":
        return torch.cuda.max_memory_allocated() - before, profile, seconds
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most, profile, seconds


def processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return found.group(1) if found else platform.processor()


def machine_name(about: dict, device: str) -> str:
    """The name of a machine's files: "amd-epyc-2-threads"."""
    name = re.sub(r"[^a-z0-9]+", "-", about["processor"].lower()).strip("-")
    return f"{name}-{about['threads']}-threads" if device == "cpu" else name


def save(folder: Path, name: str, results: dict, text: str) -> None:
    """Write ``results`` to ``folder``/``name``.json, and ``text``, their tables, to .md beside it; says where."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(f"written to {folder / name}.json and .md")


def about(device: str) -> dict:
    """What a table says at its head: device, threads, versions, and what serves by default."""
    native = device == "cpu" and not backends.problem("native")
    return {
        "processor": processor(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fastscore": __version__,
        "python": platform.python_version(),
        "backend": backends.default(torch.device(device)),
        "instructions": backends.isa() if native else "",
    }
