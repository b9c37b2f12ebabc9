"""One vocabulary of step sizes, schedules of them, preconditioners, and what thinning keeps."""

import math

import pytest
import torch

import fastscore as fs
from fastscore.samplers import Trajectory, annealed_langevin, langevin
from fastscore.schedules import suggest

from ..conftest import z_variance
from .cases import CASES

SIGMAS = torch.tensor([1.0, 0.1])
IMAGE = fs.Philox(4).rand(3, 5)

SAMPLERS = {
    name: lambda case=case, **k: case.steps(lambda x, i: -x, IMAGE, SIGMAS, rng=fs.Philox(1), **k)
    for name, case in CASES.items()
    if case.step_size == "step_size"
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@each_sampler
def test_step_size_is_twice_step_lr(sampler):
    by_step_size, by_step_lr = sampler(step_size=2e-3), sampler(step_lr=1e-3)
    assert torch.equal(by_step_size, by_step_lr) and not torch.equal(by_step_size, sampler(step_size=1e-3))


@each_sampler
@pytest.mark.parametrize("given", [{}, dict(step_size=2e-3, step_lr=1e-3), dict(step_size=None, step_lr=None)])
def test_exactly_one_step_size(sampler, given):
    with pytest.raises(
        ValueError, match=r"give exactly one of step_size .* and step_lr .*step_size = 2 step_lr\), got step_size="
    ):
        sampler(**given)


@each_sampler
@pytest.mark.parametrize("name", ["step_size", "step_lr"])
@pytest.mark.parametrize(
    "value, error",
    [(0.0, ValueError), (-1e-3, ValueError), (math.nan, ValueError), (True, TypeError), ("1e-3", TypeError)],
)
def test_the_step_size_that_is_wrong_is_named(sampler, name, value, error):
    with pytest.raises(error, match=f"{name} must be"):
        sampler(**{name: value})


FOUND = suggest(IMAGE, num_levels=2, sigma_min=0.1)


@each_sampler
def test_a_suggested_step_size_is_of_one_form(sampler):
    with pytest.raises(
        ValueError, match=r"step_size must be twice the step_lr that suggest found.*use suggestion\.step_size"
    ):
        sampler(step_size=FOUND.step_lr)
    with pytest.raises(
        ValueError, match=r"step_lr must be half the step_size that suggest found.*use suggestion\.step_lr"
    ):
        sampler(step_lr=FOUND.step_size)
    assert torch.equal(sampler(step_lr=FOUND.step_lr), sampler(step_size=FOUND.step_size))


TAKES = {
    "each of a sequence": lambda: SAMPLERS["langevin"](step_size=[1e-3, FOUND.step_lr, 1e-3]),
    "a function": lambda: SAMPLERS["langevin"](step_lr=lambda step: FOUND.step_size),
    "the operator": lambda: fs.langevin_step(IMAGE, IMAGE, FOUND.step_lr, fs.Philox(0)),
    "a configuration": lambda: fs.experiment.config.TrainConfig(step_size=FOUND.step_lr),
    "the first repository's toys": lambda: fs.compat.ncsn.langevin_dynamics(torch.neg, IMAGE, FOUND.step_lr, 2),
    "the first repository": lambda: fs.compat.ncsn.baseline_Langevin_dynamics(IMAGE, torch.neg, 2, FOUND.step_size),
    "the second repository": lambda: fs.compat.ncsnv2.anneal_Langevin_dynamics(
        IMAGE, lambda x, i: -x, SIGMAS, 2, FOUND.step_size
    ),
}


@pytest.mark.parametrize("call", TAKES.values(), ids=TAKES)
def test_a_suggested_step_size_is_of_one_form_wherever_one_is_taken(call):
    with pytest.raises(ValueError, match=r" must be (twice|half) the (step_lr|step_size) that suggest found"):
        call()


def test_a_suggestion_says_what_annealed_langevin_takes():
    found = suggest(IMAGE, num_levels=4, steps_per_level=3)
    trajectory = Trajectory()
    got = annealed_langevin(lambda x, i: -x, (3, 5), **found.sampling(), rng=fs.Philox(1), trajectory=trajectory)
    assert len(trajectory.steps) == 4 * 3
    want = annealed_langevin(
        lambda x, i: -x, (3, 5), found.sigmas, step_lr=found.step_lr, steps_per_level=3, rng=fs.Philox(1)
    )
    assert torch.equal(got, want)


DECAY = [0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    "step_size",
    [DECAY, tuple(DECAY), torch.tensor(DECAY), torch.tensor(DECAY).numpy(), lambda step: 2.0**-step],
    ids=["list", "tuple", "tensor", "array", "function"],
)
def test_a_schedule_of_step_sizes(step_size):
    x = IMAGE.double()
    got = langevin(torch.neg, x, num_steps=3, step_size=step_size, rng=fs.Philox(1))
    for step, a in enumerate(DECAY):
        z = fs.Philox(1, step=step).randn(3, 5, stream=fs.Stream.LANGEVIN, dtype=torch.float64)
        x = x - a / 2 * x + a**0.5 * z
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-12)
    half = step_size if callable(step_size) else torch.as_tensor(step_size) / 2
    step_lr = (lambda step: step_size(step) / 2) if callable(step_size) else half
    assert torch.equal(langevin(torch.neg, IMAGE.double(), num_steps=3, step_lr=step_lr, rng=fs.Philox(1)), got)


@pytest.mark.parametrize(
    "given, error, text",
    [
        (
            dict(step_size=[0.1, 0.2]),
            ValueError,
            "step_size must be a number, .* step, or have num_steps=3 values, got 2",
        ),
        (dict(step_lr=torch.ones(4)), ValueError, "step_lr must be a number.* got 4"),
        (dict(step_size=[0.1, 0.0, 0.1]), ValueError, r"step_size\[1\] must be finite and greater than 0, got 0.0"),
        (dict(step_lr=torch.tensor([1, math.nan, 1])), ValueError, r"step_lr\[1\] must be finite"),
        (
            dict(step_size=lambda step: 3.0 - step),
            ValueError,
            r"step_size\(3\) must be finite and greater than 0, got 0.0",
        ),
        (dict(step_lr=lambda step: None), TypeError, r"step_lr\(1\) must be a number"),
        (dict(step_size=torch.ones(3, 1)), TypeError, r"step_size\[0\] must be a number"),
    ],
)
def test_schedules_are_checked_before_anything_runs(given, error, text):
    calls = []
    with pytest.raises(error, match=text):
        langevin(lambda x: calls.append(1) or -x, IMAGE, num_steps=3, **given)
    assert not calls


# coordinates that differ by a factor of 30, which no step size of one number serves alike
SCALES = torch.tensor([3.0, 1.0, 0.1])


def test_preconditioned_stationary_variance():
    """x <- (1 - step_size M / (2 c^2)) x + sqrt(step_size M) z: v = c^2 / (1 - step_size M / (4 c^2)); for M = c^2 the
    same share
    of every coordinate, reached after the same few steps."""
    for metric, step_size, steps in [(SCALES**2, 0.8, 40), (0.5 * SCALES**2, 0.8, 80), (SCALES, 0.05, 1500)]:
        n = 4000 if steps > 100 else 40_000
        x = langevin(
            lambda x: -x / SCALES**2,
            torch.zeros(n, 3),
            num_steps=steps,
            step_size=step_size,
            preconditioner=metric,
            rng=fs.Philox(5),
        )
        for column, m, c in zip(x.T, metric.tolist(), SCALES.tolist()):
            rate = 1 - step_size * m / (2 * c * c)
            v = step_size * m * (1 - rate ** (2 * steps)) / (1 - rate**2)
            assert abs(z_variance(column, v)) < 4
            if rate ** (2 * steps) < 1e-9:
                assert v == pytest.approx(c * c / (1 - step_size * m / (4 * c * c)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_each_preconditioned_step_is_the_formula(dtype):
    """One M a sample and coordinate; the noise is that of the plain chain."""
    x, m = IMAGE.to(dtype), 0.1 + fs.Philox(6).rand(3, 5)
    got = langevin(lambda x: -(x**3), x, num_steps=1, step_size=0.2, preconditioner=m, rng=fs.Philox(1))
    z = fs.Philox(1).randn(3, 5, stream=fs.Stream.LANGEVIN, dtype=torch.float64)
    want = x.double() + 0.1 * m.double() * (-(x**3)).double() + (0.2 * m.double()).sqrt() * z
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    ones = langevin(torch.neg, x, num_steps=3, step_size=0.2, preconditioner=torch.ones(5), rng=fs.Philox(1))
    plain = langevin(torch.neg, x, num_steps=3, step_size=0.2, rng=fs.Philox(1))
    torch.testing.assert_close(ones, plain, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize(
    "value, error, text",
    [
        (torch.ones(3), ValueError, r"preconditioner must have the shape of a sample, \(5,\), or of x, \(3, 5\), got"),
        (torch.ones(3, 1), ValueError, "preconditioner must have the shape"),
        (torch.zeros(5), ValueError, "preconditioner must be finite and greater than 0 everywhere, got 0.0"),
        (torch.ones(5, dtype=torch.int64), TypeError, "preconditioner must be float16"),
        (0.5, TypeError, "preconditioner must be a torch.Tensor, got float 0.5"),
        (torch.ones(5, device="meta"), ValueError, "preconditioner must be on the device of x, cpu"),
    ],
)
def test_preconditioner_errors(value, error, text):
    with pytest.raises(error, match=text):
        langevin(torch.neg, IMAGE, num_steps=1, step_size=0.1, preconditioner=value)


@pytest.mark.parametrize(
    "burn_in, thin, steps", [(0, 1, [1, 2, 3, 4, 5, 6, 7]), (1, 2, [3, 5, 7]), (0, 3, [3, 6]), (6, 1, [7])]
)
def test_thinning_keeps_every_kth_state_after_the_burn_in(burn_in, thin, steps):
    every = Trajectory()
    kept = langevin(
        torch.neg, IMAGE, num_steps=7, step_size=0.1, burn_in=burn_in, thin=thin, rng=fs.Philox(1), trajectory=every
    )
    assert torch.equal(kept, torch.stack([every.frames[k - 1] for k in steps]))


@pytest.mark.parametrize(
    "given, error, text",
    [
        (dict(thin=0), ValueError, "thin must be at least 1, got 0"),
        (dict(thin=1.5), TypeError, "thin must be an integer"),
        (dict(burn_in=-1, thin=1), ValueError, "burn_in must be at least 0"),
        (dict(burn_in=5, thin=3), ValueError, r"num_steps must be at least burn_in \+ thin, 5 \+ 3, .*got 7"),
        (dict(burn_in=5), ValueError, "burn_in must be 0 where thin is None, .*got 5: give thin too"),
    ],
)
def test_thinning_errors(given, error, text):
    with pytest.raises(error, match=text):
        langevin(torch.neg, IMAGE, num_steps=7, step_size=0.1, **given)


def test_one_sample_without_a_batch():
    """[D] is not D samples: what it was taken for is said, and both cures work."""
    x = torch.ones(6)
    with pytest.raises(
        ValueError,
        match=r"x must have shape \[B, D, ...\], got a .*\(6,\).*: pass x\[None\] for one "
        r"sample of 6 numbers, or x\[:, None\] for 6 samples of one",
    ):
        langevin(torch.neg, x, num_steps=1, step_size=0.1)
    assert langevin(torch.neg, x[None], num_steps=1, step_size=0.1).shape == (1, 6)
    assert langevin(torch.neg, x[:, None], num_steps=1, step_size=0.1).shape == (6, 1)
