"""Each loss teaches a linear score the truth: s = -W x on N(0, C) has its minimum at W = C^-1."""

import pytest
import torch

import fastscore as fs
from fastscore import losses

D = 3
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 1.2]], dtype=torch.float64)
PRECISION = torch.linalg.inv(ROOT @ ROOT.T)
LEARNERS = {
    "ism": lambda f, x, rng: losses.ism(f, x),
    "ism, jvp": lambda f, x, rng: losses.ism(f, x, mode="jvp"),
    "ism, rademacher": lambda f, x, rng: losses.ism(f, x, method="rademacher", rng=rng),
    "ssm": lambda f, x, rng: losses.ssm(f, x, rng=rng),
    "ssm, sphere": lambda f, x, rng: losses.ssm(f, x, rng=rng, projection="sphere", n_particles=2),
    "ssm_vr": lambda f, x, rng: losses.ssm_vr(f, x, rng=rng, mode="jvp"),
    "ssm_vr, gaussian": lambda f, x, rng: losses.ssm_vr(f, x, rng=rng, projection="gaussian"),
    "fd_ssm": lambda f, x, rng: losses.fd_ssm(f, x, rng=rng),
    "fd_ssm, variance reduced": lambda f, x, rng: losses.fd_ssm(f, x, rng=rng, variance_reduced=True),
}


def learned(loss, steps=400, batch=400):
    w = torch.eye(D, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.05, betas=(0.9, 0.99))
    for step in range(steps):
        x = fs.Philox(1, step=step).randn(batch, D, dtype=torch.float64) @ ROOT.T
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        loss(lambda y: -y @ w, x, fs.Philox(2, step=10 * step)).backward()
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_linear_score_finds_the_precision(name):
    error = (learned(LEARNERS[name]) - PRECISION).abs().max()
    assert error < 0.1, error


def test_annealed_finds_the_precision_of_the_noisy_data():
    """One level: N(0, C + sigma^2 I)."""
    sigmas = torch.tensor([0.7], dtype=torch.float64)
    expected = torch.linalg.inv(ROOT @ ROOT.T + 0.49 * torch.eye(D, dtype=torch.float64))
    w = learned(lambda f, x, rng: losses.annealed_ssm_vr(lambda y, labels: f(y), x, sigmas, rng=rng))
    assert (w - expected).abs().max() < 0.1


def test_a_penalty_makes_the_score_smaller():
    """ISM + lambda ||W||^2 for W = w I on N(0, c^2 I): least at w = 1 / (c^2 + 2 lambda)."""
    strength = 0.5

    def loss(f, x, rng):
        return losses.ism(f, x / 2) + strength * losses.gradient_penalty(f, x, rng=rng)

    expected = torch.linalg.inv(ROOT @ ROOT.T / 4 + 2 * strength * torch.eye(D, dtype=torch.float64))
    assert (learned(loss) - expected).abs().max() < 0.1
