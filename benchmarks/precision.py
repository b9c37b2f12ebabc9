"""Whether a network trained and sampled in bfloat16 is as good as one in float32: the digits, several seeds of each.

    python benchmarks/precision.py                        six trainings, two at a time, a thread each
    python benchmarks/precision.py --seeds 1 --iterations 100 --num 100 --out /tmp/precision   to try it

The preset `digits` is trained with each seed in each precision. Of every run, by the moving average and in the run's own
precision: the loss of each noise level on the held-out digits, with one noise for all runs, and the Frechet distance (on
pixels) of `--num` samples to the training and to the held-out digits. The float32 networks are also sampled in bfloat16,
with the very same noise: what sampling alone loses.

A difference of two precisions is one of means over the seeds; beside it is the spread of the seeds, the standard
deviation within a precision, pooled, and t = difference / (spread sqrt(2 / seeds)). With three seeds |t| < 2.8 is what
chance does in 19 of 20 cases. Runs are kept in runs/precision, and go on where they were stopped; results go to
benchmarks/results/precision-digits.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import fastscore as fs  # noqa: E402
from benchmarks.measure import about as about_machine  # noqa: E402
from benchmarks.measure import save  # noqa: E402
from fastscore.data import to_float  # noqa: E402
from fastscore.evaluation.metrics import frechet_distance  # noqa: E402
from fastscore.experiment import checkpoint  # noqa: E402
from fastscore.experiment.build import make_data, make_sigmas  # noqa: E402
from fastscore.experiment.presets import preset  # noqa: E402
from fastscore.experiment.sample import TrainedRun, load_run, sample  # noqa: E402
from fastscore.experiment.train import Trainer  # noqa: E402

PRECISIONS = ("fp32", "bf16")
NAMES = {"to_train": "Frechet distance to the training digits", "to_heldout": "Frechet distance to the held-out digits"}


def losses(trained: TrainedRun) -> list[float]:
    """The mean denoising loss of each level on the held-out digits, divided by the number of pixels."""
    images, sigmas, found = to_float(make_data(trained.config, heldout=True).images), make_sigmas(trained.config), []
    with torch.no_grad():
        for level in range(len(sigmas)):
            labels = torch.full((len(images),), level)
            loss = fs.losses.ncsn(trained.score_fn, images, sigmas, rng=fs.Philox(99, step=level), labels=labels)
            found.append(loss.item() / images[0].numel())
    return found


def distances(trained: TrainedRun, num: int) -> dict[str, float]:
    """Frechet distances of ``num`` samples."""
    drawn = sample(trained, num, progress=False).flatten(1)
    real = {f"to_{name}": make_data(trained.config, heldout=name == "heldout") for name in ("train", "heldout")}
    return {name: frechet_distance(drawn, to_float(data.images).flatten(1)) for name, data in real.items()}


def one_run(task: tuple[int, str, int, int, Path]) -> dict[str, Any]:
    """Train (or go on), and measure."""
    seed, precision, iterations, num, runs = task
    torch.set_num_threads(1)
    run = runs / f"{precision}-{seed}"
    with Trainer(preset("digits", seed=seed, precision=precision, iterations=iterations), run, resume=True) as trainer:
        if trainer.step < iterations:
            trainer.train(progress=False)
    trained = load_run(run, device="cpu")
    assert (trained.precision, trained.iteration) == (precision, iterations), checkpoint.latest(run)
    row = {"seed": seed, "precision": precision, "sampled_in": precision, "losses": losses(trained)}
    row |= distances(trained, num)
    if precision == "fp32":
        row["sampled_in_bf16"] = distances(load_run(run, device="cpu", precision="bf16"), num)
    print(json.dumps({name: value for name, value in row.items() if name != "losses"}), flush=True)
    return row


def compared(first: list[float], second: list[float]) -> dict[str, float]:
    """Means of two precisions over their seeds, the difference, the spread and t."""
    means = statistics.fmean(first), statistics.fmean(second)
    spread = t = math.nan
    if len(first) > 1:
        spread = math.sqrt((statistics.variance(first) + statistics.variance(second)) / 2)
        t = (means[1] - means[0]) / (spread * math.sqrt(2 / len(first)))
    return {"fp32": means[0], "bf16": means[1], "difference": means[1] - means[0], "spread": spread, "t": t}


def comparisons(rows: list[dict[str, Any]], sigmas: list[float]) -> dict[str, dict[str, float]]:
    """Each quantity by its name: what :func:`compared` says of it."""
    by = {precision: [row for row in rows if row["precision"] == precision] for precision in PRECISIONS}
    found = {text: compared(*([row[name] for row in by[p]] for p in PRECISIONS)) for name, text in NAMES.items()}
    found["held-out loss a pixel, mean of the levels"] = compared(
        *([statistics.fmean(row["losses"]) for row in by[p]] for p in PRECISIONS)
    )
    for level, sigma in enumerate(sigmas):
        name = f"held-out loss a pixel, sigma = {sigma:.3f}"
        found[name] = compared(*([row["losses"][level] for row in by[p]] for p in PRECISIONS))
    return found


def table(found: dict[str, dict[str, float]], rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Markdown: a line a quantity, and what sampling in bfloat16 does to the float32 networks."""
    lines = [
        f"The preset `digits`, {about['iterations']} iterations, {about['seeds']} seeds in each precision, {about['num']} "
        f"samples of each run; torch {about['torch']}, {about['processor']}, one thread a run.",
        "",
        "| | fp32 | bf16 | difference | spread of the seeds | t |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, c in found.items():
        lines.append(
            f"| {name} | {c['fp32']:.5f} | {c['bf16']:.5f} | {c['difference']:+.5f} | {c['spread']:.5f} | {c['t']:+.1f} |"
        )
    lines += ["", "The float32 networks, sampled with the same noise in both precisions:", ""]
    lines += ["| seed | " + " | ".join(f"{text}: fp32 | bf16" for text in NAMES.values()) + " |", "|---|" + "---:|" * 4]
    for row in rows:
        if row["precision"] == "fp32":
            pairs = [f"{value:.4f}" for name in NAMES for value in (row[name], row["sampled_in_bf16"][name])]
            lines.append(f"| {row['seed']} | " + " | ".join(pairs) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs in each precision (default: 3)")
    parser.add_argument("--iterations", type=int, default=preset("digits").iterations, help="default: the preset's")
    parser.add_argument("--num", type=int, default=1000, help="samples of each run (default: 1000)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "precision", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    chosen = parser.parse_args()
    tasks = [(s, p, chosen.iterations, chosen.num, chosen.runs) for s in range(chosen.seeds) for p in PRECISIONS]
    with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
        rows = pool.map(one_run, tasks, chunksize=1)
    about = about_machine("cpu") | {name: getattr(chosen, name) for name in ("seeds", "iterations", "num")}
    found = comparisons(rows, make_sigmas(preset("digits")).tolist())
    text = table(found, rows, about)
    print(f"\n{text}")
    save(chosen.out, "precision-digits", {"about": about, "comparisons": found, "runs": rows}, text)


if __name__ == "__main__":
    main()
