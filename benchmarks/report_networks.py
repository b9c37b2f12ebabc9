"""Times whole networks in turns and writes benchmarks/results/<device>-network.json and .md.

    python benchmarks/report_networks.py              the whole table, some minutes; leave the machine alone meanwhile
    python benchmarks/report_networks.py --quick      without torch.compile
    python benchmarks/report_networks.py --profile -k CIFAR -k NCSNv2
                                                      the longest operations too, of what has these words in its name

An iteration of training, a step of the sampler and the forward pass of NCSN and NCSNv2 at three sizes, by fastscore and by
the plain network of benchmarks/plain_ncsn.py with the same weights, in float32 and under bfloat16 autocast. In each
round every provider runs once, and a ratio is the median over rounds of the ratio within a round. What -k selects is
printed, and written where --out says alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import network_table as table
from benchmarks.measure import about, machine_name, save
from benchmarks.networks import PROVIDERS, cases, names
from benchmarks.report import RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="leave torch.compile out")
    parser.add_argument("--profile", action="store_true", help="print the longest operations of each row too")
    parser.add_argument("-k", action="append", default=[], metavar="WORD", help="only rows whose names have every WORD")
    parser.add_argument("--seconds", type=float, default=7.0, help="how long to time each row (default: 7)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: the committed, of all rows)")
    arguments = parser.parse_args()
    device, machine = arguments.device, about(arguments.device)
    chosen = [name for name in names() if all(word.lower() in ", ".join(name).lower() for word in arguments.k)]
    if not chosen:
        parser.error(f"-k: no row has {' and '.join(arguments.k)} in its name; one is {', '.join(names()[0])!r}")
    providers = [name for name in PROVIDERS if name != "compile" or not arguments.quick]
    rows = []
    for case in cases(device, only=chosen, providers=providers):
        rows.append(table.measure(case, device, arguments.seconds))
        shown = table.text(rows[-1:])
        print("\n".join(shown if len(rows) == 1 else shown[1:]), flush=True)
        if arguments.profile:
            print("\n" + "\n".join(table.operations(rows[-1])) + "\n", flush=True)
    print("", *table.ABOUT, sep="\n")
    if arguments.k and arguments.out is None:
        return
    name, results = f"{machine_name(machine, device)}-network", {"about": machine, "rows": rows}
    save(arguments.out or RESULTS, name, results, table.markdown(rows, machine))


if __name__ == "__main__":
    main()
