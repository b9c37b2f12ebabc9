"""What guidance buys and costs: the digits that are asked for, by a network of classes, or by one without and its classifier.

    fastscore train digits-conditional --out runs/classes
    fastscore train digits --out runs/digits && fastscore train-classifier runs/digits
    python benchmarks/guidance.py runs/classes runs/digits              some minutes on two CPU cores
    python benchmarks/guidance.py runs/classes --num 200                to try it

A table of each run in Markdown, a row a guidance w or a classifier's scale: of samples of each class alike, how many are taken for what
was asked for by a judge (a support vector machine, trained on the real digits, which guides nothing; its accuracy on held-out ones is
below), their Frechet distance to the held-out images on pixels, precision, recall, and evaluations of the network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from fastscore.data import to_float
from fastscore.evaluation import features
from fastscore.evaluation.metrics import frechet_distance, precision_recall
from fastscore.evaluation.pictures import save_grid
from fastscore.experiment.build import make_data
from fastscore.experiment.evaluate import evaluations_of
from fastscore.experiment.sample import TrainedRun, load_run, sample

WEIGHTS, SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, of classes or with a classifier, on digits")
    parser.add_argument("--num", type=int, default=1000, help="samples of a row")
    parser.add_argument("--guidance", type=float, nargs="+", default=WEIGHTS, help="of a network of classes")
    parser.add_argument("--interval", type=float, nargs=2, help="the noise at which w holds")
    parser.add_argument("--scale", type=float, nargs="+", default=SCALES, help="of a classifier")
    parser.add_argument("--sampler", help="by default the run's own")
    parser.add_argument("--steps-per-level", type=int, help="of the annealed sampler")
    parser.add_argument("--picture", type=Path, help="where to draw ten samples of each class, of the last row")
    arguments = parser.parse_args()
    runs = [load_run(run, device="cpu") for run in arguments.runs]
    train, heldout = make_data(runs[0].config), make_data(runs[0].config, heldout=True)
    real = to_float(heldout.images)
    judge = features.classifier_features(to_float(train.images), train.labels)
    asked = torch.arange(arguments.num) % train.num_classes
    for run in runs:
        name = "guidance w" if run.config.num_classes else "classifier's scale"
        print(f"| {name} | as asked | Frechet distance | precision | recall | evaluations |")
        print("|---:|---:|---:|---:|---:|---:|")
        for strength in arguments.guidance if run.config.num_classes else arguments.scale:
            with evaluations_of(run.score_fn) as made:
                x = sample(run, arguments.num, label="each", progress=False, **how(run, strength, arguments))
            found = judge.probabilities(judge(x)).argmax(1)
            share = float((found == asked).double().mean())
            near = precision_recall(real.flatten(1), x.flatten(1))
            distance = frechet_distance(x.flatten(1), real.flatten(1))
            print(
                f"| {strength:g} | {100 * share:.1f} % | {distance:.3f} | {near.precision:.3f} | {near.recall:.3f} | "
                f"{sum(made) / arguments.num:.0f} |",
                flush=True,
            )
        print()
    floor = precision_recall(real.flatten(1), to_float(train.images).flatten(1))
    print(
        f"The judge's accuracy on held-out digits is {100 * judge.accuracy(real, heldout.labels):.1f} %. Of the "
        f"training images the Frechet distance is {frechet_distance(to_float(train.images).flatten(1), real.flatten(1)):.3f}, "
        f"precision {floor.precision:.3f} and recall {floor.recall:.3f}."
    )
    if arguments.picture:
        rows = [(asked == label).nonzero()[:10, 0] for label in range(train.num_classes)]
        print(save_grid(x[torch.cat(rows)], arguments.picture, columns=10))


def how(run: TrainedRun, strength: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of :func:`sample`."""
    given = {"sampler": arguments.sampler, "steps_per_level": arguments.steps_per_level}
    if not run.config.num_classes:
        return given | {"classifier_scale": strength}
    interval = None if arguments.interval is None else tuple(arguments.interval)
    return given | {"guidance": strength, "guidance_interval": interval}


if __name__ == "__main__":
    main()
