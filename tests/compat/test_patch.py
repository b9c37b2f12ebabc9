"""patch_ncsn: a patched network is the network that it was, and what was changed is what may be."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import fastscore as fs
from fastscore._core import backends
from fastscore.compat.patch import FusedELU, FusedInstanceNormPlus, FusedMeanPool
from fastscore.models import NCSN, NCSNv2

from . import originals

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}


def built(make, dtype=torch.float32):
    torch.manual_seed(0)
    return make().to(dtype)


def results(net, dtype=torch.float32):
    """The output, and the gradients of the images and of every parameter by its name."""
    torch.manual_seed(1)
    x, y = (
        torch.rand(3, 3 if hasattr(net, "begin_conv") else 4, 8, 8, dtype=dtype, requires_grad=True),
        torch.tensor([0, 3, 3]),
    )
    out = net(x, y)
    out = torch.cat(out, 1) if isinstance(out, tuple) else out
    names, parameters = zip(*net.named_parameters())
    gradients = torch.autograd.grad((out * torch.randn_like(out)).sum(), [x, *parameters], allow_unused=True)
    return {"out": out.detach(), "x": gradients[0], **dict(zip(names, gradients[1:]))}


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    scale = {"out": expected["out"].abs().max()}
    largest = max(value.abs().max() for name, value in expected.items() if name != "out" and value is not None)
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert (found[name] - value).abs().max() <= tolerance * scale.get(name, largest), name


FUSED = ("normalizer", "res1.0.normalize2", "res1.0.normalize1", "res1.1.1_1_norm", "res1.1.1_2_norm")
ALONE = {f"res1.2.norms.{i}": "no ELU takes its output, and it alone" for i in (0, 1)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make, fused, alone", [(originals.NCSN, FUSED, ALONE), (originals.NCSNv2, FUSED[:3], {})])
def test_outputs_and_gradients_are_those_before(make, fused, alone, dtype):
    net = built(make, dtype)
    expected = results(net, dtype)
    keys, parameters = list(net.state_dict()), list(net.parameters())
    sent = io.BytesIO()
    torch.save(net.state_dict(), sent)
    changed = fs.patch_ncsn(nn.DataParallel(net))
    assert changed.fused == tuple(f"module.{name}" for name in fused) and not changed.left and not changed.already
    assert changed.norms == {f"module.{name}": why for name, why in alone.items()}
    assert changed.elus == (("module.res1.2.act",) if alone else ())
    assert changed.pools == (("module.res1.2.maxpool",) if alone else ())
    assert list(net.state_dict()) == keys and all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert not [m for m in net.modules() if type(m).__name__.endswith("2dPlus")]
    sent.seek(0)
    net.load_state_dict(torch.load(sent))
    backends.last.clear()
    assert_same(results(net, dtype), expected, TOLERANCE[dtype])
    used = ("instance_norm_plus", "elu", "mean_pool") if alone else ("instance_norm_plus",)
    assert backends.last == {name: backends.default(torch.device("cpu"), name) for name in used}
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.eval()):
        assert_same(results(other, dtype), expected, TOLERANCE[dtype])
    assert not any(module.training for module in net.modules())


def test_the_norm_of_each_is_computed_with_its_elu_once():
    """Broken in turn: without the ELU, or with it twice, the output is another."""
    net = built(originals.NCSN)
    expected = results(net)["out"]
    fs.patch_ncsn(net)
    assert [type(block.non_linearity) for block in net.res1[:1]] == [nn.Identity]
    assert [type(m.act) for m in (net, net.res1[1], net.res1[2])] == [nn.Identity, nn.Identity, FusedELU]
    net.normalizer.activation = None
    assert (results(net)["out"] - expected).abs().max() > 1e-2
    net.normalizer.activation = "elu"
    net.act = nn.ELU()
    assert (results(net)["out"] - expected).abs().max() > 1e-2


def test_looking_leaves_no_trace():
    """The network runs: its buffers, its modes, its gradients' absence and torch's random numbers are as before."""
    net = built(originals.NCSN)
    net.begin_conv = nn.Sequential(net.begin_conv, nn.BatchNorm2d(4), nn.Dropout(0.5))
    net.res1[1].eval()
    state = copy.deepcopy(net.state_dict())
    modes = {name: module.training for name, module in net.named_modules(remove_duplicate=False)}
    chance = torch.get_rng_state()
    assert len(fs.patch_ncsn(net).fused) == 5
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(modes[name] == module.training for name, module in net.named_modules())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [originals.InstanceNorm2dPlus, originals.ConditionalInstanceNorm2dPlus])
def test_norms_without_beta(kind, bias):
    torch.manual_seed(0)
    norm, x = kind(5, bias=bias).double(), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    given = (x,) if kind is originals.InstanceNorm2dPlus else (x, torch.tensor([1, 0]))
    net = nn.Sequential(norm)
    expected = norm(*given)
    assert fs.patch_ncsn(net).norms.keys() == {"0"}
    torch.testing.assert_close(net[0](*given), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make, fused, why",
    [
        (lambda: originals.Odd("used twice"), [], "no ELU takes its output, and it alone"),
        (lambda: originals.Odd("in training"), [], "no ELU takes its output, and it alone"),
        (lambda: originals.Odd("returned"), [], "no ELU takes its output, and it alone"),
        (lambda: originals.Odd("an ELU more"), [], "no ELU takes its output, and it alone"),
        (lambda: originals.Odd("function"), [], "no ELU takes its output, and it alone"),
        (lambda: originals.Odd("too large"), [], "not seen at work (AssertionError: no more than 15)"),
        (lambda: originals.Odd("", nn.ELU(alpha=0.5)), [], "no ELU is beside it"),
        (lambda: originals.Odd("", nn.ReLU()), [], "no ELU is beside it"),
        (lambda: originals.Odd("", nn.ELU(inplace=True)), ["normalize2", "normalize1"], None),
    ],
)
def test_an_elu_is_fused_only_where_it_has_the_output_to_itself(make, fused, why):
    """In both modes the block is what it was, whatever else it does with the output or with its ELU."""
    net = built(make)
    expected = [results(net.train(mode)) for mode in (True, False)]
    changed = fs.patch_ncsn(net)
    assert list(changed.fused) == fused and set(changed.norms.values()) == ({why} if why else set()), changed
    for mode, before in zip((True, False), expected):
        assert_same(results(net.train(mode)), before, TOLERANCE[torch.float32])


class Swapped(originals.ConditionalInstanceNorm2dPlus):
    """gamma and alpha the other way round."""

    def forward(self, x, y):
        alpha, gamma, beta = (part[..., None, None] for part in self.embed(y).chunk(3, -1))
        return gamma * (self.instance_norm(x) + alpha * originals.means_of_channels(x)) + beta


class OtherEps(originals.InstanceNorm2dPlus):
    def forward(self, x):
        out = self.instance_norm(x) + self.alpha.view(1, -1, 1, 1) * originals.means_of_channels(x, 1e-3)
        return self.gamma.view(1, -1, 1, 1) * out + self.beta.view(1, -1, 1, 1)


def other_parts():
    norm = originals.InstanceNorm2dPlus(4)
    norm.instance_norm = nn.InstanceNorm2d(4, track_running_stats=True)
    return norm


def hooked():
    norm = originals.InstanceNorm2dPlus(4)
    norm.register_forward_hook(lambda *_: None)
    return norm


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda: Swapped(4), "it computes something else than InstanceNorm++"),
        (lambda: OtherEps(4), "it computes something else than InstanceNorm++"),
        (other_parts, "its parts are not the original's"),
        (hooked, "it has hooks"),
        (lambda: originals.InstanceNorm2dPlus(1), "the variance over one channel is 0/0"),
        (lambda: originals.ConditionalBatchNorm2d(4), "another norm"),
    ],
)
def test_what_is_no_instance_norm_plus_is_left(make, why):
    odd, net = make(), nn.ModuleDict({"b": originals.InstanceNorm2dPlus(4)})
    net["a"] = odd
    changed = fs.patch_ncsn(net)
    assert changed.left == {"a": why} and net["a"] is odd and changed.norms == {"b": "no ELU is beside it"}
    assert f"left as it was: 1: {why}: a" in str(changed)


@pytest.mark.parametrize(
    "pool, ours",
    [
        (nn.AvgPool2d(5, 1, 2), True),
        (nn.AvgPool2d((3, 3), (1, 1), 1), True),
        (nn.AvgPool2d(5, 2, 2), False),
        (nn.AvgPool2d(4, 1, 2), False),
        (nn.AvgPool2d((3, 5), 1, (1, 2)), False),
        (nn.AvgPool2d(5, 1, 1), False),
        (nn.AvgPool2d(5, 1, 2, count_include_pad=False), False),
        (nn.AvgPool2d(5, 1, 2, divisor_override=7), False),
        (nn.MaxPool2d(5, 1, 2), False),
    ],
)
def test_a_pooling_is_replaced_where_the_operator_is_its_like(pool, ours):
    net, x = nn.ModuleList([originals.InstanceNorm2dPlus(4), pool]), torch.rand(2, 3, 7, 6)
    assert fs.patch_ncsn(net).pools == (("1",) if ours else ()) and (type(net[1]) is FusedMeanPool) == ours
    torch.testing.assert_close(net[1](x), pool(x))
    torch.testing.assert_close(net[1](x[0]), pool(x[0]))  # without a batch, as torch has it


def test_the_record_says_on_one_screen_what_was_done():
    net = built(originals.NCSN)
    assert str(fs.patch_ncsn(net)).splitlines() == [
        "patched: 7 InstanceNorm++, by instance_norm_plus",
        "  5 with the ELU that follows: normalizer, res1.0.normalize2, res1.0.normalize1 and 2 more",
        "  2 without: no ELU takes its output, and it alone: res1.2.norms.0, res1.2.norms.1",
        "patched: 1 ELU, by elu: res1.2.act",
        "patched: 1 average poolings, by mean_pool: res1.2.maxpool",
    ]
    modules = list(net.modules())
    again = fs.patch_ncsn(net)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True)) and not again.fused and not again.norms
    assert str(again).startswith("fastscore's already: 7 InstanceNorm++: normalizer, ")


@pytest.mark.parametrize("make", [lambda: NCSN(1, 8, ngf=4), lambda: NCSNv2(1, 8, ngf=4, sigmas=[1.0, 0.1])])
def test_our_own_networks_have_it_already(make):
    net = make()
    modules, changed = list(net.modules()), fs.patch_ncsn(net)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert changed.already and not (changed.fused or changed.norms or changed.left)


@pytest.mark.parametrize(
    "module, error, text",
    [
        ([], TypeError, r"module must be a torch.nn.Module, got list \[\]"),
        (nn.Conv2d(1, 1, 1), ValueError, "module must hold norms of ermongroup.*, got a Conv2d with no norm"),
        (
            nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2), originals.ConditionalBatchNorm2d(2)),
            ValueError,
            "ConditionalInstanceNorm2dPlus or InstanceNorm2dPlus, got a Sequential with 3 BatchNorm2d, 1 ConditionalBatchNorm2d",
        ),
        (originals.InstanceNorm2dPlus(4), ValueError, "got one of these norms itself: pass the network that it is in"),
    ],
)
def test_what_is_not_ncsns_is_named(module, error, text):
    with pytest.raises(error, match=text):
        fs.patch_ncsn(module)


def test_a_failure_while_it_looks_leaves_the_network_as_it_was(monkeypatch):
    net = built(originals.NCSN)
    modules = list(net.modules())
    monkeypatch.setattr(FusedInstanceNormPlus, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fs.patch_ncsn(net)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
