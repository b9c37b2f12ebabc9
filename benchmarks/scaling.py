"""Times training by several ranks of a thread each against one process of as many threads, and writes results/<device>-scaling.json and .md.

    python benchmarks/scaling.py                                     2 ranks against 2 threads; leave the machine alone meanwhile
    python benchmarks/scaling.py --preset digits --rounds 2 --out /tmp/scaling    to try it

What is trained is the network of the preset photos on its data, in float32, by the trainer's own iterations. torchrun starts the
ranks (gloo, on the CPU), once; in each round they make some iterations together, then rank 0 as many alone with all of the threads,
while the others wait without computing, so that a slow moment of the machine falls on both. A ratio is the median over rounds of the
ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import about, machine_name, quantiles, save
from benchmarks.report import RESULTS
from benchmarks.table import machine_line
from fastscore.experiment.build import make_data
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.learner import Learner
from fastscore.experiment.presets import PRESETS, preset
from fastscore.experiment.ranks import ALONE, joined

RANKS, THREADS = "ranks", "threads"  # a thread in each rank; all threads in one process
_WARM = 2  # iterations of either before the first round


def config_of(name: str) -> TrainConfig:
    """What is trained."""
    return preset(name, precision="fp32", device="cpu")


def timed(learner: Learner, first: int, iterations: int) -> float:
    """Images a second in ``iterations`` of ``learner`` from iteration ``first`` on."""
    begun = time.perf_counter()
    for it in range(first, first + iterations):
        learner.iterate(it)
    return iterations * learner.config.batch_size / (time.perf_counter() - begun)


def work(config: TrainConfig, rounds: int, iterations: int, out: Path) -> None:
    """What each rank does: the rounds; rank 0 writes what it timed to ``out``."""
    torch.set_num_threads(1)
    data, device = make_data(config), torch.device("cpu")
    with joined() as ranks:
        together = Learner(config, data, device, ranks)
        alone = Learner(config, data, device, ALONE) if ranks.leads else None
        found: dict[str, list[float]] = {RANKS: [], THREADS: []}
        for k in range(rounds + 1):  # the first is not counted
            size = iterations if k else _WARM
            first = _WARM + (k - 1) * iterations if k else 0
            ranks.told("")  # all begin at once
            found[RANKS].append(timed(together, first, size))
            with ranks.together():
                if alone is not None:
                    torch.set_num_threads(ranks.count)
                    found[THREADS].append(timed(alone, first, size))
                    torch.set_num_threads(1)
        if ranks.leads:
            parameters = sum(p.numel() for p in together.model.parameters())
            row = row_of(config, tuple(data.shape), parameters, ranks.count, iterations, found)
            out.write_text(json.dumps(row))


def row_of(
    config: TrainConfig,
    shape: tuple[int, ...],
    parameters: int,
    ranks: int,
    iterations: int,
    found: dict[str, list[float]],
) -> dict:
    """The row of images a second, round by round, of which the first is left out."""
    rounds = {name: values[1:] for name, values in found.items()}
    ratios = [r / t for r, t in zip(rounds[RANKS], rounds[THREADS])]
    return {
        "network": f"{config.model}, ngf {config.width}",
        "data": config.data,
        "shape": list(shape),
        "batch_size": config.batch_size,
        "parameters": parameters,
        "count": ranks,
        "rounds": len(ratios),
        "iterations": iterations,
        **{name: {"images_per_second": quantiles(values)} for name, values in rounds.items()},
        "ranks_times_threads": quantiles(ratios),
    }


def markdown(row: dict, machine: dict) -> str:
    """The table of a machine."""
    shape = "x".join(map(str, row["shape"]))

    def cell(values: list[float], digits: int, unit: str = "") -> str:
        low, middle, high = (f"{value:.{digits}f}" for value in values)
        return f"{middle}{unit} [{low}, {high}]"

    lines = [
        ["", "images a second", "of one process"],
        ["---", "---:", "---:"],
        [f"1 process, {row['count']} threads", cell(row[THREADS]["images_per_second"], 2), "1"],
        [
            f"{row['count']} ranks, a thread each",
            cell(row[RANKS]["images_per_second"], 2),
            cell(row["ranks_times_threads"], 3, "x"),
        ],
    ]
    return (
        f"{machine_line(machine)}; {row['network']} on {row['data']} ({shape}), {row['parameters']:,} parameters, batches of "
        f"{row['batch_size']}, float32; medians [p20, p80] of {row['rounds']} rounds of {row['iterations']} iterations of each.\n\n"
        + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + "\n"
    )


def launched(words: list[str], ranks: int) -> dict:
    """The row that the ranks of a torchrun with these ``words`` found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        environment = os.environ | {"OMP_NUM_THREADS": str(ranks), "OMP_WAIT_POLICY": "passive"}
        subprocess.run([*torchrun, __file__, *words, "--work", str(out)], check=True, env=environment)
        return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="photos", choices=list(PRESETS), help="whose network and data")
    parser.add_argument("--ranks", type=int, default=2, help="of one thread each (default: 2)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--iterations", type=int, default=5, help="of each, in a round (default: 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # what a rank is started with
    given = parser.parse_args()
    if given.work is not None:
        work(config_of(given.preset), given.rounds, given.iterations, given.work)
        return
    words = ["--preset", given.preset, "--rounds", str(given.rounds), "--iterations", str(given.iterations)]
    row, machine = launched(words, given.ranks), about("cpu") | {"threads": given.ranks}
    text = markdown(row, machine)
    print(text)
    save(given.out, f"{machine_name(machine, 'cpu')}-scaling", {"about": machine, "row": row}, text)


if __name__ == "__main__":
    main()
