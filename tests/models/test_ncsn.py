"""NCSN and NCSNv2: the originals' outputs, names and counts, and laws that any score network must obey."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap

from fastscore.models import MODELS, NCSN, NCSNv2

GOLDEN = Path(__file__).parent / "golden"
LEVELS = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)
IMAGES, ZEROS = torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, dtype=torch.int64)
NETWORKS = pytest.mark.parametrize("network", ["ncsn", "ncsnv2"])


def fill(net: torch.nn.Module) -> torch.nn.Module:
    """The network in float64, its parameters filled as those behind the golden outputs were."""
    for i, (name, p) in enumerate(sorted(net.double().named_parameters())):
        wave = torch.cos(0.37 * i + 0.11 * torch.arange(p.numel(), dtype=torch.float64)).reshape(p.shape)
        if p.dim() == 4:
            value = 2 * wave / math.sqrt(p[0].numel())
        elif name.endswith(("embed.weight", "alpha", "gamma")):
            value = 1 + 0.5 * wave
        else:
            value = 0.1 * wave
        p.data.copy_(value)
    return net


def image(channels: int, size: int, batch: int = 3) -> torch.Tensor:
    """The golden outputs' input, [batch, channels, size, size] in [0, 1]."""
    n = torch.arange(batch * channels * size * size, dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(0.05 * n)).reshape(batch, channels, size, size)


def small(network: str, channels: int = 1, size: int = 8, ngf: int = 4) -> torch.nn.Module:
    """A network with three noise levels, in float32."""
    torch.manual_seed(0)
    if network == "ncsn":
        return NCSN(channels, size, ngf, num_levels=len(LEVELS))
    return NCSNv2(channels, size, ngf, sigmas=LEVELS)


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """The network in float64, its norms' parameters further apart than at the start."""
    for name, p in net.double().named_parameters():
        if name.endswith(("embed.weight", "alpha", "gamma", "beta")):
            p.data += 0.3 * torch.randn_like(p)
    return net


@pytest.mark.parametrize(
    ("file", "channels", "size"),
    [
        ("ncsn_32", 3, 32),
        ("ncsn_28", 1, 28),
        ("ncsn_8", 1, 8),
        ("ncsnv2_32", 3, 32),
        ("ncsndeeper_32", 3, 32),
        ("ncsnv2deeper_32", 3, 32),
        ("ncsnv2deepest_64", 3, 64),
    ],
)
def test_golden_output(file, channels, size):
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / f"{file}.npz").items()}
    sigmas = golden.get("sigmas", torch.linspace(1, 0.1, 10, dtype=torch.float64))  # NCSN does not divide by them
    net = fill(MODELS[file.split("_")[0]](channels, size, 8, sigmas=sigmas))
    x = image(channels, size, len(golden["labels"]))
    with torch.no_grad():
        out = net(x, golden["labels"])
        by_sigma = net(x, sigmas[golden["labels"]])
    assert torch.equal(by_sigma, out)
    assert (out - golden["output"]).abs().max() < 1e-10
    assert golden["output"].abs().max() > 1


@pytest.mark.parametrize(
    ("cls", "file", "count"),
    [(NCSN, "ncsn_cifar10_state_dict", 30_117_635), (NCSNv2, "ncsnv2_cifar10_state_dict", 29_694_083)],
)
def test_cifar10_names_shapes_and_count(cls, file, count):
    with torch.device("meta"):
        net = cls()
    check_names_and_shapes(net, file)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("ncsndeeper", "ncsndeeper_32_state_dict", None),
        ("ncsnv2deeper", "ncsnv2deeper_32_state_dict", 83_445_379),
        ("ncsnv2deepest", "ncsnv2deepest_64_state_dict", 94_132_611),
    ],
)
def test_deeper_names_shapes_and_count(name, file, count):
    with torch.device("meta"):
        check_names_and_shapes(MODELS[name](ngf=8), file)
        if count:
            assert sum(p.numel() for p in MODELS[name]().parameters()) == count


def check_names_and_shapes(net, file):
    golden = json.loads((GOLDEN / f"{file}.json").read_text())
    found = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    assert found == golden
    # The order too: an optimizer's state refers to parameters by their place.
    assert list(found) == list(golden)


def test_default_sigmas_are_the_papers():
    with torch.device("meta"):
        net = NCSNv2(ngf=2)
    golden = np.load(GOLDEN / "ncsnv2_32.npz")["sigmas"]
    assert net.sigmas.shape == golden.shape
    cpu = NCSNv2(1, 8, 2)
    np.testing.assert_allclose(cpu.sigmas.numpy(), golden, rtol=1e-6)


def test_sigmas_are_kept_apart_from_the_callers():
    given = LEVELS.clone()
    net = NCSNv2(1, 8, 2, sigmas=given)
    given.zero_()
    assert torch.equal(net.sigmas, LEVELS)


@NETWORKS
def test_each_sample_stands_alone(network):
    net, x, labels = lively(small(network)), image(1, 8), torch.tensor([2, 0, 1])
    out = net(x, labels)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], labels[i : i + 1]), out[i : i + 1], rtol=0, atol=1e-12)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(x[order], labels[order]), out[order], rtol=0, atol=1e-12)


def test_ncsnv2_output_is_the_same_function_divided_by_sigma():
    net, x = lively(small("ncsnv2")), image(1, 8, 1).expand(3, -1, -1, -1)
    out = net(x, torch.arange(3)) * LEVELS.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(out[1], out[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(out[2], out[0], rtol=1e-12, atol=0)


def test_ncsn_depends_on_the_label_by_its_embeddings_only():
    net, x = small("ncsn").double(), image(1, 8, 1).expand(3, -1, -1, -1)
    out = net(x, torch.arange(3))
    assert (out[0] - out[1]).abs().max() > 1e-3 * out.abs().max()
    for name, p in net.named_parameters():
        if name.endswith("embed.weight"):
            p.data.copy_(p.data[:1].expand_as(p))
    out = net(x, torch.arange(3))
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


@NETWORKS
def test_derivatives_agree_and_double_backward_is_right(network):
    """v^T J u both ways, and the gradient of u^T J u both ways: what sliced score matching differentiates."""
    net, labels = lively(small(network, size=5, ngf=2)), torch.tensor([0, 2])
    x = image(1, 5, 2)
    torch.manual_seed(1)
    u, v = torch.randn_like(x), torch.randn_like(x)

    def score(y):
        return net(y, labels)

    along = jvp(score, (x,), (u,))[1]
    reverse_mode = (grad(lambda y: (score(y) * v).sum())(x) * u).sum()
    torch.testing.assert_close((along * v).sum(), reverse_mode, rtol=1e-9, atol=0)
    step = 1e-6
    numeric = (score(x + step * u) - score(x - step * u)) / (2 * step)
    assert (along - numeric).norm() < 1e-4 * along.norm()

    reverse_over_forward = grad(lambda y: (jvp(score, (y,), (u,))[1] * u).sum())(x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad((score(leaf) * u).sum(), leaf, create_graph=True)
    (reverse_over_reverse,) = torch.autograd.grad((first * u).sum(), leaf)
    assert (reverse_over_forward - reverse_over_reverse).norm() < 1e-9 * reverse_over_reverse.norm()


@NETWORKS
def test_every_parameter_learns(network):
    net = lively(small(network))
    net(image(1, 8), torch.arange(3)).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


@NETWORKS
def test_vmap_over_samples_equals_the_batch(network):
    net, x, labels = lively(small(network)), image(1, 8), torch.tensor([2, 0, 1])
    parameters = dict(net.named_parameters()) | dict(net.named_buffers())

    def one(sample, label):
        return functional_call(net, parameters, (sample[None], label[None]))[0]

    torch.testing.assert_close(vmap(one)(x, labels), net(x, labels), rtol=0, atol=1e-11)


@NETWORKS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_low_precision_is_near_float64(network, dtype, tolerance):
    net, x, labels = lively(small(network, 3, 12, 8)), image(3, 12), torch.arange(3)
    with torch.no_grad():
        exact = net(x, labels)
        out = net.to(dtype)(x.to(dtype), labels)
    assert out.dtype == dtype
    error = (out - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert error.max() < tolerance


@NETWORKS
def test_autocast_keeps_the_inputs_dtype(network):
    net, x, labels = small(network), image(1, 8).float(), torch.arange(3)
    with torch.no_grad():
        exact = net(x, labels)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x, labels)
    assert out.dtype == torch.float32
    assert 0 < (out - exact).norm() / exact.norm() < 0.1


@NETWORKS
@pytest.mark.parametrize("size", [(4, 4), (7, 7), (5, 8), (9, 6)])
def test_any_size_from_four_on(network, size):
    net = small(network)
    x = torch.rand(2, 1, *size)
    out = net(x, torch.tensor([0, 2]))
    assert out.shape == x.shape and torch.isfinite(out).all()
    constant = net(torch.zeros_like(x).requires_grad_(), torch.tensor([0, 2]))
    (gradient,) = torch.autograd.grad(constant.sum(), next(net.parameters()))
    assert torch.isfinite(constant).all() and torch.isfinite(gradient).all()


@NETWORKS
def test_empty_batch(network):
    assert small(network)(torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 8, 8)


@NETWORKS
def test_input_is_not_changed_and_layout_does_not_matter(network):
    net, x, labels = lively(small(network, 3, 8)), image(3, 8), torch.arange(3)
    before = x.clone()
    out = net(x, labels)
    assert torch.equal(x, before)
    last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), labels)
    torch.testing.assert_close(last, out, rtol=0, atol=1e-11)


@pytest.mark.parametrize("network", ["ncsn", pytest.param("ncsnv2", marks=pytest.mark.slow)])
def test_compiles_to_one_graph(network):
    torch.compiler.reset()
    net, x, labels = lively(small(network, ngf=2)), image(1, 8), torch.arange(3)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, labels), net(x, labels), rtol=0, atol=1e-11)


@NETWORKS
@pytest.mark.parametrize(
    ("x", "labels", "error", "text"),
    [
        (torch.rand(2, 64), ZEROS, ValueError, r"x must have shape \(B, 1, H, W\).*\(2, 64\)"),
        (torch.rand(2, 3, 8, 8), ZEROS, ValueError, r"x must have .*\(2, 3, 8, 8\)"),
        (torch.rand(2, 1, 8, 3), ZEROS, ValueError, r"at least 4.*\(2, 1, 8, 3\)"),
        (IMAGES.long(), ZEROS, TypeError, "x must be float.*int64"),
        (IMAGES.double(), ZEROS, TypeError, "network's dtype, torch.float32.*float64"),
        (IMAGES, ZEROS.bool(), ValueError, r"labels must be an int64 .*\(2,\), got a bool"),
        (IMAGES, torch.zeros(3).long(), ValueError, r"labels must be .*\(2,\), got .*\(3,\)"),
        (IMAGES, torch.tensor([0, 3]), ValueError, "labels must be from 0 to 2 .*from 0 to 3"),
        (IMAGES, torch.tensor([-1, 0]), ValueError, "labels must be from 0 to 2 .*from -1 to 0"),
        (IMAGES, 0, TypeError, "labels must be a torch.Tensor, got int 0"),
    ],
)
def test_bad_inputs_are_named(network, x, labels, error, text):
    with pytest.raises(error, match=text):
        small(network, ngf=2)(x, labels)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: NCSN(ngf=1), "ngf must be at least 2, got 1"),
        (lambda: NCSNv2(ngf=1), "ngf must be at least 2, got 1"),
        (lambda: NCSN(channels=0, ngf=2), "channels must be at least 1, got 0"),
        (lambda: NCSN(image_size=3, ngf=2), "image_size must be at least 4, got 3"),
        (lambda: NCSN(ngf=2, num_levels=0), "num_levels must be at least 1, got 0"),
        (lambda: NCSNv2(ngf=2, sigmas=[0.1, 1.0]), "sigmas must be strictly decreasing"),
    ],
)
def test_bad_sizes_are_named(build, text):
    with pytest.raises(ValueError, match=text):
        build()
