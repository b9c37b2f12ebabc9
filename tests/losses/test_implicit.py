"""ism: implicit score matching with the exact trace, and with estimated ones."""

import pytest
import torch

import fastscore as fs
from fastscore import losses
from fastscore.trace.products import AUTOMATIC

from ..conftest import z_mean
from .cases import X, gaussian_data, jacobians, net


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_exact_is_its_formula(mode, chunk_size):
    exact = net(X).square().sum(1) / 2 + jacobians(net, X).diagonal(dim1=1, dim2=2).sum(1)
    for reduction, expected in (("none", exact), ("sum", exact.sum()), ("mean", exact.mean())):
        got = losses.ism(net, X, mode=mode, chunk_size=chunk_size, reduction=reduction)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_gaussian_data():
    """s = -a x on N(0, c^2 I_d): d (a^2 c^2 / 2 - a), the variance of a sample a^4 c^4 d / 2."""
    a, c, d, n = 0.7, 1.5, 3, 40_000
    each = losses.ism(lambda y: -a * y, gaussian_data(c, n, d), reduction="none")
    assert abs(z_mean(each, d * (a * a * c * c / 2 - a), a**4 * c**4 * d / 2)) < 4


def test_minimum_is_at_the_true_score():
    """The slope in a at 1/c^2 is (||x||^2 / c^2 - d) a batch's mean: exactly 0 where that mean square is c^2 itself."""
    c, d, n = 0.7, 3, 1000
    x = gaussian_data(c, n, d)
    x = x * (c * c / x.square().mean()).sqrt()
    a = torch.tensor(1 / c**2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.ism(lambda y: -a * y, x), a, create_graph=True)
    assert abs(slope.item()) < 1e-12
    assert torch.autograd.grad(slope, a)[0].item() == pytest.approx(d * c * c)  # positive: a minimum


@pytest.mark.parametrize("method", ["rademacher", "gaussian", "sphere"])
@pytest.mark.parametrize("num_probes", [1, 2])
def test_an_estimated_trace_is_ssm_vr(method, num_probes):
    """The same probes, and the same gradient."""
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    rng, other = fs.Philox(5), fs.Philox(5)
    got = losses.ism(lambda y: net(y, w), X, method=method, num_probes=num_probes, rng=rng)
    expected = losses.ssm_vr(lambda y: net(y, w), X, projection=method, n_particles=num_probes, rng=other)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(loss, w)[0] for loss in (got, expected)), rtol=1e-10, atol=1e-10)
    assert rng.step == other.step


def test_probing_on_images():
    """A pointwise network, whose Jacobian is diagonal: every colouring is exact."""
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = losses.ism(torch.sin, x, method="probing", num_probes=4, rng=fs.Philox(0), reduction="none")
    torch.testing.assert_close(got, (x.sin().square() / 2 + x.cos()).sum((1, 2, 3)))


@pytest.mark.parametrize("method, num_probes", [("xtrace", 4), ("hutchpp", 3)])
def test_sketches_of_a_jacobian_of_rank_one(method, num_probes):
    """s = u (w^T x): these find the trace of a low-rank Jacobian exactly."""
    u, w = X[0], X[1]
    got = losses.ism(
        lambda y: (y @ w)[:, None] * u, X, method=method, num_probes=num_probes, rng=fs.Philox(0), reduction="none"
    )
    torch.testing.assert_close(got, (X @ w).square() * (u @ u) / 2 + u @ w)


def test_options_go_through_to_the_estimator():
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(y):
        return torch.sin(y) + y.roll(1, 3) * y.roll(1, 2)

    found = []
    for coloring in (fs.Coloring(2, 4, 4, 0, 1), fs.Coloring(2, 4, 4, 1, 0)):
        options = dict(method="probing", num_probes=2, blocks=1, coloring=coloring)
        found.append(losses.ism(score, x, **options, rng=fs.Philox(0), reduction="none"))
        trace = fs.trace.jacobian_trace(score, x, **options, mode="vjp", rng=fs.Philox(0)).value
        torch.testing.assert_close(found[-1], score(x).square().sum((1, 2, 3)) / 2 + trace)
    assert not torch.allclose(*found)


def test_the_primal_is_not_computed_twice():
    calls = []

    def counted(y):
        calls.append(y.shape)
        return net(y)

    for mode in AUTOMATIC:
        calls.clear()
        losses.ism(counted, X, mode=mode)
        assert calls == [X.shape], mode
    calls.clear()
    losses.ism(counted, X, mode="jvp", chunk_size=2)  # forward mode evaluates it once a chunk
    assert calls == [X.shape] * 2
