"""What `interpolate=True` costs: an NCSN, which knows its noise levels by their index, asked between them.

    python benchmarks/interpolation.py runs/demo                        about four minutes on two CPU cores
    python benchmarks/interpolation.py runs/demo --num 100 --seeds 1    to try it

Two tables in Markdown. The loss of the held-out images (sigma^2 times denoising score matching, one noise for all) half-way
between two levels, with the embeddings of the two blended and with either alone, beside the losses at the two levels. And
the Frechet distance (on pixels, to the held-out images; mean over seeds and their spread) of samples of `dpm_sde` in as
many steps, at levels alone and evenly in log sigma.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import fastscore as fs
from fastscore.data import to_float
from fastscore.evaluation.metrics import frechet_distance
from fastscore.experiment.build import make_data, make_sigmas
from fastscore.experiment.moments import moments_of_data
from fastscore.experiment.sample import TrainedRun, load_run
from fastscore.samplers import dpm_solver

STEPS = (10, 15, 20, 30, 40)


@torch.no_grad()
def losses(network: nn.Module, x: Tensor, sigmas: list[float]) -> list[dict[str, float]]:
    """Of each pair of neighbouring levels: 1/2 ||sigma s + z||^2, a mean over ``x``, at both, and half-way in log sigma."""

    def loss(label: float, sigma: float) -> float:
        x_tilde, noise = fs.perturb(x, sigma, fs.Philox(7))
        return float(fs.dsm_loss(network.at_level(label)(x_tilde), noise, sigma).mean())

    rows = []
    for i, (a, b) in enumerate(pairwise(sigmas)):
        middle = math.sqrt(a * b)
        rows.append(
            {
                "from": a,
                "to": b,
                "at levels": (loss(i, a) + loss(i + 1, b)) / 2,
                "blended": loss(i + 0.5, middle),
                "larger": loss(i, middle),
                "smaller": loss(i + 1, middle),
            }
        )
    return rows


def distances(run: TrainedRun, heldout: Tensor, steps: int, num: int, seeds: int) -> dict[str, list[float]]:
    """Frechet distances of each seed, by the rule of the grid; at levels alone there are no more steps than these."""
    sigmas, found = make_sigmas(run.config), {}
    for rule in ("levels", "log_snr"):
        if rule == "levels" and steps > len(sigmas):
            continue
        found[rule] = []
        for seed in range(seeds):
            x = dpm_solver(
                run.network,
                (num, *run.shape),
                sigmas,
                eta=1.0,
                steps=steps,
                rule=rule,
                interpolate=rule == "log_snr",
                **moments_of_data(run.config),
                rng=fs.Philox(seed),
            )
            found[rule].append(frechet_distance(x.clamp(0, 1).flatten(1), heldout.flatten(1)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of an NCSN")
    parser.add_argument("--num", type=int, default=1000, help="samples of a distance")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    arguments = parser.parse_args()
    run = load_run(arguments.run, device="cpu")
    heldout = to_float(make_data(run.config, heldout=True).images)
    print("| between sigma | loss at the two levels | half-way, blended | by the larger's | by the smaller's |")
    print("|---|---:|---:|---:|---:|")
    rows = losses(run.network, heldout, make_sigmas(run.config).tolist())
    for row in rows:
        values = " | ".join(f"{row[name]:.3f}" for name in ("at levels", "blended", "larger", "smaller"))
        print(f"| {row['from']:.3g} and {row['to']:.3g} | {values} |")
    means = [statistics.mean(row[name] / row["at levels"] for row in rows) for name in ("blended", "larger", "smaller")]
    print("| mean ratio | 1 | " + " | ".join(f"{mean:.3f}" for mean in means) + " |\n")
    print("| steps | at levels | between them |\n|---:|---:|---:|")
    for steps in arguments.steps:
        found = distances(run, heldout, steps, arguments.num, arguments.seeds)
        cells = [_cell(found[rule]) if rule in found else "-" for rule in ("levels", "log_snr")]
        print(f"| {steps} | {' | '.join(cells)} |", flush=True)


def _cell(values: list[float]) -> str:
    spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
