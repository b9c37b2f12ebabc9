"""Networks and exact answers that the tests of the losses share."""

import torch

import fastscore as fs
from fastscore import losses

A = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
PROJECTIONS = ("rademacher", "gaussian", "sphere")
LOSSES = {  # name: loss(score_fn, x, **options), for those that need the Jacobian of one score
    "ism": losses.ism,
    "ssm": losses.ssm,
    "ssm_vr": losses.ssm_vr,
    "gradient_penalty": losses.gradient_penalty,
}


def net(x, w=1.0):
    """Neither linear nor with a symmetric Jacobian, which differs from sample to sample; linear in ``w``."""
    return w * (torch.sin(x) @ A.to(x).T + 0.3 * x**2)


def jacobians(f, x):
    """The Jacobian of each sample by itself, [B, D, D]."""
    rows = [torch.autograd.functional.jacobian(lambda y: f(y[None]).flatten(), x_b) for x_b in x]
    return torch.stack(rows).reshape(len(x), x[0].numel(), -1)


def directions(x, n, projection, seed=5):
    return fs.fill_probes(fs.Probes(x, n, fs.Philox(seed), distribution=projection))


def form_variance(matrix, projection):
    """The variance of v^T M v."""
    s, d = (matrix + matrix.T) / 2, len(matrix)
    squares, diagonal = float(s.square().sum()), float(s.diagonal().square().sum())
    if projection == "rademacher":
        return 2 * (squares - diagonal)
    return 2 * squares if projection == "gaussian" else 2 * d / (d + 2) * (squares - float(s.trace()) ** 2 / d)


def gaussian_data(c, n, d, seed=1):
    return c * fs.Philox(seed).randn(n, d, dtype=torch.float64)
