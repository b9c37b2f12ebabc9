"""Gradients of J v in forward mode, of operations whose own such formula in torch is wrong: right, or refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

import fastscore as fs
from fastscore import losses

from .cases import A, X

MATRIX = A @ A.T + torch.eye(4)


class Between(nn.Module):
    """``layer`` on what a linear map makes of x, as [B, *shape]."""

    def __init__(self, layer, *shape, out=4):
        super().__init__()
        self.first, self.layer, self.last, self.shape = nn.Linear(4, 12), layer, nn.Linear(12, out), shape

    def forward(self, x):
        return self.last(self.layer(self.first(x).reshape(-1, *self.shape)).reshape(len(x), -1))


class Gated(nn.Module):
    def forward(self, x):
        return torch.cat([F.glu(x), F.glu(x, dim=1)], 1)


LAYERS = {
    "layer norm": lambda out=4: Between(nn.LayerNorm(12), 12, out=out),
    "layer norm of two dimensions, no bias": lambda out=4: Between(nn.LayerNorm((2, 3), bias=False), 2, 2, 3, out=out),
    "instance norm": lambda out=4: Between(nn.InstanceNorm1d(3, affine=True), 3, 4, out=out),
    "transformer": lambda out=4: Between(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), 3, 4, out=out),
    "glu": lambda out=4: Between(Gated(), 12, out=out),
}


def network(name, out=4):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = LAYERS[name](out).double()
        for p in made.parameters():
            p.data += 0.2 * torch.randn_like(p)
    return made


def by_hand(f, x, probes):
    """Mean of 1/2 ||s||^2 + v^T J v by two reverse passes."""
    x = x.clone().requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        score = f(x)
    forms = [(torch.autograd.grad(score, x, v, create_graph=True)[0] * v).sum(1) for v in probes]
    return (0.5 * score.square().sum(1) + sum(forms) / len(forms)).mean()


def gradients(value, f):
    return torch.autograd.grad(value, list(f.parameters()), allow_unused=True)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("how", ["loss", "trace", "compiled"])
def test_gradients_are_those_of_two_reverse_passes(name, how):
    f = network(name)
    expected = gradients(by_hand(f, X, fs.fill_probes(fs.Probes(X, 2, fs.Philox(4)))), f)

    def loss():
        return losses.ssm_vr(f, X, rng=fs.Philox(4), n_particles=2, mode="jvp")

    if how == "trace":
        t = fs.jacobian_trace(f, X, method="rademacher", num_probes=2, rng=fs.Philox(4), create_graph=True)
        value = (t.value + 0.5 * t.output.square().sum(1)).mean()
    elif how == "compiled" and name in ("transformer", "glu"):
        pytest.skip("torch.compile does not trace torch.func through it")
    else:
        value = torch.compile(loss, fullgraph=True, backend="aot_eager")() if how == "compiled" else loss()
    torch.testing.assert_close(gradients(value, f), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["layer norm", "instance norm"])
def test_per_sample_gradients(name):
    f = network(name)
    parameters = {k: p.detach() for k, p in f.named_parameters()}

    def loss(p, x):
        return losses.ssm_vr(lambda y: functional_call(f, p, (y,)), x[None], rng=fs.Philox(4), mode="jvp")

    got = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, X)
    expected = gradients(by_hand(f, X, fs.fill_probes(fs.Probes(X, 1, fs.Philox(4)))), f)
    for mine, theirs in zip(got.values(), expected):
        torch.testing.assert_close(mine.mean(0), theirs, rtol=1e-9, atol=1e-11)


class GradientOf(nn.Module):
    """A user's own score of an energy."""

    def __init__(self, energy):
        super().__init__()
        self.energy = energy

    def forward(self, x):
        x = x if x.requires_grad else x.requires_grad_()
        return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("score,mode", [(fs.energy_score, "vjp"), (fs.energy_score, "jvp"), (GradientOf, "vjp")])
@pytest.mark.parametrize("name", ["layer norm", "instance norm"])
def test_an_energy(name, score, mode):
    """The third derivative is that of differences in the parameters."""
    f = score(nn.Sequential(network(name, out=1), nn.Softplus()))

    def loss():
        return losses.ssm_vr(f, X, rng=fs.Philox(4), mode=mode)

    weight = f.energy[0].first.weight
    (got,) = torch.autograd.grad(loss(), weight)
    step = 1e-5 * torch.cos(torch.arange(48, dtype=torch.float64)).reshape(12, 4)
    weight.data += step
    plus = float(loss().detach())
    weight.data -= 2 * step
    torch.testing.assert_close(float((got * step).sum()), (plus - float(loss().detach())) / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["layer norm", "instance norm"])
def test_values_keep_their_dtype(name, dtype):
    f, x = network(name).to(dtype), X.to(dtype)
    t = fs.jacobian_trace(f, x, method="exact", create_graph=True)
    assert t.output.dtype == dtype
    torch.testing.assert_close(t.output, f(x), rtol=0.05 if dtype == torch.bfloat16 else 1e-5, atol=0.05)


def covariance(x, matrix):
    return -torch.linalg.solve(matrix, x.T).T


def flow(x, matrix):
    return -x * torch.logdet(matrix + x.mean() ** 2 * torch.eye(4, dtype=x.dtype))


@pytest.mark.parametrize("f,name", [(covariance, "torch.linalg.solve"), (flow, "torch.logdet")])
def test_matrices_that_are_learned_are_refused(f, name):
    learned = MATRIX.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=rf"score_fn has an operation, {name}, .* pass mode='vjp'"):
        losses.ssm(lambda x: f(x, learned), X, mode="jvp")


def test_matrices_that_are_constant_are_served():
    expected = -torch.linalg.inv(MATRIX).trace()
    t = fs.jacobian_trace(lambda x: covariance(x, MATRIX), X, create_graph=True)
    torch.testing.assert_close(t.value, expected.expand(5))
    learned = MATRIX.clone().requires_grad_()
    t = fs.jacobian_trace(lambda x: covariance(x, learned), X)  # of which no gradient is recorded
    torch.testing.assert_close(t.value, expected.expand(5))
