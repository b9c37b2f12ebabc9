"""Functions whose Jacobians are known, and what their estimates' errors must be."""

import torch

import fastscore as fs
from fastscore.trace import METHODS

ESTIMATORS = [name for name in METHODS if name != "exact"]


def matrix(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(a):
    """x -> A x of flattened samples, A [D, D] or [B, D, D], one for each sample."""

    def f(x):
        flat = x.flatten(1)
        return ((flat @ a.T) if a.dim() == 2 else torch.einsum("bij,bj->bi", a, flat)).reshape(x.shape)

    return f


def trace_of(a):
    return a.diagonal(dim1=-2, dim2=-1).sum(-1)


def symmetric(a):
    return (a + a.mT) / 2


def seeds(a, n, method, shape=None, seed=0, **options):
    """``n`` independent estimates of tr A: every row of a batch has numbers of its own."""
    x = torch.zeros(n, *(shape or a.shape[-1:]), dtype=a.dtype)
    return fs.jacobian_trace(linear(a), x, method=method, rng=fs.Philox(seed), **options)


def z_of(values, expected):
    """The z-score of a mean, the standard error taken from the values."""
    return float((values.mean() - expected) / (values.std() / values.numel() ** 0.5))


class Mixture(torch.nn.Module):
    """The score of the mean of N(x_i, sigma^2 I) over a few centres: (E[x_i | x] - x) / sigma^2."""

    def __init__(self, centres, sigma):
        super().__init__()
        self.centres, self.sigma = centres, sigma

    def weights(self, x):
        return torch.softmax(-(x[:, None] - self.centres).square().sum(2) / (2 * self.sigma**2), 1)

    def forward(self, x):
        return (self.weights(x) @ self.centres - x) / self.sigma**2

    def trace(self, x):
        """-D / sigma^2 + tr Cov(centre | x) / sigma^4."""
        w = self.weights(x)
        covariance = (w * self.centres.square().sum(1)).sum(1) - (w @ self.centres).square().sum(1)
        return -x.shape[1] / self.sigma**2 + covariance / self.sigma**4
