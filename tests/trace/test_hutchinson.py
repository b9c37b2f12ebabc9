"""Plain probes: mean and variance of each distribution by formula, and what is exact at one probe."""

import pytest
import torch

import fastscore as fs

from .cases import Mixture, linear, matrix, seeds, symmetric, trace_of, z_of

N = 20_000


def variance(method, a):
    s, d = symmetric(a), a.shape[0]
    square = s.square().sum()
    return {
        "rademacher": 2 * (square - s.diagonal().square().sum()),
        "gaussian": 2 * square,
        "sphere": 2 * d / (d + 2) * (square - trace_of(a) ** 2 / d),
    }[method]


@pytest.mark.parametrize("method", ["rademacher", "gaussian", "sphere"])
@pytest.mark.parametrize("d", [2, 7, 30])
def test_mean_and_variance_are_the_formulas(method, d):
    a = matrix(d, d, seed=d) - 3 * torch.eye(d, dtype=torch.float64)
    t = seeds(a, N, method, num_probes=2)
    assert abs(z_of(t.value, trace_of(a))) < 4
    assert abs(z_of((t.value - trace_of(a)).square(), variance(method, a) / 2)) < 4
    assert t.evaluations == 3


def test_rademacher_variance_is_the_sum_over_pairs():
    a = matrix(6, 6)
    pairs = sum((a[i, j] + a[j, i]) ** 2 for i in range(6) for j in range(i))
    torch.testing.assert_close(variance("rademacher", a), pairs)


def test_what_is_exact_at_one_probe():
    diagonal = torch.diag(matrix(9))
    t = seeds(diagonal, 5, "rademacher", num_probes=1)
    torch.testing.assert_close(t.value, trace_of(diagonal).expand(5))
    identity = -4 * torch.eye(9, dtype=torch.float64)
    t = seeds(identity, 5, "sphere", num_probes=1)
    torch.testing.assert_close(t.value, trace_of(identity).expand(5))
    assert seeds(identity, 5, "gaussian", num_probes=1).value.std() > 1


@pytest.mark.parametrize("method", ["rademacher", "gaussian", "sphere", "probing"])
def test_antisymmetric_is_zero(method):
    a = matrix(12, 12)
    assert seeds(a - a.T, 5, method, num_probes=4, mode="jvp").value.abs().max() < 1e-12


@pytest.mark.parametrize("method", ["rademacher", "gaussian", "sphere", "probing", "hutchpp", "xtrace"])
def test_error_bars_are_honest(method):
    """Over 2,000 seeds: mean stderr^2 is the variance of the values, and z-scores have the t distribution's spread."""
    a = matrix(80, 80)
    for blocks, within in ((2, 1.0), (8, 0.711)):  # half of a t-variable of 1 and of 7 degrees lies within
        n = blocks * 6
        options = {"num_probes": blocks if method in ("rademacher", "gaussian", "sphere") else n, "blocks": blocks}
        t = seeds(a, 2000, method, seed=blocks, **options)
        error = t.value - trace_of(a)
        assert abs(z_of(t.stderr.square() - error.square(), 0)) < 4
        share = (error.abs() / t.stderr < within).double().mean()
        assert abs(share - 0.5) < 4 * (0.25 / 2000) ** 0.5


def test_each_sample_has_its_own_jacobian():
    """A_b differ: nothing of one sample reaches another. Permuting the batch permutes exact traces."""
    a, x = matrix(6, 5, 5), matrix(6, 5, seed=1)
    exact = fs.jacobian_trace(linear(a), x, method="exact").value
    torch.testing.assert_close(exact, trace_of(a))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(fs.jacobian_trace(linear(a[order]), x[order], method="exact").value, exact[order])
    t = fs.jacobian_trace(linear(a * torch.eye(5)), x, num_probes=1, rng=fs.Philox(0))
    torch.testing.assert_close(t.value, trace_of(a))


def test_each_sample_has_probes_of_its_own():
    t = seeds(matrix(8, 8), 50, "rademacher", num_probes=1)
    assert t.value.unique().numel() > 25


def test_of_a_gradient_it_is_the_laplacian():
    """f = grad of (x^T S x / 2 + sum x^4): tr = tr S + 12 sum x^2, and without S exact at one probe."""
    s, x = symmetric(matrix(5, 5)), matrix(4, 5, seed=1)

    def energy(y):
        return (y * (y @ s)).sum() / 2 + y.pow(4).sum()

    expected = trace_of(s) + 12 * x.square().sum(1)
    torch.testing.assert_close(fs.jacobian_trace(torch.func.grad(energy), x, method="exact").value, expected)
    many = fs.jacobian_trace(torch.func.grad(energy), x, method="rademacher", num_probes=4000, rng=fs.Philox(0))
    assert ((many.value - expected) / many.stderr).abs().max() < 4


def test_mixture_score():
    """-D / sigma^2 + tr Cov(centre | x) / sigma^4."""
    score = Mixture(matrix(4, 30), 2.0)
    x = score.centres[torch.tensor([0, 1, 2, 3, 0])] + 2.0 * matrix(5, 30, seed=1)
    expected = score.trace(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(fs.jacobian_trace(score, x, method="exact").value, expected)
    for method, options in (("xtrace", {"num_probes": 8}), ("hutchpp", {"num_probes": 9})):  # rank 3 after the shift
        got = fs.jacobian_trace(score, x, method=method, blocks=1, shift=4.0, rng=fs.Philox(0), **options).value
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    for method in ("rademacher", "gaussian", "sphere"):
        t = fs.jacobian_trace(score, x, method=method, num_probes=1000, rng=fs.Philox(0))
        assert ((t.value - expected) / t.stderr).abs().max() < 4


def test_batch_split():
    a, x = matrix(8, 20, 20), matrix(8, 20, seed=1)
    for method in ("rademacher", "gaussian", "sphere", "probing"):
        whole = fs.jacobian_trace(linear(a), x, method=method, rng=fs.Philox(5))
        for k in (0, 4):
            part = fs.jacobian_trace(
                linear(a[k : k + 4]), x[k : k + 4], method=method, rng=fs.Philox(5, sample_offset=k)
            )
            torch.testing.assert_close(part.value, whole.value[k : k + 4], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(part.stderr, whole.stderr[k : k + 4], rtol=1e-10, atol=1e-12)
