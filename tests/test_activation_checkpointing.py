"""torch.utils.checkpoint around a function that draws: right gradients, or an error with the cure."""

import functools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fastscore as fs

X = torch.linspace(-1, 1, 12).reshape(4, 3)
DRAWS = {
    "perturb": lambda h, rng: fs.perturb(h, 0.5, rng)[0],
    "langevin_step": lambda h, rng: fs.langevin_step(h, h.cos(), 0.3, rng),
    "affine_step": lambda h, rng: fs.affine_step(h, [h.cos()], 0.9, [0.3], 0.5, rng),
    "a loss": lambda h, rng: h * fs.losses.ssm_vr(torch.tanh, h, rng=rng),
    "plain numbers": lambda h, rng: h * rng.rand(4, 3) + rng.randn(4, 3),
    "a trace": lambda h, rng: h * fs.jacobian_trace(torch.sin, h, num_probes=2, rng=rng).value[:, None],
}


def weight():
    return torch.linspace(-1, 1.5, 9).reshape(3, 3).requires_grad_()


def layer(draw):
    """A layer that keeps activations which depend on what it draws."""

    def function(w, rng):
        return torch.tanh(draw(torch.tanh(X @ w), rng) @ w).sum()

    return function


def gradient(function, *arguments):
    w = weight()
    function(w, *arguments).backward()
    return w.grad


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("device", [None, "cpu"], ids=["numbers", "device state"])
def test_replayed(draw, device):
    """The gradient of the function itself, and the Philox moves on as if there were no checkpoint."""
    function, rng, plain = layer(draw), fs.Philox(1, device=device), fs.Philox(1)
    got = [
        gradient(lambda w: checkpoint(function, w, rng, use_reentrant=False, context_fn=rng.for_checkpoint))
        for _ in range(2)
    ]
    torch.testing.assert_close(got, [gradient(function, plain) for _ in range(2)], rtol=0, atol=0)
    assert rng.step == plain.step


def test_replayed_twice_and_nested():
    function, rng = layer(DRAWS["perturb"]), fs.Philox(1)

    def inner(w, rng):
        return checkpoint(function, w, rng, use_reentrant=False, context_fn=rng.for_checkpoint) * function(w, rng)

    plain, w = fs.Philox(1), weight()
    expected = gradient(lambda w: function(w, plain) * function(w, plain))
    out = checkpoint(inner, w, rng, use_reentrant=False, context_fn=rng.for_checkpoint)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(out, w, retain_graph=True)[0], expected, rtol=0, atol=0)
    assert rng.step == plain.step


def of_two(w, one, other):
    return torch.tanh(fs.perturb(torch.tanh(X @ w), 0.5, one)[0] @ w * other.randn(4, 3)).sum()


def test_several_are_replayed():
    one, other = fs.Philox(1), fs.Philox(2)
    got = gradient(
        lambda w: checkpoint(
            of_two, w, one, other, use_reentrant=False, context_fn=functools.partial(one.for_checkpoint, other)
        )
    )
    torch.testing.assert_close(got, gradient(of_two, fs.Philox(1), fs.Philox(2)), rtol=0, atol=0)
    assert one.step == other.step == 1


def test_one_that_is_not_replayed_is_refused_beside_one_that_is():
    one, other = fs.Philox(1), fs.Philox(2)
    with pytest.raises(RuntimeError, match=r"functools\.partial\(rng\.for_checkpoint, other\)"):
        gradient(lambda w: checkpoint(of_two, w, one, other, use_reentrant=False, context_fn=one.for_checkpoint))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_refused(draw, reentrant):
    rng = fs.Philox(1)
    with pytest.raises(RuntimeError, match=r"context_fn=rng\.for_checkpoint"):
        gradient(lambda w: checkpoint(layer(draw), w, rng, use_reentrant=reentrant))


class OfAnotherLibrary(torch.autograd.Function):
    """A checkpoint that is not torch's."""

    @staticmethod
    def forward(ctx, function, w):
        ctx.function = function
        ctx.save_for_backward(w)
        return function(w)

    @staticmethod
    def backward(ctx, grad):
        w = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            return None, *torch.autograd.grad(ctx.function(w), w, grad)


def test_other_checkpoints_are_refused():
    function, rng = layer(DRAWS["perturb"]), fs.Philox(1)
    with pytest.raises(RuntimeError, match="draw the noise before and hand it in"):
        gradient(lambda w: OfAnotherLibrary.apply(lambda w: function(w, rng), w))


@pytest.mark.parametrize("name", ["perturb", "plain numbers"])
def test_compiled_inside_a_checkpoint(name):
    function = layer(DRAWS[name])
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"context_fn=rng\.for_checkpoint"):
        gradient(lambda w: checkpoint(compiled, w, fs.Philox(1), use_reentrant=False))
    rng, plain = fs.Philox(1), fs.Philox(1)
    for _ in range(2):
        got = gradient(lambda w: checkpoint(compiled, w, rng, use_reentrant=False, context_fn=rng.for_checkpoint))
        torch.testing.assert_close(got, gradient(function, plain), rtol=0, atol=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_philox_or_a_handle_of_its_own(compiled):
    """What is made inside is made again (for rng=None from torch's seed, which checkpoint keeps); a handle stays."""
    noise, function = fs.Philox(3).noise((4, 3)), layer(DRAWS["perturb"])
    for f in (
        lambda w: function(w, fs.Philox(2)),
        lambda w: function(w, None),
        lambda w: torch.tanh((X @ w + noise.tensor()) @ w).sum(),
    ):
        inside = torch.compile(f, fullgraph=True, backend="aot_eager") if compiled else f
        seen = []
        for one in (f, lambda w, f=inside: checkpoint(f, w, use_reentrant=False)):
            torch.manual_seed(4)
            seen.append(gradient(one))
        torch.testing.assert_close(*seen, rtol=0, atol=0)


def test_a_draw_in_a_hook_is_no_recomputation():
    rng, w = fs.Philox(1), weight()
    compiled = torch.compile(lambda grad: fs.perturb(grad, 0.5, rng)[0], fullgraph=True, backend="aot_eager")
    w.register_hook(lambda grad: compiled(grad + rng.randn(3, 3)))
    w.sum().backward()
    plain = fs.Philox(1)
    torch.testing.assert_close(w.grad, fs.perturb(1 + plain.randn(3, 3), 0.5, plain)[0])
