"""J V in each mode, in chunks, and what is said where a mode cannot serve."""

import warnings

import pytest
import torch

import fastscore as fs
from fastscore.trace.products import AUTOMATIC, Products

from .cases import ESTIMATORS, linear, matrix

LAYERS = {size: [matrix(size, size, seed=seed) / size**0.5 for seed in (8, 9)] for size in (6, 12)}
STEP = torch.tensor(1e-3, dtype=torch.float64)


def network(x):
    """Not symmetric, not linear, two layers; any shape."""
    size = x[0].numel()
    return linear(LAYERS[size][0])(torch.tanh(linear(LAYERS[size][1])(x)))


def jacobian(x):
    one = torch.func.vmap(torch.func.jacrev(lambda y: network(y[None])[0]))(x)
    return one.reshape(len(x), x[0].numel(), x[0].numel())


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
def test_products_are_those_of_the_whole_jacobian(mode, chunk_size):
    """J V, and J^T V for vjp, of a Jacobian that is not symmetric."""
    x, v = matrix(4, 2, 3), matrix(5, 4, 2, 3, seed=1)
    products = Products(network, x, mode=mode, chunk_size=chunk_size, fd_step=STEP)
    j = jacobian(x)
    expected = torch.einsum("bji,kbj->kbi" if mode == "vjp" else "bij,kbj->kbi", j, v.flatten(2)).reshape(v.shape)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if mode == "fd" else {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(products(v), expected, **tolerance)
    torch.testing.assert_close(products.output, network(x))
    assert products.count == 5 and products.evaluations == (11 if mode == "fd" else 6)


@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
def test_a_product_that_is_not_recorded(mode):
    """It has no graph, and f(x) still gets one."""
    w, v = matrix(4, 4).requires_grad_(), matrix(2, 3, 4)
    products = Products(lambda x: torch.sin(x @ w), matrix(3, 4), mode=mode, fd_step=STEP)
    silent, recorded = products(v, record=False), products(v)
    torch.testing.assert_close(silent, recorded)
    assert not silent.requires_grad and recorded.requires_grad and products.output.requires_grad


def counted():
    calls = []

    def f(x):
        calls.append(tuple(x.shape))
        return torch.sin(x)

    return f, calls


def test_how_often_f_is_called():
    x = torch.zeros(3, 6)
    for mode, chunk_size, calls in (
        ("jvp", None, 1),
        ("jvp", 1, 6),
        ("jvp", 4, 2),
        ("vjp", None, 1),
        ("vjp", 1, 1),
        ("fd", None, 13),
    ):
        f, seen = counted()
        fs.jacobian_trace(f, x, num_probes=6, mode=mode, chunk_size=chunk_size, fd_step=0.1 if mode == "fd" else None)
        assert seen == [(3, 6)] * calls, mode


def test_the_default_chunk_is_bounded():
    f, seen = counted()
    fs.jacobian_trace(f, torch.zeros(4, 1 << 17), mode="jvp", num_probes=8, method="rademacher")
    assert len(seen) == 4
    f, seen = counted()
    fs.jacobian_trace(f, torch.zeros(2, 1 << 20), mode="jvp", num_probes=3, method="rademacher")
    assert len(seen) == 3


@pytest.mark.parametrize("method", ESTIMATORS)
def test_chunks_and_modes_agree(method):
    x, options = matrix(3, 3, 4), {"method": method, "num_probes": 12}
    whole, back = (fs.jacobian_trace(network, x, mode=mode, rng=fs.Philox(3), **options) for mode in ("jvp", "vjp"))
    for mode, expected in (("jvp", whole), ("vjp", back)):
        for chunk_size in (1, 5, 7):
            part = fs.jacobian_trace(network, x, mode=mode, rng=fs.Philox(3), chunk_size=chunk_size, **options)
            torch.testing.assert_close(part.value, expected.value, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(part.stderr, expected.stderr, rtol=1e-9, atol=1e-9)
    far = fs.jacobian_trace(network, x, mode="fd", fd_step=1e-4, rng=fs.Philox(3), **options)
    torch.testing.assert_close(far.value, whole.value, rtol=1e-4, atol=1e-4)
    assert far.evaluations == 25 and whole.evaluations == 13
    if method in ("hutchpp", "xtrace"):  # they sketch the range of J^T then: another estimate
        assert ((back.value - whole.value).abs() < 8 * (back.stderr + whole.stderr)).all()
    else:  # v^T J v = v^T J^T v
        torch.testing.assert_close(back.value, whole.value, rtol=1e-9, atol=1e-9)


def test_finite_differences_move_no_element_by_more_than_the_step():
    moved = []

    def f(x):
        moved.append(x)
        return x**3

    x, step = matrix(2, 5), torch.tensor([0.1, 0.01], dtype=torch.float64)
    v = torch.stack([matrix(2, 5, seed=1), torch.zeros(2, 5).double(), torch.eye(5).double()[:2]])
    product = Products(f, x, mode="fd", fd_step=step)(v)
    farthest = (torch.stack(moved[1:]) - x).abs().amax(2).reshape(3, 2, 2)
    torch.testing.assert_close(farthest[[0, 2]], step.expand(2, 2, 2))
    assert farthest[1].max() == 0 and product[1].abs().max() == 0
    h = step[:, None] / v.abs().amax(2, keepdim=True)  # of a cubic the error is h^2 v^3 exactly
    exact = 3 * x**2 * v + torch.where(v == 0, 0, h**2 * v**3)
    torch.testing.assert_close(product, exact)


def test_the_step_comes_from_the_shift():
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)
    x = matrix(2, 5)
    told = fs.jacobian_trace(torch.sin, x, mode="fd", fd_step=0.01 * sigma, rng=fs.Philox(0))
    implied = fs.jacobian_trace(torch.sin, x, mode="fd", shift=sigma**2, rng=fs.Philox(0))
    assert torch.equal(told.value, implied.value)
    assert not torch.equal(told.value, fs.jacobian_trace(torch.sin, x, mode="fd", fd_step=0.01).value)


class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class NoForward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


def distance(x):
    return torch.cdist(x[:, None], torch.ones(1, x.shape[1], x.shape[1], dtype=x.dtype))[:, 0]


@pytest.mark.parametrize("chunk_size", [1, None])
@pytest.mark.parametrize("f", [Old.apply, NoForward.apply, distance], ids=["old function", "no jvp", "cdist"])
def test_a_missing_forward_rule_is_reported_and_the_advice_works(f, chunk_size):
    x = matrix(3, 4)
    with pytest.raises(NotImplementedError, match=r"forward-mode rule.*pass mode='vjp' or mode='fd'"):
        fs.jacobian_trace(f, x, mode="jvp", chunk_size=chunk_size)
    expected = fs.jacobian_trace(f, x, mode="fd", fd_step=1e-4, method="exact").value
    back = fs.jacobian_trace(f, x, mode="vjp", method="exact", chunk_size=chunk_size)
    torch.testing.assert_close(back.value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(back.output, f(x))
    assert not back.output.requires_grad and not back.value.requires_grad


@pytest.mark.parametrize("chunk_size", [1, None])
def test_vjp_beside_torch_func(chunk_size):
    """An operation that torch.func does not take: same values and gradients, in x and in parameters."""
    w, x = matrix(4, 4).requires_grad_(), matrix(3, 4, seed=1).requires_grad_()
    results = []
    for sine in (torch.sin, Old.apply):
        t = fs.jacobian_trace(
            lambda y, sine=sine: sine(y @ w), x, mode="vjp", method="exact", create_graph=True, chunk_size=chunk_size
        )
        results.append((t.value, t.output, *torch.autograd.grad(t.value.sum() + t.output.sum(), (w, x))))
    torch.testing.assert_close(*results)
    fixed = fs.jacobian_trace(lambda y: Old.apply(y @ w), x.detach(), mode="vjp", method="exact", create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(fixed.value.sum() + fixed.output.sum(), w)[0], results[0][2])


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


def attention(x):
    q = x[:, None]
    return torch.nn.functional.scaled_dot_product_attention(q, q, q)[:, 0]


@pytest.mark.parametrize("f", [Recurrent, lambda: attention], ids=["recurrent", "attention"])
def test_vjp_of_many_directions_at_once(f):
    """Fused layers have no backward pass for them: torch would take one after the other, with a warning."""
    f, x = f(), matrix(3, 2, 4).float()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batching rule")
        found = fs.jacobian_trace(f, x, method="exact")
    torch.testing.assert_close(found.value, fs.jacobian_trace(f, x, method="exact", chunk_size=1).value)
    assert found.evaluations == 9  # torch.func served: it was not evaluated again


class NoVmap(NoForward):
    generate_vmap_rule = False

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * ctx.saved_tensors[0].cos()


def test_what_vmap_cannot_do():
    x = matrix(3, 4)
    with pytest.raises(RuntimeError, match="does not work under vmap: pass chunk_size=1"):
        fs.jacobian_trace(NoVmap.apply, x, mode="jvp")
    torch.testing.assert_close(fs.jacobian_trace(NoVmap.apply, x, mode="jvp", chunk_size=1).value, x.cos().sum(1))


def test_other_errors_of_f_pass():
    def broken(x):
        raise RuntimeError("of its own")

    for mode in ("jvp", "vjp", "fd"):
        with pytest.raises(RuntimeError, match=r"^of its own$"):
            fs.jacobian_trace(broken, torch.zeros(2, 3), mode=mode, fd_step=0.1 if mode == "fd" else None)


@pytest.mark.parametrize("mode", AUTOMATIC)
def test_dropout_is_one_mask_for_a_chunk(mode):
    """With p = 1/2 on a linear map every probe sees the same mask: the products of two equal probes are equal."""
    x = torch.ones(3, 8, dtype=torch.float64)
    products = Products(torch.nn.Dropout(0.5), x, mode=mode)
    v = torch.ones(4, 3, 8, dtype=torch.float64)
    out = products(v)
    assert torch.equal(out, out[:1].expand_as(out)) and 0 < (out[0] == 0).sum() < 24
    torch.testing.assert_close(products.output, out[0] * x)
