"""Two-dimensional toys: exact scores, the laws of the samples, and the random-number contract."""

import math

import pytest
import torch

from fastscore.data import DATASETS, GaussianMixture, PointData, checkerboard, load, swiss_roll, two_moons
from fastscore.rng import Philox, Stream

from ..conftest import z_mean

N = 40_000
SAMPLERS = {
    "mixture": GaussianMixture().sample,
    "two_moons": two_moons,
    "checkerboard": checkerboard,
    "swiss_roll": swiss_roll,
}
UNEVEN = GaussianMixture(weights=[1, 2, 5], means=[[0, 0, 1], [3, -1, 0], [-2, 2, 2]], stds=[0.5, 1.0, 2.0])


def points(n: int, d: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_sample_k_depends_on_seed_step_and_k_alone(name):
    sample = SAMPLERS[name]
    whole = sample(20, Philox(5, step=3))
    assert whole.shape == (20, 2) and whole.dtype == torch.float32
    assert torch.equal(sample(7, Philox(5, step=3)), whole[:7])
    assert torch.equal(sample(1, Philox(5, step=3, sample_offset=13)), whole[13:14])
    assert not torch.equal(sample(20, Philox(5, step=4)), whole)
    rng = Philox(5, step=3)
    sample(20, rng)
    assert rng.step == 4  # one step per call, so that iterations never share numbers
    assert sample(0, rng).shape == (0, 2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_batches_are_the_contracts(name):
    data = load(name)
    assert isinstance(data, PointData) and data.shape == (2,) and len(data) == 10_000 and data.name == name
    whole = data.batch(6, 12, seed=2)
    assert torch.equal(whole, SAMPLERS[name](12, Philox(2, step=6)))
    parts = [
        data.batch(6, n, seed=2, sample_offset=offset, global_batch_size=12) for n, offset in ((5, 0), (3, 5), (4, 8))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(data.batch(7, 12, seed=2), whole)
    assert not torch.equal(data.batch(6, 12, seed=3), whole)


def test_default_mixture_is_song_and_ermons():
    mixture = GaussianMixture()
    assert mixture.weights.tolist() == pytest.approx([0.2, 0.8])
    assert mixture.means.tolist() == [[5, 5], [-5, -5]] and mixture.stds.tolist() == [1, 1]
    x = mixture.sample(N, Philox(0)).double()
    first = x.sum(1) > 0
    assert abs(z_mean(first.double(), 0.2, 0.16)) < 4
    for chosen, mean in ((x[first], 5.0), (x[~first], -5.0)):
        assert abs(z_mean(chosen[:, 0], mean, 1.0)) < 4 and abs(z_mean(chosen[:, 1], mean, 1.0)) < 4
        assert abs(z_mean((chosen - mean).square(), 1.0, 2.0)) < 4
        assert abs(z_mean((chosen - mean).prod(1), 0.0, 1.0)) < 4


def test_mixture_moments():
    """E x = sum w m and E x x^T = sum w (s^2 I + m m^T), in every entry."""
    mixture = UNEVEN
    x = mixture.sample(N, Philox(1)).double()
    w, m, s = mixture.weights, mixture.means, mixture.stds
    mean = w @ m
    second = torch.einsum("k,kij->ij", w, s[:, None, None] ** 2 * torch.eye(3) + m[:, :, None] * m[:, None])
    for i in range(3):
        assert abs(z_mean(x[:, i], float(mean[i]), float(second[i, i] - mean[i] ** 2))) < 4
        for j in range(i + 1):
            product = x[:, i] * x[:, j]
            assert abs(z_mean(product, float(second[i, j]), float(product.var()))) < 4


def test_log_prob_is_the_sum_of_densities():
    x = points(50, 3)
    for sigma in (0.0, 0.3, 2.0):
        want = torch.zeros(50, dtype=torch.float64)
        for w, m, s in zip(UNEVEN.weights, UNEVEN.means, UNEVEN.stds):
            covariance = (s**2 + sigma**2) * torch.eye(3, dtype=torch.float64)
            want += w * torch.distributions.MultivariateNormal(m, covariance).log_prob(x).exp()
        want = want.log()
        torch.testing.assert_close(UNEVEN.log_prob(x, sigma), want, rtol=1e-12, atol=1e-12)


def test_density_integrates_to_one():
    grid = torch.arange(-12, 12, 0.1, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    assert float(GaussianMixture().log_prob(x, 0.7).exp().sum() * 0.01) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mixture, d", [(GaussianMixture(), 2), (UNEVEN, 3)])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 20.0])
def test_score_is_the_gradient(mixture, d, sigma):
    x = points(40, d, 6.0).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(mixture.score(x, sigma).detach(), gradient, rtol=1e-10, atol=1e-10)


def test_one_gaussian_has_the_linear_score():
    single = GaussianMixture([3.0], [[1.0, -2.0]], 0.5)
    x = points(10, 2)
    torch.testing.assert_close(single.score(x, 1.5), (torch.tensor([1.0, -2.0]) - x) / (0.25 + 2.25))


def test_sigma_per_sample_and_far_points():
    x, sigma = points(6, 3), torch.tensor([0.0, 0.1, 0.5, 1.0, 10.0, 50.0], dtype=torch.float64)
    for i in range(6):
        one = float(sigma[i])
        torch.testing.assert_close(UNEVEN.score(x, sigma)[i], UNEVEN.score(x, one)[i], rtol=1e-12, atol=0)
        want = UNEVEN.log_prob(x, one)[i]
        assert float(UNEVEN.log_prob(x, sigma)[i]) == pytest.approx(float(want), rel=1e-12)
    far = torch.tensor([[1000.0, 1000.0]])  # no component's density is above 0 there in float32
    torch.testing.assert_close(GaussianMixture().score(far), torch.tensor([[-995.0, -995.0]]))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 0)])
def test_dtype_is_kept(dtype, tolerance):
    x = points(20, 2).to(dtype)
    for function in (GaussianMixture().score, GaussianMixture().log_prob):
        got, want = function(x, 0.5), function(x.double(), 0.5)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_stein_identity():
    """E[x score(x)^T] = -I for samples of the perturbed density."""
    sigma = 0.8
    x = UNEVEN.sample(N, Philox(2)).double() + sigma * Philox(3).randn(N, 3, dtype=torch.float64)
    outer = x[:, :, None] * UNEVEN.score(x, sigma)[:, None]
    z = (outer.mean(0) + torch.eye(3)) / (outer.var(0) / N).sqrt()
    assert float(z.abs().max()) < 4


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        (([1.0], [[0.0, 0.0], [1.0, 1.0]]), ValueError, r"weights must have shape \(2,\), one per mean"),
        (([1.0, 1.0], [[0.0], [1.0]], [1.0, 1.0, 1.0]), ValueError, r"stds must have shape \(2,\)"),
        (([1.0, 0.0], [[0.0], [1.0]]), ValueError, r"weights must be finite and greater than 0, got \[1"),
        (([1.0], [[0.0]], -1.0), ValueError, "stds must be finite and greater than 0"),
        (([1.0], [0.0]), ValueError, r"means must be finite and have shape \[K, D\]"),
        (([1.0], [[float("nan")]]), ValueError, "means must be finite"),
        (([1.0, 1.0], [[0.0], [1.0, 2.0]]), TypeError, "means must be numbers in a regular table"),
        (("ab", [[0.0]]), TypeError, "weights must be numbers"),
    ],
)
def test_mixture_errors(arguments, error, text):
    with pytest.raises(error, match=text):
        GaussianMixture(*arguments)


@pytest.mark.parametrize(
    "x, sigma, error, text",
    [
        (torch.zeros(4, 3), 0.0, ValueError, r"x must have shape \[B, 2\], got"),
        (torch.zeros(2), 0.0, ValueError, r"x must have shape \[B, 2\]"),
        (torch.zeros(4, 2).long(), 0.0, TypeError, "x must be float16"),
        (torch.zeros(4, 2), -1.0, ValueError, "sigma must be finite and at least 0"),
        (torch.zeros(4, 2), torch.ones(3), ValueError, "sigma must be a number or have shape"),
    ],
)
def test_score_errors(x, sigma, error, text):
    with pytest.raises(error, match=text):
        GaussianMixture().score(x, sigma)


def test_two_moons_lie_on_their_circles():
    x = two_moons(N, Philox(0), noise_std=0.0).double()
    outer = x.norm(dim=1).sub(1).abs() < 1e-6
    inner = (x - torch.tensor([1.0, 0.5])).norm(dim=1).sub(1).abs() < 1e-6
    assert bool((outer ^ inner).all())
    assert abs(z_mean(outer.double(), 0.5, 0.25)) < 4
    assert float(x[outer, 1].min()) >= 0 and float(x[inner, 1].max()) <= 0.5
    # t is uniform: E cos t = 0, E sin t = 2 / pi, E cos^2 t = 1/2
    variance = 0.5 - 4 / math.pi**2
    assert abs(z_mean(x[outer, 0], 0.0, 0.5)) < 4 and abs(z_mean(x[outer, 1], 2 / math.pi, variance)) < 4
    assert abs(z_mean(x[inner, 0], 1.0, 0.5)) < 4
    assert abs(z_mean(x[inner, 1], 0.5 - 2 / math.pi, variance)) < 4


@pytest.mark.parametrize("sample", [two_moons, swiss_roll])
def test_noise_is_added_as_said(sample):
    """The same points, moved by N(0, noise_std^2 I)."""
    moved = (sample(N, Philox(0), noise_std=0.3) - sample(N, Philox(0), noise_std=0.0)).double()
    assert abs(z_mean(moved, 0.0, 0.09)) < 4
    assert abs(z_mean(moved.square(), 0.09, 2 * 0.09**2)) < 4
    assert abs(z_mean(moved.prod(1), 0.0, 0.09**2)) < 4
    with pytest.raises(ValueError, match="noise_std must be finite and at least 0, got -1"):
        sample(3, Philox(0), noise_std=-1)


def test_checkerboard_squares():
    """Only black squares, an eighth of the points in each, uniform inside."""
    x = checkerboard(N, Philox(0)).double()
    assert float(x.min()) >= -2 and float(x.max()) <= 2
    cell = x.floor()
    assert bool((cell.sum(1) % 2 == 0).all())
    index = (4 * (cell[:, 0] + 2) + cell[:, 1] + 2).long()
    counts = index.bincount(minlength=16)
    used = counts[counts > 0]
    assert len(used) == 8
    assert float(((used - N / 8) / (N / 8 * 7 / 8) ** 0.5).abs().max()) < 4
    inside = x - cell
    for place in (inside[:, 0], inside[:, 1]):
        assert abs(z_mean(place, 0.5, 1 / 12)) < 4
        assert abs(z_mean((place - 0.5).square(), 1 / 12, 1 / 180)) < 4
    assert abs(z_mean((inside - 0.5).prod(1), 0.0, 1 / 144)) < 4


def test_swiss_roll_spiral():
    """The radius gives the angle, and t is uniform in [1.5 pi, 4.5 pi]."""
    x = swiss_roll(N, Philox(0), noise_std=0.0).double()
    radius = x.norm(dim=1)
    angle = 1.5 * math.pi * radius
    want = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(x, want, rtol=0, atol=1e-5)
    assert float(radius.min()) >= 1 - 1e-6 and float(radius.max()) <= 3 + 1e-6
    assert abs(z_mean(radius, 2.0, 1 / 3)) < 4
    assert abs(z_mean((radius - 2).square(), 1 / 3, 4 / 45)) < 4


def test_toys_use_the_data_stream():
    """The noise of two_moons is columns 2 and 3 of the normals of stream DATA."""
    z = Philox(4, step=9).randn(5, 4, stream=Stream.DATA)
    moved = two_moons(5, Philox(4, step=9), noise_std=1.0) - two_moons(5, Philox(4, step=9), noise_std=0.0)
    torch.testing.assert_close(moved, z[:, 2:], rtol=0, atol=1e-6)


def test_point_data_checks_what_it_is_given():
    data = PointData(lambda n, rng: rng.randn(n, 3, dtype=torch.float64), name="wrong", dim=3)
    with pytest.raises(ValueError, match=r"sample must return a float32 tensor of shape \(4, 3\), got"):
        data.batch(0, 4, seed=0)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        PointData(two_moons, name="x", dim=0)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        load("two_moons", size=0)


@pytest.mark.parametrize("name", ["two_moons", "swiss_roll"])
def test_options_reach_the_toy(name):
    assert "noise_std" in DATASETS[name].__kwdefaults__
    got = load(name, noise_std=0.0, size=77)
    assert len(got) == 77
    assert torch.equal(got.batch(0, 5, seed=1), SAMPLERS[name](5, Philox(1), noise_std=0.0))


def test_labels_are_the_modes_that_points_were_drawn_from():
    x, k = UNEVEN.sample_with_labels(N, Philox(6))
    assert torch.equal(x, UNEVEN.sample(N, Philox(6)))
    for index, weight in enumerate(UNEVEN.weights.tolist()):
        assert abs(z_mean((k == index).double(), weight, weight * (1 - weight))) < 4
        for d in range(3):
            values = x[k == index, d].double()
            assert abs(z_mean(values, float(UNEVEN.means[index, d]), float(UNEVEN.stds[index]) ** 2)) < 4
    x, moon = load("two_moons", noise_std=0.0).batch_with_labels(0, 500, seed=3)
    centre = torch.where(moon[:, None] == 0, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5]))
    assert float(((x - centre).norm(dim=1) - 1).abs().max()) < 1e-5
    x, square = load("checkerboard").batch_with_labels(0, 500, seed=3)
    column, row = square // 2, 2 * (square % 2) + square // 2 % 2
    assert torch.equal(x.floor().long(), torch.stack([column, row], 1) - 2)


@pytest.mark.parametrize(
    "labels, text",
    [
        (None, "sample must return points and labels where num_classes is given, got"),
        (lambda n: torch.zeros(n), r"sample must return labels as an int64 tensor of shape \(4,\), got a float32"),
        (lambda n: torch.full((n,), 3), r"sample must return labels from 0 to num_classes - 1, 2, got 3 \(4 times\)"),
    ],
)
def test_labels_of_a_toy_are_checked(labels, text):
    def sample(n, rng):
        points = rng.randn(n, 2)
        return points if labels is None else (points, labels(n))

    data = PointData(sample, name="mine", num_classes=3)
    for batch in (data.batch, data.batch_with_labels):
        with pytest.raises(ValueError, match=text):
            batch(0, 4, seed=0)


def test_the_fingerprint_of_a_toy_of_ones_own():
    """Without a definition its points are hashed, labels too."""

    def shifted(by: float, label: int, **options) -> str:
        def sample(n, rng):
            return rng.randn(n, 2) + by, torch.full((n,), label)

        return PointData(sample, name="mine", num_classes=2, **options).fingerprint()

    assert shifted(0, 0) == shifted(0, 0)
    assert (
        len({shifted(0, 0), shifted(1, 0), shifted(0, 1), shifted(0, 0, definition="a"), shifted(0, 0, definition="b")})
        == 5
    )
    assert shifted(0, 0, definition="a") == shifted(1, 1, definition="a")
