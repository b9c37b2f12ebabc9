"""One word, one meaning: what a keyword stands for is the same in all public signatures (docs/glossary.md)."""

import importlib
import inspect

import pytest

MODULES = (
    "",
    "losses",
    "paths",
    "conversions",
    "samplers",
    "trace",
    "models",
    "data",
    "schedules",
    "evaluation.features",
    "evaluation.metrics",
)
MODULES += ("evaluation.pictures", "evaluation.plots", "experiment.sample", "experiment.evaluate")

#: Words that have had a second meaning, and whose arguments they may be.
OWNERS = {
    "alpha": {"perturb", "dsm", "Path", "Grid", "target_field"},  # the signal scale
    "step_size": {
        "langevin_step",
        "langevin",
        "mala",
        "Mala",
        "annealed_langevin",
        "inpaint",
        "interpolate",
        "Suggestion",
        "TrainConfig",
    },
    "noise": {"affine_step", "langevin_step", "dsm_loss"},  # standard normal numbers
    "num_classes": {  # the kinds of samples, never noise levels
        "ImageData",
        "PointData",
        "class_histogram",
        "drop_labels",
        "ScoreMLP",
        "NCSN",
        "NCSNdeeper",
        "NCSNv2",
        "NCSNv2Deeper",
        "NCSNv2Deepest",
        "NoiseClassifier",
        "TrainConfig",
    },
    "iteration": {"load_run", "evaluate", "TrainedRun"},  # of training
    "step": {"Philox", "Noise"},  # a position in a random sequence
    "place": set(),
    "where": set(),
}


def signatures():
    for module in MODULES:
        module = importlib.import_module(f"fastscore.{module}".rstrip("."))
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            if callable(value) and getattr(value, "__module__", "").startswith("fastscore") and name[0] != "_":
                try:
                    yield name, inspect.signature(value).parameters
                except ValueError:  # a class without one of its own, as of an error
                    continue


FOUND = list(signatures())


@pytest.mark.parametrize("word", OWNERS)
def test_a_word_is_the_argument_of_those_who_mean_the_same_by_it(word):
    assert {name for name, parameters in FOUND if word in parameters} == OWNERS[word]
