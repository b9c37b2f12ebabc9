"""``pytest benchmarks --benchmark-only -k training``: an iteration of training, by fastscore and by the plain network.

A few rounds, one provider after the other; ``python benchmarks/report_networks.py`` times them in turns.
"""

import dataclasses

import pytest
import torch

from .bench_ops import DEVICES, skip_without
from .measure import synchronize
from .network_table import profiled
from .networks import NETWORKS, PROVIDERS, SIZES, TRAINING, cases, offered


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "compile"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", DEVICES)
def test_training(benchmark, device, size, network, provider):
    skip_without(device)
    time_one(benchmark, device, (TRAINING, network, size), provider)


def time_one(benchmark, device, name, provider):
    if provider not in offered(*name, device):
        pytest.skip(f"{provider} is not timed of this on {device}")
    (case,) = cases(device, only=[name], providers=[provider])
    about = {field.name: getattr(case, field.name) for field in dataclasses.fields(case) if field.name != "providers"}
    benchmark.group = f"{', '.join(name)}, {device}"
    work = case.providers[provider]

    def run():
        work()
        synchronize(device)

    benchmark.extra_info.update(
        about, provider=provider, device=device, threads=torch.get_num_threads(), torch=torch.__version__
    )
    benchmark.pedantic(
        run, warmup_rounds=1 if device == "cpu" else 5, rounds=3 if case.size == "digits" else 2, iterations=1
    )
    if benchmark.enabled:
        benchmark.extra_info["profile"] = profiled(work, device)
