"""Plain Langevin dynamics against exact laws."""

import pytest
import torch

import fastscore as fs
from fastscore.samplers import Trajectory, langevin

from ..conftest import z_variance


@pytest.mark.parametrize("s", [1.0, 0.3])
def test_stationary_variance(s):
    """eta = 0.2 s^2 on N(0, s^2): s^2 / (1 - eta / (2 s^2)) = 1.111 s^2."""
    x = langevin(lambda x: -x / s**2, torch.zeros(1000, 200), num_steps=60, step_lr=0.2 * s * s, rng=fs.Philox(1))
    assert abs(z_variance(x, s * s / 0.9)) < 4


def test_step_size_is_twice_step_lr():
    x = torch.ones(2, 3)
    a = langevin(torch.neg, x, num_steps=5, step_size=0.2, rng=fs.Philox(0))
    assert torch.equal(a, langevin(torch.neg, x, num_steps=5, step_lr=0.1, rng=fs.Philox(0)))


def test_each_step_is_the_formula():
    x = torch.ones(2, 3, dtype=torch.float64)
    expected, seen = x, []
    trajectory = Trajectory()
    last = langevin(
        lambda x: -2 * x,
        x,
        num_steps=3,
        step_size=0.1,
        rng=fs.Philox(0),
        trajectory=trajectory,
        callback=lambda step, x: seen.append((step, x)),
    )
    for step in range(3):
        z = fs.Philox(0, step=step).randn(2, 3, stream=fs.Stream.LANGEVIN, dtype=torch.float64)
        expected = expected + 0.05 * -2 * expected + 0.1**0.5 * z
        torch.testing.assert_close(trajectory.frames[step], expected, rtol=1e-12, atol=0)
        assert seen[step][0] == step + 1 and torch.equal(seen[step][1], trajectory.frames[step])
    assert torch.equal(last, trajectory.frames[-1]) and trajectory.steps == [1, 2, 3]
    assert torch.equal(x, torch.ones(2, 3, dtype=torch.float64))


def test_trajectory_keeps_what_it_is_asked_to():
    trajectory = Trajectory(every=4, num_samples=2)
    langevin(torch.neg, torch.ones(5, 3), num_steps=10, step_size=0.1, trajectory=trajectory)
    assert trajectory.steps == [4, 8, 10] and all(f.shape == (2, 3) for f in trajectory.frames)


def test_trajectory_refuses_to_fill_memory():
    calls = []
    with pytest.raises(ValueError, match=r"trajectory would take 12,000 bytes, more than its max_bytes=11,999"):
        langevin(
            lambda x: calls.append(1) or -x,
            torch.ones(10, 3),
            num_steps=100,
            step_size=0.1,
            trajectory=Trajectory(max_bytes=11_999),
        )
    assert not calls, "nothing may run before the check"


def test_no_gradients_are_recorded():
    weight = torch.ones((), requires_grad=True)
    enabled = []
    x = langevin(
        lambda x: enabled.append(torch.is_grad_enabled()) or -weight * x, torch.ones(2, 3), num_steps=2, step_size=0.1
    )
    assert not x.requires_grad and enabled == [False, False]


def test_warns_of_samples_that_are_not_finite():
    with pytest.warns(UserWarning, match="2 of 2 samples are not finite"):
        langevin(lambda x: x * 1e30, torch.ones(2, 3), num_steps=3, step_size=1.0)


def test_an_empty_batch_stays_empty():
    x = torch.zeros(0, 3)
    assert langevin(torch.neg, x, num_steps=2, step_size=0.1).shape == (0, 3)
    assert langevin(torch.neg, x, num_steps=2, step_size=0.1, thin=1).shape == (2, 0, 3)
