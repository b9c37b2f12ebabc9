"""Stein's identity and the kernel Stein discrepancy, by the rates at which its test rejects."""

import pytest
import torch

import fastscore as fs
from fastscore import diagnostics
from fastscore.diagnostics import kernel_stein_discrepancy


def test_the_residual_of_a_gaussian():
    """Of N(0, I) and the score -a x + b: I - a I, and b changes nothing about the mean."""
    x = fs.Philox(0).randn(20_000, 3, dtype=torch.float64) + 5
    exact = diagnostics.stein_residual(lambda x: 5 - x, x)
    assert exact.norm < 2 * exact.noise < 0.05 and bool((exact.matrix.abs() < 4.5 * exact.stderr).all())
    wrong = diagnostics.stein_residual(lambda x: 0.7 * (6 - x), x)
    assert torch.allclose(wrong.matrix, 0.3 * torch.eye(3, dtype=torch.float64), atol=0.03)
    assert wrong.norm == pytest.approx(0.3, abs=0.02) and diagnostics.stein_residual(torch.zeros_like, x).norm == 1
    around = diagnostics.stein_residual(lambda x: 5 - x, x, mean=0.0)
    assert around.noise > 3 * exact.noise and around.norm < 2 * around.noise  # what centring takes away
    spread = diagnostics.stein_residual(lambda x: 5 - x, x.reshape(200, 100, 3)[:, 0], mean=5.0)
    assert torch.allclose(spread.stderr.diagonal(), torch.tensor((2 / 200) ** 0.5).double(), rtol=0.35)


def test_the_kernel_is_that_of_the_definition():
    """u(x, y) by autograd of k, and both statistics as means of it."""
    x = fs.Philox(1).randn(6, 3, dtype=torch.float64)
    score = lambda x: -x * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)  # noqa: E731
    c, beta = 1.3, -0.4

    def k(a, b):
        return (c**2 + (a - b).square().sum()) ** beta

    def u(a, b):
        ga, gb = torch.func.grad(k, 0)(a, b), torch.func.grad(k, 1)(a, b)
        trace = torch.func.jacfwd(torch.func.grad(k, 0), 1)(a, b).trace()
        return score(a) @ score(b) * k(a, b) + score(a) @ gb + score(b) @ ga + trace

    pairs = torch.stack([torch.stack([u(a, b) for b in x]) for a in x])
    how = {"bandwidth": c, "beta": beta, "num_bootstrap": 5, "rng": fs.Philox(0)}
    assert float(kernel_stein_discrepancy(score, x, statistic="v", **how).statistic) == pytest.approx(
        float(pairs.mean())
    )
    off = (pairs.sum() - pairs.trace()) / 30
    assert float(kernel_stein_discrepancy(score, x, **how).statistic) == pytest.approx(float(off))


@pytest.mark.parametrize("statistic", ["u", "v"])
def test_the_rates_at_which_it_rejects(statistic):
    """200 sets of 100 points: at 5 % an exact Gaussian is rejected in 5 %, +- 3 standard deviations of 200 draws; one that is
    shifted by half its spread in more than 95 %."""
    x = fs.Philox(2).randn(200, 100, 2)
    how = {"statistic": statistic, "num_bootstrap": 199, "rng": fs.Philox(3)}
    exact = kernel_stein_discrepancy(lambda x: -x, x, **how)
    share = float((exact.p_value <= 0.05).double().mean())
    assert abs(share - 0.05) < 3 * (0.05 * 0.95 / 200) ** 0.5
    assert float((kernel_stein_discrepancy(lambda x: 0.5 - x, x, **how).p_value <= 0.05).double().mean()) > 0.95
    if statistic == "u":  # whose expectation is 0
        assert abs(float(exact.statistic.mean())) < 3 * float(exact.statistic.std()) / 200**0.5


def test_dependent_samples_need_fewer_changes_of_sign():
    """Of a chain with autocorrelation 0.8 independent signs reject far too often; slow ones much less."""
    z = fs.Philox(4).randn(100, 150, 1)
    x = [z[:, 0]]
    for t in range(1, 150):
        x.append(0.8 * x[-1] + 0.6 * z[:, t])
    x = torch.stack(x, 1)
    rates = [
        float(
            (
                kernel_stein_discrepancy(
                    lambda x: -x, x, statistic="v", change=a, num_bootstrap=99, rng=fs.Philox(5)
                ).p_value
                <= 0.05
            )
            .double()
            .mean()
        )
        for a in (0.5, 0.05)
    ]
    assert rates[0] > 0.3 and rates[1] < 0.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(1, 2)}, "N at least 2"),
        ({"x": torch.zeros(9, 2)}, "bandwidth must be given"),
        ({"bandwidth": 0.0}, "bandwidth must be finite and greater than 0"),
        ({"beta": -1.5}, "beta must be from -1 to 0"),
        ({"statistic": "w"}, "statistic must be one of"),
        ({"change": 0.6}, "change must be at most 0.5"),
    ],
)
def test_bad_input_is_named(change, words):
    given = {"x": torch.rand(9, 2)} | change
    with pytest.raises(ValueError, match=words):
        kernel_stein_discrepancy(lambda x: -x, **given)
    with pytest.raises(ValueError, match="at least 2 samples"):
        diagnostics.stein_residual(lambda x: -x, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="mean must be a number or have a sample's shape"):  # not one a sample
        diagnostics.stein_residual(lambda x: -x, torch.rand(3, 3), mean=torch.rand(3, 1))
