"""Operators from outside torch without a forward-mode rule: seen where their part of the derivative would be lost."""

import pytest
import torch
from torch.func import grad

import fastscore as fs
from fastscore import losses
from fastscore.trace import foreign

from .cases import matrix

NAMESPACE = "fastscore_tests"
X = matrix(3, 4)


@torch.library.custom_op(f"{NAMESPACE}::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


cube.register_autograd(
    lambda ctx, grad: 3 * ctx.saved_tensors[0] ** 2 * grad,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
library = torch.library.Library(NAMESPACE, "FRAGMENT")
library.define("double(Tensor x) -> Tensor")
library.impl("double", lambda x: 2 * x, "CompositeExplicitAutograd")
library.define("halves(Tensor[] x, *, float by) -> Tensor[]")
library.impl("halves", lambda x, by: [one / by for one in x], "CompositeExplicitAutograd")
library.define("places(Tensor x) -> Tensor")
library.impl("places", lambda x: x.argsort(1), "CompositeExplicitAutograd")
library.define("tripled(Tensor x) -> Tensor")
library.impl("tripled", lambda x: x * 3, "CompositeImplicitAutograd")  # of operators that have rules


class Rule(torch.autograd.Function):
    """An operator with its rules, as fastscore's own are."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.ops.fastscore_tests.double(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, upstream):
        return Rule.apply(upstream)

    @staticmethod
    def jvp(ctx, tangent):
        return Rule.apply(tangent)


LOST = {
    "all of it": cube,
    "a part": lambda x: x + cube(x),
    "a library": lambda x: x + torch.ops.fastscore_tests.double(x),
    "an overload": lambda x: x.sin() - torch.ops.fastscore_tests.double.default(x),
    "in a list": lambda x: x + torch.ops.fastscore_tests.halves([x, x.detach()], by=2.0)[0],
}


@pytest.mark.parametrize("chunk_size", [1, None])
@pytest.mark.parametrize("name", LOST)
def test_a_lost_tangent_is_an_error(name, chunk_size):
    text = rf"without a forward-mode rule, torch.ops.{NAMESPACE}.* pass mode='vjp'"
    with pytest.raises(NotImplementedError, match=text):
        fs.jacobian_trace(LOST[name], X, mode="jvp", chunk_size=chunk_size)
    for n in (1, 2):
        with pytest.raises(NotImplementedError, match=r"^score_fn has .*torch.ops.*pass mode='vjp'$"):
            losses.ssm_vr(LOST[name], X, mode="jvp", n_particles=n)


def test_the_cure_works():
    expected = 1 + 3 * X.square()
    torch.testing.assert_close(fs.jacobian_trace(LOST["a part"], X, mode="vjp").value, expected.sum(1))
    found = losses.ssm_vr(LOST["a part"], X, rng=fs.Philox(0), reduction="none")  # a diagonal Jacobian: no error
    torch.testing.assert_close(found, (X + X**3).square().sum(1) / 2 + expected.sum(1))


def test_what_loses_nothing_is_taken():
    ops = torch.ops.fastscore_tests
    for f, trace in (
        (lambda x: x + ops.double(x.detach()), 4.0),
        (Rule.apply, 8.0),
        (ops.tripled, 12.0),
        (lambda x: x * (ops.places(x) >= 0), 4.0),
        (lambda x: ops.double(X) - x, -4.0),
    ):
        for chunk_size in (1, None):
            found = fs.jacobian_trace(f, X, mode="jvp", chunk_size=chunk_size).value
            torch.testing.assert_close(found, torch.full((3,), trace, dtype=torch.float64))


def test_inside_a_transform():
    def value(w):
        return fs.jacobian_trace(lambda x: w * (x + torch.ops.fastscore_tests.double(x)), X, mode="jvp").value.sum()

    with pytest.raises(foreign.LostTangent, match=r"torch.ops.fastscore_tests"):
        grad(value)(torch.ones((), dtype=torch.float64))


def test_nothing_is_watched_where_there_is_none(monkeypatch):
    assert isinstance(foreign.watched(), foreign._Watch)
    monkeypatch.setattr(foreign, "_OWN", foreign._OWN | set(torch.ops))
    assert not isinstance(foreign.watched(), foreign._Watch)
