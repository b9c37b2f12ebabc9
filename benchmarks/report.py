"""Times every operator's providers in turns and writes benchmarks/results/<device>.json and .md.

    python benchmarks/report.py            the whole table, a few minutes; leave the machine alone meanwhile
    python benchmarks/report.py --quick    without torch.compile

In each round every provider runs once, one after the other, so that a slow moment of the machine falls on all of them;
a ratio is the median over rounds of the ratio within a round. Extra memory is the most that one call holds at a time
beyond its inputs, in tensors of x's size, as torch's allocator reports it. A row's backend is the one that served
fastscore's call. On a GPU every row is there twice: calls, which the host must be fast enough to ask for, and
"captured", replays of a CUDA graph of one call: the GPU's own time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.captured import captured
from benchmarks.measure import about, machine_name, measure, save
from benchmarks.operators import PROVIDERS, cases
from benchmarks.table import markdown

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="leave torch.compile out")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to time each case (default: 4)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    device = arguments.device
    machine = about(device)
    rows = []
    for case in cases(device, compile=not arguments.quick):
        rows.append(measure(case, device, arguments.seconds))
        show(rows[-1])
        if device == "cuda" and "fastscore" in (replays := captured(case)).providers:
            rows.append(measure(replays, device, arguments.seconds, backend=rows[-1]["backend"]))
            show(rows[-1])
    text = markdown(rows, machine)
    print("\n" + text)
    save(arguments.out, machine_name(machine, device), {"about": machine, "rows": rows}, text)


def show(row: dict) -> None:
    """A line about a row, as it is made."""
    medians = "  ".join(f"{name} {row[name]['microseconds'][1]:.1f} us" for name in PROVIDERS if name in row)
    print(f"{row['operator']:<42}{row['shape']:<14}{row['backend']:<11}{medians}", flush=True)


if __name__ == "__main__":
    main()
