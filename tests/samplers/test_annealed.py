"""Annealed samplers on data N(0, c^2), where every step's variance is known exactly."""

import math
from itertools import pairwise

import pytest
import torch

import fastscore as fs
from fastscore.samplers import Trajectory, annealed_langevin, consistent_annealed, inpaint, interpolate, langevin
from fastscore.schedules import geometric_sigmas

from ..conftest import z_mean, z_variance
from .cases import BY_LEVELS

C = 0.5
SIGMAS = geometric_sigmas(2.0, 0.1, 6)


def gaussian_score(x, sigma):
    """The exact score of N(0, C^2) perturbed by sigma; sigma [B]."""
    return -x / (C**2 + sigma.view(-1, *[1] * (x.dim() - 1)) ** 2)


def by_label(x, labels):
    return gaussian_score(x, SIGMAS[labels])


def annealed_variance(step_size, steps, v):
    """v <- (1 - eta / tau)^2 v + 2 eta, eta = step_size_i / 2."""
    for sigma in SIGMAS.tolist():
        eta = step_size * (sigma / 0.1) ** 2 / 2
        for _ in range(steps):
            v = (1 - eta / (C**2 + sigma**2)) ** 2 * v + 2 * eta
    return v


@pytest.mark.parametrize("start, v", [("normal", 4.0), ("uniform", None)])
@pytest.mark.parametrize("step_size", [0.01, 0.002])
def test_variance_recursion(start, v, step_size):
    x = annealed_langevin(
        by_label, (500, 400), SIGMAS, step_size=step_size, steps_per_level=8, start=start, rng=fs.Philox(1)
    )
    if start == "uniform":  # mean 1/2 decays, variance 1/12: for these steps the start is all but forgotten
        mean = 0.5
        for sigma in SIGMAS.tolist():
            mean *= (1 - step_size * (sigma / 0.1) ** 2 / 2 / (C**2 + sigma**2)) ** 8
        assert abs(z_mean(x, mean, annealed_variance(step_size, 8, 1 / 12))) < 4
    else:
        assert abs(z_variance(x, annealed_variance(step_size, 8, v))) < 4


def test_denoise_is_the_posterior_mean():
    """x + sigma_L^2 s = c^2 x / tau."""
    kwargs = dict(step_size=0.01, steps_per_level=3, rng=None)
    noisy, clean = (
        annealed_langevin(by_label, (20, 5), SIGMAS, denoise=d, **{**kwargs, "rng": fs.Philox(3)})
        for d in (False, True)
    )
    torch.testing.assert_close(clean, noisy * C**2 / (C**2 + 0.1**2), rtol=1e-5, atol=1e-7)


def test_every_update_is_the_formula_and_the_last_is_returned():
    """The original appended before it updated, and so lost the last update."""
    trajectory = Trajectory()
    last = annealed_langevin(
        by_label,
        (4, 3),
        SIGMAS,
        step_size=0.01,
        steps_per_level=2,
        rng=fs.Philox(2),
        start="normal",
        dtype=torch.float64,
        trajectory=trajectory,
    )
    x = 2.0 * fs.Philox(2).randn(4, 3, stream=fs.Stream.INIT, dtype=torch.float64)
    for k in range(12):
        sigma = SIGMAS[k // 2].double()
        step_size = 0.01 * (sigma / SIGMAS[-1].double()) ** 2
        z = fs.Philox(2, step=k + 1).randn(4, 3, stream=fs.Stream.LANGEVIN, dtype=torch.float64)
        x = x + step_size / 2 * (-x / (C**2 + sigma**2)) + step_size.sqrt() * z
        torch.testing.assert_close(trajectory.frames[k], x, rtol=1e-6, atol=1e-6)
    assert torch.equal(last, trajectory.frames[-1]) and len(trajectory.frames) == 12


each_case = pytest.mark.parametrize("case", BY_LEVELS.values(), ids=BY_LEVELS)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_whatever_the_network_returns(case, dtype):
    """Each update is computed in float32 or better and rounded once to the dtype asked for."""

    def draw(score, dtype, **options):
        options[case.step_size] = {"step_size": 0.01, "eta": 0.6}[case.step_size]
        return case(score, torch.zeros(64, 8, dtype=dtype), SIGMAS, start="normal", rng=fs.Philox(1), **options)

    trajectory = Trajectory()
    x = draw(lambda x, i: by_label(x.double(), i).float(), dtype, trajectory=trajectory)
    assert {x.dtype} == {frame.dtype for frame in trajectory.frames} == {dtype}
    # 13 roundings of numbers that begin near 2 (|x| < 8) and that each update draws together
    error = float((x.double() - draw(by_label, torch.float64)).abs().max())
    assert error < max(8 * torch.finfo(dtype).eps, 2e-5), error


@each_case
def test_samples_without_dimensions(case):
    """Shape [B] gives what [B, 1] gives; a warning counts the samples that are not finite."""

    def draw(score, *shape):
        return case(score, torch.zeros(shape), SIGMAS, start="normal", rng=fs.Philox(1))

    assert torch.equal(draw(by_label, 16), draw(by_label, 16, 1)[..., 0])
    with pytest.warns(UserWarning, match="samples are not finite") as caught:
        draw(lambda x, i: torch.where(torch.arange(len(x)) < 3, math.nan, -x), 16)
    assert str(caught[0].message).startswith("3 of ")


@pytest.mark.parametrize("sampler", [annealed_langevin, consistent_annealed])
def test_conditioning_by_sigma_equals_by_label(sampler):
    kwargs = dict(step_size=0.01, steps_per_level=3) if sampler is annealed_langevin else dict(eta=0.6)
    a = sampler(by_label, (4, 3), SIGMAS, rng=fs.Philox(1), **kwargs)
    b = sampler(gaussian_score, (4, 3), SIGMAS, rng=fs.Philox(1), conditioning="sigma", **kwargs)
    assert torch.equal(a, b)


def test_clamp_acts_on_what_is_returned_alone():
    free, clamped = Trajectory(), Trajectory()
    kwargs = dict(step_size=0.01, steps_per_level=2, start="normal")
    x = annealed_langevin(by_label, (50, 3), SIGMAS, rng=fs.Philox(1), trajectory=free, **kwargs)
    y = annealed_langevin(by_label, (50, 3), SIGMAS, rng=fs.Philox(1), trajectory=clamped, clamp=(0, 0.2), **kwargs)
    assert all(torch.equal(a, b) for a, b in zip(free.frames, clamped.frames))
    assert torch.equal(y, x.clamp(0, 0.2)) and not torch.equal(x, y)


def test_start_from_a_tensor():
    start = torch.full((3, 2), 7.0)
    trajectory = Trajectory()
    annealed_langevin(
        lambda x, i: torch.zeros_like(x),
        (3, 2),
        SIGMAS,
        step_size=1e-12,
        steps_per_level=1,
        start=start,
        trajectory=trajectory,
    )
    torch.testing.assert_close(trajectory.frames[-1], start, rtol=1e-4, atol=0)


def test_consistent_sampling_has_the_variance_it_tells_the_network():
    """One data point at mu, its exact score: after update i the noise is N(0, sigma_{i+1}^2), exactly."""
    mu, seen = 3.0, Trajectory()
    start = mu + SIGMAS[0] * fs.Philox(9).randn(500, 200)
    consistent_annealed(
        lambda x, s: (mu - x) / s.view(-1, 1) ** 2,
        (500, 200),
        SIGMAS,
        eta=0.6,
        start=start,
        conditioning="sigma",
        denoise=False,
        rng=fs.Philox(1),
        trajectory=seen,
    )
    assert len(seen.frames) == len(SIGMAS) - 1
    for frame, sigma in zip(seen.frames, SIGMAS[1:].tolist()):
        assert abs(z_variance(frame - mu, sigma**2)) < 4


@pytest.mark.parametrize("steps_per_level", [1, 3])
def test_consistent_sampling_variance_recursion(steps_per_level):
    """On N(0, c^2): v <- (1 - eta sigma^2 / tau)^2 v + sigma'^2 - (1 - eta)^2 sigma^2; then the posterior mean."""
    eta = 0.5
    x = consistent_annealed(
        gaussian_score,
        (500, 200),
        SIGMAS,
        eta=eta,
        steps_per_level=steps_per_level,
        conditioning="sigma",
        rng=fs.Philox(1),
    )
    fine = geometric_sigmas(2.0, 0.1, 5 * steps_per_level + 1).tolist()
    v = 4.0
    for a, b in pairwise(fine):
        v = (1 - eta * a * a / (C**2 + a * a)) ** 2 * v + b * b - (1 - eta) ** 2 * a * a
    assert abs(z_variance(x, v * (C**2 / (C**2 + 0.1**2)) ** 2)) < 4


def test_inpainting_samples_the_conditional():
    """(x1, x2) normal with correlation rho, x1 known: the mean and variance of x2 follow exactly, level by level,
    and end near those of x2 given x1, rho x1 and 1 - rho^2."""
    rho, known, step_size, steps, n = 0.9, 1.5, 2e-4, 60, 20_000
    cov = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    sigmas = geometric_sigmas(2.0, 0.02, 10)

    def score(x, sigma):
        return -(x.double() @ torch.linalg.inv(cov + sigma[0].double() ** 2 * torch.eye(2))).float()

    image = torch.tensor([[known, math.nan]]).expand(n, 2)
    x = inpaint(
        score,
        image,
        torch.tensor([True, False]),
        sigmas,
        step_size=step_size,
        steps_per_level=steps,
        start="normal",
        conditioning="sigma",
        rng=fs.Philox(1),
    )
    mean, v = 0.0, 4.0
    for sigma in sigmas.double().tolist():  # x2 <- a x2 + b y + sqrt(step_size_i) z, with one y = x1 + sigma z a level
        step_size_i = step_size * (sigma / 0.02) ** 2
        precision = torch.linalg.inv(cov + sigma**2 * torch.eye(2))
        a, b = 1 - step_size_i / 2 * float(precision[1, 1]), -step_size_i / 2 * float(precision[1, 0])
        pull = b * (1 - a**steps) / (1 - a)
        mean = a**steps * mean + pull * known
        v = a ** (2 * steps) * v + (pull * sigma) ** 2 + step_size_i * (1 - a ** (2 * steps)) / (1 - a * a)
    assert torch.equal(x[:, 0], image[:, 0])
    assert abs(z_mean(x[:, 1], mean, v)) < 4 and abs(z_variance(x[:, 1] - mean, v)) < 4
    assert abs(mean - rho * known) < 0.03 and abs(v / (1 - rho**2) - 1) < 0.1


def test_inpainting_keeps_the_known_part_at_the_level_of_noise():
    image = fs.Philox(5).rand(3, 1, 4, 4)
    mask = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    seen, told = Trajectory(), []
    x = inpaint(
        lambda x, i: told.append(x.clone()) or by_label(x, i),
        image,
        mask,
        SIGMAS,
        step_size=0.01,
        steps_per_level=2,
        rng=fs.Philox(1),
        trajectory=seen,
        denoise=True,
        clamp=(0, 0.5),
    )
    assert torch.equal(x[..., mask], image[..., mask]) and float(x[..., ~mask].max()) <= 0.5
    for k, (before, after) in enumerate(zip(told, seen.frames)):  # each update, and what the network saw of it
        level = k // 2
        z = fs.Philox(1, step=1 + 3 * level).randn(image.shape, stream=fs.Stream.INPAINT)
        for state in (before, after):
            torch.testing.assert_close(state[..., mask], (image + SIGMAS[level] * z)[..., mask])


def test_interpolation_is_smooth_and_each_chain_is_right():
    """For a linear score, chains j and k correlate by cos(theta_j - theta_k), beside what is left of the start."""
    n = 5
    x = interpolate(
        by_label,
        (500, 300),
        SIGMAS,
        num_interpolations=n,
        step_size=0.01,
        steps_per_level=8,
        start="normal",
        rng=fs.Philox(1),
    ).double()
    assert x.shape == (500, n, 300)
    forgotten = 1.0
    for sigma in SIGMAS.tolist():
        forgotten *= (1 - 0.01 * (sigma / 0.1) ** 2 / 2 / (C**2 + sigma**2)) ** 8
    v, v0 = annealed_variance(0.01, 8, 4.0), 4.0 * forgotten**2
    for j in range(n):
        assert abs(z_variance(x[:, j], v)) < 4
        for k in range(j):
            covariance = v0 + (v - v0) * math.cos((j - k) * math.pi / 2 / (n - 1))
            z = float((x[:, j] * x[:, k]).mean() - covariance) / ((v * v + covariance**2) / 150_000) ** 0.5
            assert abs(z) < 4, (j, k)


def test_mixture_weights():
    """0.8 / 0.2 modes at distance 14: annealing recovers the weights, plain Langevin dynamics does not."""
    from fastscore.data.toys import GaussianMixture

    mixture = GaussianMixture()
    sigmas = geometric_sigmas(20.0, 0.5, 12)
    start = 16 * fs.Philox(3).rand(4000, 2) - 8
    plain = langevin(lambda x: mixture.score(x, 0.0), start, num_steps=600, step_size=0.2, rng=fs.Philox(1))
    annealed = annealed_langevin(
        lambda x, s: mixture.score(x, s),
        (4000, 2),
        sigmas,
        step_size=0.05,
        steps_per_level=50,
        start=start,
        conditioning="sigma",
        rng=fs.Philox(1),
    )

    def heavy(x):
        return float((x.sum(1) < 0).double().mean())  # the mode at (-5, -5), weight 0.8

    assert abs(heavy(annealed) - 0.8) < 4 * (0.16 / 4000) ** 0.5 + 0.02
    assert abs(heavy(plain) - 0.5) < 4 * (0.25 / 4000) ** 0.5


MASKS = {  # shapes of mask for images [2, 3, 4, 4] that say which pixels they mean
    (4, 4): (1, 1, 4, 4),
    (1, 4, 4): (1, 1, 4, 4),
    (3, 4, 4): (1, 3, 4, 4),
    (3, 1, 1): (1, 3, 1, 1),
    (): (1, 1, 1, 1),
    (2, 1, 4, 4): (2, 1, 4, 4),
    (1, 3, 4, 4): (1, 3, 4, 4),
    (2, 3, 4, 4): (2, 3, 4, 4),
    (4,): (1, 1, 1, 4),
}


@pytest.mark.parametrize("shape", MASKS)
def test_masks_that_say_what_they_mean(shape):
    image = fs.Philox(5).rand(2, 3, 4, 4)
    mask = fs.Philox(6).rand(1, *shape)[0] < 0.5
    x = inpaint(lambda x, i: -x, image, mask, SIGMAS, step_size=0.01, steps_per_level=1)
    assert torch.equal(x == image, mask.view(MASKS[shape]).expand(2, 3, 4, 4))


@pytest.mark.parametrize(
    "image, mask",
    [((3, 3, 4, 4), (3, 4, 4)), ((2, 2, 5), (2, 5)), ((3, 3, 4, 4), (3, 1, 4)), ((4, 4, 4, 4), (4, 4, 4))],
)
def test_a_mask_of_as_many_samples_as_channels_is_ambiguous(image, mask):
    """By broadcasting it would act on channels, where one per sample may have been meant. Both cures do as they say."""
    images, masks = torch.zeros(image), fs.Philox(6).rand(*mask) < 0.5
    with pytest.raises(
        ValueError,
        match=rf"mask must say what its first {mask[0]} are, .*as many samples as channels"
        r".*pass mask\[:, None\] for one per sample, .* or mask\[None\] for",
    ):
        inpaint(by_label, images, masks, SIGMAS, step_size=0.01)
    for view in (masks[:, None], masks[None]):
        x = inpaint(by_label, images, view, SIGMAS, step_size=0.01, steps_per_level=1)
        assert torch.equal(x == 0, view.expand(image))


def test_the_error_for_a_mask_per_sample_without_channels_names_the_cure():
    with pytest.raises(ValueError, match=r"mask must broadcast to .*\(5, 3, 4, 4\), got .*: pass mask\[:, None\]"):
        inpaint(by_label, torch.zeros(5, 3, 4, 4), torch.zeros(5, 4, 4, dtype=torch.bool), SIGMAS, step_size=0.01)
