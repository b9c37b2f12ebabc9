"""ScoreMLP: its formula, its limits, and that it learns an exact score over a wide range of noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, jacrev, jvp, vmap

from fastscore.models import ScoreMLP

SIGMAS = torch.tensor([50.0, 1.0, 0.01], dtype=torch.float64)


def build(**kwargs) -> ScoreMLP:
    torch.manual_seed(0)
    return ScoreMLP(**({"dim": 2, "hidden": 16, "sigmas": SIGMAS} | kwargs)).double()


def points(batch: int = 3, dim: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, dim, dtype=torch.float64)


@pytest.mark.parametrize("data_std", [1.0, 3.0])
def test_a_silent_network_gives_the_gaussian_score(data_std):
    net, x = build(data_std=data_std), points() * 10
    torch.nn.init.zeros_(net.end.weight), torch.nn.init.zeros_(net.end.bias)
    expected = -x / (data_std**2 + SIGMAS.square())[:, None]
    torch.testing.assert_close(net(x, torch.arange(3)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("data_std", [1.0, 3.0])
def test_denoised_point_is_the_preconditioned_network(data_std):
    """x + sigma^2 s = c_skip x + c_out F, with the coefficients of Karras et al. (table 1)."""
    net, x, labels = build(data_std=data_std), points(), torch.arange(3)
    sigma = SIGMAS[:, None]
    total = data_std**2 + sigma**2
    seen = {}
    net.begin.register_forward_hook(lambda module, inputs, out: seen.update(input=inputs[0]))
    net.end.register_forward_hook(lambda module, inputs, out: seen.update(output=out))
    denoised = x + sigma**2 * net(x, labels)
    torch.testing.assert_close(seen["input"], x / total.sqrt())
    expected = data_std**2 / total * x + sigma * data_std / total.sqrt() * seen["output"]
    torch.testing.assert_close(denoised, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigmas", [None, SIGMAS])
def test_levels_differ_and_samples_stand_alone(sigmas):
    net = build(sigmas=sigmas, num_levels=3)
    x = points(1).expand(3, -1)
    out = net(x, torch.arange(3))
    assert (out[0] - out[1]).abs().max() > 1e-3 and (out[1] - out[2]).abs().max() > 1e-3
    for i in range(3):
        torch.testing.assert_close(net(x[:1], torch.tensor([i]))[0], out[i], rtol=1e-12, atol=1e-12)


def test_network_itself_sees_the_level():
    """The conditioning reaches F, whatever the factors outside, and tells near levels apart."""
    net = build(sigmas=torch.linspace(4, -4.6, 232, dtype=torch.float64).exp())
    outputs: list[torch.Tensor] = []
    net.end.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    nothing = torch.zeros(232, 2, dtype=torch.float64)
    net(nothing, torch.arange(232))
    steps = (outputs[0][1:] - outputs[0][:-1]).norm(dim=1)
    assert steps.min() > 0 and steps.max() < 0.05  # and smoothly


@pytest.mark.parametrize("sigmas", [None, SIGMAS])
def test_trace_derivatives(sigmas):
    """The exact trace, and its gradient both ways."""
    net, x, labels = build(sigmas=sigmas, num_levels=3), points(), torch.tensor([1, 1, 2])

    def one(sample, label):
        return net(sample[None], label[None])[0]

    jacobian = vmap(jacrev(one))(x, labels)
    for k in range(2):
        unit = torch.zeros_like(x)
        unit[:, k] = 1
        column = jvp(lambda y: net(y, labels), (x,), (unit,))[1]
        torch.testing.assert_close(jacobian[:, :, k], column, rtol=1e-10, atol=1e-10)
    ones = torch.ones_like(x)
    mixed = grad(lambda y: (jvp(lambda z: net(z, labels), (y,), (ones,))[1]).sum())(x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(net(leaf, labels).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(mixed, second, rtol=1e-9, atol=1e-9)
    assert second.abs().max() > 0


def test_jacobian_is_smooth():
    """Along a line its jumps halve when the steps do; a kink (ReLU) would keep them as they are."""
    net = build()

    def largest_jump(steps: int) -> float:
        t = torch.linspace(-3, 3, steps + 1, dtype=torch.float64)[:, None]
        x = t * torch.tensor([1.0, -0.5], dtype=torch.float64) + 0.1
        labels = torch.ones(steps + 1, dtype=torch.int64)
        slope = jvp(lambda y: net(y, labels), (x,), (torch.ones_like(x),))[1]
        return (slope[1:] - slope[:-1]).norm(dim=1).max().item()

    assert largest_jump(4000) == pytest.approx(largest_jump(2000) / 2, rel=0.01)


def test_learns_an_exact_score_over_a_wide_range():
    """Two Gaussians: 300 steps remove nearly all that a single Gaussian's score gets wrong, at every level.

    Errors are those of F, that is sigma^2 (1 + sigma^2) |s - s*|^2 / D; seeds 0 to 3 gave 0.031 at the most.
    """
    torch.manual_seed(0)
    sigmas = torch.tensor([20.0, 3.0, 0.7, 0.2, 0.05])
    centre, spread = torch.tensor([1.0, -1.0]), 0.2

    def draw(n: int) -> torch.Tensor:
        return (torch.randint(2, (n, 1)) * 2.0 - 1) * centre + spread * torch.randn(n, 2)

    net = ScoreMLP(dim=2, hidden=64, depth=2, sigmas=sigmas)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(300):
        labels, noise = torch.randint(5, (512,)), torch.randn(512, 2)
        sigma = sigmas[labels, None]
        score = net(draw(512) + sigma * noise, labels)
        loss = (sigma**2 * (1 + sigma**2) * (score + noise / sigma).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    errors, before = torch.zeros(5), torch.zeros(5)
    for level, sigma in enumerate(sigmas):
        x = draw(4000) + sigma * torch.randn(4000, 2)
        tau = spread**2 + sigma**2
        exact = (torch.tanh(x @ centre / tau)[:, None] * centre - x) / tau
        with torch.no_grad():
            score = net(x, torch.full((4000,), level))
        weight = sigma**2 * (1 + sigma**2)
        errors[level] = (weight * (score - exact).square()).mean()
        before[level] = (weight * (-x / (1 + sigma**2) - exact).square()).mean()
    assert errors.max() < 0.06 and before[2] > 0.6 and before[3] > 0.4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_low_precision_is_near_float64(dtype, tolerance):
    net, x, labels = build(sigmas=[8.0, 1.0, 0.125]), points(), torch.arange(3)
    exact = net(x, labels)
    out = net.to(dtype)(x.to(dtype), labels)
    assert out.dtype == dtype
    assert ((out - exact).norm(dim=1) / exact.norm(dim=1)).max() < tolerance


def test_checkpoint_carries_the_sigmas():
    first, second = build(), build(sigmas=[3.0, 2.0, 1.0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(points(), torch.arange(3)), first(points(), torch.arange(3)))


def test_compiles_to_one_graph():
    net, x, labels = build(), points(), torch.arange(3)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, labels), net(x, labels), rtol=1e-12, atol=1e-12)


def test_number_of_levels():
    assert ScoreMLP().num_levels == 10
    assert ScoreMLP(num_levels=4).embed.num_embeddings == 4
    assert build().num_levels == 3
    with pytest.raises(ValueError, match="num_levels must be the number of sigmas, 3, or None, got 4"):
        build(num_levels=4)


@pytest.mark.parametrize(
    ("x", "labels", "error", "text"),
    [
        (torch.zeros(3), torch.zeros(3).long(), ValueError, r"x must have shape \(B, 2\), got .*\(3,\)"),
        (torch.zeros(3, 4), torch.zeros(3).long(), ValueError, r"x must have shape \(B, 2\), got .*\(3, 4\)"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), TypeError, "x must be float"),
        (torch.zeros(3, 2).double(), torch.zeros(3).long(), TypeError, "x must have the network's dtype"),
        (torch.zeros(3, 2), torch.zeros(3, 1).long(), ValueError, "labels must be an int64"),
        (torch.zeros(3, 2), torch.full((3,), 3), ValueError, "labels must be from 0 to 2"),
    ],
)
def test_bad_inputs_are_named(x, labels, error, text):
    with pytest.raises(error, match=text):
        ScoreMLP(sigmas=[3.0, 2.0, 1.0])(x, labels)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"dim": 0}, "dim must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"num_levels": 0}, "num_levels must be at least 1"),
        ({"data_std": 0.0}, "data_std must be finite and greater than 0"),
        ({"data_std": math.inf}, "data_std must be finite and greater than 0"),
        ({"sigmas": [1.0, 2.0]}, "sigmas must be strictly decreasing"),
    ],
)
def test_bad_sizes_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        ScoreMLP(**kwargs)
