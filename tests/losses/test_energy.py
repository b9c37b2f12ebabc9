"""energy_score: -dE/dx wherever a score is asked for, with the derivatives that are needed there and no more."""

import doctest
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import fastscore as fs
from fastscore import energy, losses
from fastscore.trace import METHODS
from fastscore.trace.products import AUTOMATIC

from ..conftest import z_variance
from .cases import LOSSES, A, X, gaussian_data

PRECISION = A @ A.T + torch.eye(4, dtype=torch.float64)
CENTRES = torch.tensor([[1.0, 0, 0, 2], [-1, 1, 0, 0], [0, -2, 1, 1]], dtype=torch.float64)


def gaussian(y, precision=PRECISION):
    return torch.einsum("bi,ij,bj->b", y, precision, y) / 2


def mixture(y):
    """-log of the sum of N(c_k, I), [B, 1]."""
    return -torch.logsumexp(-(y[:, None] - CENTRES).square().sum(2) / 2, 1, keepdim=True)


def mixture_score(y):
    return torch.softmax(-(y[:, None] - CENTRES).square().sum(2) / 2, 1) @ CENTRES - y


class Net(nn.Module):
    """An energy of x and a label, or of x alone."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1)).double()
            self.embedding = nn.Embedding(3, 4).double()

    def forward(self, x, labels=None, scale=1.0):
        return scale * self.layers(x if labels is None else x + self.embedding(labels))


def by_hand(net):
    return lambda x, *args: -grad(lambda y: net(y, *args).sum())(x)


@pytest.mark.parametrize("energy_fn, score", [(gaussian, lambda y: -y @ PRECISION), (mixture, mixture_score)])
def test_it_is_the_score(energy_fn, score):
    s = fs.energy_score(energy_fn)
    torch.testing.assert_close(s(X), score(X))
    torch.testing.assert_close(vmap(lambda x: s(x[None])[0])(X), score(X))
    y = X.clone().requires_grad_()
    one, other = (torch.autograd.grad(f(y).square().sum(), y)[0] for f in (s, score))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", ["vjp", "jvp", "fd"])
@pytest.mark.parametrize("method", METHODS)
def test_traces(method, mode):
    options = dict(method=method, num_probes=4, blocks=1, mode=mode, fd_step=1e-4 if mode == "fd" else None)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            one, other = (
                fs.jacobian_trace(f, X.clone(), rng=fs.Philox(0), **options)
                for f in (fs.energy_score(mixture), mixture_score)
            )
            torch.testing.assert_close(one.value, other.value, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(one.output, other.output)


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("name", [*LOSSES, "fd_ssm"])
def test_losses_and_their_gradients(name, mode):
    net = Net()
    options = {} if name == "fd_ssm" else {"mode": mode}
    loss, expected = (
        getattr(losses, name)(f, X, rng=fs.Philox(0), **options) for f in (fs.energy_score(net), by_hand(net))
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, net.layers.parameters(), materialize_grads=True) for value in (loss, expected))
    )


def test_it_learns_the_precision_of_gaussian_data():
    """E = a ||x||^2 / 2 on N(0, c^2 I): ssm_vr is a^2 m D / 2 - a D, m the data's mean square, so a = 1 / m."""
    c, x = 0.7, gaussian_data(0.7, 2000, 3)
    a = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([a], lr=0.1)
    for step in range(200):
        optimizer.zero_grad()
        losses.ssm_vr(fs.energy_score(lambda y: a * y.square().sum(1) / 2), x, rng=fs.Philox(0, step=step)).backward()
        optimizer.step()
    assert a.item() == pytest.approx(1 / x.square().mean().item(), rel=1e-3)
    assert a.item() == pytest.approx(1 / c**2, rel=4 * (2 / x.numel()) ** 0.5)


def test_samplers_keep_no_graph():
    """Langevin dynamics on N(0, s^2) with step_size ends at the variance s^2 / (1 - step_size / (4 s^2))."""
    s2, step_size = 0.5, 0.2
    seen = []

    def energy_fn(y):
        seen.append(y)
        return y.square().sum(1) / (2 * s2)

    start = (s2 / (1 - step_size / (4 * s2))) ** 0.5 * fs.Philox(9).randn(4000, 2, dtype=torch.float64)
    x = fs.samplers.langevin(fs.energy_score(energy_fn), start, num_steps=20, step_size=step_size, rng=fs.Philox(1))
    assert abs(z_variance(x, s2 / (1 - step_size / (4 * s2)))) < 4
    assert not x.requires_grad and not start.requires_grad and len(seen) == 20 and seen[0].requires_grad


def test_it_is_differentiated_again_where_gradients_are_on_alone():
    recorded = []

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            ctx.save_for_backward(y)
            return y.square().sum(1)

        @staticmethod
        def backward(ctx, upstream):
            recorded.append(torch.is_grad_enabled())
            return 2 * ctx.saved_tensors[0] * upstream[:, None]

    s = fs.energy_score(Square.apply)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(s(X), -2 * X)
    assert recorded == [True, False, False]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_annealed_with_labels(context):
    """The embedding saves its labels, which inference mode forbids for tensors made there."""
    net, options = Net(), dict(step_size=1e-2, steps_per_level=3, start="normal", dtype=torch.float64)
    with context():
        got, expected = (
            fs.samplers.annealed_langevin(f, (5, 4), torch.tensor([2.0, 1.0, 0.5]), rng=fs.Philox(1), **options)
            for f in (fs.energy_score(net), lambda x, i: by_hand(net)(x, i))
        )
        s = fs.energy_score(net)(X.clone(), torch.tensor([0, 1, 2, 0, 1]))
    torch.testing.assert_close(got, expected)
    assert not s.requires_grad and not got.requires_grad


def test_labels_and_keywords_reach_the_energy():
    net, labels = Net(), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(fs.energy_score(net)(X, labels, scale=3.0), 3 * by_hand(net)(X, labels))
    sigmas = torch.tensor([1.0, 0.5, 0.1])
    one, other = (losses.annealed_ssm_vr(f, X, sigmas, rng=fs.Philox(2)) for f in (fs.energy_score(net), by_hand(net)))
    torch.testing.assert_close(one, other)


def test_a_network_is_its_submodule():
    net = Net()
    score = fs.energy_score(net)
    assert list(score.state_dict()) == [f"energy.{key}" for key in net.state_dict()]
    assert {id(p) for p in score.parameters()} == {id(p) for p in net.parameters()}
    score.eval().to(torch.float32)
    assert not net.training and next(net.parameters()).dtype == torch.float32
    assert pickle.loads(pickle.dumps(score))(X.float()).shape == X.shape
    norm = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    for f in (norm, lambda x: norm(x)):  # which mixes samples
        with pytest.raises(ValueError, match=r"each sample by itself.*BatchNorm1d"):
            losses.ssm(fs.energy_score(f), X.float())


def test_under_func_grad():
    net = Net()
    parameters = {f"energy.{k}": p.detach() for k, p in net.named_parameters()}
    score = fs.energy_score(net)
    got = grad(lambda p: losses.ssm_vr(lambda y: functional_call(score, p, (y,)), X, rng=fs.Philox(0)))(parameters)
    losses.ssm_vr(score, X, rng=fs.Philox(0)).backward()
    for key, p in net.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(got[f"energy.{key}"], p.grad)


@pytest.mark.slow
def test_compiles():
    torch.compiler.reset()
    score = fs.energy_score(Net())
    torch.testing.assert_close(torch.compile(lambda y: score(y), fullgraph=True, backend="aot_eager")(X), score(X))


@pytest.mark.parametrize(
    "f, error, text",
    [
        (
            lambda y: y.sum(),
            ValueError,
            r"one energy for each sample, of shape \(5,\) or \(5, 1\), got a float64 .* shape \(\)",
        ),
        (lambda y: y, ValueError, r"one energy for each sample.*\(5, 4\)"),
        (lambda y: 1.0, TypeError, "the output of energy_fn must be a torch.Tensor, got float"),
        (lambda y: y.detach().sum(1), ValueError, "energy_fn must depend on x .*detached, or computed under no_grad"),
        (torch.no_grad()(lambda y: y.sum(1)), ValueError, "energy_fn must depend on x .*under no_grad"),
        (lambda y: A.clone().requires_grad_().sum().expand(5), ValueError, "energy_fn must depend on x .*nothing of x"),
    ],
)
def test_bad_energies(f, error, text):
    for context in (torch.enable_grad, torch.no_grad):
        with context(), pytest.raises(error, match=text):
            fs.energy_score(f)(X)
    if "must depend" in text:
        with pytest.raises(ValueError, match="energy_fn must depend on x"):
            fs.jacobian_trace(fs.energy_score(f), X, mode="jvp")


def test_differences_of_a_gradient_that_is_not_recorded():
    def by_autograd(y):
        y.requires_grad_()
        return -torch.autograd.grad(mixture(y).sum(), y)[0]

    with pytest.raises(RuntimeError, match=r"^f takes a gradient itself.*fastscore\.energy_score.*create_graph=True"):
        fs.jacobian_trace(by_autograd, X.clone(), mode="fd", fd_step=1e-4)
    found = fs.jacobian_trace(by_autograd, X.clone(), mode="fd", fd_step=1e-4, create_graph=True).value
    torch.testing.assert_close(found, fs.jacobian_trace(mixture_score, X).value, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fs.jacobian_trace(lambda y: y @ torch.ones(3, 3).double(), X, mode="fd", fd_step=1e-4)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"energy_fn must be a function E.*got int 3"):
        fs.energy_score(3)
    with pytest.raises(TypeError, match=r"x must be float16.*int64"):
        fs.energy_score(gaussian)(torch.ones(2, 4, dtype=torch.int64))


def test_doctest():
    result = doctest.testmod(energy)
    assert result.failed == 0 and result.attempted > 0
