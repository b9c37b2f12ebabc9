"""What guidance buys and costs: the digits that are asked for, by a network of classes.

    fastscore train digits-conditional --out runs/classes
    python benchmarks/guidance.py runs/classes                          some minutes on two CPU cores
    python benchmarks/guidance.py runs/classes --num 200                to try it

A table in Markdown, a row a guidance w: of samples of each class alike, how many the classifier takes for what was asked for (a
support vector machine, trained on the real digits; its accuracy on held-out ones is below), their Frechet distance to the
held-out images on pixels, precision, recall, and evaluations of the network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from fastscore.data import to_float
from fastscore.evaluation import features
from fastscore.evaluation.metrics import frechet_distance, precision_recall
from fastscore.evaluation.pictures import save_grid
from fastscore.experiment.build import make_data
from fastscore.experiment.evaluate import evaluations_of
from fastscore.experiment.sample import load_run, sample

WEIGHTS = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of a network of classes")
    parser.add_argument("--num", type=int, default=1000, help="samples of a row")
    parser.add_argument("--guidance", type=float, nargs="+", default=WEIGHTS)
    parser.add_argument("--interval", type=float, nargs=2, help="the noise at which w holds")
    parser.add_argument("--sampler", help="by default the run's own")
    parser.add_argument("--steps-per-level", type=int, help="of the annealed sampler")
    parser.add_argument("--picture", type=Path, help="where to draw ten samples of each class, at the last guidance")
    arguments = parser.parse_args()
    run = load_run(arguments.run, device="cpu")
    train, heldout = make_data(run.config), make_data(run.config, heldout=True)
    real = to_float(heldout.images)
    classifier = features.classifier_features(to_float(train.images), train.labels)
    asked = torch.arange(arguments.num) % run.config.num_classes
    print("| guidance w | as asked | Frechet distance | precision | recall | evaluations |")
    print("|---:|---:|---:|---:|---:|---:|")
    for w in arguments.guidance:
        with evaluations_of(run.score_fn) as made:
            x = sample(
                run,
                arguments.num,
                sampler=arguments.sampler,
                label="each",
                guidance=w,
                guidance_interval=None if arguments.interval is None else tuple(arguments.interval),
                steps_per_level=arguments.steps_per_level,
                progress=False,
            )
        found = classifier.probabilities(classifier(x)).argmax(1)
        share = float((found == asked).double().mean())
        near = precision_recall(real.flatten(1), x.flatten(1))
        distance = frechet_distance(x.flatten(1), real.flatten(1))
        print(
            f"| {w:g} | {100 * share:.1f} % | {distance:.3f} | {near.precision:.3f} | {near.recall:.3f} | "
            f"{sum(made) / arguments.num:.0f} |",
            flush=True,
        )
    floor = precision_recall(real.flatten(1), to_float(train.images).flatten(1))
    print(
        f"\nThe classifier's accuracy on held-out digits is {100 * classifier.accuracy(real, heldout.labels):.1f} %. Of the "
        f"training images the Frechet distance is {frechet_distance(to_float(train.images).flatten(1), real.flatten(1)):.3f}, "
        f"precision {floor.precision:.3f} and recall {floor.recall:.3f}."
    )
    if arguments.picture:
        rows = [(asked == label).nonzero()[:10, 0] for label in range(run.config.num_classes)]
        print(save_grid(x[torch.cat(rows)], arguments.picture, columns=10))


if __name__ == "__main__":
    main()
