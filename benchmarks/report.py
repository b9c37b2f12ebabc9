"""Times every operator's providers in turns and writes benchmarks/results/<device>.json and .md.

    python benchmarks/report.py            the whole table, a few minutes; leave the machine alone meanwhile
    python benchmarks/report.py --quick    without torch.compile

In each round every provider runs once, one after the other, so that a slow moment of the machine falls on all of them;
a ratio is the median over rounds of the ratio within a round. Extra memory is the most that one call holds at a time
beyond its inputs, in tensors of x's size, as torch's allocator reports it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.operators import Case, cases, trace_cases
from fastscore import __version__, backends

RESULTS = Path(__file__).parent / "results"


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def quantiles(values: list[float]) -> list[float]:
    """p20, p50, p80."""
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()


def measure(case: Case, device: str, seconds: float) -> dict:
    """Nanoseconds an element of each provider, and how many times slower than fastscore it is, over rounds."""
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
    row = {"operator": case.operator, "shape": case.shape, "elements": case.elements, "rounds": len(times["fastscore"])}
    for name, values in times.items():
        row[name] = {"microseconds": [t * 1e6 for t in quantiles(values)],
                     "ns_per_element": [t * 1e9 / case.elements for t in quantiles(values)],
                     "times_fastscore": quantiles([v / f for v, f in zip(values, times["fastscore"])])}
        if name != "floor":
            row[name]["extra_tensors"] = extra_memory(case.providers[name], device) / (4 * case.elements)
    return row


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


def extra_memory(work, device: str) -> int:
    """The most bytes held at a time during one call, beyond what was held before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with silence(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                           profile_memory=True) as profile:
        result = work()
    del result
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() \
        else None
    return found.group(1) if found else platform.processor()


def table(rows: list[dict], about: dict) -> str:
    """One screen of Markdown."""
    names = [n for n in ("eager", "compile", "floor") if n in rows[0]]
    lines = [f"{about['processor']} ({about['instructions']}), {about['threads']} threads, torch {about['torch']}, "
             f"float32; median over rounds [p20, p80]. A ratio is the other's time over fastscore's: more is faster.",
             "", "| operator | shape | fastscore, ns an element | " + " | ".join(f"vs {n}" for n in names)
             + " | extra memory, tensors: fastscore / " + " / ".join(n for n in names if n != "floor") + " |",
             "|---|---|---:|" + "---:|" * (len(names) + 1)]
    for row in rows:
        low, middle, high = row["fastscore"]["ns_per_element"]
        cells = [row["operator"], row["shape"], f"{middle:.2f} [{low:.2f}, {high:.2f}]"]
        for name in names:
            low, middle, high = row[name]["times_fastscore"]
            cells.append(f"{middle:.2f}x [{low:.2f}, {high:.2f}]")
        cells.append(" / ".join(f"{row[n]['extra_tensors']:.1f}" for n in ("fastscore", *names) if n != "floor")
                     if row["elements"] > 1000 else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="leave torch.compile out")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to time each case (default: 4)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    device = arguments.device
    about = {"processor": processor(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
             "fastscore": __version__, "python": platform.python_version(),
             "backend": backends.default(torch.device(device)),
             "instructions": backends.isa() if device == "cpu" and not backends.problem("native") else ""}
    rows = []
    for case in chain(cases(device, compile=not arguments.quick), trace_cases(device, compile=not arguments.quick)):
        rows.append(measure(case, device, arguments.seconds))
        print(f"{case.operator:<32}{case.shape:<14}"
              + "  ".join(f"{n} {rows[-1][n]['microseconds'][1]:.1f} us" for n in case.providers), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", about["processor"].lower()).strip("-") + (
        f"-{about['threads']}-threads" if device == "cpu" else "")
    (arguments.out / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (arguments.out / f"{name}.md").write_text(table(rows, about))
    print("\n" + table(rows, about) + f"\nwritten to {arguments.out / name}.json and .md")


if __name__ == "__main__":
    main()
