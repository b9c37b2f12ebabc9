"""Noise schedules, and NCSNv2's rules for them against brute force and the published numbers."""

import math

import pytest
import scipy.optimize
import scipy.stats
import torch

import fastscore as fs
from fastscore import schedules
from fastscore._core import checks
from fastscore.schedules import distances

# name: D, sigma_max, L, T, step_lr, as in the paper and the authors' configuration files; sigma_min = 0.01
PUBLISHED = {
    "cifar10": (3072, 50.0, 232, 5, 6.2e-6),
    "celeba": (12288, 90.0, 500, 5, 3.3e-6),
    "bedroom": (49152, 190.0, 1086, 3, 1.8e-6),
    "ffhq": (196608, 348.0, 2311, 3, 0.9e-6),
}
SCHEDULES = [schedules.geometric_sigmas, schedules.uniform_sigmas]


def blob(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("begin, end, levels", [(1.0, 0.01, 10), (50.0, 0.01, 232), (348.0, 0.01, 2311), (0.7, 0.3, 2)])
def test_geometric_values(begin, end, levels):
    sigmas = schedules.geometric_sigmas(begin, end, levels)
    want = [begin * (end / begin) ** (i / (levels - 1)) for i in range(levels)]
    torch.testing.assert_close(sigmas, torch.tensor(want, dtype=torch.float32), rtol=2**-23, atol=0)
    assert sigmas.dtype == torch.float32 and sigmas.shape == (levels,)


def test_uniform_values():
    want = torch.tensor([2.0, 1.55, 1.1, 0.65, 0.2])
    torch.testing.assert_close(schedules.uniform_sigmas(2.0, 0.2, 5), want, rtol=2**-23, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "begin, end, levels",
    [(1.0, 0.01, 10), (50, 0.1, 2311), (1 / 3, 1 / 7, 100), (0.1, 0.1, 1), (256 + 3 * 2**-16, 2**-6 + 2**-30, 50)],
)
def test_ends_are_exact_and_levels_decrease(schedule, begin, end, levels):
    sigmas = schedule(begin, end, levels)
    assert sigmas[0] == torch.tensor(begin, dtype=torch.float32)
    assert sigmas[-1] == torch.tensor(end, dtype=torch.float32)
    assert sigmas.device.type == "cpu"
    assert checks.sigmas("sigmas", sigmas) is sigmas  # finite, positive, strictly decreasing


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((0.0, 0.01, 10), ValueError, "begin must be finite and greater than 0, got 0.0"),
        ((1.0, -0.01, 10), ValueError, "end must be finite and greater than 0, got -0.01"),
        ((1.0, float("nan"), 10), ValueError, "end must be finite"),
        ((0.01, 1.0, 10), ValueError, "begin must be greater than end, got begin 0.01 and end 1.0"),
        ((1.0, 1.0, 2), ValueError, "begin must be greater than end"),
        ((1.0, 0.01, 0), ValueError, "num_levels must be at least 1, got 0"),
        ((1.0, 0.01, 2.0), TypeError, "num_levels must be an integer"),
        ((1.0, 0.01, 1), ValueError, "begin and end must be equal where num_levels is 1, got 1.0 and 0.01"),
        ((1.0, 1.0 - 1e-6, 1000), ValueError, "num_levels must leave 1.0 to 0.999999 in steps that float32"),
    ],
)
def test_schedule_errors(schedule, arguments, error, text):
    with pytest.raises(error, match=text):
        schedule(*arguments)


@pytest.mark.parametrize("dim", [5, 64, 3072, 196608])
@pytest.mark.parametrize("overlap", [0.05, 0.5, 0.567, 0.99])
def test_level_ratio_solves_technique_2(dim, overlap):
    def left_hand_side(gamma):
        middle = math.sqrt(2 * dim) * (gamma - 1)
        return scipy.stats.norm.cdf(middle + 3 * gamma) - scipy.stats.norm.cdf(middle - 3 * gamma)

    gamma = scipy.optimize.brentq(lambda gamma: left_hand_side(gamma) - overlap, 1, 100, xtol=1e-13)
    assert schedules.level_ratio(dim, overlap) == pytest.approx(gamma, rel=1e-9)


def test_overlap_is_the_mass_in_three_deviations_of_the_next_level():
    """||z|| in D dimensions, a chi variable, is near N(sqrt D, 1/2): the mass of a level's radii within the shell of the
    level before it, exactly. The normal approximation leaves about 1/(3 sqrt D)."""
    gamma = 1.0375591319992028
    for dim in (3072, 49152):
        middle, reach = gamma * math.sqrt(dim), 3 * gamma / math.sqrt(2)
        within = scipy.stats.chi.cdf(middle + reach, dim) - scipy.stats.chi.cdf(middle - reach, dim)
        assert schedules.level_overlap(gamma, dim) == pytest.approx(within, abs=1 / math.sqrt(dim))
        gamma = 1.00969


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_few_dimensions_need_num_levels(dim):
    assert min(schedules.level_overlap(g, dim) for g in (1.1, 2, 10, 1e6)) > 0.99
    with pytest.raises(ValueError, match=f"num_levels must be given for data of {dim} dimensions"):
        schedules.suggest(blob(10, dim))
    assert schedules.suggest(blob(10, dim), num_levels=7).num_levels == 7


@pytest.mark.parametrize("overlap", [0.0, -1.0, 0.995, 1.0, float("nan")])
def test_overlap_errors(overlap):
    with pytest.raises(ValueError, match="overlap must be"):
        schedules.level_ratio(3072, overlap)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schedules(name):
    """The levels: 232, 500, 1087 for 1086, 2311. The step sizes, from the published L: 6.18e-6 for 6.2e-6
    (0.3%),
    3.34e-6 for 3.3e-6, 1.77e-6 for 1.8e-6, 0.893e-6 for 0.9e-6: each rounds to the figure that was
    published."""
    dim, sigma_max, levels, steps, step_lr = PUBLISHED[name]
    data = torch.zeros(2, dim)
    found = schedules.suggest(data, sigma_max=sigma_max, steps_per_level=steps)
    assert abs(found.num_levels - levels) <= (1 if name == "bedroom" else 0)
    exact = schedules.suggest(data, sigma_max=sigma_max, num_levels=levels, steps_per_level=steps)
    digits = 1 if name == "ffhq" else 2
    assert float(f"{exact.step_lr:.{digits - 1}e}") == step_lr
    assert exact.step_lr == pytest.approx(step_lr, rel=0.003 if name == "cifar10" else 0.02)
    assert exact.step_size == 2 * exact.step_lr
    assert exact.variance_ratio > 1


def test_the_papers_own_overlap_is_near_the_published_schedule():
    found = schedules.suggest(torch.zeros(2, 3072), sigma_max=50.0, overlap=0.5)
    assert found.num_levels == 219  # 5.6% from the published 232
    assert found.gamma == pytest.approx(schedules.level_ratio(3072, 0.5), rel=1e-4)


@pytest.mark.parametrize("gamma, steps, fraction", [(1.0376, 5, 0.062), (2.0, 1, 0.3), (1.2, 100, 0.9), (1.5, 7, 1e-6)])
def test_variance_ratio_is_the_langevin_recursion(gamma, steps, fraction):
    """v <- (1 - eta/s^2)^2 v + 2 eta, from the variance gamma^2 s^2 that the level before left."""
    sigma = 0.01
    eta = fraction * sigma**2
    v = (gamma * sigma) ** 2
    for _ in range(steps):
        v = (1 - eta / sigma**2) ** 2 * v + 2 * eta
    assert schedules.variance_ratio(eta, sigma, gamma, steps) == pytest.approx(v / sigma**2, rel=1e-12)


@pytest.mark.parametrize("gamma", [1.0045, 1.0376, 1.34, 3.0, 20.0])
@pytest.mark.parametrize("steps", [1, 3, 5, 100])
def test_step_size_is_closest_to_one(gamma, steps):
    sigma = 0.02
    epsilon, ratio = schedules.suggest_step_lr(sigma, gamma, steps)
    assert ratio == schedules.variance_ratio(epsilon, sigma, gamma, steps)
    grid = torch.linspace(math.log(1e-9), math.log(0.999), 41, dtype=torch.float64).tolist()

    def distance(log_step):
        return abs(schedules.variance_ratio(math.exp(log_step) * sigma**2, sigma, gamma, steps) - 1)

    start = min(range(41), key=lambda i: distance(grid[i]))
    around = (grid[max(0, start - 1)], grid[min(40, start + 1)])
    found = scipy.optimize.minimize_scalar(distance, bounds=around, method="bounded", options={"xatol": 1e-10})
    assert epsilon == pytest.approx(math.exp(found.x) * sigma**2, rel=1e-5)
    assert abs(ratio - 1) <= found.fun + 1e-12


def test_step_size_scales_with_the_variance():
    assert schedules.suggest_step_lr(0.3, 1.1, 5)[0] == pytest.approx(
        900 * schedules.suggest_step_lr(0.01, 1.1, 5)[0], rel=1e-6
    )


CLOUDS = {
    "gaussian": blob(130, 3, 4, 4),
    "one far point": torch.cat([blob(200, 5), blob(1, 5) + 50]),
    "sphere": torch.nn.functional.normalize(blob(129, 8)),
    "off centre": blob(120, 7) * 1e-3 + 1000,
    "two equal points": torch.ones(2, 3),
    "uint8": (blob(150, 3, 5, 5) * 80 + 128).clamp(0, 255).to(torch.uint8),
    "float64": blob(100, 6).double(),
    "bfloat16": blob(100, 6).bfloat16(),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_largest_distance_is_cdists(name):
    data = CLOUDS[name]
    flat = data.flatten(1).double() / (255 if data.dtype == torch.uint8 else 1)
    want = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").max()
    results = {schedules.largest_distance(data, chunk_size=chunk) for chunk in (1, 7, 64, 1024)}
    assert len(results) == 1  # the same bits
    assert results.pop() == pytest.approx(float(want), rel=1e-13)


def test_largest_distance_finds_a_pair_wherever_it_is():
    for first, second in [(0, 99), (40, 41), (98, 99), (0, 1)]:
        data = blob(100, 4) * 0.1
        data[first], data[second] = torch.tensor([3.0, 0, 0, 0]), torch.tensor([0, 4.0, 0, 0])
        assert schedules.largest_distance(data, chunk_size=10) == 5.0


def test_largest_distance_skips_pairs_that_cannot_win(monkeypatch):
    pairs = []
    found = distances._farthest
    monkeypatch.setattr(distances, "_farthest", lambda a, b: pairs.append(len(a) * len(b)) or found(a, b))
    data = blob(1000, 2) + 100  # the mean is taken off, or every pair could win
    want = float(torch.cdist(data.double(), data.double()).max())
    assert schedules.largest_distance(data, chunk_size=10) == pytest.approx(want, rel=1e-12)
    radius = (data.double() - data.double().mean(0)).norm(dim=1)
    reach = radius.sort(descending=True).values[::10]  # the largest radius of each chunk
    needed = int(((reach[:, None] + reach) > want).triu().sum())
    assert needed <= len(pairs) <= needed + 10 and set(pairs) == {100}
    assert len(pairs) < 0.05 * 100**2 / 2


def test_max_samples_looks_at_a_fixed_subset():
    data = blob(200, 3)
    some = [schedules.largest_distance(data, max_samples=50) for _ in range(2)]
    assert some[0] == some[1] < schedules.largest_distance(data)
    assert schedules.largest_distance(data, max_samples=200) == schedules.largest_distance(data)


def test_suggest_from_data():
    data = (blob(60, 1, 8, 8) * 60 + 128).clamp(0, 255).to(torch.uint8)
    found = schedules.suggest(data, sigma_min=0.05, steps_per_level=3)
    flat = data.flatten(1).double() / 255
    assert found.sigma_max == pytest.approx(float(torch.cdist(flat, flat).max()), rel=1e-12)
    assert found.sigma_min == 0.05 and found.steps_per_level == 3
    torch.testing.assert_close(found.sigmas, schedules.geometric_sigmas(found.sigma_max, 0.05, found.num_levels))
    ratios = (found.sigmas[:-1] / found.sigmas[1:]).double()
    assert float((ratios / found.gamma - 1).abs().max()) < 1e-6
    # L is the nearest: one level more or less is farther from the wanted ratio, in its logarithm's steps
    steps = math.log(found.sigma_max / 0.05) / math.log(schedules.level_ratio(64))
    assert abs(found.num_levels - 1 - steps) <= 0.5
    assert (found.step_lr, found.variance_ratio) == schedules.suggest_step_lr(0.05, found.gamma, 3)
    scaled = schedules.suggest(data.float() / 255, sigma_min=0.05)
    assert scaled.sigma_max == pytest.approx(found.sigma_max, rel=1e-6)


@pytest.mark.parametrize(
    "data, options, error, text",
    [
        ([1.0], {}, TypeError, "data must be a torch.Tensor or a fastscore.data.Data, got list"),
        (torch.zeros(5, 3, dtype=torch.int64), {}, TypeError, "data must be float16"),
        (torch.zeros(5), {}, ValueError, r"data must have shape \[N, ...\] with N >= 2 samples"),
        (torch.zeros(1, 8), {}, ValueError, "data must have shape"),
        (torch.zeros(5, 0), {}, ValueError, "data must have shape"),
        (torch.tensor([[0.0] * 8, [float("inf")] * 8]), {}, ValueError, "data must be finite everywhere"),
        (torch.ones(5, 8), {}, ValueError, "sigma_min must be less than sigma_max .*, 0.0; got 0.01"),
        (blob(5, 8), {"sigma_min": 0.0}, ValueError, "sigma_min must be finite and greater than 0"),
        (blob(5, 8), {"sigma_max": 0.001}, ValueError, "sigma_min must be less than sigma_max"),
        (blob(5, 8), {"num_levels": 1}, ValueError, "num_levels must be at least 2, got 1"),
        (blob(5, 8), {"steps_per_level": 0}, ValueError, "steps_per_level must be at least 1, got 0"),
        (blob(5, 8), {"chunk_size": 0}, ValueError, "chunk_size must be at least 1, got 0"),
        (blob(5, 8), {"max_samples": 1}, ValueError, "max_samples must be at least 2, got 1"),
    ],
)
def test_suggest_errors(data, options, error, text):
    with pytest.raises(error, match=text):
        schedules.suggest(data, **options)


def test_step_size_errors():
    with pytest.raises(ValueError, match=r"gamma must be greater than 1, got 1\.0"):
        schedules.suggest_step_lr(0.01, 1.0, 5)


def test_suggest_takes_data_sets():
    """Images as they are held; points as their first epoch has them."""
    images = (blob(40, 1, 4, 4) * 60 + 128).clamp(0, 255).to(torch.uint8)
    data = fs.data.ImageData(images, dequantize="uniform", flips=True)
    assert schedules.suggest(data).sigma_max == schedules.largest_distance(data) == schedules.largest_distance(images)
    points = fs.data.load("two_moons", size=300)
    epoch = points.batch(iteration=0, batch_size=300, seed=0)
    assert schedules.suggest(points, num_levels=5).sigma_max == schedules.largest_distance(epoch)
    assert schedules.largest_distance(points, max_samples=20) == schedules.largest_distance(epoch, max_samples=20)


def test_what_a_suggestion_says_of_step_sizes():
    found = schedules.suggest(blob(10, 8), steps_per_level=3)
    assert found.sampling() == {"sigmas": found.sigmas, "step_size": found.step_size, "steps_per_level": 3}
    assert type(found.step_size) is schedules.StepSize and type(found.step_lr) is schedules.StepLr
    assert found.step_size == 2 * found.step_lr and type(2 * found.step_lr) is type(found.step_size / 2) is float
    assert repr(found) == repr(found._replace(step_size=float(found.step_size), step_lr=float(found.step_lr)))
