"""What a reproduction is held against: the published numbers, the recipe, and the commands that make a number again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import quoted
from . import folder
from .report_facts import Facts, Snapshot, listed, part, whole
from .report_page import Link
from .request import flag

_SAMPLES, _IMAGES, _SHAPE = 50_000, 50_000, [3, 32, 32]  # of a published FID; of CIFAR-10


@dataclass(frozen=True)
class Published:
    """A row of a paper's table: FID and Inception score on CIFAR-10, without labels."""

    title: str
    paper: Link
    numbers: Mapping[str, float]


PUBLISHED = {
    "ncsn": Published(
        "NCSN",
        Link("Song & Ermon 2019", "https://arxiv.org/abs/1907.05600"),
        {"frechet_distance": 25.32, "inception_score": 8.87},
    ),
    "ncsnv2": Published(
        "NCSNv2",
        Link("Song & Ermon 2020", "https://arxiv.org/abs/2006.09011"),
        {"frechet_distance": 10.87, "inception_score": 8.40},
    ),
}


def why_not_comparable(facts: Facts) -> list[str]:
    """Why the distances are not those of the papers; empty where they are.

    The papers' are of CIFAR-10, on Inception's features, of 50,000 samples against the training images.
    """
    name, count, shape = (part(facts.data, "train", key) for key in ("name", "count", "shape"))
    kind = part(facts.plan, "config", "data") or name  # a file cifar10.npz has that name too
    reasons = []
    if not facts.data:
        reasons.append("what the data are is not known yet")
    elif name != "cifar10" or kind != "cifar10":
        reasons.append(f"the data are {name}{f' ({kind})' if name == 'cifar10' else ''}, not CIFAR-10")
    elif facts.data.get("checksums") != "published":
        reasons.append("the images were not compared with CIFAR-10's published checksums")
    elif count != _IMAGES or listed(shape) != _SHAPE:
        reasons.append(f"the training images are {images(part(facts.data, 'train'))}, not CIFAR-10's {_IMAGES:,}")
    if facts.feature != "inception":
        reasons.append(f"distances are of {facts.feature}, not of Inception's features")
    elif part(facts.plan, "request", "inception_checksum") is False:
        reasons.append("the weights of Inception were not compared with the published checksum")
    sizes = {whole(measure.get("samples")) for measure in facts.measures} or {whole(facts.plan.get("samples"))}
    for size in sorted(sizes - {_SAMPLES}, key=str):
        words = "an unknown number of" if size is None else f"{size:,}"
        reasons.append(f"they are of {words} samples, not {_SAMPLES:,}, and the distance of fewer is larger")
    return reasons


def images(half: Any) -> str:
    """How many images of what shape: "50,000 of 3 x 32 x 32"."""
    count, shape = whole(part(half, "count")), listed(part(half, "shape"))
    return f"{'some' if count is None else f'{count:,}'} of {' x '.join(map(str, shape)) or 'an unknown shape'}"


def departures(facts: Facts) -> list[str]:
    """What is not as the recipe has it, in words."""
    return [str(departure) for departure in listed(facts.plan.get("departures"))]


def evaluate_command(facts: Facts, snapshot: Snapshot, seed: int, num: int, feature: str) -> str:
    """The command that draws the same samples and measures them."""
    words = ["--num", str(num), "--feature", feature]
    inception = facts.plan.get("inception")
    if feature == "inception":
        words += ["--inception", inception] if isinstance(inception, str) else []
        words += ["--no-inception-checksum"] if part(facts.plan, "request", "inception_checksum") is False else []
    return _command("evaluate", facts, snapshot, seed, words)


def sample_command(facts: Facts, snapshot: Snapshot, seed: int, num: int) -> str:
    """The command that draws the first ``num`` samples again, and a picture of them."""
    return _command("sample", facts, snapshot, seed, ["--num", str(num)])


def _command(command: str, facts: Facts, snapshot: Snapshot, seed: int, words: list[str]) -> str:
    step, weights = snapshot
    sampler = facts.plan.get("sampler")
    if isinstance(sampler, str):
        given = [flag(name, value) for name, value in facts.sampler_options.items() if value is not None]
        words = [*words, "--sampler", sampler, *(word for option in given for word in option)]
    where = f"again/{command}-{folder.stem(step, weights, seed)}"
    words = ["--checkpoint", str(step), "--weights", weights, "--seed", str(seed), *words]
    run, out = (quoted(facts.out / name) for name in (folder.RUN, where))
    return f"fastscore {command} {run} {shlex.join(words)} --out {out}"
