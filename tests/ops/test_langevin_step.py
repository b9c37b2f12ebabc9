"""langevin_step against its formula in float64, in place and out of place, and against exact laws."""

import pytest
import torch

import fastscore as fs

from ..conftest import z_variance
from .cases import DTYPES, LAYOUTS, every_case, tensor
from .test_perturb import column


@every_case
def test_equals_the_formula(on_backend, backend, device, shape, dtype, layout):
    on_backend(backend, device)
    x, score = LAYOUTS[layout](tensor(shape, dtype, 0, device)), LAYOUTS[layout](tensor(shape, dtype, 1, device))
    z = fs.Philox(3).randn(shape, stream=fs.Stream.LANGEVIN, dtype=torch.float64, device=device)
    for step_size in (0.3, torch.tensor(0.3, device=device), torch.linspace(0, 1, shape[0], device=device)):
        a = column(step_size, x)
        exact = x.double() + a / 2 * score.double() + a.sqrt() * z
        tolerance = DTYPES[dtype] if isinstance(step_size, float) else max(DTYPES[dtype], 1e-7)
        got = fs.langevin_step(x, score, step_size, fs.Philox(3))
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        assert fs.langevin_step(x, score, step_size, fs.Philox(3), out=out) is out and torch.equal(out, got)
        own = x.clone(memory_format=torch.contiguous_format)
        assert fs.langevin_step(own, score, step_size, fs.Philox(3), out=own) is own and torch.equal(own, got)


def test_given_noise_in_place_of_a_draw():
    x, score = tensor((3, 5), torch.float32, 0), tensor((3, 5), torch.float32, 1)
    noise = fs.Philox(3).noise((3, 5), stream=fs.Stream.LANGEVIN)
    expected = fs.langevin_step(x, score, 0.1, fs.Philox(3))
    assert torch.equal(fs.langevin_step(x, score, 0.1, noise=noise), expected)
    torch.testing.assert_close(fs.langevin_step(x, score, 0.1, noise=noise.tensor()), expected)


def test_gradients():
    x, score = (tensor((3, 4), torch.float64, i).requires_grad_() for i in range(2))
    step_size = (torch.rand(3).double() + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: fs.langevin_step(*a, fs.Philox(0)), (x, score, step_size))


def test_it_climbs():
    """Without noise to speak of, a step goes uphill by step_size/2 s: a minus sign here is the classic mistake."""
    x, score = torch.zeros(2, 3), torch.ones(2, 3)
    got = fs.langevin_step(x, score, 0.5, noise=torch.zeros(2, 3))
    assert torch.equal(got, torch.full((2, 3), 0.25))


def test_noise_has_variance_step_size():
    got = fs.langevin_step(torch.zeros(100, 10_000), torch.zeros(100, 10_000), 0.3, fs.Philox(1))
    assert abs(z_variance(got, 0.3)) < 4


@pytest.mark.parametrize("n", [3, 20_000])
@pytest.mark.parametrize("backend", ["reference", "native", "triton"])
def test_autograd_notices_what_is_overwritten(on_backend, backend, n):
    on_backend(backend)
    x, w = torch.ones(2, n), torch.ones(2, n, requires_grad=True)
    loss = (w * x).sum()
    with torch.no_grad():
        fs.langevin_step(x, x, 0.1, fs.Philox(0), out=x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        y = torch.ones(2, n)
        assert fs.langevin_step(y, y, 0.1, fs.Philox(0), out=y) is y and torch.equal(y, x)


def test_views_that_are_negated_when_read():
    x, score = torch._neg_view(torch.ones(2, 3)), torch.zeros(2, 3)
    assert x.is_neg() and torch.equal(fs.langevin_step(x, score, 0.0, fs.Philox(0)), -torch.ones(2, 3))
    assert torch.equal(fs.perturb(x, 1e-30, fs.Philox(0))[0], -torch.ones(2, 3))
