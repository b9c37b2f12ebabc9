"""Times a draw by each sampler in turns and writes benchmarks/results/<device>-solvers.json and .md.

    python benchmarks/report_solvers.py                  every sampler, some minutes; leave the machine alone meanwhile
    python benchmarks/report_solvers.py -k dpm -k ddim   those with one of these words in their name; writes nothing

Digits by an NCSN of the preset (20 levels, annealed Langevin dynamics of 5 steps at each), by fastscore and by the plain
network of benchmarks/plain_ncsn.py with the same sampler in plain torch, in float32. `network` is the share of a draw that
the evaluations of the network take.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import about, machine_name, save
from benchmarks.report import RESULTS
from benchmarks.solvers import HEADS, TIMED, cells, draw_of, measure
from benchmarks.table import machine_line


def markdown(rows: list[dict], machine: dict) -> str:
    """The whole table."""
    lines = [
        f"{machine_line(machine)}; a draw of {rows[0]['images']} digits, medians of {rows[0]['rounds']} rounds.",
        "",
    ]
    made = [list(HEADS), ["---"] * 3 + ["---:"] * (len(HEADS) - 3), *(line for row in rows for line in cells(row))]
    return "\n".join([*lines, *(f"| {' | '.join(line)} |" for line in made)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--images", type=int, default=250, help="of a draw (default: 250)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", action="append", default=[], metavar="WORD", help="only samplers whose name has a WORD")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    names = [name for name in TIMED if not arguments.k or any(word in name for word in arguments.k)]
    if not names:
        parser.error(f"-k: no sampler has {' or '.join(arguments.k)} in its name; they are {', '.join(TIMED)}")
    machine, rows = about(arguments.device), []
    for name in names:
        rows.append(measure(draw_of(name, arguments.device, arguments.images), arguments.device, arguments.rounds))
        text = markdown(rows[-1:], machine).splitlines()
        print("\n".join(text if len(rows) == 1 else text[4:]), flush=True)
    if arguments.k:
        return
    name, results = f"{machine_name(machine, arguments.device)}-solvers", {"about": machine, "rows": rows}
    save(arguments.out, name, results, markdown(rows, machine))


if __name__ == "__main__":
    main()
