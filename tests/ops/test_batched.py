"""vmap and batched gradients of every operator in every shape: what a loop over the slices gives, and its gradient."""

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.func import grad, jacfwd, jacrev, vmap

import fastscore as fs

from .cases import BACKENDS, tensor
from .declared import CALLS, every_call

D = 5
N = 3  # slices


@pytest.fixture(params=BACKENDS)
def backend(request, on_backend):
    on_backend(request.param)
    return request.param


def forms() -> list:
    """(call, batch of a slice, in_dims): all inputs mapped, one, all but one; slices of one sample; other dimensions.

    Of more than six inputs, which are alike, not all but one, and no slices of one sample.
    """
    rows = []
    for name, call in CALLS.items():
        count = len(call.places())
        alone = [tuple(0 if i == k else None for i in range(count)) for k in range(count)]
        but_one = [tuple(None if i == k else 0 for i in range(count)) for k in range(count)] if 2 < count <= 6 else []
        for in_dims in dict.fromkeys([(0,) * count, *alone, *but_one]):
            rows += [(name, batch, in_dims) for batch in ((2, 1) if count <= 6 else (2,))]
        rows.append((name, 2, (-1,) * count))
    return [pytest.param(*row, id=f"{row[0]}-{row[1]}-{','.join(map(str, row[2]))}") for row in rows]


def arguments(call, batch, in_dims):
    """The inputs, their slices for the loop, and what vmap takes."""
    several = [call.inputs((batch, D), seed) for seed in range(0, 10 * N, 10)]
    slices = [torch.stack(parts if d is not None else parts[:1] * N) for parts, d in zip(zip(*several), in_dims)]
    return [t[0] if d is None else t.movedim(0, d) for t, d in zip(slices, in_dims)], slices


@pytest.mark.parametrize("name, batch, in_dims", forms())
def test_vmap_is_the_loop(name, batch, in_dims, backend):
    function, inputs = CALLS[name], range(len(in_dims))
    given, slices = arguments(function, batch, in_dims)
    leaves = [t.clone().requires_grad_() for t in given]

    def each(function):
        return torch.stack([function(*(t[i] for t in slices)) for i in range(N)])

    expected = each(function)
    got = vmap(function, in_dims, randomness="same")(*leaves)
    torch.testing.assert_close(got, expected)

    def slope(argument):
        return lambda *a: grad(lambda *a: function(*a).square().sum(), argument)(*a)

    wanted = [each(slope(argument)) for argument in inputs]
    for argument in inputs:  # the gradient of each slice, inside
        torch.testing.assert_close(vmap(slope(argument), in_dims, randomness="same")(*given), wanted[argument])
    outside = torch.autograd.grad(got.square().sum(), leaves)  # and of all together, outside
    for found, all_of_them, dim in zip(outside, wanted, in_dims):
        torch.testing.assert_close(found, all_of_them.sum(0) if dim is None else all_of_them.movedim(0, dim))


@every_call
def test_nested_vmap_is_the_loop(name, backend):
    """The first input is mapped by both, the others by the inner and the outer vmap in turn."""
    function = CALLS[name]
    count = len(function.places())
    inner = [True, *(i % 2 == 1 for i in range(1, count))]
    outer = [True, *(i % 2 == 0 for i in range(1, count))]
    table = [[function.inputs((1, D), 10 * i + j) for j in range(3)] for i in range(2)]

    def one(i, j):
        return [table[i if outer[k] else 0][j if inner[k] else 0][k] for k in range(count)]

    def stacked(k):
        rows = [torch.stack([one(i, j)[k] for j in range(3)]) if inner[k] else one(i, 0)[k] for i in range(2)]
        return torch.stack(rows) if outer[k] else rows[0]

    def in_dims(mapped):
        return tuple(0 if m else None for m in mapped)

    got = vmap(vmap(function, in_dims(inner), randomness="same"), in_dims(outer), randomness="same")(
        *map(stacked, range(count))
    )
    loop = torch.stack([torch.stack([function(*one(i, j)) for j in range(3)]) for i in range(2)])
    torch.testing.assert_close(got, loop)


@every_call
@pytest.mark.parametrize("batch", [2, 1])
def test_batched_gradients(name, batch, backend):
    """is_grads_batched, functional.jacobian(vectorize=True), jacrev and jacfwd: rows of one Jacobian."""
    function, inputs = CALLS[name], CALLS[name].inputs((batch, D))
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    basis = torch.eye(out.numel(), dtype=out.dtype).view(-1, *out.shape)
    rows = [torch.autograd.grad(out, leaves, one, retain_graph=True) for one in basis]
    expected = [torch.stack(parts) for parts in zip(*rows)]
    batched = torch.autograd.grad(out, leaves, basis, is_grads_batched=True, retain_graph=True)
    again = torch.autograd.grad(function(*leaves), leaves, basis, is_grads_batched=True)  # with nothing before it
    every = tuple(range(len(inputs)))
    slow = [
        jacobian(function, inputs, vectorize=True),
        jacobian(function, inputs, vectorize=True, strategy="forward-mode"),
        jacrev(function, every)(*inputs),
        jacfwd(function, every, randomness="same")(*inputs),
    ]
    for found in (batched, again, *slow):
        for part, wanted in zip(found, expected, strict=True):
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
