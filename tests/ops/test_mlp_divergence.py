"""mlp_divergence against the trace of the Jacobian that torch.func makes."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import fastscore as fs
from fastscore._core import backends
from fastscore._core.registration import _raw
from fastscore.ops.mlp_divergence import ACTIVATIONS, _differentiable, reference

MODULES = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "silu": nn.SiLU, "elu": nn.ELU}
PLACES = [("reference", "cpu"), ("native", "cpu"), pytest.param("native", "cuda", marks=pytest.mark.gpu)]
HIDDEN = [(1,), (37,), (64, 33), (2050,), (5, 70)]


def network(name: str, dim: int, hidden: tuple, dtype: torch.dtype, device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    sizes, modules = (dim, *hidden, dim), []
    for a, b in pairwise(sizes):
        modules += [nn.Linear(a, b), MODULES[name]()]
    return nn.Sequential(*modules[:-1]).to(device, dtype)


def trace(net, x):
    return vmap(jacrev(net))(x).diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("backend, device", PLACES)
def test_is_the_trace(on_backend, backend, device, name, hidden, dtype):
    on_backend(backend, device, "mlp_divergence")
    net, x = network(name, 6, hidden, dtype, device), torch.randn(9, 6, dtype=dtype, device=device)
    for layers, activation in ((net, None), (list(net[::2]), name), ([(m.weight, m.bias) for m in net[::2]], name)):
        output, divergence = fs.mlp_divergence(x, layers, activation=activation)
        assert backends.last["mlp_divergence"] == backend and divergence.dtype == dtype
        torch.testing.assert_close(output, net(x))
        torch.testing.assert_close(
            divergence,
            trace(net, x),
            rtol=1e-4 if dtype == torch.float32 else 1e-11,
            atol=1e-5 if dtype == torch.float32 else 1e-12,
        )


@pytest.mark.parametrize("hidden", [(7,), (5, 4)], ids=str)
@pytest.mark.parametrize("name", ["tanh", "silu", "softplus", "sigmoid"])
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_gradients(on_backend, backend, name, hidden):
    on_backend(backend, "cpu", "mlp_divergence")
    net, x = network(name, 3, hidden, torch.float64), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def function(x, *parameters):
        return fs.mlp_divergence(x, list(zip(parameters[::2], parameters[1::2])), activation=name)[1]

    inputs = (x, *net.parameters())
    assert gradcheck(function, inputs) and gradgradcheck(function, inputs)
    want = torch.autograd.grad(trace(net, x).square().sum(), inputs[:-1])  # the last bias moves no trace
    got = torch.autograd.grad(fs.mlp_divergence(x, net)[1].square().sum(), inputs[:-1])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_at_extremes(on_backend, name):
    """phi' and phi'' within 4e-7 from -100 to 100, on every instruction set."""
    on_backend("native", "cpu", "mlp_divergence")
    kind = list(ACTIVATIONS).index(name)
    a = torch.cat([torch.linspace(-100, 100, 100_001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 87.3, -87.4])])[:, None]
    exact = a.double().requires_grad_()
    slope = reference(exact, torch.ones(1).double(), kind)
    (curve,) = torch.autograd.grad(slope.sum(), exact)
    for isa in backends.ISAS[: backends.ISAS.index(backends.isa()) + 1]:
        with backends.native_isa(isa):
            got = torch.ops.fastscore.mlp_divergence_native(a, torch.ones(1), kind)
            to_a, to_w = torch.ops.fastscore.mlp_divergence_gradient_native(a, torch.ones(1), torch.ones(len(a)), kind)
        for value, want in ((got, slope), (to_w[:, 0], slope), (to_a, curve)):
            torch.testing.assert_close(value.double(), want.detach(), rtol=0, atol=4e-7)


def test_bits_depend_on_neither_instruction_set_nor_threads(on_backend):
    on_backend("native", "cpu", "mlp_divergence")
    a, w, threads = torch.randn(300, 1111), torch.randn(1111), torch.get_num_threads()
    for dtype in (torch.float32, torch.float64):
        arguments = (a.to(dtype), w.to(dtype), 0)
        expected = torch.ops.fastscore.mlp_divergence_native(*arguments)
        try:
            for isa in backends.ISAS[: backends.ISAS.index(backends.isa()) + 1]:
                for count in (1, 3):
                    torch.set_num_threads(count)
                    with backends.native_isa(isa):
                        assert torch.equal(torch.ops.fastscore.mlp_divergence_native(*arguments), expected)
        finally:
            torch.set_num_threads(threads)


def of_row(divergence):
    return lambda row: divergence(row[None])[0]


def of_first_weights(x):
    """The divergence as a function of the first layer's weights, and three of them."""
    last = torch.linspace(-1, 1, 12, dtype=x.dtype).view(3, 4)
    return lambda w: fs.mlp_divergence(x, [(w, None), (last, None)], activation="tanh")[1], x[:3, :, None] * last


TRANSFORMS = {  # of the divergence f at x; and how it is differentiated: "": not at all
    "vmap": (lambda f, x: vmap(of_row(f))(x), ""),
    "vmap in vmap": (lambda f, x: vmap(vmap(of_row(f)))(x.view(2, 2, 3)), ""),
    "grad": (lambda f, x: grad(lambda x: f(x).square().sum())(x), "once"),
    "jvp": (lambda f, x: jvp(f, (x,), (x.cos(),))[1], "once"),
    "a gradient for each row": (lambda f, x: vmap(grad(of_row(f)))(x), "once"),
    "reverse over forward": (lambda f, x: vmap(jacrev(jacfwd(of_row(f))))(x), "twice"),
    "forward over reverse": (lambda f, x: vmap(jacfwd(jacrev(of_row(f))))(x), "twice"),
    "forward over forward": (lambda f, x: vmap(jacfwd(jacfwd(of_row(f))))(x), "twice"),
    "w mapped": (lambda f, x: (lambda g, w: vmap(g)(w.mT))(*of_first_weights(x)), ""),
    "w mapped, differentiated": (
        lambda f, x: (lambda g, w: vmap(grad(lambda w: g(w).square().sum()))(w.mT))(*of_first_weights(x)),
        "once",
    ),
}


@pytest.mark.parametrize("hidden", [(6,), (5, 4)], ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_served_natively(on_backend, monkeypatch, name, hidden):
    transform, differentiated = TRANSFORMS[name]
    on_backend("native", operator="mlp_divergence")
    net, x = network("silu", 3, hidden, torch.float64), torch.randn(4, 3, dtype=torch.float64)
    calls = set()
    for key, function in _raw.items():
        counted = lambda *a, key=key, function=function: calls.add(key) or function(*a)  # noqa: E731
        monkeypatch.setitem(_raw, key, counted)

    def run():
        calls.clear()
        return transform(lambda x: fs.mlp_divergence(x, net)[1], x)

    got, forward, gradient = run(), ("mlp_divergence", "native"), ("mlp_divergence_gradient", "native")
    assert calls == ({forward, gradient} if differentiated else {forward})
    with fs.use_backend("reference"):
        torch.testing.assert_close(got, run())
    assert not calls


def test_compile_calls_the_compiled_functions(on_backend):
    """One graph for the value and its gradient, with the native functions in it."""
    from functorch.compile import make_boxed_func  # these import torch._dynamo, which takes seconds
    from torch._dynamo.backends.common import aot_autograd

    on_backend("native", operator="mlp_divergence")
    net, x = network("silu", 3, (5, 4), torch.float64), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    seen = []

    def record(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if "fastscore" in str(node.target))
        return make_boxed_func(graph.forward)

    def loss(x):
        return fs.mlp_divergence(x, net)[1].square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=aot_autograd(fw_compiler=record))
    (got,) = torch.autograd.grad(compiled(x), x)
    assert seen == ["fastscore.mlp_divergence_native.default", "fastscore.mlp_divergence_gradient_native.default"]
    torch.testing.assert_close(got, torch.autograd.grad(loss(x), x)[0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_of_the_compiled_functions(name, on_backend):
    """First and second, in reverse and in forward mode, for one w and for one per row."""
    on_backend("native", operator="mlp_divergence")
    a, many = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for w in (many[0].detach().requires_grad_(), many):
        function = partial(_differentiable, "native", activation=list(ACTIVATIONS).index(name))
        assert gradcheck(function, (a, w), check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, (a, w), check_fwd_over_rev=True, check_batched_grad=True)


def test_autocast(on_backend):
    """The sum over hidden units is computed in float32, by the native backend."""
    on_backend("native", operator="mlp_divergence")
    net, x = network("tanh", 3, (5,), torch.float32), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        divergence = fs.mlp_divergence(x, net)[1]
    assert divergence.dtype == torch.float32
    torch.testing.assert_close(divergence, fs.mlp_divergence(x, net)[1], rtol=0.05, atol=0.05)


def test_parametrized_weights():
    net, x = network("tanh", 3, (5,), torch.float32), torch.randn(4, 3)
    nn.utils.parametrizations.weight_norm(net[0])
    torch.testing.assert_close(fs.mlp_divergence(x, net)[1], trace(net, x))


def test_empty_and_half():
    net = network("tanh", 3, (5,), torch.float32)
    assert fs.mlp_divergence(torch.zeros(0, 3), net)[1].shape == (0,)
    x = torch.randn(4, 3)
    want = fs.mlp_divergence(x, net)[1]
    got = fs.mlp_divergence(x.bfloat16(), net.bfloat16())[1]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


X = torch.zeros(2, 3)
BAD = {
    "no forward of its own, of Tanh": lambda: fs.mlp_divergence(
        X, Residual(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    ),
    "none at the end, no hooks": lambda: fs.mlp_divergence(
        X, nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh())
    ),
    "layers must be nn.Linear modules": lambda: fs.mlp_divergence(
        X, nn.Sequential(Twice(3, 4), nn.Tanh(), nn.Linear(4, 3))
    ),
    "x must have the dtype of the weights, float32": lambda: fs.mlp_divergence(
        X.double(), network("tanh", 3, (4,), torch.float32)
    ),
    "layers must be nn.Linear modules with one kind": lambda: fs.mlp_divergence(
        X, nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 3))
    ),
    "layers must be two or three": lambda: fs.mlp_divergence(X, [nn.Linear(3, 3)], activation="tanh"),
    "activation must be one of": lambda: fs.mlp_divergence(X, [nn.Linear(3, 3)] * 2),
    "activation must be the Sequential's own": lambda: fs.mlp_divergence(
        X, network("tanh", 3, (4,), torch.float32), activation="silu"
    ),
    "x must be \\[B, D\\]": lambda: fs.mlp_divergence(X, network("tanh", 4, (4,), torch.float32)),
    "the weight of layer 1 must be": lambda: fs.mlp_divergence(
        X, [nn.Linear(3, 4), nn.Linear(5, 3)], activation="tanh"
    ),
    "x must be float16": lambda: fs.mlp_divergence(X.long(), network("tanh", 3, (4,), torch.float32)),
}


@pytest.mark.parametrize(
    "where", [lambda net: net, lambda net: net[0], lambda net: net[1]], ids=["network", "linear", "activation"]
)
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_refused(where, register):
    net = network("tanh", 3, (4,), torch.float32)
    getattr(where(net), register)(lambda *arguments: None)
    with pytest.raises(ValueError, match="no hooks"):
        fs.mlp_divergence(X, net)


@pytest.mark.parametrize("activation", [nn.Softplus(beta=2), nn.Softplus(threshold=1), nn.ELU(alpha=0.5)], ids=str)
def test_other_parameters_are_refused(activation):
    with pytest.raises(ValueError, match="with their default parameters"):
        fs.mlp_divergence(X, nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 3)))


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message]()


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("hidden", [(6,), (6, 5)])
def test_second_derivatives_where_some_weights_are_frozen(hidden, backend, on_backend):
    """In x alone, and in the weights alone: those that need none are not asked."""
    on_backend(backend, operator="mlp_divergence")
    sizes = [4, *hidden, 4]
    pairs = [
        (torch.randn(o, i, dtype=torch.float64, generator=torch.Generator().manual_seed(o)), None)
        for i, o in pairwise(sizes)
    ]
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for inputs in ([x], [pairs[0][0]], [pairs[-1][0], x]):
        for tensor in inputs:
            tensor.requires_grad_()
        assert gradgradcheck(lambda *_: fs.mlp_divergence(x, pairs, activation="silu")[1], inputs)
        for tensor in inputs:
            tensor.requires_grad_(False)
