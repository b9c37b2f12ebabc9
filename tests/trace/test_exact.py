"""Exact traces: all unit directions, and all colours of a bounded receptive field."""

import itertools

import pytest
import torch
from torch.func import jacrev, vmap

import fastscore as fs
from fastscore.trace import exact

from .cases import linear, matrix, trace_of


def convolutions(dims, channels, radius=2):
    """Two circular or zero-padded layers of receptive field ``radius`` in all."""
    torch.manual_seed(0)
    layer = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d}[dims]
    return torch.nn.Sequential(
        layer(channels, 4, 3, padding=1), torch.nn.Tanh(), layer(4, channels, 2 * radius - 1, padding=radius - 1)
    ).double()


def full(f, x):
    """The trace from the whole Jacobian, a sample at a time."""
    size = x[0].numel()
    return trace_of(vmap(jacrev(lambda one: f(one[None])[0]))(x).reshape(len(x), size, size))


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
def test_unit_directions(mode, chunk_size):
    f, x = convolutions(2, 2), matrix(3, 2, 4, 5)
    t = fs.jacobian_trace(
        f, x, method="exact", mode=mode, chunk_size=chunk_size, fd_step=1e-4 if mode == "fd" else None
    )
    torch.testing.assert_close(t.value, full(f, x), rtol=1e-7 if mode == "fd" else 1e-12, atol=0)
    assert torch.equal(t.stderr, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(t.output, f(x).detach())
    assert t.evaluations == (81 if mode == "fd" else 41)


@pytest.mark.parametrize("shape, radius", [((3, 9, 8), 2), ((1, 7, 7), 2), ((2, 8, 3), 2), ((2, 9, 9), 3)])
def test_colours_of_a_receptive_field(shape, radius):
    f, x = convolutions(2, shape[0], radius), matrix(3, *shape)
    expected = full(f, x)
    for given in (radius, radius + 1):
        t = fs.jacobian_trace(f, x, method="exact", receptive_field=given, rng=fs.Philox(1))
        torch.testing.assert_close(t.value, expected, rtol=1e-12, atol=1e-13)
        colors = shape[0] * min(given + 1, shape[1]) * min(given + 1, shape[2])
        tries = -(-colors // 3) if colors < x[0].numel() else 0
        assert t.evaluations == colors + tries + 1


def test_colours_of_vectors_and_planes():
    for shape, dims, colors in (((12,), 1, 3), ((6, 7), 2, 9)):
        net, x = convolutions(dims, 1), matrix(2, *shape)
        t = fs.jacobian_trace(lambda y, net=net: net(y[:, None])[:, 0], x, method="exact", receptive_field=2)
        torch.testing.assert_close(t.value, full(lambda y, net=net: net(y[:, None])[:, 0], x))
        assert t.evaluations < colors + colors / 2 + 2.1


def test_the_separation_that_the_docstring_proves():
    for channels, height, width, r in itertools.product((1, 2, 3), (1, 4, 7), (1, 5, 6), (0, 1, 2, 9)):
        color = exact.separating((channels, height, width), r).of((channels, height, width))
        for k in color.unique():
            place = (color == k).nonzero()
            far = (place[:, None, 1:] - place[None, :, 1:]).abs().amax(2)
            assert (far + (r + 1) * torch.eye(len(place), dtype=torch.long) > r).all()


@pytest.mark.parametrize(
    "mode, dtype",
    [
        ("jvp", torch.float64),
        ("jvp", torch.float32),
        ("jvp", torch.bfloat16),
        ("vjp", torch.float64),
        ("vjp", torch.float32),
        ("vjp", torch.bfloat16),
        ("fd", torch.float64),
        ("fd", torch.float32),
    ],
)
def test_a_receptive_field_that_does_not_hold_is_refused(mode, dtype):
    net = convolutions(2, 1).to(dtype)
    options = {"method": "exact", "mode": mode, "rng": fs.Philox(0), "fd_step": 1e-2 if mode == "fd" else None}
    for batch in (1, 2, 20):
        x = matrix(batch, 1, 9, 9).to(dtype)
        for given in (0, 1):
            with pytest.raises(ValueError, match=f"receptive_field={given} does not hold: in sample"):
                fs.jacobian_trace(net, x, receptive_field=given, **options)
        fs.jacobian_trace(net, x, receptive_field=2, **options)


def test_one_far_pair_in_one_sample_is_seen():
    """Sample 1 alone couples two far elements: over 200 seeds it is refused about every second time that colour is
    tried, never where nothing is coupled, and the answer is wrong no oftener than that."""
    band = matrix(3, 12, 12) * (torch.arange(12)[:, None] - torch.arange(12)).abs().le(1)
    coupled = band.clone()
    coupled[1, 3, 9] = 5.0
    x, refused, wrong = torch.zeros(3, 12, dtype=torch.float64), 0, 0
    for seed in range(200):
        options = {"method": "exact", "receptive_field": 1, "rng": fs.Philox(seed)}
        torch.testing.assert_close(fs.jacobian_trace(linear(band), x, **options).value, trace_of(band))
        try:
            wrong += bool((fs.jacobian_trace(linear(coupled), x, **options).value - trace_of(coupled)).abs().max() > 1)
        except ValueError:
            refused += 1
    assert abs(refused - 100) < 4 * 50**0.5 and wrong + refused == 200


def test_more_than_the_sample_is_every_direction():
    f, x = convolutions(2, 2), matrix(3, 2, 4, 5)
    t = fs.jacobian_trace(f, x, method="exact", receptive_field=100)
    assert t.evaluations == 41
    torch.testing.assert_close(t.value, full(f, x))


def test_gradient_of_both():
    net, x = convolutions(2, 1), matrix(2, 1, 5, 5).requires_grad_()
    wanted = torch.autograd.grad(full(net, x).square().sum(), (x, *net.parameters()), allow_unused=True)
    for r in (None, 2):
        t = fs.jacobian_trace(net, x, method="exact", receptive_field=r, create_graph=True, chunk_size=4)
        got = torch.autograd.grad(t.value.square().sum(), (x, *net.parameters()), allow_unused=True)
        torch.testing.assert_close(got, wanted)
        assert got[0].abs().max() > 1e-3


def test_without_probes_no_random_number_is_taken():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fs.jacobian_trace(lambda x: x * x, torch.ones(2, 3), method="exact")
    assert torch.equal(torch.get_rng_state(), before)
