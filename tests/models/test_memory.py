"""In which order activations lie, what a level's numbers are looked up for, and when the ELU is part of the norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import fastscore as fs
from fastscore._core.calls import at_level, offers_levels
from fastscore.models import NCSN, NCSNv2, _memory
from fastscore.models.layers import ACTIVATIONS, ConditionalInstanceNormPlus, InstanceNormPlus, activate
from fastscore.samplers._score import conditioned


def network(channels=2, **options):
    torch.manual_seed(0)
    return NCSN(channels=channels, image_size=8, ngf=4, num_levels=3, **options)


@pytest.fixture(params=[False, True], ids=["as given", "channels_last"])
def order(request, monkeypatch):
    monkeypatch.setattr(_memory, "faster", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_same_in_either_order(channels, weights, order):
    """The output lies as the input does; values and gradients are those of float64, in which nothing is laid out anew."""
    net, x, labels = network(channels), torch.rand(2, channels, 8, 8), torch.tensor([0, 2])
    exact = network(channels).double()
    expected = exact(x.double(), labels)
    wanted = torch.autograd.grad(expected.square().sum(), list(exact.parameters()))
    net, seen = net.to(memory_format=weights), []
    net.res2[0].register_forward_hook(lambda *a: seen.append(a[2].stride(1)))
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        seen.clear()
        out = net(given, labels)
        for form in (torch.contiguous_format, torch.channels_last):
            assert out.is_contiguous(memory_format=form) == given.is_contiguous(memory_format=form)
        assert seen == [1] or not order, "channels_last inside"
        assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
        got = torch.autograd.grad(out.square().sum(), list(net.parameters()))
        for ours, theirs in zip(got, wanted, strict=True):
            assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_transforms(order):
    net, x, labels = network(), torch.rand(2, 2, 8, 8), torch.tensor([0, 2])
    parameters, v = dict(net.named_parameters()), torch.randn(2, 2, 8, 8)

    def one(parameters, x, label):
        return functional_call(net, parameters, (x[None], label[None])).square().sum()

    each = vmap(grad(one), (None, 0, 0))(parameters, x, labels)
    for k in range(2):
        expected = torch.autograd.grad(net(x[k : k + 1], labels[k : k + 1]).square().sum(), net.parameters())
        for got, wanted in zip(each.values(), expected, strict=True):
            assert (got[k] - wanted).abs().max() < 1e-3 * wanted.abs().max()
    _, forward = jvp(lambda y: net(y, labels), (x,), (v,))
    y = x.clone().requires_grad_()
    (reverse,) = torch.autograd.grad(net(y, labels), y, v)
    torch.testing.assert_close((forward * v).sum(), (reverse * v).sum(), rtol=1e-4, atol=1e-4)


class TestLevels:
    @pytest.mark.parametrize("cls", [NCSN, fs.models.NCSNdeeper])
    def test_the_bits_of_the_labels(self, cls):
        torch.manual_seed(0)
        net = cls(channels=1, image_size=8, ngf=4, num_levels=3)
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            net, x = net.to(dtype), torch.rand(2, 1, 8, 8, dtype=dtype)
            for label in range(3):
                assert torch.equal(net.at_level(label)(x), net(x, torch.full((2,), label)))

    def test_bad_levels_and_images_are_named(self):
        with pytest.raises(ValueError, match="label must be from 0 to 2, got 3"):
            network().at_level(3)
        with pytest.raises(ValueError, match="x must have shape"):
            network().at_level(0)(torch.rand(2, 5, 8, 8))

    def test_samplers_look_up_once_a_level(self):
        net, x, sigmas = network(), torch.rand(2, 2, 8, 8), [1.0, 0.5, 0.1]
        looked = []
        net.normalizer.embed.register_forward_hook(lambda *_: looked.append(1))
        with torch.no_grad():
            expected = [net(x, torch.full((2,), i)) for i in (0, 0, 1)]
            looked.clear()
            score = conditioned(net, sigmas, "labels")
            assert all(map(torch.equal, (score(x, i) for i in (0, 0, 1)), expected)) and len(looked) == 2

    @pytest.mark.parametrize("how", ["subclass", "hook", "instance", "function"])
    def test_a_network_that_does_more_is_called(self, how):
        """Where a call is more than the class's own forward, samplers call it, at every step."""

        class Half(NCSN):
            def forward(self, x, labels):
                return super().forward(x, labels) / 2

        net = network()
        half = Half(channels=2, image_size=8, ngf=4, num_levels=3)
        half.load_state_dict(net.state_dict())
        x, labels = torch.rand(2, 2, 8, 8), torch.tensor([1, 1])
        with torch.no_grad():
            expected = net(x, labels) / 2
            plain = net.forward
            if how == "subclass":
                net = half
            elif how == "hook":
                net.register_forward_hook(lambda *a: a[2] / 2)
            elif how == "instance":
                net.forward = lambda x, labels: plain(x, labels) / 2
            else:
                inner = net
                net = lambda x, labels: inner(x, labels) / 2  # noqa: E731
            torch.testing.assert_close(conditioned(net, [1.0, 0.5, 0.1], "labels")(x, 1), expected)

    @pytest.mark.parametrize("how", ["another norm", "hook on a norm"])
    def test_a_norm_that_wants_labels_is_given_them(self, how):
        class Norm(nn.Module):
            def __init__(self, own):
                super().__init__()
                self.own = own

            def forward(self, x, labels):
                seen.append(labels)
                return self.own(x, labels)

        net, x, seen = network(), torch.rand(2, 2, 8, 8), []
        with torch.no_grad():
            expected = net(x, torch.tensor([1, 1]))
            if how == "another norm":
                net.res1[0].normalize1 = Norm(net.res1[0].normalize1)
            else:
                net.normalizer.register_forward_pre_hook(lambda norm, given: seen.append(given[1]))
            torch.testing.assert_close(net.at_level(1)(x), expected)
        assert [labels.tolist() for labels in seen] == [[1, 1]]

    def test_what_wraps_a_network_has_no_levels(self):
        """torch.compile's module and others lend the attributes of the network in them."""
        assert offers_levels(network())
        assert not offers_levels(torch.compile(network())) and not offers_levels(nn.DataParallel(network()))


class TestTheELU:
    def test_a_hook_on_a_norm_sees_the_norm_alone(self):
        net, x, labels = network(), torch.rand(2, 2, 8, 8), torch.tensor([0, 2])
        expected, seen = net(x, labels), []
        norms = [m for m in net.modules() if isinstance(m, ConditionalInstanceNormPlus)]
        for norm in norms:
            norm.register_forward_hook(lambda *a: seen.append(a[2].min().item()))
        torch.testing.assert_close(net(x, labels), expected)
        assert len(seen) == len(norms) and min(seen) < -1.5  # no ELU gives less than -1

    def test_a_backward_hook_sees_the_gradient_of_the_norm_alone(self):
        net, x, labels, seen = network(), torch.rand(2, 2, 8, 8), torch.tensor([0, 2]), []
        net.normalizer.register_full_backward_hook(lambda norm, into, out: seen.append(out[0]))
        net.end_conv.register_forward_hook(lambda conv, given, out: seen.append(given[0].detach()))
        net(x, labels).sum().backward()
        y, seen_there = seen
        one = torch.ones(2, 2, 8, 8)
        through = torch.nn.grad.conv2d_input(y.shape, net.end_conv.weight, one, padding=1)
        torch.testing.assert_close(seen_there, through * torch.where(y > 0, 1.0, y + 1))

    def test_a_norm_that_is_derived_is_called_as_it_says(self):
        class Norm(InstanceNormPlus):
            def forward(self, x, labels):
                return 2 * super().forward(x, labels)

        norm, x = Norm(3), torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(activate(ACTIVATIONS["elu"], x, norm, None), nn.functional.elu(norm(x, None)))

    def test_the_operators_serve(self):
        fs._core.backends.last.clear()
        net, x = network(), torch.rand(2, 2, 8, 8)
        net(x, torch.tensor([0, 1]))
        NCSNv2(channels=2, image_size=8, ngf=4, sigmas=[1.0, 0.1])(x, torch.tensor([0, 1]))
        wanted = {
            name: fs._core.backends.default(x.device) for name in ("instance_norm_plus", "mean_pool", "max_pool", "elu")
        }
        assert {name: fs._core.backends.last.get(name) for name in wanted} == wanted


def test_between_levels_only_where_embeddings_are_blended():
    """A network without ``at_level``, and one whose norms see labels, know whole levels alone."""
    hooked = network()
    norm = next(m for m in hooked.modules() if isinstance(m, ConditionalInstanceNormPlus))
    norm.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="label must be a level's index for a network that blends no"):
        hooked.at_level(0.5)
    with pytest.raises(ValueError, match="interpolate must be False for a score_fn without at_level"):
        at_level(lambda x, labels: x, 0.5)
