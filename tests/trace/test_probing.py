"""Coloured probes: what they leave of the variance, and when they are exact."""

import pytest
import torch

import fastscore as fs
from fastscore.trace import lattice

from .cases import linear, matrix, seeds, symmetric, trace_of, z_of

N = 20_000


def left_over(a, color):
    """4 sum S_ij^2 over pairs i < j of one colour."""
    s, same = symmetric(a), color.flatten()[:, None] == color.flatten()
    return 2 * ((s * same).square().sum() - s.diagonal().square().sum())


def circulant(d, r, seed=0):
    """A [D, D] with A_ij = 0 beyond a distance r around the circle."""
    a, i = matrix(d, d, seed=seed), torch.arange(d)
    distance = (i[:, None] - i).abs()
    return a * (torch.minimum(distance, d - distance) <= r)


@pytest.mark.parametrize("d, r", [(12, 2), (20, 3), (24, 5)])
def test_a_band_is_exact_at_period_r_plus_1_and_has_the_predicted_variance_at_r(d, r):
    a = circulant(d, r)
    exact = seeds(a, 3, "probing", num_probes=2 * (r + 1))
    torch.testing.assert_close(exact.value, trace_of(a).expand(3), rtol=1e-12, atol=1e-12)
    assert exact.stderr.max() < 1e-12
    less = seeds(a, N, "probing", num_probes=2 * r)
    expected = left_over(a, torch.arange(d) % r) / 2
    assert expected > 0.1
    assert abs(z_of(less.value, trace_of(a))) < 4
    assert abs(z_of((less.value - trace_of(a)).square(), expected)) < 4


@pytest.mark.parametrize("shape, m", [((4, 5), 4), ((3, 4, 4), 4), ((3, 4, 4), 6), ((2, 2, 3, 4), 8)])
def test_mean_and_variance_of_the_lattice(shape, m):
    size = torch.Size(shape).numel()
    a = matrix(size, size)
    t = seeds(a, N, "probing", shape=shape, num_probes=2 * m)
    assert abs(z_of(t.value, trace_of(a))) < 4
    expected = left_over(a, lattice(shape, m).of(shape)) / 2
    assert abs(z_of((t.value - trace_of(a)).square(), expected)) < 4
    assert t.evaluations == 2 * m + 1


def test_one_colour_is_rademacher():
    a = matrix(9, 9)
    plain, probing = (seeds(a, 4, method, num_probes=6, blocks=6) for method in ("rademacher", "probing"))
    torch.testing.assert_close(plain.value, probing.value)
    torch.testing.assert_close(plain.stderr, probing.stderr)


def test_as_many_colours_as_elements_is_exact():
    a = matrix(12, 12)
    t = seeds(a, 3, "probing", shape=(3, 4), num_probes=12, blocks=1)
    torch.testing.assert_close(t.value, trace_of(a).expand(3))
    assert t.stderr.isnan().all()


def test_value_and_error_come_from_the_blocks():
    """The estimate of 3 blocks written out: sum over colours, mean and standard error over blocks."""
    a, x = matrix(2, 16, 16), torch.zeros(2, 4, 4, dtype=torch.float64)
    t = fs.jacobian_trace(linear(a), x, method="probing", num_probes=12, blocks=3, rng=fs.Philox(2))
    v = fs.fill_probes(fs.Probes(x, 12, fs.Philox(2), coloring=lattice((4, 4), 4))).flatten(2)
    each = torch.einsum("kbi,bij,kbj->kb", v, a, v).reshape(3, 4, 2).sum(1)
    torch.testing.assert_close(t.value, each.mean(0))
    torch.testing.assert_close(t.stderr, each.var(0).div(3).sqrt())


def test_a_colouring_of_ones_own():
    """Stripes: a matrix that couples rows alone is exact where rows have different colours."""
    a = torch.kron(matrix(4, 4), torch.eye(5, dtype=torch.float64))
    stripes = fs.Coloring(4, width=5, height=4, a=0, b=1)
    t = seeds(a, 3, "probing", shape=(4, 5), num_probes=4, blocks=1, coloring=stripes)
    torch.testing.assert_close(t.value, trace_of(a).expand(3))
    assert (seeds(a, 3, "probing", shape=(4, 5), num_probes=4, blocks=1).value - trace_of(a)).abs().min() > 1e-3


def test_it_wins_where_coupling_falls_off_with_distance():
    """exp(-distance) on 8 x 8: a third of Rademacher's error at 16 products or less."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    place = torch.stack([y, x], -1).reshape(64, 2).double()
    a = torch.exp(-torch.cdist(place, place)) * matrix(64, 64).sign()
    plain, probing = (
        seeds(a, 2000, method, shape=(8, 8), num_probes=16, blocks=1).value - trace_of(a)
        for method in ("rademacher", "probing")
    )
    assert probing.std() < plain.std() / 3
