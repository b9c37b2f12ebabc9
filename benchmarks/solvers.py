"""What is timed of samplers: a draw of digits by each of the registry whose evaluations are known before, at its default
options; by fastscore, as ``fastscore sample`` calls it, and by the same lines in plain torch with the plain network.

The networks have the first weights of the preset: how long a draw takes does not depend on them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

import fastscore as fs
from fastscore.experiment import acceleration
from fastscore.experiment.build import make_model, make_sigmas, placed
from fastscore.experiment.precision import for_sampling
from fastscore.experiment.sample import draw
from fastscore.experiment.sampler_options import options_of
from fastscore.samplers import SAMPLERS

from .measure import quantiles, synchronize
from .networks import config_of, images_of, plain_network
from .plain_ncsn import langevin_step

Network = Callable[[Tensor, Tensor], Tensor]
GIVEN = {"ode": {"interpolate": True}}  # what a sampler cannot do without


def _score(network: Network, x: Tensor, level: int) -> Tensor:
    return network(x, torch.full(x.shape[:1], level, device=x.device))


def _ends(sigmas: Sequence[float]) -> list[tuple[int, float, float]]:
    """(level, sigma, the next sigma), the last of which is 0."""
    return [(i, a, b) for i, (a, b) in enumerate(pairwise([*sigmas, 0.0]))]


def annealed(network: Network, x: Tensor, sigmas: Sequence[float], options: dict) -> Tensor:
    for level, sigma in enumerate(sigmas):
        labels = torch.full(x.shape[:1], level, device=x.device)
        for _ in range(options["steps_per_level"]):
            x = langevin_step(network, x, labels, options["step_size"] * (sigma / sigmas[-1]) ** 2)
    return x + sigmas[-1] ** 2 * network(x, labels) if options["denoise"] else x


def ddim(network: Network, x: Tensor, sigmas: Sequence[float], options: dict) -> Tensor:
    for level, a, b in _ends(sigmas):
        epsilon = -a * _score(network, x, level)
        x = x + (b - a) * epsilon
    return x


def ancestral(network: Network, x: Tensor, sigmas: Sequence[float], options: dict) -> Tensor:
    for level, a, b in _ends(sigmas):
        x = x + (a**2 - b**2) * _score(network, x, level)
        x = x + math.sqrt(b**2 * (a**2 - b**2) / a**2) * torch.randn_like(x) if b else x
    return x


def reverse_sde(network: Network, x: Tensor, sigmas: Sequence[float], options: dict) -> Tensor:
    for level, a, b in _ends(sigmas):
        x = x + (a**2 - b**2) * _score(network, x, level)
        x = x + math.sqrt(a**2 - b**2) * torch.randn_like(x) if b else x
    return x


def pc(network: Network, x: Tensor, sigmas: Sequence[float], options: dict) -> Tensor:
    for level, a, b in _ends(sigmas):
        size = 2 * (options["snr"] * a) ** 2
        x = x + size * _score(network, x, level) + math.sqrt(2 * size) * torch.randn_like(x)
        x = x + (a**2 - b**2) * _score(network, x, level)
        x = x + math.sqrt(a**2 - b**2) * torch.randn_like(x) if b else x
    return x


def dpm(network: Network, x: Tensor, sigmas: Sequence[float], options: dict) -> Tensor:
    before, eta = None, options["eta"]
    for level, a, b in _ends(sigmas):
        clean = x + a**2 * _score(network, x, level)
        if not b:
            return clean
        h = math.log(a / b)
        part = -math.expm1(-h - eta * h)
        x = b / a * math.exp(-eta * h) * x + part * clean
        if before is not None:
            x = x + 0.5 * part * (h / before[1]) * (clean - before[0])
        if eta:
            x = x + b * math.sqrt(-math.expm1(-2 * eta * h)) * torch.randn_like(x)
        before = clean, h
    return x


def heun(network: Network, x: Tensor, sigmas: Sequence[float], options: dict) -> Tensor:
    for level, a, b in _ends(sigmas):
        slope = -a * _score(network, x, level)
        after = x + (b - a) * slope
        x = x + (b - a) / 2 * (slope - b * _score(network, after, level + 1)) if b else after
    return x


PLAIN = {
    "annealed": annealed,
    "dpm_sde": dpm,
    "dpm": dpm,
    "ddim": ddim,
    "ancestral": ancestral,
    "reverse_sde": reverse_sde,
    "heun": heun,
    "pc": pc,
}
TIMED = [name for name in SAMPLERS if name not in ("adaptive_ode", "gotta_go_fast")]


@dataclass
class Draw:
    """A draw by ``sampler``, and one evaluation of the network alone, by each provider."""

    sampler: str
    evaluations: int
    images: int
    draws: dict[str, Callable[[], Tensor]]
    forwards: dict[str, Callable[[], Tensor]]


def draw_of(sampler: str, device: str = "cpu", images: int = 250, **changes: object) -> Draw:
    """The case of a sampler; ``changes`` are of the preset `digits`."""
    config, on = config_of("NCSN", "digits", **changes), torch.device(device)
    data, sigmas = images_of(config, "digits"), make_sigmas(config)
    options, shape = options_of(config, sampler, GIVEN.get(sampler, {})), (images, *data.shape)
    ours = for_sampling(placed(make_model(config, data.shape).eval().requires_grad_(False), on), "fp32")
    x, labels = torch.rand(shape, device=on), torch.zeros(images, dtype=torch.int64, device=on)
    one_level = ours.at_level(0)  # type: ignore[operator]  # NCSN has it
    case = Draw(
        sampler,
        SAMPLERS[sampler].evaluations(len(sigmas), options),
        images,
        {"fastscore": lambda: draw(config, ours, shape, fs.Philox(0), device=on, sampler=sampler, given=options)},
        {"fastscore": lambda: one_level(x)},
    )
    if sampler in PLAIN:
        plain, levels = plain_network(config, data, on).eval(), sigmas.tolist()
        mean = fs.data.to_float(data.images).mean(0).to(on)

        def drawn() -> Tensor:
            uniform = options["start"] == "uniform"
            start = torch.rand(shape, device=on) if uniform else mean + levels[0] * torch.randn(shape, device=on)
            return PLAIN[sampler](plain, start, levels, options).clamp(0, 1)

        case.draws["plain"], case.forwards["plain"] = drawn, lambda: plain(x, labels)
    return case


def measure(case: Draw, device: str, rounds: int) -> dict:
    """A row: in each round every provider draws once, and evaluates its network once.

    {"sampler", "evaluations", "images", "rounds"} and for each provider "seconds" (of a draw), "times_plain" (the plain one's
    over this, within a round; both p20, p50, p80) and "network" (the share of a draw that its evaluations take).
    """
    draws: dict[str, list[float]] = {name: [] for name in case.draws}
    forwards: dict[str, list[float]] = {name: [] for name in case.draws}
    with torch.no_grad(), acceleration.tf32(False):
        for name in case.draws:  # graphs and buffers are made, convolutions chosen
            case.forwards[name]()
        for _ in range(rounds):
            for name, work in case.draws.items():
                draws[name].append(_seconds(work, device))
                forwards[name].append(_seconds(case.forwards[name], device))
    made: dict = {"sampler": case.sampler, "evaluations": case.evaluations, "images": case.images, "rounds": rounds}
    for name, seconds in draws.items():
        share = case.evaluations * statistics.median(forwards[name]) / statistics.median(seconds)
        made[name] = {"seconds": quantiles(seconds), "network": min(1.0, share)}
        if "plain" in draws:
            made[name]["times_plain"] = quantiles([p / t for p, t in zip(draws["plain"], seconds)])
    return made


def _seconds(work: Callable[[], Tensor], device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


HEADS = ("sampler", "evaluations", "by", "seconds", "ms an evaluation", "images/s", "x plain", "network")


def cells(row: dict) -> list[list[str]]:
    """A line of the table for each provider of a row."""
    return [
        [
            row["sampler"],
            str(row["evaluations"]),
            name,
            f"{own['seconds'][1]:.2f}",
            f"{1e3 * own['seconds'][1] / row['evaluations']:.1f}",
            f"{row['images'] / own['seconds'][1]:.1f}",
            f"{own['times_plain'][1]:.2f}x" if "times_plain" in own else "-",
            f"{100 * own['network']:.0f} %",
        ]
        for name, own in row.items()
        if isinstance(own, dict)
    ]
