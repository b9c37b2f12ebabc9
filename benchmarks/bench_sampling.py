"""``pytest benchmarks --benchmark-only -k sampling``: a step of the sampler, and the forward pass alone, by fastscore and
by the plain network.

A few rounds, one provider after the other; ``python benchmarks/report_networks.py`` times them in turns.
"""

import pytest

from .bench_ops import DEVICES, skip_without
from .bench_training import time_one
from .networks import FORWARD, NETWORKS, PROVIDERS, SAMPLING, SIZES


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "compile"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("work", [pytest.param(work, id=work.split()[0]) for work in (SAMPLING, FORWARD)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", DEVICES)
def test_sampling(benchmark, device, size, work, network, provider):
    skip_without(device)
    time_one(benchmark, device, (work, network, size), provider)
