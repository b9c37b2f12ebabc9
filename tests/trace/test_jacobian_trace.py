"""jacobian_trace as a whole: defaults, dtypes, gradients, transforms, compile."""

import doctest
import importlib

import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap

import fastscore as fs
from fastscore._core import backends
from fastscore.trace import METHODS

from .cases import linear, matrix, seeds, trace_of


def network(size=12):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(size, 16), torch.nn.Tanh(), torch.nn.Linear(16, size)
    ).double()


def test_defaults():
    """Images are probed, with 4 colours in each of 2 blocks; anything else gets 8 Rademacher probes."""
    for shape, method in (
        ((3, 12), "rademacher"),
        ((3, 3, 4), "probing"),
        ((3, 2, 3, 2), "probing"),
        ((3, 1, 2, 3, 2), "rademacher"),
    ):
        a, x = matrix(12, 12), torch.zeros(shape, dtype=torch.float64)
        default = fs.jacobian_trace(linear(a), x, rng=fs.Philox(4))
        told = fs.jacobian_trace(linear(a), x, method=method, num_probes=8, blocks=2, rng=fs.Philox(4))
        assert torch.equal(default.value, told.value) and torch.equal(default.stderr, told.stderr)
        other = "probing" if method == "rademacher" else "rademacher"
        assert not torch.equal(default.value, fs.jacobian_trace(linear(a), x, method=other, rng=fs.Philox(4)).value)
        assert default.evaluations == 9


@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
@pytest.mark.parametrize("shape", [(3, 8), (2, 1, 2, 3), (4, 1)])
def test_the_exact_trace_where_it_costs_no_more(shape, mode):
    size = torch.Size(shape[1:]).numel()
    a, x, rng = matrix(size, size), matrix(*shape), fs.Philox(4)
    options = {"mode": mode, "fd_step": 1e-3 if mode == "fd" else None, "rng": rng}
    t = fs.jacobian_trace(linear(a), x, num_probes=max(size, 2), **options)
    torch.testing.assert_close(t.value, trace_of(a).expand(len(x)))
    assert torch.equal(t.stderr, torch.zeros_like(t.value)) and rng.step == 0
    assert t.evaluations == 1 + size * (2 if mode == "fd" else 1)
    fewer = size - size % 2 - 2
    if fewer > 0:
        t = fs.jacobian_trace(linear(a), x, num_probes=fewer, **options)
        assert t.evaluations == 1 + fewer * (2 if mode == "fd" else 1) and rng.step > 0


def test_a_colouring_is_for_probing():
    x = matrix(2, 1, 2, 2)
    t = fs.jacobian_trace(
        linear(matrix(4, 4)), x, num_probes=4, blocks=2, coloring=fs.Coloring(2, 2, 2, 1, 1), rng=fs.Philox(0)
    )
    assert t.stderr.min() > 0


@pytest.mark.parametrize("method", METHODS)
def test_result(method):
    x = matrix(5, 12)
    net = network()
    t = fs.jacobian_trace(net, x, method=method, num_probes=12)
    assert t._fields == ("value", "stderr", "output", "evaluations") and t.evaluations == 13
    assert t.value.shape == t.stderr.shape == (5,)
    torch.testing.assert_close(t.output, net(x).detach())
    assert not (t.value.requires_grad or t.stderr.requires_grad or t.output.requires_grad)
    alone = fs.jacobian_trace(net, x, method=method, num_probes=12, blocks=1).stderr
    assert {
        "probing": alone.isnan().all(),
        "hutchpp": alone.isnan().all(),
        "xtrace": alone.isnan().all(),
        "exact": (alone == 0).all(),
    }.get(method, (alone > 0).all())


@pytest.mark.parametrize("method", ["rademacher", "gaussian", "sphere"])
def test_one_probe_has_no_error_bar(method):
    assert seeds(matrix(5, 5), 3, method, num_probes=1).stderr.isnan().all()


@pytest.mark.parametrize("method", METHODS)
def test_backends_agree(method, on_backend):
    x, f = torch.zeros(3, 12).double(), linear(matrix(12, 12))
    values = []
    for backend in ("reference", "native"):
        on_backend(backend)
        values.append(fs.jacobian_trace(f, x, method=method, num_probes=12, rng=fs.Philox(1)).value)
        if method != "exact":
            assert backends.last["fill_probes"] == backend
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)  # normals differ by a rounding


@pytest.mark.parametrize("method", METHODS)
def test_rng(method):
    """The same seed gives the same estimate, the next draw another one; by default torch's seed governs."""
    x, f = torch.zeros(3, 12).double(), linear(matrix(12, 12))
    rng = fs.Philox(1)
    first, second = (fs.jacobian_trace(f, x, method=method, num_probes=12, rng=rng).value for _ in range(2))
    assert torch.equal(first, fs.jacobian_trace(f, x, method=method, num_probes=12, rng=fs.Philox(1)).value)
    assert torch.equal(first, second) == (method == "exact")
    torch.manual_seed(0)
    third = fs.jacobian_trace(f, x, method=method, num_probes=12).value
    torch.manual_seed(0)
    assert torch.equal(third, fs.jacobian_trace(f, x, method=method, num_probes=12).value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(method, dtype):
    a, x = matrix(12, 12) / 4, torch.zeros(3, 12)
    t = fs.jacobian_trace(linear(a.to(dtype)), x.to(dtype), method=method, num_probes=12, rng=fs.Philox(0))
    exact = fs.jacobian_trace(linear(a), x.double(), method=method, num_probes=12, rng=fs.Philox(0))
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    assert t.value.dtype == t.stderr.dtype == compute and t.output.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.4, torch.float16: 0.05}[dtype]
    torch.testing.assert_close(t.value.double(), exact.value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded"])
def test_layouts(layout):
    x = {
        "channels_last": lambda: matrix(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "transposed": lambda: matrix(2, 2, 3, 2).transpose(0, 3),
        "expanded": lambda: matrix(1, 3, 2, 2).expand(4, 3, 2, 2),
    }[layout]()
    for method in METHODS:
        f = linear(matrix(12, 12))
        got = fs.jacobian_trace(f, x, method=method, num_probes=12, rng=fs.Philox(0))
        plain = fs.jacobian_trace(f, x.contiguous(), method=method, num_probes=12, rng=fs.Philox(0))
        torch.testing.assert_close(got.value, plain.value)


@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients(method, mode):
    """Every estimate with 12 products whose mean is known: the gradient in parameters and x is that of the exact
    trace where the estimate is exact, and else in the mean (z-score over 4,000 equal rows)."""
    net, n = network(), 1 if method == "exact" else 4000
    row = matrix(1, 12).requires_grad_()
    t = fs.jacobian_trace(
        net,
        row.expand(n, 12),
        method=method,
        num_probes=12,
        mode=mode,
        create_graph=True,
        fd_step=1e-3 if mode == "fd" else None,
        rng=fs.Philox(0),
    )
    assert t.value.requires_grad and t.stderr.requires_grad == (method != "exact") and t.output.requires_grad
    weight = next(p for p in net.parameters() if p.dim() == 2)
    jacobian = torch.func.jacrev(lambda x: net(x[None])[0])(row[0])
    wanted = torch.autograd.grad(torch.trace(jacobian), (row, weight))
    got = torch.autograd.grad(t.value.mean(), (row, weight))
    if method == "exact":
        torch.testing.assert_close(got, wanted, rtol=1e-4 if mode == "fd" else 1e-9, atol=1e-6)
    else:
        for g, w in zip(got, wanted):
            assert (g - w).norm() / w.norm() < 0.15 and (g - w).norm() > 0
    if mode == "jvp":
        out = torch.autograd.grad(
            fs.jacobian_trace(net, row, method=method, num_probes=12, create_graph=True).output.sum(), weight
        )[0]
        torch.testing.assert_close(out, torch.autograd.grad(net(row).sum(), weight)[0])


@pytest.mark.parametrize("method", ["rademacher", "gaussian", "sphere", "probing", "exact"])
def test_gradcheck(method):
    """value and stderr, where no basis stands between: those are constants, and test_sketches tests their gradients."""
    x, w = matrix(2, 6).requires_grad_(), matrix(6, 6, seed=1).requires_grad_()

    def both(x, w):
        t = fs.jacobian_trace(
            lambda y: torch.tanh(y @ w), x, method=method, num_probes=6, rng=fs.Philox(0), create_graph=True
        )
        return (t.value, t.output) if method == "exact" else (t.value, t.stderr, t.output)

    assert torch.autograd.gradcheck(both, (x, w))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["jvp", "vjp"])
def test_torch_func(method, mode):
    """grad of the parameters, a forward derivative in x, and vmap over networks."""
    net, x = network(), matrix(3, 12)
    parameters = {k: p.detach() for k, p in net.named_parameters()}

    def value(parameters, x):
        return fs.jacobian_trace(
            lambda y: functional_call(net, parameters, y),
            x,
            method=method,
            mode=mode,
            num_probes=12,
            rng=fs.Philox(0),
            create_graph=True,
        ).value.sum()

    t = fs.jacobian_trace(net, x, method=method, mode=mode, num_probes=12, rng=fs.Philox(0), create_graph=True)
    wanted = dict(zip(parameters, torch.autograd.grad(t.value.sum(), net.parameters(), materialize_grads=True)))
    got = grad(value)(parameters, x)
    torch.testing.assert_close(got, wanted)
    one, tangent = jvp(lambda x: value(parameters, x), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, grad(value, argnums=1)(parameters, x).sum(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(one, t.value.sum())
    stacked = {k: torch.stack([p, 2 * p]) for k, p in parameters.items()}
    many = vmap(value, in_dims=(0, None), randomness="same")(stacked, x)
    torch.testing.assert_close(
        many, torch.stack([value(parameters, x), value({k: 2 * p for k, p in parameters.items()}, x)])
    )


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_over_x(randomness):
    a, x = matrix(12, 12), matrix(4, 3, 12)
    got = vmap(lambda x: fs.jacobian_trace(linear(a), x, rng=fs.Philox(0)).value, randomness=randomness)(x)
    if randomness == "different":
        whole = fs.jacobian_trace(linear(a), x.flatten(0, 1), rng=fs.Philox(0)).value.unflatten(0, (4, 3))
    else:
        whole = fs.jacobian_trace(linear(a), x[0], rng=fs.Philox(0)).value.expand(4, 3)
    torch.testing.assert_close(got, whole)
    with pytest.raises(RuntimeError, match="Say whether each of its slices"):
        vmap(lambda x: fs.jacobian_trace(linear(a), x, rng=fs.Philox(0)).value)(x)


def test_no_grad_and_inference_mode():
    net, x = network(), matrix(3, 12)
    expected = fs.jacobian_trace(net, x, rng=fs.Philox(0)).value
    for context in (torch.no_grad, torch.inference_mode):
        for mode in ("jvp", "vjp"):
            with context():
                torch.testing.assert_close(fs.jacobian_trace(net, x, mode=mode, rng=fs.Philox(0)).value, expected)
                t = fs.jacobian_trace(net, x, mode=mode, create_graph=True)
                assert not t.value.requires_grad and not t.output.requires_grad


@pytest.mark.slow
@pytest.mark.skipif(backends.problem("native") is not None, reason="needs a C++ compiler")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape, compiler", [((3, 12), "aot_eager"), ((2, 3, 2, 2), "inductor")])
def test_compiles_whole(method, shape, compiler):
    """In one graph, whose values are eager's: on vectors as it was traced, on images by the default compiler too."""
    torch._dynamo.reset()
    net, x = network(), matrix(*shape)

    def estimate(x):
        t = fs.jacobian_trace(lambda y: net(y).reshape(y.shape), x, method=method, num_probes=12, rng=fs.Philox(0))
        return t.value, t.stderr, t.output

    torch.testing.assert_close(torch.compile(estimate, fullgraph=True, backend=compiler)(x), estimate(x))


@pytest.mark.slow
@pytest.mark.skipif(backends.problem("native") is not None, reason="needs a C++ compiler")
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15),
    reason="compiled by torch 2.13, the backward pass of a jvp writes to a ZeroTensor",
)
def test_compiled_loss_with_gradient():
    """The jvp stands inside what is compiled, so the gradient of a trace needs no double backward."""
    torch._dynamo.reset()
    net, x = network(), matrix(3, 12)

    def loss(x):
        return fs.jacobian_trace(net, x, num_probes=4, rng=fs.Philox(0), create_graph=True).value.mean()

    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        net.zero_grad()
        function(x).backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def test_doctests():
    for name in ("jacobian_trace", "coloring"):
        result = doctest.testmod(importlib.import_module(f"fastscore.trace.{name}"))
        assert result.failed == 0 and result.attempted > 0, name


def test_exact_trace_of_an_expression_beside_autograd():
    a, x = matrix(2, 12, 12), matrix(2, 12)
    t = fs.jacobian_trace(lambda y: linear(a)(y).sin(), x, method="exact")
    torch.testing.assert_close(t.value, (a.diagonal(dim1=1, dim2=2) * linear(a)(x).cos()).sum(1))
    torch.testing.assert_close(fs.jacobian_trace(linear(a), x, method="exact").value, trace_of(a))
