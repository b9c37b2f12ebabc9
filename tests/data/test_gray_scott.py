"""Gray-Scott: fixed points, linear stability, conservation, and images that depend on their number alone."""

import doctest
import importlib
import math

import pytest
import torch

from fastscore.data import gray_scott
from fastscore.data.gray_scott import D_U, D_V, REGIMES, STEPS, laplacian, rates, simulate, steady_states

GRID = 16


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat(value: float) -> torch.Tensor:
    return torch.full((1, GRID, GRID), value, dtype=torch.float64)


def test_doctests():
    assert doctest.testmod(importlib.import_module("fastscore.data.gray_scott")).failed == 0


def test_laplacian_of_a_wave():
    """cos(2 pi (a i + b j) / n) is an eigenfunction, of 2 cos(2 pi a / n) + 2 cos(2 pi b / n) - 4."""
    i = torch.arange(GRID, dtype=torch.float64)
    for a, b in [(0, 0), (1, 0), (0, 3), (2, 5), (8, 8)]:
        wave = (2 * math.pi * (a * i[:, None] + b * i) / GRID).cos()
        value = 2 * math.cos(2 * math.pi * a / GRID) + 2 * math.cos(2 * math.pi * b / GRID) - 4
        torch.testing.assert_close(laplacian(wave), value * wave, rtol=1e-12, atol=1e-12)


def test_laplacian_conserves_and_is_symmetric():
    x, y = noise(3, 7, 9), noise(3, 7, 9, seed=1)
    assert float(laplacian(x).sum((1, 2)).abs().max()) < 1e-12
    torch.testing.assert_close((x * laplacian(y)).sum(), (y * laplacian(x)).sum())
    assert float((x * laplacian(x)).sum()) < 0


@pytest.mark.parametrize("feed, kill", [(0.05, 0.05), (0.04, 0.059), (0.0625, 0.0625), (0.02, 0)])
def test_steady_states_are_at_rest(feed, kill):
    states = steady_states(feed, kill)
    assert len(states) == 3 and states[0] == (1.0, 0.0)
    assert states[1][0] >= states[2][0] > 0
    for u, v in states:
        residuals = rates(flat(u), flat(v), feed, kill)
        assert max(float(r.abs().max()) for r in residuals) < 1e-15
    # the two roots of u^2 - u + (F + k)^2 / F = 0
    assert states[1][0] + states[2][0] == pytest.approx(1)
    assert states[1][0] * states[2][0] == pytest.approx((feed + kill) ** 2 / feed)


@pytest.mark.parametrize("feed", [0.01, 0.04, 0.0625, 0.1])
def test_steady_states_exist_iff(feed):
    """F >= 4 (F + k)^2, that is k <= sqrt(F) / 2 - F."""
    border = math.sqrt(feed) / 2 - feed
    assert len(steady_states(feed, border * (1 - 1e-9))) == 3
    assert len(steady_states(feed, border * (1 + 1e-9))) == 1
    # beyond the border du/dt = dv/dt = 0 has no root with v > 0: F (1 - u) = (F + k)^2 / u nowhere
    u = torch.linspace(1e-3, 1, 10_000, dtype=torch.float64)
    k = border * 1.01
    assert float((feed * (1 - u) - (feed + k) ** 2 / u).max()) < 0


@pytest.mark.parametrize("feed, kill", list(REGIMES.values()))
def test_trivial_state_is_stationary(feed, kill):
    u, v = simulate(torch.ones(2, 8, 8), torch.zeros(2, 8, 8), feed, kill, 500)
    assert torch.equal(v, torch.zeros(2, 8, 8))
    assert float((u - 1).abs().max()) < 1e-5  # float32 rounding


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_simulation_stays_at_the_stable_state(dtype, tolerance):
    feed, kill = 0.05, 0.05
    u0, v0 = steady_states(feed, kill)[2]
    u, v = simulate(flat(u0).to(dtype), flat(v0).to(dtype), feed, kill, 2000)
    assert float((u - u0).abs().max()) < tolerance and float((v - v0).abs().max()) < tolerance
    # and comes back to it from nearby; from the saddle it goes away
    u, v = simulate(flat(u0).to(dtype) + 0.01, flat(v0).to(dtype), feed, kill, 2000)
    assert float((u - u0).abs().max()) < 10 * tolerance
    u1, v1 = steady_states(feed, kill)[1]
    u, _ = simulate(flat(u1).to(dtype) - 0.001, flat(v1).to(dtype), feed, kill, 2000)
    assert float((u - u1).abs().min()) > 0.1


@pytest.mark.parametrize("dt", [1.0, 0.5, 1.25])
def test_simulate_is_euler_with_rates(dt):
    """The fused update against the equations as they are written, with F and k for each image."""
    u, v = noise(3, 9, 11), noise(3, 9, 11, seed=1) * 0.4
    feed, kill = torch.tensor([0.03, 0.05, 0.04]).double(), torch.tensor([0.062, 0.063, 0.059]).double()
    got = simulate(u, v, feed, kill, 20, dt=dt, d_u=0.15, d_v=0.05)
    before = u.clone()
    for _ in range(20):
        du, dv = rates(u, v, feed[:, None, None], kill[:, None, None], d_u=0.15, d_v=0.05)
        u, v = u + dt * du, v + dt * dv
    torch.testing.assert_close(got, (u, v), rtol=1e-11, atol=1e-13)
    assert not torch.equal(u, before)


def test_simulate_does_not_touch_its_input():
    u, v = noise(1, 8, 8), noise(1, 8, 8, seed=1)
    copies = u.clone(), v.clone()
    out = simulate(u, v, 0.03, 0.06, 3)
    assert torch.equal(u, copies[0]) and torch.equal(v, copies[1])
    assert torch.equal(simulate(u, v, 0.03, 0.06, 0)[0], u)
    assert out[0].is_contiguous() and out[0].shape == u.shape


def test_mean_law():
    """Laplacian and reaction drop out of the total: a step adds F (1 - u) - (F + k) v to mean(u + v)."""
    u, v = noise(4, GRID, GRID), noise(4, GRID, GRID, seed=1)
    feed, kill = 0.04, 0.06
    u1, v1 = simulate(u, v, feed, kill, 1)
    change = (u1 + v1 - u - v).mean((1, 2))
    torch.testing.assert_close(change, feed * (1 - u.mean((1, 2))) - (feed + kill) * v.mean((1, 2)))
    reaction = (u * v * v).mean((1, 2))
    torch.testing.assert_close((u1 - u).mean((1, 2)), feed * (1 - u.mean((1, 2))) - reaction)


@pytest.mark.parametrize("wave", [0, 1, 2, 4])
def test_small_waves_grow_as_the_linearised_equations_say(wave):
    """Near a steady state a wave of Laplacian eigenvalue m evolves by (I + J + m diag(D_u, D_v)) a step."""
    feed, kill = 0.04, 0.058
    u0, v0 = steady_states(feed, kill)[2]
    shape = (2 * math.pi * wave * torch.arange(GRID, dtype=torch.float64) / GRID).cos().expand(1, GRID, GRID)
    size, steps = 1e-8, 40
    u, v = simulate(u0 + size * shape, v0 + 0 * shape, feed, kill, steps)
    eigenvalue = 2 * math.cos(2 * math.pi * wave / GRID) - 2
    jacobian = torch.tensor(
        [[-(v0**2) - feed + D_U * eigenvalue, -2 * u0 * v0], [v0**2, 2 * u0 * v0 - (feed + kill) + D_V * eigenvalue]],
        dtype=torch.float64,
    )
    step = torch.eye(2, dtype=torch.float64) + jacobian
    want = torch.linalg.matrix_power(step, steps) @ torch.tensor([size, 0.0], dtype=torch.float64)
    torch.testing.assert_close(u - u0, want[0] * shape, rtol=1e-5, atol=1e-14)
    torch.testing.assert_close(v - v0, want[1] * shape, rtol=1e-5, atol=1e-14)


def test_image_k_is_the_same_however_many_are_made():
    """Whatever the count, the start, the thread count and the chunk it falls into."""
    whole = gray_scott(40, seed=3, steps=300)
    assert len(whole) == 40 and whole.images.dtype == torch.uint8 and whole.images.nbytes == 40 * 32 * 32
    for first, count in ((0, 1), (17, 1), (13, 20), (39, 1)):
        part = gray_scott(count, seed=3, steps=300, sample_offset=first)
        assert torch.equal(part.images, whole.images[first : first + count])
        assert torch.equal(part.labels, whole.labels[first : first + count])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(gray_scott(18, seed=3, steps=300).images, whole.images[:18])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(gray_scott(40, seed=3, steps=300).images, whole.images)
    other = gray_scott(40, seed=4, steps=300).images
    assert all(not torch.equal(a, b) for a, b in zip(other, whole.images))


def test_default_device_is_left_aside():
    expected = gray_scott(7, seed=3, steps=20, sample_offset=2)
    with torch.device("meta"):
        data = gray_scott(7, seed=3, steps=20, sample_offset=2)
    assert torch.equal(data.images, expected.images) and torch.equal(data.labels, expected.labels)


@pytest.fixture(scope="module")
def grown():
    return gray_scott(48, seed=0, fields="uv")


def test_patterns_are_alive_and_varied(grown):
    """No image is flat or clipped, no two of a regime are near each other, and the regimes' means differ."""
    v = grown.images[:, 1].float()
    deviation = v.flatten(1).std(1)
    assert float(deviation.min()) > 35 and int(grown.images.max()) < 255
    assert float((v.amax((1, 2)) - v.amin((1, 2))).min()) > 120
    for label in range(len(REGIMES)):
        images = v[grown.labels == label].flatten(1)
        assert float(torch.pdist(images).min()) / 32 > 20  # root mean square, in grey levels
    means = [float(v[grown.labels == label].mean()) for label in range(len(REGIMES))]
    assert max(means) - min(means) > 50


def test_u_and_v_are_opposed(grown):
    """Where v has grown it has eaten u."""
    u, v = grown.images.float().flatten(2).unbind(1)
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(u, v)])
    assert float(correlation.max()) < -0.9
    assert torch.equal(gray_scott(1, seed=0, sample_offset=5).images[:, 0], grown.images[5:6, 1])


def test_labels_and_names(grown):
    assert grown.labels.tolist() == [k % 6 for k in range(48)]
    assert grown.name == "gray_scott" and grown.shape == (2, 32, 32) and STEPS == 3000


def test_start_is_discs_in_the_trivial_state():
    """Without a step: u is 1 or 1/2, v is 0 or 1/4 (139 of 255), less or more noise of at most 0.02."""
    data = gray_scott(30, seed=1, steps=0, fields="uv")
    u, v = data.images.float().unbind(1)
    inside = v > 128
    assert float((u - torch.where(inside, 127.5, 255.0)).max()) <= 0.5
    assert float((u - torch.where(inside, 127.5, 255.0)).min()) >= -0.02 * 255 - 0.5
    assert float((v * 0.45 / 255 - 0.25 * inside).min()) > -0.002
    assert float((v * 0.45 / 255 - 0.25 * inside).max()) < 0.022
    share = inside.float().mean((1, 2))
    assert float(share.min()) > 0.03 and float(share.max()) < 0.25  # six discs of 1.5 to 4 pixels
    assert float(inside.float().mean((0, 1, 2))) == pytest.approx(6 * math.pi * 8.08 / 1024, abs=0.03)


def test_start_is_noisy_and_knows_no_edge():
    """The noise is uniform to 0.02; pixels at the edge lie in discs as often as others: discs wrap round."""
    v = gray_scott(300, seed=2, steps=0).images[:, 0].double() * (0.45 / 255)
    inside = v > 0.2
    grain = (v - 0.25 * inside)[~inside]
    assert float(grain.mean()) == pytest.approx(0.01, abs=1e-4) and float(grain.max()) > 0.0193
    edge = torch.ones(32, 32, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    difference = inside[:, edge].double().mean(1) - inside[:, ~edge].double().mean(1)
    assert abs(float(difference.mean() / (difference.std() / 300**0.5))) < 4


def test_options_reach_the_batches():
    data = gray_scott(3, steps=0, dequantize="uniform", flips=True)
    assert data.dequantize == "uniform" and data.flips


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"num_images": 0}, ValueError, "num_images must be at least 1, got 0"),
        ({"num_images": 1, "image_size": 16}, ValueError, "image_size must be at least 24, got 16"),
        ({"num_images": 1, "seed": -1}, ValueError, "seed must be from 0"),
        ({"num_images": 1, "steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"num_images": 1, "fields": "u"}, ValueError, "fields must be one of 'v', 'uv', got 'u'"),
        ({"num_images": 2, "sample_offset": 2**32 - 1}, ValueError, "sample_offset must be from 0 to 4294967294"),
    ],
)
def test_argument_errors(options, error, text):
    with pytest.raises(error, match=text):
        gray_scott(**options)


def test_simulate_errors():
    with pytest.raises(ValueError, match=r"u must have shape \[N, H, W\]"):
        simulate(torch.ones(4, 4), torch.ones(4, 4), 0.03, 0.06, 1)
    with pytest.raises(ValueError, match="v must have the shape of u"):
        simulate(torch.ones(1, 4, 4), torch.ones(1, 4, 5), 0.03, 0.06, 1)
    with pytest.raises(ValueError, match="feed must be finite and greater than 0, got -1"):
        steady_states(-1.0, 0.05)
