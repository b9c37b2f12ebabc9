"""What the originals' configurations choose (depth, activation, scaling), and noise levels named by sigma."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap

import fastscore as fs
from fastscore.models import MODELS, NCSN, NCSNv2, NCSNv2Deeper, NCSNv2Deepest, ScoreMLP
from fastscore.models._inputs import label_of
from fastscore.models.layers import ACTIVATIONS, ChainedResidualPooling, ResidualBlock, ResidualConvUnit, mean_pool

SIGMAS = torch.tensor([3.0, 0.7, 0.2], dtype=torch.float64)
IMAGE_NETWORKS = [name for name in MODELS if name != "mlp"]
SIZE = {"ncsn": 5, "ncsnv2": 5, "ncsndeeper": 8, "ncsnv2deeper": 9, "ncsnv2deepest": 16}
FORMULAS = {
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "lrelu": lambda x: torch.where(x > 0, x, 0.2 * x),
    "swish": lambda x: x / (1 + (-x).exp()),
}


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    if name == "mlp":
        return ScoreMLP(2, 8, sigmas=SIGMAS).double()
    net = MODELS[name](2, SIZE[name], 4, sigmas=SIGMAS, **options).double()
    for p in net.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return net


def images(name: str, batch: int = 2) -> torch.Tensor:
    """Images, or for the mlp points."""
    shape = (batch, 2) if name == "mlp" else (batch, 2, SIZE[name], SIZE[name])
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("word", ACTIVATIONS)
def test_activation_is_its_formula_wherever_a_block_applies_it(word):
    act, formula = ACTIVATIONS[word], FORMULAS[word]
    x = torch.linspace(-3, 3, 50, dtype=torch.float64).reshape(1, 2, 5, 5)
    torch.testing.assert_close(act(x), formula(x))
    torch.testing.assert_close(act(x.clone(), inplace=True), formula(x))
    torch.manual_seed(0)
    block = ResidualBlock(2, 2, lambda width: None, act=act).double()
    torch.testing.assert_close(block(x, None), x + block.conv2(formula(block.conv1(formula(x)))))
    unit = ResidualConvUnit(2, 1, lambda width: None, act).double()
    torch.testing.assert_close(unit(x, None), x + unit["1_2_conv"](formula(unit["1_1_conv"](formula(x)))))
    crp = ChainedResidualPooling(2, lambda width: None, mean_pool, act).double()
    first = crp.convs[0](crp.pool(formula(x)))
    torch.testing.assert_close(crp(x, None), formula(x) + first + crp.convs[1](crp.pool(first)))


@pytest.mark.parametrize("word", ACTIVATIONS)
def test_activations_differ_and_derivatives_are_right(word):
    """In place or not: v^T J u both ways and by differences, and the gradient of u^T J u both ways."""
    net, labels, x = build("ncsn", nonlinearity=word), torch.tensor([0, 2]), images("ncsn")
    others = [build("ncsn", nonlinearity=other)(x, labels) for other in ACTIVATIONS if other != word]
    assert all((net(x, labels) - other).abs().max() > 1e-3 for other in others)
    torch.manual_seed(1)
    u, v = torch.randn_like(x), torch.randn_like(x)
    along = jvp(lambda y: net(y, labels), (x,), (u,))[1]
    reverse_mode = (grad(lambda y: (net(y, labels) * v).sum())(x) * u).sum()
    torch.testing.assert_close((along * v).sum(), reverse_mode, rtol=1e-9, atol=1e-12)
    h = 1e-7
    numeric = (net(x + h * u, labels) - net(x - h * u, labels)) / (2 * h)
    assert (along - numeric).norm() < 1e-4 * along.norm()
    mixed = grad(lambda y: (jvp(lambda z: net(z, labels), (y,), (u,))[1] * u).sum())(x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad((net(leaf, labels) * u).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * u).sum(), leaf)
    torch.testing.assert_close(mixed, second, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("option", ["rescaled", "logit_transform"])
def test_moved_data_are_taken_as_they_are(name, option):
    x, labels = images(name), torch.tensor([1, 2])
    expected = build(name)(x, labels)
    torch.testing.assert_close(build(name, **{option: True})(2 * x - 1, labels), expected, rtol=1e-12, atol=1e-12)
    assert (build(name, **{option: True})(x, labels) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("cls", "smallest"), [(NCSN, 4), (NCSNv2, 4), (NCSNv2Deeper, 8), (NCSNv2Deepest, 16)])
def test_smallest_size(cls, smallest):
    net = cls(1, smallest, 2, sigmas=SIGMAS.float())
    out = net(torch.rand(2, 1, smallest, smallest), torch.tensor([0, 2]))
    assert torch.isfinite(out).all() and out.shape == (2, 1, smallest, smallest)
    with pytest.raises(ValueError, match=f"H and W at least {smallest}"):
        net(torch.rand(2, 1, smallest, smallest - 1), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=f"image_size must be at least {smallest}"):
        cls(1, smallest - 1, 2, sigmas=SIGMAS.float())


@pytest.mark.parametrize(
    ("cls", "size", "ends", "count"),
    [
        (NCSNv2, 32, (50, 0.01), 232),
        (NCSNv2Deeper, 64, (140, 0.01), 788),
        (NCSNv2Deepest, 256, (348, 0.01), 2311),
    ],
)
def test_published_sizes_and_levels_are_the_defaults(cls, size, ends, count):
    net = cls(ngf=2)
    assert net.image_size == size and len(net.sigmas) == net.num_levels == count
    assert (net.sigmas[0].item(), net.sigmas[-1].item()) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        (
            {"nonlinearity": "gelu"},
            ValueError,
            "nonlinearity must be one of 'elu', 'relu', 'lrelu', 'swish', got 'gelu'",
        ),
        ({"rescaled": 1}, TypeError, "rescaled must be True or False, got int 1"),
        ({"logit_transform": "no"}, TypeError, "logit_transform must be True or False, got str 'no'"),
    ],
)
def test_bad_options_are_named(kwargs, error, text):
    for cls in (NCSN, NCSNv2):
        with pytest.raises(error, match=text):
            cls(1, 8, 2, **kwargs)


def test_number_of_ncsn_levels():
    assert NCSN(1, 8, 2).num_levels == 10 and NCSN(1, 8, 2, 4).num_levels == 4
    assert NCSN(1, 8, 2, sigmas=[2.0, 1.0]).num_levels == 2
    with pytest.raises(ValueError, match="num_levels must be the number of sigmas, 2, or None, got 3"):
        NCSN(1, 8, 2, 3, sigmas=[2.0, 1.0])
    assert "sigmas" not in NCSN(1, 8, 2, sigmas=[2.0, 1.0]).state_dict()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "mlp"])
def test_sigma_of_a_level_is_its_label(name, dtype):
    net, x = build(name).to(dtype), images(name).to(dtype)
    by_label = net(x, torch.tensor([2, 0]))
    by_sigma = net(x, SIGMAS[[2, 0]].to(torch.float64 if dtype == torch.float64 else torch.float32))
    assert by_sigma.dtype == dtype
    torch.testing.assert_close(by_sigma, by_label, rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_sigma_between_the_levels():
    """NCSNv2 is f(x) / sigma; a silent ScoreMLP the score of N(0, 1 + sigma^2); and they change smoothly."""
    x, sigma = images("ncsnv2"), torch.tensor([1.3, 77.0], dtype=torch.float64)
    net = build("ncsnv2")
    f = net(x, torch.zeros(2, dtype=torch.int64)) * SIGMAS[0]
    torch.testing.assert_close(net(x, sigma), f / sigma.reshape(2, 1, 1, 1), rtol=1e-12, atol=0)
    mlp, silent, y = build("mlp"), build("mlp"), images("mlp")
    nn.init.zeros_(silent.end.weight), nn.init.zeros_(silent.end.bias)
    torch.testing.assert_close(silent(y, sigma), -y / (1 + sigma.square())[:, None], rtol=1e-12, atol=0)
    near = mlp(y, torch.full((2,), 0.7 * (1 + 1e-6), dtype=torch.float64)) - mlp(y, torch.tensor([1, 1]))
    assert 0 < near.norm() < 1e-4


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "mlp"])
def test_sigma_under_vmap(name):
    net, x, sigma = build(name), images(name, 3), SIGMAS[[1, 0, 2]]
    out = vmap(lambda a, b: net(a[None], b[None])[0])(x, sigma)
    torch.testing.assert_close(out, net(x, sigma), rtol=0, atol=1e-11)


def test_sigma_under_compile():
    """The mlp, and what NCSN does before its blocks, which are compiled elsewhere."""
    net, x, sigma = build("mlp"), images("mlp", 3), SIGMAS[[1, 0, 2]]
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, sigma), net(x, sigma), rtol=1e-12, atol=0)
    labels, known = torch.compile(label_of, backend="eager", fullgraph=True)(1.2 * sigma, SIGMAS, x)
    assert labels.tolist() == [1, 0, 2] and not known.any()


def test_unknown_sigma_of_ncsn():
    """An error where values can be read; NaN, for that sample alone, where they cannot."""
    net, x, sigma = build("ncsn"), images("ncsn"), torch.tensor([0.7, 0.71], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"sigma must be one of this network's 3 noise levels.*got 0.71 .*is 0.7\)"):
        net(x, sigma)
    out = vmap(lambda a, b: net(a[None], b[None])[0])(x, sigma)
    torch.testing.assert_close(out[0], net(x, torch.tensor([1, 1]))[0], rtol=0, atol=1e-11)
    assert torch.isnan(out[1]).all()


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "mlp"])
@pytest.mark.parametrize(
    ("sigma", "text"),
    [
        (torch.zeros(2), r"sigma \(labels are integers\) must be finite and greater than 0 everywhere, got 0.0"),
        (torch.tensor([1.0, float("nan")]), "sigma .* must be finite"),
        (torch.ones(3), r"sigma must have shape \(2,\), one per sample, got a float32 tensor of shape \(3,\)"),
        (torch.ones(2, 1), r"sigma must have shape \(2,\)"),
        (torch.ones(()), r"sigma must have shape \(2,\)"),
        (torch.ones(2, device="meta"), "sigma must be on the device of the samples, cpu"),
    ],
)
def test_bad_sigma_is_named(name, sigma, text):
    net, x = build(name), images(name)
    with pytest.raises(ValueError, match=text):
        net(x, sigma)


@pytest.mark.parametrize("net", [NCSN(1, 8, 2), ScoreMLP(num_levels=3)])
def test_networks_without_levels_ask_for_them(net):
    x = torch.rand(2, 1, 8, 8) if isinstance(net, NCSN) else torch.rand(2, 2)
    with pytest.raises(ValueError, match=r"labels must be int64.*build it with sigmas=.*got a float32 tensor"):
        net(x, torch.ones(2))


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "mlp"])
def test_conditioning_by_sigma_equals_conditioning_by_labels(name):
    """In a loss and in a sampler, with the library's own networks."""
    net, x = build(name), images(name)
    losses = [fs.losses.ncsn(net, x, SIGMAS, rng=fs.Philox(3), conditioning=word) for word in ("labels", "sigma")]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0)
    chains = [
        fs.samplers.annealed_langevin(
            net, x.shape, SIGMAS, step_size=1e-3, steps_per_level=2, start=x, rng=fs.Philox(4), conditioning=word
        )
        for word in ("labels", "sigma")
    ]
    torch.testing.assert_close(*chains, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ncsnv2", "mlp"])
def test_consistent_sampling_with_several_steps(name):
    """It visits levels that have no label."""
    net, x = build(name), images(name)
    out = fs.samplers.consistent_annealed(
        net, x.shape, SIGMAS, eta=0.6, steps_per_level=2, rng=fs.Philox(0), conditioning="sigma", dtype=torch.float64
    )
    assert out.shape == x.shape and torch.isfinite(out).all()


def test_levels_that_half_precision_cannot_tell_apart():
    """The neighbour's label would be taken in silence."""
    sigmas = torch.linspace(0, -6, 1200).exp()
    net = fs.models.NCSN(channels=1, image_size=8, ngf=2, num_levels=1200, sigmas=sigmas)
    x = torch.zeros(3, 1, 8, 8)
    given = sigmas[[4, 700, 1199]]
    torch.testing.assert_close(net(x, given), net(x, torch.tensor([4, 700, 1199])))
    with pytest.raises(ValueError, match="sigma must be float32 or float64"):
        net(x, given.bfloat16())
    coarse = fs.models.NCSN(channels=1, image_size=8, ngf=2, num_levels=3, sigmas=[1.0, 0.5, 0.1])
    torch.testing.assert_close(coarse(x, torch.tensor([0.1, 1.0, 0.5]).bfloat16()), coarse(x, torch.tensor([2, 0, 1])))
