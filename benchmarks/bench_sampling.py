"""``pytest benchmarks --benchmark-only -k sampling``: a step of the sampler, and the forward pass alone, by fastscore and
by the plain network; ``-k solver``: a draw by each sampler.

A few rounds, one provider after the other; ``python benchmarks/report_networks.py`` and ``report_solvers.py`` time them in turns.
"""

import pytest
import torch

from .bench_ops import DEVICES, skip_without
from .bench_training import time_one
from .measure import synchronize
from .networks import FORWARD, NETWORKS, PROVIDERS, SAMPLING, SIZES
from .solvers import PLAIN, TIMED, draw_of


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "compile"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("work", [pytest.param(work, id=work.split()[0]) for work in (SAMPLING, FORWARD)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", DEVICES)
def test_sampling(benchmark, device, size, work, network, provider):
    skip_without(device)
    time_one(benchmark, device, (work, network, size), provider)


@pytest.mark.parametrize("provider", ["fastscore", "plain"])
@pytest.mark.parametrize("sampler", TIMED)
@pytest.mark.parametrize("device", DEVICES)
def test_solver(benchmark, device, sampler, provider):
    skip_without(device)
    if provider == "plain" and sampler not in PLAIN:
        pytest.skip(f"{sampler} has no plain lines")
    case = draw_of(sampler, device, images=16)

    @torch.no_grad()
    def run():
        case.draws[provider]()
        synchronize(device)

    benchmark.group = f"{sampler}, {case.evaluations} evaluations, {case.images} digits, {device}"
    benchmark.extra_info.update(
        sampler=sampler, provider=provider, device=device, evaluations=case.evaluations, images=case.images
    )
    benchmark.pedantic(run, warmup_rounds=1, rounds=2, iterations=1)
