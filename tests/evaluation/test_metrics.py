"""fastscore.evaluation.metrics: every number against an exact formula, a naive twin or an independent library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from fastscore.evaluation import metrics
from fastscore.evaluation.metrics import _rows, neighbours
from fastscore.rng import Philox


def randn(*shape, seed=0, dtype=torch.float64):
    return Philox(seed=seed).randn(*shape, dtype=dtype)


def digits():
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data / 16)


def spd(width, seed):
    x = randn(2 * width, width, seed=seed)
    return x.T @ x / len(x)


# --- Frechet ---


def test_gaussian_is_numpys_mean_and_covariance():
    x = randn(50, 4) * torch.tensor([1.0, 3.0, 0.1, 0.0]) + 1e6  # a large mean: one-pass formulas lose 1e-4
    mean, covariance = metrics.gaussian(x)
    assert mean.dtype == covariance.dtype == torch.float64
    torch.testing.assert_close(mean, torch.from_numpy(np.mean(x.numpy(), 0)), rtol=1e-14, atol=0)
    expected = torch.from_numpy(np.cov(x.numpy(), rowvar=False))
    torch.testing.assert_close(covariance, expected, rtol=1e-7, atol=1e-9)


def test_frechet_distance_of_commuting_gaussians_is_exact():
    """Diagonal covariances: ||dm||^2 + sum (sqrt(s) - sqrt(t))^2; the roots here are whole numbers."""
    a = metrics.Gaussian(torch.tensor([0.0, 1.0, 2.0]), torch.diag(torch.tensor([1.0, 4.0, 0.0])))
    b = metrics.Gaussian(torch.tensor([3.0, 1.0, 2.0]), torch.diag(torch.tensor([9.0, 0.0, 16.0])))
    assert metrics.gaussian_distance(a, b) == pytest.approx(9 + 4 + 4 + 16, rel=1e-14)


def test_frechet_distance_of_gaussians_that_do_not_commute_equals_scipy_sqrtm():
    a = metrics.Gaussian(randn(6, seed=1), spd(6, 2))
    b = metrics.Gaussian(randn(6, seed=3), spd(6, 4))
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    expected = float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace())
    expected -= 2 * np.trace(root).real
    assert metrics.gaussian_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert not torch.allclose(a.covariance @ b.covariance, b.covariance @ a.covariance, atol=1e-3)


def test_frechet_distance_of_large_samples_is_that_of_their_gaussians():
    """N(0, I) and N(m, 4 I) in 3 dimensions: ||m||^2 + 3 (1 - 2)^2, to 4 standard errors."""
    n, shift = 20_000, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    value = metrics.frechet_distance(randn(n, 3, seed=5), 2 * randn(n, 3, seed=6) + shift)
    variance = 4 * float(shift.square().sum()) * (1 + 4) / n  # of the means' part: 2 m . (error of m)
    variance += 3 * (2 * 1) ** 2 / (2 * n) + 3 * (2 * 2) ** 2 / (2 * n)  # 2 (s - t) (error of s)
    assert abs(value - (float(shift.square().sum()) + 3)) < 4 * math.sqrt(variance)


@pytest.mark.parametrize("rows", [(40, 60), (40, 4), (3, 60), (3, 4)])
def test_frechet_distance_by_factors_is_that_of_the_covariances(rows):
    """Of sets with more vectors than their 7 dimensions, and with fewer."""
    a, b = randn(rows[0], 7, seed=7), randn(rows[1], 7, seed=8) @ spd(7, 9) + 1
    expected = metrics.gaussian_distance(metrics.gaussian(a), metrics.gaussian(b))
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    kept = metrics.gaussian_factor(a)
    assert kept.factor.shape == (min(rows[0], 7), 7)
    torch.testing.assert_close(kept.factor.T @ kept.factor, metrics.gaussian(a).covariance, rtol=1e-12, atol=1e-12)
    for given in ((kept, b), (a, metrics.gaussian_factor(b)), (kept, metrics.gaussian_factor(b))):
        assert metrics.frechet_distance(*given) == metrics.frechet_distance(a, b)
    with pytest.raises(ValueError, match="a and b must be of one width"):
        metrics.frechet_distance(kept, b[:, :6])


def test_frechet_distance_laws():
    a, b = randn(40, 5, seed=7), randn(60, 5, seed=8) @ spd(5, 9) + 1
    value = metrics.frechet_distance(a, b)
    rotation = torch.linalg.qr(randn(5, 5, seed=10)).Q
    assert metrics.frechet_distance(b, a) == pytest.approx(value, rel=1e-13)  # symmetric
    assert metrics.frechet_distance(a @ rotation - 3, b @ rotation - 3) == pytest.approx(value, rel=1e-11)
    assert metrics.frechet_distance(3 * a, 3 * b) == pytest.approx(9 * value, rel=1e-12)
    assert metrics.frechet_distance(a, a + 2) == pytest.approx(4 * 5, rel=1e-12)
    assert metrics.frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-13)
    assert metrics.frechet_distance(a.float(), b.float()) == pytest.approx(value, rel=1e-5)
    half = metrics.frechet_distance(a.half(), b.half())
    assert half == metrics.frechet_distance(a.half().double(), b.half().double())


def test_frechet_distance_without_full_rank():
    """Digits have constant columns; 100 vectors in 300 dimensions have rank 99."""
    x = digits()
    assert int((x.std(0) == 0).sum()) >= 3
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-13)
    few = randn(100, 300, seed=11)
    assert metrics.frechet_distance(few, few) == pytest.approx(0, abs=1e-11)
    # sets in orthogonal subspaces: S_a S_b = 0, so the distance is the sum of the traces (and of the means')
    basis = torch.linalg.qr(randn(40, 40, seed=14)).Q  # so that the zero eigenvalues come with rounding
    a, b = randn(30, 5, seed=12) @ basis[:5], randn(30, 5, seed=13) @ basis[5:10]
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum()
    assert metrics.frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-12)
    # rounding never makes it negative
    assert min(metrics.frechet_distance(x, x) for x in (randn(9, 4, seed=seed) for seed in range(20))) >= 0
    # adding constant columns changes nothing
    a, b = randn(40, 5, seed=7), randn(60, 5, seed=8)
    ones = torch.ones(60, 9)
    padded = metrics.frechet_distance(torch.cat([a, ones[:40]], 1), torch.cat([b, ones], 1))
    assert padded == pytest.approx(metrics.frechet_distance(a, b), rel=1e-12)


def test_moments_are_those_of_any_blocks(monkeypatch):
    x = randn(50, 4, seed=15, dtype=torch.float32) + 100
    whole = metrics.gaussian(x)
    monkeypatch.setattr(_rows, "_BLOCK", 7 * 4)  # seven rows in a block, the last one short
    assert [len(block) for block in _rows.blocks(x)] == [7] * 7 + [1]
    for found, expected in zip(metrics.gaussian(x), whole):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match=r"b must be finite.*in 2 of 50 rows"):  # of different blocks
        metrics.frechet_distance(x, x.index_fill(0, torch.tensor([3, 40]), math.nan))


def test_nothing_that_is_given_is_written_to():
    x, y = randn(30, 3, seed=16), randn(20, 3, seed=17)
    kept = x.clone(), y.clone()
    metrics.frechet_distance(x, y)
    metrics.precision_recall(x, y)
    metrics.kernel_distance(x, y, subset_size=20)
    metrics.nearest_neighbours(x, y)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])


@pytest.mark.parametrize(
    "a, b, kind, text",
    [
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2), TypeError, "a must be float16.*int64"),
        (torch.zeros(1, 2), torch.zeros(3, 2), ValueError, r"a must be \[N, D\] with N >= 2.*\(1, 2\)"),
        (torch.zeros(3, 2, 2), torch.zeros(3, 2), ValueError, r"a must be \[N, D\].*\(3, 2, 2\)"),
        (torch.zeros(3, 2), torch.zeros(3, 4), ValueError, r"b must have the width 2.*of a, got.*\(3, 4\)"),
        (torch.zeros(3, 2), torch.tensor([[0.0, math.nan], [1, 1]]), ValueError, "b must be finite.*in 1 of 2"),
        ([[1.0]], torch.zeros(3, 2), TypeError, "a must be a torch.Tensor"),
    ],
)
def test_frechet_distance_refuses(a, b, kind, text):
    with pytest.raises(kind, match=text):
        metrics.frechet_distance(a, b)


def test_gaussian_distance_refuses_shapes_that_do_not_agree():
    zero, one = torch.zeros(2), torch.eye(2)
    good = metrics.Gaussian(zero, one)
    for bad in ((torch.zeros(3), torch.eye(3)), (zero, zero), (zero, math.nan * one), (math.inf + zero, one)):
        with pytest.raises(ValueError, match="b must have finite mean"):
            metrics.gaussian_distance(good, metrics.Gaussian(*bad))


# --- kernel ---


def naive_kernel_distance(x, y):
    """The definition, one pair after another."""

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    m = len(x)
    within = sum(k(z[i], z[j]) for z in (x, y) for i in range(m) for j in range(m) if i != j)
    return within / (m * (m - 1)) - 2 * sum(k(a, b) for a in x for b in y) / m**2


def test_kernel_distance_by_hand():
    """k(x, y) = (xy + 1)^3: 1 within {0, 1}, 343 within {2, 3}, and 1, 1, 27, 64 between."""
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert metrics.kernel_distance(real, fake, subset_size=2) == (1 + 343 - 2 * 93 / 4, 0.0)
    assert metrics.kernel_distance(fake, real, subset_size=2, subsets=3).mean == 297.5
    # in two dimensions the product is halved: k = (1/2 + 1)^3 within, 1 between
    x, y = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [0, 1]])
    assert metrics.kernel_distance(x, y, subset_size=2).mean == 2 * 1.5**3 - 2


def test_kernel_distance_is_the_definition_on_each_subset():
    real, fake = randn(9, 3, seed=1), randn(7, 3, seed=2) + 0.5
    whole = metrics.kernel_distance(fake, real[:7], subsets=1, subset_size=7)
    assert whole.mean == pytest.approx(naive_kernel_distance(fake, real[:7]), rel=1e-12) and whole.std == 0
    rng, each = Philox(3), []
    for _ in range(4):
        rows = [rng.permutation(len(z))[:5] for z in (real, fake)]
        each.append(naive_kernel_distance(real[rows[0]], fake[rows[1]]))
    found = metrics.kernel_distance(real, fake, subsets=4, subset_size=5, rng=Philox(3))
    assert found == pytest.approx((np.mean(each), np.std(each)), rel=1e-12)
    assert rng.step == 8  # of two steps for a subset
    assert metrics.kernel_distance(real, fake, subset_size=5) == metrics.kernel_distance(
        real, fake, subset_size=5, rng=Philox(0)
    )
    assert metrics.kernel_distance(real.float(), fake.float(), subset_size=5).mean == pytest.approx(
        metrics.kernel_distance(real, fake, subset_size=5).mean, rel=1e-5
    )


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_kernel_distance_has_no_bias(shift):
    """N(0, 1) and N(s, 1), 6 of each in 1,000 sets. With m = 1 + s^2:

    E k is 4 of the first, (s^3 + 3s)^2 + 3 m^2 + 3 s^2 + 1 of the second and 3 m + 1 between.
    """
    m = 1 + shift**2
    exact = 4 + (shift**3 + 3 * shift) ** 2 + 3 * m**2 + 3 * shift**2 + 1 - 2 * (3 * m + 1)
    x, y = randn(1000, 6, 1, seed=18), randn(1000, 6, 1, seed=19) + shift
    values = torch.tensor([metrics.kernel_distance(a, b, subsets=1, subset_size=6).mean for a, b in zip(x, y)])
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(1000)
    assert (exact == 0) == (shift == 0) and float(values.min()) < 0


@pytest.mark.parametrize(
    "options, kind, text",
    [
        ({"subset_size": 8}, ValueError, "subset_size must be from 2 to 7, got 8"),
        ({}, ValueError, "subset_size must be from 2 to 7, got 1000"),
        ({"subset_size": 1}, ValueError, "subset_size must be from 2 to 7, got 1"),
        ({"subsets": 0}, ValueError, "subsets must be at least 1, got 0"),
        ({"subsets": 1.5}, TypeError, "subsets must be an integer"),
    ],
)
def test_kernel_distance_refuses(options, kind, text):
    with pytest.raises(kind, match=text):
        metrics.kernel_distance(randn(9, 2), randn(7, 2), **options)


# --- precision and recall ---


def naive_precision_recall(real, fake, k):
    """The definition, one pair after another, on exact differences."""

    def radius(x):
        distance = (x[:, None] - x[None]).norm(dim=-1)
        return distance.sort(1).values[:, k]

    between = (fake[:, None] - real[None]).norm(dim=-1)
    precision = (between <= radius(real)[None]).any(1).double().mean()
    recall = (between <= radius(fake)[:, None]).any(0).double().mean()
    return float(precision), float(recall)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_precision_recall_equals_the_definition(k, monkeypatch):
    real, fake = randn(90, 2, seed=1), 1.3 * randn(70, 2, seed=2) + 2.5
    expected = naive_precision_recall(real, fake, k)
    assert 0.1 < expected[0] < 0.5 < expected[1] < 0.95  # there is something to get wrong
    assert metrics.precision_recall(real, fake, k) == expected
    monkeypatch.setattr(neighbours, "_CHUNK", 7 * 90)  # seven rows per chunk, the last one short
    assert metrics.precision_recall(real, fake, k) == expected


def test_precision_recall_by_hand():
    """Reals 0, 1, 3 with k = 1 have radii 1, 1, 2: they cover [-1, 5]. Fakes 4.9, 5.1: radii 0.2."""
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[4.9], [5.1]])
    assert metrics.precision_recall(real, fake, k=1) == (0.5, 0.0)
    assert metrics.precision_recall(fake, real, k=1) == (0.0, 0.5)
    # the edge counts as inside: fake 2 is at distance 1 of real 1, whose radius is 1, and vice versa
    real, fake = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert metrics.precision_recall(real, fake, k=1) == (1 / 2, 1 / 3)


def test_precision_recall_laws():
    real = randn(60, 4, seed=3)
    assert metrics.precision_recall(real, real) == (1.0, 1.0)
    assert metrics.precision_recall(real, real + 100) == (0.0, 0.0)
    two_modes = torch.cat([real, real + 50])
    assert metrics.precision_recall(two_modes, real) == (1.0, 0.5)  # a mode is missing
    assert metrics.precision_recall(real, two_modes) == (0.5, 1.0)  # half the samples are bad
    fake = 1.2 * randn(50, 4, seed=4) + 0.5
    assert metrics.precision_recall(real + 2**22, fake + 2**22) == metrics.precision_recall(real, fake)
    forward = metrics.precision_recall(real, 0.8 * real.flip(1) + 0.2)
    backward = metrics.precision_recall(0.8 * real.flip(1) + 0.2, real)
    assert forward == (backward.recall, backward.precision)


def test_precision_recall_of_copies_far_from_the_origin():
    """All fakes are one real vector: their radius is 0 and it is covered, which rounding must not hide."""
    real = randn(50, 8, seed=4) + 1000
    fake = real[:1].expand(10, 8).clone()
    assert metrics.precision_recall(real, fake) == (1.0, 1 / 50)


@pytest.mark.parametrize(
    "k, kind, text",
    [
        (0, ValueError, "k must be at least 1"),
        (1.5, TypeError, "k must be an integer"),
        (5, ValueError, r"fake must be \[N, D\] with N >= 6"),
    ],
)
def test_precision_recall_refuses(k, kind, text):
    with pytest.raises(kind, match=text):
        metrics.precision_recall(randn(9, 2), randn(5, 2), k)


# --- Inception score ---


@pytest.mark.parametrize("splits", [1, 5, 10])
def test_inception_score_at_its_ends(splits):
    uniform = torch.full((100, 7), 1 / 7, dtype=torch.float64)
    assert metrics.inception_score(uniform, splits) == pytest.approx((1.0, 0.0), abs=1e-12)
    balanced = torch.eye(10).repeat(10, 1)
    assert metrics.inception_score(balanced, splits) == pytest.approx((10.0, 0.0), abs=1e-12)
    collapsed = torch.eye(10)[:1].repeat(100, 1)
    assert metrics.inception_score(collapsed, splits) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_inception_score_in_closed_form_and_its_splits():
    """Two balanced classes, confidence c: exp(ln 2 - H(c)). A balanced part scores 2, one class 1."""
    c = 0.9
    p = torch.tensor([[c, 1 - c], [1 - c, c]], dtype=torch.float64).repeat(10, 1)
    entropy = -c * math.log(c) - (1 - c) * math.log(1 - c)
    assert metrics.inception_score(p, 2).mean == pytest.approx(2 * math.exp(-entropy), rel=1e-13)
    p = torch.cat([torch.eye(2), torch.eye(2)[:1], torch.eye(2)[:1]])
    assert metrics.inception_score(p, 2) == pytest.approx((1.5, 0.5), rel=1e-13)  # population sd


def test_inception_score_equals_the_kl_definition():
    p = torch.softmax(3 * randn(103, 5, seed=5), 1)  # 103 rows in 10 parts: sizes 11, 11, 11, 10, ...
    parts = [part.numpy() for part in p.tensor_split(10)]
    scores = [math.exp(np.mean([scipy.stats.entropy(row, part.mean(0)) for row in part])) for part in parts]
    assert metrics.inception_score(p) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)


@pytest.mark.parametrize(
    "p, splits, text",
    [
        (randn(20, 3), 2, "probabilities must be at least 0.*not logits"),
        (torch.full((20, 3), 0.2), 2, r"rows summing to 1 \(not logits\), got 0.2 and sums from 0.6 to 0.6"),
        (torch.full((4, 2), 0.5), 5, "splits must be from 1 to 4, got 5"),
        (torch.full((4, 2), math.nan), 2, "probabilities must be finite"),
        (torch.full((4,), 0.5), 2, r"probabilities must be \[N, D\]"),
    ],
)
def test_inception_score_refuses(p, splits, text):
    with pytest.raises(ValueError, match=text):
        metrics.inception_score(p, splits)


# --- histograms ---


def test_class_histogram():
    assert metrics.class_histogram(torch.tensor([2, 0, 2, 2]), 4).tolist() == [1, 0, 3, 0]
    assert metrics.class_histogram(torch.tensor([1], dtype=torch.int32), 2).tolist() == [0, 1]
    assert metrics.class_histogram(torch.tensor([], dtype=torch.int64), 2).tolist() == [0, 0]
    for bad in ([0, 4], [-1, 0], [10**12]):
        with pytest.raises(ValueError, match=r"labels must be from 0 to 3, got .* to"):
            metrics.class_histogram(torch.tensor(bad), 4)
    with pytest.raises(ValueError, match="labels must be an int64 tensor of shape"):
        metrics.class_histogram(torch.tensor([0.0, 1.0]), 4)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        metrics.class_histogram(torch.tensor([0]), 0)


def test_histogram_distance_equals_scipy():
    a, b = torch.tensor([30, 12, 0, 50, 0]), torch.tensor([100, 90, 3, 140, 0])
    result = metrics.histogram_distance(a, b)
    expected = scipy.stats.chi2_contingency(torch.stack([a, b])[:, :4].numpy(), correction=False)
    assert result.chi_square == pytest.approx(expected.statistic, rel=1e-13)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-12)
    assert result.degrees == expected.dof == 3
    assert result.total_variation == pytest.approx((30 / 92 - 100 / 333 + 50 / 92 - 140 / 333), rel=1e-12)


def test_histogram_distance_laws():
    a, b = torch.tensor([10, 20, 30]), torch.tensor([7.0, 7.0, 1.0])
    assert metrics.histogram_distance(a, b) == pytest.approx(metrics.histogram_distance(b, a), rel=1e-12)
    assert metrics.histogram_distance(a, 5 * a) == pytest.approx((0, 0, 2, 1), abs=1e-15)
    apart = metrics.histogram_distance(torch.tensor([10, 0]), torch.tensor([0, 30]))
    assert apart.total_variation == 1 and apart.chi_square == pytest.approx(40) and apart.p_value < 1e-9
    assert metrics.histogram_distance(torch.tensor([3]), torch.tensor([5])) == (0, 0, 0, 1)


def test_histogram_distance_p_value_is_uniform_under_equal_shares():
    """2000 pairs of histograms of 500 draws each: the share with p < 0.1 is 0.1 within 4 standard errors."""
    labels = Philox(seed=9).randint(8, 2000, 2, 500)
    count = [metrics.class_histogram(part, 8) for part in labels.flatten(0, 1)]
    small = sum(metrics.histogram_distance(a, b).p_value < 0.1 for a, b in zip(count[::2], count[1::2]))
    assert abs(small / 2000 - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 2000)


@pytest.mark.parametrize(
    "b",
    [
        torch.tensor([1, 2]),
        torch.tensor([0, 0, 0]),
        torch.tensor([1, -1, 5]),
        torch.tensor([1, math.nan, 1]),
        torch.tensor([[1, 2, 3]]),
    ],
)
def test_histogram_distance_refuses(b):
    with pytest.raises(ValueError, match=r"b must be counts \[K\].*got \["):
        metrics.histogram_distance(torch.tensor([1, 2, 3]), b)


# --- nearest neighbours ---


def test_nearest_neighbours_equals_brute_force(monkeypatch):
    samples, train = randn(23, 2, 3, seed=1), randn(40, 2, 3, seed=2)
    distance = (samples.flatten(1)[:, None] - train.flatten(1)[None]).norm(dim=-1)
    expected = distance.topk(5, largest=False)
    for chunk in (neighbours._CHUNK, 4 * 40):
        monkeypatch.setattr(neighbours, "_CHUNK", chunk)
        found = metrics.nearest_neighbours(samples, train, 5)
        assert torch.equal(found.indices, expected.indices)
        torch.testing.assert_close(found.distances, expected.values, rtol=1e-14, atol=0)
    every = metrics.nearest_neighbours(samples, train, 40)
    assert torch.equal(every.indices.sort(1).values, torch.arange(40).expand(23, 40))
    assert bool((every.distances.diff(dim=1) >= 0).all())


def test_nearest_neighbours_finds_copies_far_from_the_origin():
    train = (randn(50, 3, 8, 8, seed=3) + 300).float()
    found = metrics.nearest_neighbours(train[[7, 30]], train, 2)
    assert found.indices[:, 0].tolist() == [7, 30] and found.distances[:, 0].tolist() == [0, 0]
    assert bool((found.distances[:, 1] > 1).all())
    twins = torch.cat([train[:3], train[:3]])  # of equal distances the lower index comes first
    assert metrics.nearest_neighbours(train[:3], twins, 2).indices.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    "samples, train, k, kind, text",
    [
        (torch.zeros(2, 3), torch.zeros(4, 5), 1, ValueError, r"samples must be \[N, ...\].*\(2, 3\)"),
        (torch.zeros(2, 3), torch.zeros(4, 3), 5, ValueError, "k must be from 1 to 4, got 5"),
        (torch.zeros(0, 3), torch.zeros(4, 3), 1, ValueError, r"samples must be .*\(0, 3\)"),
        (
            torch.zeros(2, 3),
            torch.full((4, 3), math.inf),
            1,
            ValueError,
            "training_samples must be finite.*in 4 of 4 rows",
        ),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(4, 3), 1, TypeError, "samples must be float16"),
    ],
)
def test_nearest_neighbours_refuses(samples, train, k, kind, text):
    with pytest.raises(kind, match=text):
        metrics.nearest_neighbours(samples, train, k)


def test_squared_distances_of_copies_are_exactly_zero_and_none_is_negative():
    x = randn(60, 33, seed=5)
    squared = torch.cat([part for _, part in neighbours._squared_distances(x, torch.cat([x, x + 1e-9]))])
    assert bool((squared.diagonal() == 0).all()) and float(squared.min()) >= 0
    apart = squared[:, :60][~torch.eye(60, dtype=torch.bool)]
    exact = (x[:, None] - x[None]).square().sum(-1)[~torch.eye(60, dtype=torch.bool)]
    torch.testing.assert_close(apart, exact, rtol=1e-13, atol=0)


def test_chunks_bound_the_memory():
    """No chunk of distances is larger than _CHUNK numbers, or one row where a row alone is larger."""
    sizes = [part.numel() for _, part in neighbours._squared_distances(randn(3000, 2), randn(5000, 2))]
    assert max(sizes) <= neighbours._CHUNK and sum(sizes) == 3000 * 5000 and len(sizes) == 2


def test_precision_and_recall_of_equal_distributions_are_equal_and_high():
    x, y = (randn(4000, 8, seed=seed, dtype=torch.float32) for seed in (1, 2))
    precision, recall = metrics.precision_recall(x, y)
    assert precision > 0.85
    assert abs(precision - recall) < 4 * math.sqrt(2 * precision * (1 - precision) / 4000)


# --- the two-sample test ---


def test_energy_distance_is_the_naive_one():
    a, b = randn(7, 3), randn(5, 3, seed=1) + 1

    def mean(x, y):
        return sum(float((p - q).norm()) for p in x for q in y) / (len(x) * len(y))

    test = metrics.two_sample_test(a, b)
    assert test.distance == pytest.approx(2 * mean(a, b) - mean(a, a) - mean(b, b), rel=1e-12)
    assert metrics.two_sample_test(b.float(), a.float()).distance == pytest.approx(test.distance, rel=1e-6)
    same = metrics.two_sample_test(a, a.flip(0))
    assert same.distance == pytest.approx(0, abs=1e-12) and same.p_value == 1


def test_p_values_are_uniform_of_one_distribution_and_small_of_two():
    """200 tests of 20 divisions: the shares below 1/4 and 1/2 have standard errors of 0.031 and 0.035."""
    p = [
        metrics.two_sample_test(
            randn(12, 2, seed=2 * i), randn(9, 2, seed=2 * i + 1), permutations=19, rng=Philox(i)
        ).p_value
        for i in range(200)
    ]
    shares = [sum(value <= level for value in p) / len(p) for level in (0.25, 0.5)]
    for share, level in zip(shares, (0.25, 0.5)):
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / len(p)), shares
    far = metrics.two_sample_test(randn(100, 2), randn(80, 2, seed=1) * 4)
    assert far.p_value == 1 / 200


def test_two_sample_test_refuses():
    for arguments, text in (
        ((randn(1, 2), randn(5, 2)), "a must be"),
        ((randn(5, 2), randn(5, 3)), "b must have the width"),
    ):
        with pytest.raises(ValueError, match=text):
            metrics.two_sample_test(*arguments)
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        metrics.two_sample_test(randn(5, 2), randn(5, 2), permutations=0)
