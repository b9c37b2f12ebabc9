"""The Metropolis-adjusted Langevin algorithm: exact where Langevin dynamics is not, and chain by chain."""

import pytest
import torch

import fastscore as fs
from fastscore import samplers

NORMAL = fs.energy_score(lambda x: x.square().sum(1) / 2)


@pytest.mark.parametrize("step_lr", [0.2, 0.8])
def test_the_variance_is_the_targets(step_lr):
    n = 40_000
    x = fs.Philox(5).randn(n, 1)  # exact samples, which an exact kernel leaves exact
    found = samplers.mala(NORMAL, x, num_steps=40, step_lr=step_lr, rng=fs.Philox(0))
    plain = samplers.langevin(NORMAL, x, num_steps=40, step_lr=step_lr, rng=fs.Philox(0))
    spread = (2 / n) ** 0.5
    assert abs(float(found.x.var()) - 1) < 3 * spread
    stationary = 1 / (1 - step_lr / 2)
    assert abs(float(plain.var()) - stationary) < 3 * spread * stationary
    assert float(found.acceptance.mean()) == pytest.approx({0.2: 0.980, 0.8: 0.842}[step_lr], abs=0.003)


def test_it_finds_another_density():
    """p proportional to exp(-x^4 / 4): E x^2 = 2 Gamma(3/4) / Gamma(1/4), E x^4 = 1, from the wrong start."""
    quartic = fs.energy_score(lambda x: x.pow(4).sum(1) / 4)
    x = samplers.mala(quartic, 0.2 * fs.Philox(1).randn(20_000, 1), num_steps=150, step_size=0.5, rng=fs.Philox(2)).x
    second = 2 * 1.2254167024 / 3.6256099082
    assert float(x.square().mean()) == pytest.approx(second, abs=4 * ((1 - second**2) / 20_000) ** 0.5)


def test_warm_up():
    x = fs.Philox(3).randn(200, 5)
    found = samplers.mala(NORMAL, x, num_steps=100, step_size=1e-3, warm_up=300, rng=fs.Philox(4))
    assert float(found.acceptance.mean()) == pytest.approx(0.574, abs=0.03) and float(found.step_size.min()) > 0.5
    off = samplers.mala(NORMAL, x, num_steps=3, step_size=0.25, rng=fs.Philox(4))
    assert bool((off.step_size == 0.25).all())


def test_a_warm_up_leaves_the_law_right():
    """Of a correlated Gaussian, from a wrong start and a step size that is far too large, of which each chain finds its own."""
    n, covariance = 10_000, torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    precision, mean = torch.linalg.inv(covariance), torch.tensor([1.0, -3.0], dtype=torch.float64)
    target = fs.energy_score(lambda x: ((x - mean) @ precision * (x - mean)).sum(1) / 2)
    x = fs.Philox(9).randn(n, 2, dtype=torch.float64)
    found = samplers.mala(target, x, num_steps=60, step_size=20.0, warm_up=60, rng=fs.Philox(10))
    v = covariance.diagonal()
    assert bool((((found.x.mean(0) - mean) / (v / n).sqrt()).abs() < 4).all())
    spread = ((covariance.square() + v[:, None] * v) / n).sqrt()
    assert bool((((found.x.T.cov() - covariance) / spread).abs() < 4).all())
    assert float(found.step_size.std()) > 0.05 and 0.4 < float(found.acceptance.mean()) < 0.7


def test_a_chain_alone_is_that_of_a_batch():
    x = fs.Philox(6).randn(9, 3, 2)
    energy = fs.energy_score(lambda x: x.square().sum((1, 2)).square() / 4)
    how = {"num_steps": 6, "step_size": 0.3, "warm_up": 4}
    batch = samplers.mala(energy, x, rng=fs.Philox(7), **how)
    alone = samplers.mala(energy, x[5:6], rng=fs.Philox(7, sample_offset=5), **how)
    assert torch.equal(batch.x[5:6], alone.x) and torch.equal(batch.step_size[5:6], alone.step_size)


def test_an_infinite_energy_is_never_entered():
    half = fs.energy_score(lambda x: torch.where(x > 0, x.square() / 2, torch.inf).sum(1))
    x = samplers.mala(half, torch.full((500, 1), 0.1), num_steps=50, step_size=0.5, rng=fs.Philox(8)).x
    assert bool((x > 0).all()) and float(x.mean()) == pytest.approx((2 / torch.pi) ** 0.5, abs=0.12)


@pytest.mark.parametrize("hole", [-torch.inf, torch.nan])
def test_a_hole_in_the_energy_is_never_entered(hole):
    pit = fs.energy_score(lambda x: torch.where(x > 0, x.square() / 2, hole).sum(1))
    found = samplers.mala(pit, torch.full((200, 1), 0.1), num_steps=10, step_size=0.5, rng=fs.Philox(8))
    assert bool((found.x > 0).all()) and 0 < float(found.acceptance.mean()) < 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"score_fn": lambda x: -x}, TypeError, "score_fn must be fastscore.energy_score"),
        ({"x": torch.zeros(3)}, ValueError, r"x must have shape \[B, D"),
        ({"x": torch.full((2, 1), torch.inf)}, ValueError, "x must have finite energies .* got 2 of 2"),
        (
            {"score_fn": fs.energy_score(lambda x: x.square().sum(1).sqrt())},  # whose gradient at 0 is NaN
            ValueError,
            "x must have finite gradients of the energy .* got 2 of 2",
        ),
        ({"target": 1.0}, ValueError, "target must be less than 1"),
        ({"step_size": None}, ValueError, "give exactly one of step_size"),
        ({"warm_up": -1}, ValueError, "warm_up must be at least 0"),
    ],
)
def test_bad_input_is_named(change, error, words):
    given = {"score_fn": NORMAL, "x": torch.zeros(2, 1), "num_steps": 2, "step_size": 0.1} | change
    with pytest.raises(error, match=words):
        samplers.mala(**given)
