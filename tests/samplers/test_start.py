"""Where the solvers begin: with the mean and the covariance that the noisy data have."""

import pytest
import torch

import fastscore as fs
from fastscore import paths
from fastscore.samplers import ddim

MEAN = torch.arange(6.0).view(2, 3)
_ROOT = fs.Philox(2).randn(6, 2, dtype=torch.float64)
COVARIANCE = 4 * _ROOT @ _ROOT.T  # of rank 2


def begin(batch=8, offset=0, path=(3.0, 1.0), **how):
    """The first x that the score sees."""
    seen = []

    def score(x, t):
        seen.append(x.clone())
        return -x

    ddim(score, (batch, 2, 3), path, steps=2, rng=fs.Philox(1, sample_offset=offset), **how)
    return seen[0]


@pytest.mark.parametrize("path", [(3.0, 1.0), paths.vp_linear(beta_max=2.0)], ids=["levels", "vp"])
def test_a_start_with_the_moments_of_the_noisy_data(path):
    """Mean alpha m and covariance alpha^2 C + sigma^2 I: of the affine map of z that the start is, seen at its basis."""
    alpha, sigma = (1.0, 3.0) if isinstance(path, tuple) else (float(path.alpha(1.0)), float(path.sigma(1.0)))
    x = begin(path=path, mean=MEAN, covariance=COVARIANCE, dtype=torch.float64).flatten(1)
    z = fs.Philox(1).randn(8, 2, 3, stream=fs.Stream.INIT, dtype=torch.float64).flatten(1)
    centred = x - alpha * MEAN.flatten()
    root = torch.linalg.lstsq(z, centred).solution.T  # centred = root z, of 8 samples in 6 dimensions
    torch.testing.assert_close(z @ root.T, centred, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(root @ root.T, alpha**2 * COVARIANCE + sigma**2 * torch.eye(6), rtol=1e-6, atol=1e-6)


def test_a_sample_begins_alike_in_any_batch_and_a_diagonal_is_std():
    whole = begin(mean=MEAN, covariance=COVARIANCE)
    assert torch.equal(begin(3, offset=5, mean=MEAN, covariance=COVARIANCE), whole[5:])
    std = 1 + fs.Philox(3).rand(2, 3)
    diagonal = begin(mean=MEAN, covariance=std.flatten().square().diag())
    torch.testing.assert_close(diagonal, begin(mean=MEAN, std=std))
    assert diagonal.dtype == torch.float32


@pytest.mark.parametrize(
    "covariance, std, message",
    [
        (torch.eye(5), 0.0, r"covariance must be \[D, D\] with D = 6, the numbers of a sample, got"),
        (torch.eye(6), 1.0, "std must be left out where covariance is given, got"),
        (torch.eye(6).roll(1, 0), 0.0, "covariance must be finite and symmetric, got entries that differ by 1"),
        (torch.eye(6) * torch.nan, 0.0, "covariance must be finite and symmetric, got entries that differ by nan"),
        (-20 * torch.eye(6), 0.0, "covariance must be positive semidefinite, got one with an eigenvalue of -20"),
        ([[1.0]], 0.0, "covariance must be a torch.Tensor"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance, std, message):
    with pytest.raises((TypeError, ValueError), match=message):
        begin(covariance=covariance, std=std)
