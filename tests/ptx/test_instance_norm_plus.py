"""The kernels of instance_norm_plus as PTX where a sample has several programs: values, bits and bytes moved.

The table in test_kernels.py has small samples, each of which has one.
"""

import pytest
import torch

from tests.kernels.test_instance_norm_plus import check, given, run, share


@pytest.mark.parametrize("last", [False, True], ids=["planes", "last"])
@pytest.mark.parametrize(
    "how, shape, dtype, activation",
    [
        ("tiles", (2, 9, 12, 12), torch.float32, 1),
        ("tiles", (2, 16, 8, 8), torch.bfloat16, 0),
        ("chunks", (2, 16, 8, 8), torch.float32, 0),
        ("chunks", (1, 3, 5, 47), torch.float16, 1),
        ("steps", (2, 9, 12, 12), torch.float32, 1),
        ("steps", (1, 5, 33), torch.float64, 1),
    ],
    ids=str,
)
def test_values_and_bits(monkeypatch, on_ptx, how, shape, dtype, activation, last):
    """Within the interpreter's bound, and the same in a second run: no sum is in an order of chance."""
    share(monkeypatch, how)
    arguments = given(shape, dtype, last, activation == 1)
    check(*arguments, activation=activation)
    kernels = {name for name, kernel in on_ptx.items() if kernel.results}
    assert {"instance_norm_plus_statistics", "instance_norm_plus_gradient_sums"} < kernels
    first, second = (run(*arguments, activation=activation) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "shape, last, forward, backward",
    [
        ((1, 32, 32, 32), False, 12.1, 20.2),  # x twice, out; x and upstream twice, to_x
        ((1, 32, 32, 32), True, 12.3, 20.5),  # partial results of every 128 pixels
        ((2, 16, 16, 16), False, 8.2, 12.3),  # a sample in one program: each once
        ((2, 16, 16, 16), True, 8.2, 12.3),
    ],
    ids=str,
)
def test_bytes(on_ptx, shape, last, forward, backward):
    """What a whole call moves, with what [B, C] takes; a wide access serves four elements; no warp parts."""
    arguments, elements = given(shape, torch.float32, last, False), torch.Size(shape).numel()
    run(*arguments, activation=1)
    moved = {False: 0.0, True: 0.0}
    shift_again = on_ptx["instance_norm_plus_scale_shift"].results[1:]  # the second launch is the gradient's
    for name, kernel in on_ptx.items():
        for counters in kernel.results:
            gradient = "gradient" in name or counters in shift_again
            moved[gradient] += counters.footprint / elements
            counts = counters.an_element(elements)
            assert counts["divergent_share"] < 0.1 and counts["bank_conflicts"] < 0.01, name
            assert counts["global load"] <= 2 and counts["global store"] < 0.3, name
    assert moved[False] <= forward and moved[True] <= backward, moved
