"""``pytest benchmarks --benchmark-only``: every operator, shape and provider, by pytest-benchmark; ``-k`` selects.

``conftest.py`` ends the session with one table of what was selected. The committed tables come from
``python benchmarks/report.py``, which times the providers in turns.
"""

import pytest
import torch

from .measure import backend_of, extra_memory, synchronize
from .operators import PROVIDERS, cases, names

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("shape, operator", [pytest.param(*name, id="-".join(name)) for name in names()])
@pytest.mark.parametrize("device", DEVICES)
def test_operator(benchmark, device, shape, operator, provider):
    skip_without(device)
    (case,) = cases(device, only=[(shape, operator)], compile=provider == "compile")
    time(benchmark, device, provider, case)


def skip_without(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def time(benchmark, device, provider, case):
    benchmark.group = f"{case.operator}, {case.shape}, {device}"
    work = case.providers[provider]

    def run():
        work()
        synchronize(device)

    served = {"fastscore": lambda: backend_of(work), "compile": lambda: "torch.compile"}.get(provider, lambda: "torch")
    benchmark.extra_info.update(
        operator=case.operator,
        shape=case.shape,
        device=device,
        provider=provider,
        elements=case.elements,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        backend=served(),
    )
    benchmark.pedantic(run, warmup_rounds=3, rounds=15, iterations=1 if case.elements > 10_000 else 100)
    if benchmark.enabled and provider != "floor":
        benchmark.extra_info["extra_tensors"] = extra_memory(work, device) / (4 * case.elements)
