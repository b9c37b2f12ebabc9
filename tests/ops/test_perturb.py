"""perturb against alpha x + sigma z written out, in float64."""

import torch

import fastscore as fs
from fastscore._core import backends

from ..conftest import z_mean, z_variance
from .cases import DTYPES, LAYOUTS, every_case, sigma_of, tensor


def column(value, x):
    value = torch.as_tensor(value, dtype=torch.float64, device=x.device)
    return value.reshape(-1, *[1] * (x.dim() - 1)) if value.dim() else value


@every_case
def test_equals_the_formula(on_backend, backend, device, shape, dtype, layout):
    on_backend(backend, device)
    x = LAYOUTS[layout](tensor(shape, dtype, 0, device))
    for kind in ("number", "0-dim", "per sample"):
        sigma = sigma_of(kind, shape[0], device)
        for alpha in (None, 0.5, torch.linspace(0, 1, shape[0], device=device)):
            got, noise = fs.perturb(x, sigma, fs.Philox(3), alpha=alpha)
            z = fs.Philox(3).randn(shape, stream=fs.Stream.PERTURB, dtype=torch.float64, device=device)
            exact = column(1.0 if alpha is None else alpha, x) * x.double() + column(sigma, x) * z
            assert got.dtype == dtype and got.shape == x.shape and backends.last["perturb"] == backend
            torch.testing.assert_close(got.double(), exact, rtol=DTYPES[dtype], atol=DTYPES[dtype])
            assert torch.equal(noise.tensor(torch.float64), z)


def test_gradients():
    x, sigma, alpha = (
        t.requires_grad_()
        for t in (tensor((3, 4), torch.float64, 0), torch.rand(3).double() + 0.1, torch.rand(3).double())
    )
    assert torch.autograd.gradcheck(lambda *a: fs.perturb(a[0], a[1], fs.Philox(0), alpha=a[2])[0], (x, sigma, alpha))


def test_law():
    """x_tilde - x has mean 0 and variance sigma^2."""
    x = tensor((1000, 1000), torch.float32, 1)
    residual = fs.perturb(x, 0.5, fs.Philox(4))[0] - x
    assert abs(z_mean(residual, 0, 0.25)) < 4 and abs(z_variance(residual, 0.25)) < 4


def test_input_is_not_changed_and_draws_move_on():
    x, rng = torch.ones(2, 3), fs.Philox(0)
    first, second = fs.perturb(x, 1.0, rng)[0], fs.perturb(x, 1.0, rng)[0]
    assert torch.equal(x, torch.ones(2, 3)) and not torch.equal(first, second)
