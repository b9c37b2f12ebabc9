"""vmap and batched gradients of every operator in every shape: what a loop over the slices gives, and its gradient."""

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.func import grad, jacfwd, jacrev, vmap

import fastscore as fs

from .cases import BACKENDS, tensor

D = 5
LAYERS = [(tensor((4, D), torch.float64, 5), tensor((4,), torch.float64, 6)), (tensor((D, 4), torch.float64, 7), None)]


@pytest.fixture(params=BACKENDS)
def backend(request, on_backend):
    on_backend(request.param)
    return request.param


def handle(x):
    return fs.Philox(1).noise(x.shape, dtype=x.dtype, beside=())


def probe(x):
    return fs.Probes(torch.zeros(x.shape, dtype=x.dtype), 2, fs.Philox(2))


OPERATORS = {  # of samples, other samples and a number a row; each draws the same numbers for every slice
    "perturb": lambda x, s, v: fs.perturb(x, v, fs.Philox(1))[0] + 0 * s,
    "perturb, alpha": lambda x, s, v: fs.perturb(x, 0.5, fs.Philox(1), alpha=v)[0] + 0 * s,
    "langevin_step": lambda x, s, v: fs.langevin_step(x, s, v, fs.Philox(1)),
    "langevin_step, noise": lambda x, s, v: fs.langevin_step(x, s, v, noise=handle(x)),
    "dsm_loss": lambda x, s, v: fs.dsm_loss(x + s * s, handle(x), v),
    "dsm_loss, weight": lambda x, s, v: fs.dsm_loss(x * s, handle(x), v, 0.5),
    "probe_dot": lambda x, s, v: (
        fs.probe_dot(torch.stack([x * s, s.sin()]), probe(x)).T * (v[:, None] if v.dim() else v)
    ),
    "mlp_divergence": lambda x, s, v: fs.mlp_divergence(x * s, LAYERS, activation="tanh")[1] * v,
}
every_operator = pytest.mark.parametrize("name", OPERATORS)

# batch a slice; the shapes of the three arguments with N = 3 where mapped, and where
N = 3
FORMS = {
    "all": (2, (0, 0, 0), "row"),
    "slices of one sample": (1, (0, 0, 0), "row"),
    "one sample, [1] not mapped": (1, (0, 0, None), "row"),
    "one sample, 0-dim not mapped": (1, (0, 0, None), "0-dim"),
    "[B] not mapped": (2, (0, 0, None), "row"),
    "0-dim not mapped": (2, (0, 0, None), "0-dim"),
    "0-dim mapped": (2, (0, 0, 0), "0-dim"),
    "only the 0-dim": (2, (None, None, 0), "0-dim"),
    "only [B]": (2, (None, None, 0), "row"),
    "only [1]": (1, (None, None, 0), "row"),
    "only x": (2, (0, None, None), "row"),
    "only x, of one sample": (1, (0, None, None), "row"),
    "only the second": (2, (None, 0, None), "row"),
    "other dimensions": (2, (1, 2, 1), "row"),
    "the last": (2, (-1, -1, -1), "row"),
}


def arguments(batch, in_dims, kind):
    """The three tensors, their slices for the loop, and what vmap takes."""
    slices = [
        tensor((N, batch, D), torch.float64, 0),
        tensor((N, batch, D), torch.float64, 1),
        tensor((N, batch) if kind == "row" else (N,), torch.float64, 2).abs() + 0.3,
    ]
    slices = [t if d is not None else t[:1].expand(t.shape) for t, d in zip(slices, in_dims)]
    return [t[0] if d is None else t.movedim(0, d) for t, d in zip(slices, in_dims)], slices


@every_operator
@pytest.mark.parametrize("form", FORMS)
def test_vmap_is_the_loop(name, form, backend):
    function, in_dims = OPERATORS[name], FORMS[form][1]
    given, slices = arguments(*FORMS[form])
    leaves = [t.clone().requires_grad_() for t in given]

    def each(function):
        return torch.stack([function(*(t[i] for t in slices)) for i in range(N)])

    expected = each(function)
    got = vmap(function, in_dims, randomness="same")(*leaves)
    torch.testing.assert_close(got, expected)

    def slope(argument):
        return lambda *a: grad(lambda *a: function(*a).square().sum(), argument)(*a)

    for argument in range(3):  # the gradient of each slice, inside
        torch.testing.assert_close(vmap(slope(argument), in_dims, randomness="same")(*given), each(slope(argument)))
    outside = torch.autograd.grad(got.square().sum(), leaves)  # and of all together, outside
    for argument, (found, dim) in enumerate(zip(outside, in_dims)):
        wanted = each(slope(argument))
        torch.testing.assert_close(found, wanted.sum(0) if dim is None else wanted.movedim(0, dim))


@every_operator
def test_nested_vmap_is_the_loop(name, backend):
    function = OPERATORS[name]
    x, s = tensor((2, 3, 1, D), torch.float64, 0), tensor((3, 1, D), torch.float64, 1)
    v = tensor((2, 1), torch.float64, 2).abs() + 0.3
    got = vmap(vmap(function, (0, 0, None), randomness="same"), (0, None, 0), randomness="same")(x, s, v)
    torch.testing.assert_close(
        got, torch.stack([torch.stack([function(x[i, j], s[j], v[i]) for j in range(3)]) for i in range(2)])
    )


@every_operator
@pytest.mark.parametrize("batch, kind", [(2, "row"), (1, "row"), (2, "0-dim")])
def test_batched_gradients(name, batch, kind, backend):
    """is_grads_batched, functional.jacobian(vectorize=True), jacrev and jacfwd: rows of one Jacobian."""
    function, inputs = OPERATORS[name], tuple(arguments(batch, (None, None, None), kind)[0])
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    basis = torch.eye(out.numel(), dtype=out.dtype).view(-1, *out.shape)
    rows = [torch.autograd.grad(out, leaves, one, retain_graph=True) for one in basis]
    expected = [torch.stack(parts) for parts in zip(*rows)]
    batched = torch.autograd.grad(out, leaves, basis, is_grads_batched=True, retain_graph=True)
    again = torch.autograd.grad(function(*leaves), leaves, basis, is_grads_batched=True)  # with nothing before it
    slow = [
        jacobian(function, inputs, vectorize=True),
        jacrev(function, (0, 1, 2))(*inputs),
        jacfwd(function, (0, 1, 2), randomness="same")(*inputs),
    ]
    if name != "mlp_divergence":
        slow.append(jacobian(function, inputs, vectorize=True, strategy="forward-mode"))
    for found in (batched, again, *slow):
        for part, wanted in zip(found, expected):
            torch.testing.assert_close(part.reshape(wanted.shape), wanted)


def test_batched_gradients_of_the_loss_alone(backend):
    """Only the score needs a gradient: the loss's own pass, in each dtype, and twice."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        score = tensor((3, D), dtype, 0).requires_grad_()
        noise = fs.Philox(1).noise((3, D), dtype=dtype)
        upstream = tensor((4, 3), torch.float64 if dtype == torch.float64 else torch.float32, 1)
        loss = fs.dsm_loss(score, noise, 0.5)
        rows = torch.stack([torch.autograd.grad(loss, score, u, retain_graph=True)[0] for u in upstream])
        for value in (loss, fs.dsm_loss(score, noise, 0.5)):
            (got,) = torch.autograd.grad(value, score, upstream, is_grads_batched=True, retain_graph=True)
            torch.testing.assert_close(got, rows)
