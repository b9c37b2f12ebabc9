"""What torch.func, or one of torch's kernels, does not differentiate: right in every mode, or told the cure."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastscore as fs
from fastscore import losses
from fastscore.trace.products import AUTOMATIC

from .cases import LOSSES, X

NAMES = [*LOSSES, "exact", "rademacher"]


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 4), reentrant

    def plain(self, y):
        return self.last(self.first(y))

    def forward(self, y):
        return self.last(checkpoint(self.first, y, use_reentrant=self.reentrant))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.last = kind(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, y):
        return self.last(self.layer(y[..., None])[0])[..., 0]

    def plain(self, y):
        before, *_ = torch.backends.mkldnn.set_flags(False, _fp32_precision=None)
        try:
            return self(y)
        finally:
            torch.backends.mkldnn.set_flags(before, _fp32_precision=None)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.each = nn.Linear(1, 12)

    def forward(self, y):
        q, k, v = self.each(y[:, None, :, None]).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)[:, 0].sin().sum(-1)

    def plain(self, y):
        q, k, v = self.each(y[:, None, :, None]).chunk(3, -1)
        return (torch.softmax(q @ k.mT / 2, -1) @ v)[:, 0].sin().sum(-1)


class Transformer(nn.Module):
    """In eval mode, whose fast path torch differentiates in no way."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(1, 8), nn.Linear(8, 1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.eval()

    def forward(self, y):
        return self.last(self.layer(self.first(y[..., None])))[..., 0]

    def plain(self, y):
        h, layer = self.first(y[..., None]), self.layer
        q, k, v = (
            F.linear(h, *p) for p in zip(layer.self_attn.in_proj_weight.chunk(3), layer.self_attn.in_proj_bias.chunk(3))
        )
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
        mixed = (torch.softmax(q @ k.mT / 2, -1) @ v).transpose(1, 2).flatten(2)
        h = layer.norm1(h + layer.self_attn.out_proj(mixed))
        return self.last(layer.norm2(h + layer.linear2(torch.relu(layer.linear1(h)))))[..., 0]


class Energy(nn.Module):
    """-dE/dx as one writes it for sampling; with a graph."""

    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 1))

    def forward(self, y):
        with torch.enable_grad():
            y = y.requires_grad_()
            return -torch.autograd.grad(self.e(y).sum(), y, create_graph=True)[0]

    def plain(self, y):
        return -torch.func.grad(lambda z: self.e(z).sum())(y)


NETWORKS = {
    "checkpointed": lambda: Checkpointed(False),
    "reentrant": lambda: Checkpointed(True),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "RNN": lambda: Recurrent(nn.RNN),
    "attention": Attention,
    "transformer": Transformer,
    "energy": Energy,
}
REFUSED = {  # (network, mode): what is said; first where the trace alone is asked for, then where it is to be learnt by
    ("checkpointed", "jvp"): (None, "mode='vjp'.*leave activation checkpointing"),
    ("reentrant", "jvp"): ("mode='vjp'.*use_reentrant=False", "mode='vjp'.*use_reentrant=False"),
    ("reentrant", "vjp"): ("reverse mode.*use_reentrant=False", "reverse mode.*use_reentrant=False"),
    ("energy", "jvp"): ("mode='vjp'.*energy_score", "mode='vjp'.*energy_score"),
}


def run(name, f, mode, record):
    rng, x = fs.Philox(0), X.float()
    if name in LOSSES:
        return LOSSES[name](f, x, mode=mode, rng=rng, **({} if name == "ism" else {"n_particles": 2}))
    return fs.jacobian_trace(f, x, mode=mode, method=name, num_probes=2, rng=rng, create_graph=record).value.sum()


def networks(kind):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return NETWORKS[kind]()


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_or_the_cure(name, kind, mode):
    network = networks(kind)
    trace_only, learnt = REFUSED.get((kind, mode), (None, None))
    for record, text in ((False, trace_only), (True, learnt)):
        with torch.set_grad_enabled(record):
            if text:
                with pytest.raises(RuntimeError, match=text):
                    run(name, network, mode, record)
                continue
            got = run(name, network, mode, record)
            expected = run(name, network.plain, mode, record)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        if record:
            found, wanted = (
                torch.autograd.grad(value, list(network.parameters()), materialize_grads=True, allow_unused=True)
                for value in (got, expected)
            )
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_a_reverse_mode_error_has_the_cures_and_torchs_text():
    with pytest.raises(RuntimeError, match=r"(?s)mode='fd', or pass use_reentrant=False.*Torch said: .*use_reentrant"):
        fs.jacobian_trace(networks("reentrant"), X.float(), mode="vjp")


def settings():
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
        cuda.math_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_settings_are_put_back(fails):
    """Also after an error; and what the caller chose stays."""
    network, seen = networks("LSTM"), []

    def f(y):
        seen.append(settings())
        return network(y) @ torch.ones(4, 3 if fails else 4)

    for flash in (False, True):
        torch.backends.cuda.enable_flash_sdp(flash)
        with pytest.raises(ValueError, match="must have the shape") if fails else torch.enable_grad():
            losses.ssm(f, X.float(), mode="jvp")
        assert seen[0] == (False, False, False, True, False, False, False)
        assert settings() == (flash, *[True] * 6)


def test_checkpointing_still_recomputes():
    calls = []

    def inside(y):
        calls.append(1)
        return y.sin()

    losses.ssm_vr(lambda y: checkpoint(inside, y, use_reentrant=False), X, rng=fs.Philox(0))
    assert len(calls) == 2


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [RuntimeError, TypeError, AssertionError, KeyError])
def test_errors_of_the_network_itself_surface_once(kind, name, mode):
    def broken(y):
        raise kind("of its own")

    with pytest.raises(kind, match=r"^'?of its own'?$") as caught:
        run(name, broken, mode, True)
    assert caught.type is kind
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)


def test_a_shape_error_is_not_taken_for_a_missing_rule():
    for mode in AUTOMATIC:
        for name in NAMES:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
                run(name, lambda y: y @ torch.ones(7, 4), mode, True)
            assert "mode=" not in str(caught.value)


@pytest.mark.parametrize("scripted", [torch.jit.script, lambda n: torch.jit.trace(n, X.float())], ids=["it", "trace"])
@pytest.mark.filterwarnings("ignore")
def test_torchscript(scripted):
    """Its executor loses tangents from the second call on, in silence; reverse mode it takes."""
    network = networks("checkpointed")
    plain = nn.Sequential(*network.first, network.last)
    fast = scripted(plain)
    for _ in range(3):
        for f in (fast, lambda y: fast(y) - y):
            with pytest.raises(ValueError, match=r"TorchScript.*pass mode='vjp'"):
                run("ssm_vr", f, "jvp", True)
        torch.testing.assert_close(run("ism", fast, "vjp", True), run("ism", plain, "vjp", True))
    with pytest.raises(ValueError, match=r"f must not hold TorchScript"):
        run("exact", torch.jit.script(double), "jvp", False)


def double(y: torch.Tensor) -> torch.Tensor:
    return y * 2
