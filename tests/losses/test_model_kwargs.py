"""model_kwargs: what a network is called with beside x and its condition, in every loss and at each call."""

import functools
import types

import pytest
import torch

import fastscore as fs
from fastscore import losses

from .cases import X, net

SIGMAS = torch.tensor([1.0, 0.5], dtype=torch.float64)
PLAIN = {"dsm": (0.5,), "ism": (), "ssm": (), "ssm_vr": (), "fd_ssm": (), "gradient_penalty": ()}
CONDITIONED = {"ncsn": (SIGMAS,), "annealed_ssm_vr": (SIGMAS,)}


def call(name, f, **options):
    return getattr(losses, name)(f, X, *(PLAIN | CONDITIONED)[name], rng=fs.Philox(3), **options)


class Network(torch.nn.Module):
    def forward(self, x, *condition, context, scale=1.0):
        return scale * net(x) * context


CONTEXT = torch.linspace(0.5, 2, 5, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("name", [*PLAIN, *CONDITIONED])
@pytest.mark.parametrize("kind", [dict, types.MappingProxyType])
def test_every_loss_passes_them(kind, name):
    for mode in ({},) if name in ("dsm", "ncsn", "fd_ssm") else ({"mode": "vjp"}, {"mode": "jvp"}):
        got = call(name, Network(), model_kwargs=kind({"context": CONTEXT, "scale": 2.0}), **mode)
        torch.testing.assert_close(got, call(name, lambda x, *c: 2 * net(x) * CONTEXT, **mode))
    torch.testing.assert_close(call(name, lambda x, *c: net(x), model_kwargs={}), call(name, lambda x, *c: net(x)))


def test_at_each_call():
    seen = []

    def score(x, flag):
        seen.append(flag)
        return net(x)

    losses.fd_ssm(score, X, n_particles=3, model_kwargs={"flag": "on"})
    assert seen == ["on"] * 6


def first(x, labels=None):
    raise AssertionError("score_fn was called before the arguments were checked")


@pytest.mark.parametrize(
    "value, error, text",
    [
        ([("a", 1)], TypeError, r"model_kwargs must be a mapping .*got list"),
        (3, TypeError, "a mapping .*got int 3"),
        ({1: 2}, TypeError, "from names of score_fn's arguments .*got dict"),
        ({"x": 1}, TypeError, r"beside \(x(, labels)?\), got 'x' for score_fn\(x, labels=None\): multiple values for"),
        ({"colour": 1}, TypeError, "got 'colour' for .*: got an unexpected keyword argument 'colour'"),
    ],
)
@pytest.mark.parametrize("name", [*PLAIN, *CONDITIONED])
def test_bad_ones(name, value, error, text):
    rng = fs.Philox(0)
    with pytest.raises(error, match=text):
        getattr(losses, name)(first, X, *(PLAIN | CONDITIONED)[name], rng=rng, model_kwargs=value)
    assert rng.step == 0


@pytest.mark.parametrize("name", CONDITIONED)
def test_the_condition_itself_is_not_one(name):
    with pytest.raises(TypeError, match=r"beside \(x, labels\), got 'labels' .*multiple values for argument 'labels'"):
        call(name, first, model_kwargs={"labels": torch.zeros(5, dtype=torch.int64)})


def test_functions_without_a_signature_are_taken():
    torch.testing.assert_close(losses.ism(torch.clamp, X, model_kwargs={"min": -9.0}), losses.ism(lambda y: y * 1, X))


def test_a_decorator_may_take_more():
    @functools.wraps(net)
    def guided(x, *, guidance):
        return guidance * net(x)

    got = losses.ism(guided, X, model_kwargs={"guidance": 2.0})
    torch.testing.assert_close(got, losses.ism(lambda x: 2 * net(x), X))
