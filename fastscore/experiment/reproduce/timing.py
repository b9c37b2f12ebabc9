"""How fast this machine is: a few iterations, evaluations and extractions of features, measured; and the table of hours."""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..._core.errors import CheckpointError
from ...data import ImageData, to_float
from ...evaluation.features import Features
from ..acceleration import compiled, deterministic, tf32
from ..config import TrainConfig
from ..learner import Learner
from ..precision import for_sampling, resolve
from ..processors import device_name
from ..progress import four_digits
from ..ranks import Ranks
from ..sample_folder import versions
from .hours import Work
from .report_facts import part, real
from .request import Request, flag

_SECONDS, _MOST = 5.0, 20  # that a rate is measured for, and calls
_BETWEEN = 600.0  # seconds between two checkpoints
_WARM = {"cuda": 5}  # calls before: graphs are recorded in the first of them
_IMAGES = {"cuda": 500}  # at a time; a CPU is as fast on few
_FEW = 16
_RATES = (
    ("parameters",),
    ("training", "seconds_per_iteration"),
    ("training", "images_per_second"),
    ("training", "peak_bytes"),
    ("evaluation", "images_per_second"),
    ("evaluation", "peak_bytes"),
    ("features", "images_per_second"),
)
#: Of a config, what decides how long an iteration takes.
_PACE = (
    "model",
    "width",
    "num_levels",
    "batch_size",
    "accumulate",
    "precision",
    "tf32",
    "compile",
    "cuda_graph",
    "ema",  # that of an ncsn, which has none by its recipe, is the first of more_ema
    "more_ema",
)


def conditions(config: TrainConfig, feature: str, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """What rates are measured under: those of others are not taken for them."""
    pace = {name: getattr(config, name) for name in _PACE}
    return {
        "device": device_name(device),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "ranks": ranks.count,
        "feature": feature,
        "config": pace | {"more_ema": list(config.more_ema)},  # as JSON gives it back
    }


def measure(
    config: TrainConfig, data: ImageData, extract: Features, device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """The rates of training, of network evaluations and of features, of all ``ranks`` together, and their peak memory.

    Every rank makes the same calls. Nothing is written, and no weights are kept.
    """
    learner = Learner(config, data, device, ranks)
    with tf32(config.tf32), deterministic(config.deterministic, device):
        _reset_peak(device)
        iteration = _paced(ranks, device, learner.iterate)
        training = {
            "images_per_second": config.batch_size / iteration,
            "seconds_per_iteration": iteration,
            "peak_bytes": _peak(device),
        }
        parameters = sum(p.numel() for p in learner.model.parameters())
        network = for_sampling(learner.model.eval().requires_grad_(False), resolve(config, device))
        network = compiled(network, config.compile)
        del learner
        release(device)
        _reset_peak(device)
        count = min(len(data), _IMAGES.get(device.type, _FEW))
        images = to_float(data.images[:count]).to(device)
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        with torch.no_grad():
            evaluation = _paced(ranks, device, lambda _: network(images, labels))
        evaluated = {"images_per_second": ranks.count * count / evaluation, "peak_bytes": _peak(device)}
    some = images.cpu()
    extraction = _paced(ranks, device, lambda _: extract(some))
    return {
        "parameters": parameters,
        "training": training,
        "evaluation": evaluated,
        "features": {"images_per_second": ranks.count * count / extraction},
    }


def check(found: dict[str, Any] | None, source: Path) -> dict[str, Any] | None:
    """``found`` in timing.json, where it has the rates that :func:`measure` gives.

    Raises:
        CheckpointError: it has others.
    """
    if found is None:
        return None
    for names in _RATES:
        if not real(rate := part(found, *names)) > 0:
            raise CheckpointError(
                f"{source} says {': '.join(names)} {rate!r:.60}, where it must be a number above 0: put it back as it was, or delete it "
                "to have it measured again"
            )
    return found


def release(device: torch.device) -> None:
    """Give back what a learner took, which no variable holds any more: it and the graph of its iteration hold each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def checkpoint_every(config: TrainConfig, rates: dict[str, Any]) -> int:
    """Iterations between two checkpoints: ten minutes of them, and at most those of ``config``."""
    return max(1, min(config.checkpoint_every, round(_BETWEEN / rates["training"]["seconds_per_iteration"])))


def work(config: TrainConfig, request: Request, rates: dict[str, Any], *, seeds: int, train: int) -> Work:
    """What there is to do for a plan of ``config`` and so many ``seeds``, at these rates."""
    return Work(
        config.iterations,
        config.batch_size,
        request.snapshot_every,
        len(request.weights()),
        request.selection_images,
        request.samples,
        seeds,
        train,
        rates["training"]["seconds_per_iteration"],
        rates["evaluation"]["images_per_second"],
        rates["features"]["images_per_second"],
    )


def table(timing: dict[str, Any], request: Request, config: TrainConfig) -> str:
    """What ``--dry-run`` prints: one screen."""
    rates, cells = timing, {(row["what"], row["sampler"]): row for row in timing["rows"]}
    training, evaluation = rates["training"], rates["evaluation"]
    ranks = timing["ranks"]
    lines = [
        f"{timing['device']}{f', {ranks} ranks' if ranks > 1 else ''}, torch {timing['versions']['torch']}",
        f"training    {four_digits(training['images_per_second']):>10} images/s, {training['seconds_per_iteration']:.4g} s an iteration, at most "
        f"{training['peak_bytes'] / 1e9:.3g} GB",
        f"evaluation  {four_digits(evaluation['images_per_second']):>10} images/s, at most {evaluation['peak_bytes'] / 1e9:.3g} GB",
        f"features    {four_digits(rates['features']['images_per_second']):>10} images/s",
        "",
        f"training, {config.iterations:,} iterations of {config.batch_size}: {_hours(cells['training', None])} hours",
        "",
        f"{'--sampler':<32} {'evaluations':>11} {'selection':>10} {'samples':>10} {'all':>10}   hours",
    ]
    for (what, name), row in cells.items():
        if what == "selection":
            options = [word for key, value in request.offered()[name].items() for word in flag(key, value)]
            three = " ".join(f"{_hours(cells[part, name]):>10}" for part in ("selection", "samples", "all"))
            lines.append(f"{' '.join([name, *options]):<32} {row['evaluations']:>11,} {three}")
    selected, drawn = (cells[what, request.sampler]["images"] for what in ("selection", "samples"))
    lines.append(f"\nselection: {selected:,} samples; samples: {drawn:,}, with their features")
    return "\n".join(lines)


def _hours(row: dict[str, Any]) -> str:
    return f"{row['hours']:.3g}" if row["hours"] < 1000 else f"{row['hours']:,.0f}"


def _paced(ranks: Ranks, device: torch.device, call: Callable[[int], Any]) -> float:
    """Seconds of a ``call(k)``, k = 0, 1, ..., the first ones not counted; rank 0 says how many there are."""
    warm = _WARM.get(device.type, 1)
    for k in range(warm):
        call(k)
    _wait(device)
    began = time.perf_counter()
    call(warm)
    _wait(device)
    first = time.perf_counter() - began
    more = int(ranks.told(str(min(_MOST, math.ceil(_SECONDS / max(first, 1e-9)) - 1))))
    for k in range(more):
        call(warm + 1 + k)
    _wait(device)
    return max(time.perf_counter() - began, 1e-9) / (1 + more)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    """Bytes: on a GPU the most that tensors took, elsewhere the most that the process did since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
