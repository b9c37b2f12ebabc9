"""Losses and traces under vmap, a sample a slice, and batched backward passes: equal to the loop."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import fastscore as fs
from fastscore import losses
from fastscore.trace.products import AUTOMATIC

from .cases import X

SIGMAS = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
LABELS = torch.tensor([2, 0, 1, 1, 2])


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 4)).double()


NET = network()
PARAMETERS = {k: p.detach() for k, p in NET.named_parameters()}


def unconditional(loss, **options):
    return lambda f, x, labels, rng: loss(f, x, rng=rng, reduction="none", **options)


def conditional(loss, **options):
    def call(f, x, labels, rng):
        return loss(
            lambda y, i: f(y) * (1 + i[:, None]), x, SIGMAS, labels=labels, rng=rng, reduction="none", **options
        )

    return call


def trace(**options):
    return lambda f, x, labels, rng: fs.jacobian_trace(f, x, rng=rng, create_graph=True, **options).value


CASES = {
    "dsm": lambda f, x, labels, rng: losses.dsm(f, x, 0.5, rng=rng, reduction="none"),
    "ncsn": conditional(losses.ncsn),
    "fd_ssm": unconditional(losses.fd_ssm, n_particles=2),
    **{
        f"{name} {mode}": case
        for mode in AUTOMATIC
        for name, case in {
            "ism": unconditional(losses.ism, mode=mode),
            "ism estimated": unconditional(losses.ism, mode=mode, method="sphere", num_probes=2),
            "ssm": unconditional(losses.ssm, mode=mode, n_particles=2),
            "ssm_vr": unconditional(losses.ssm_vr, mode=mode, projection="gaussian"),
            "annealed_ssm_vr": conditional(losses.annealed_ssm_vr, mode=mode),
            "gradient_penalty": unconditional(losses.gradient_penalty, mode=mode),
            "trace": trace(mode=mode),
            "rademacher": trace(mode=mode, method="rademacher", num_probes=2),
            "hutchpp": trace(mode=mode, method="hutchpp", num_probes=3, blocks=1),
        }.items()
    },
}


def whole(name, f=NET, x=X):
    return CASES[name](f, x, LABELS, fs.Philox(3))


def one_by_one(name, parameters, x, label):
    """The loss of one sample, of a network whose parameters are given."""
    f = NET if parameters is None else lambda y: functional_call(NET, parameters, (y,))
    return CASES[name](f, x[None], label[None], fs.Philox(3))[0]


@pytest.mark.parametrize("name", CASES)
def test_per_sample_gradients(name):
    """randomness='different': a slice is a row of the whole batch, in value and in gradient."""
    value = whole(name)
    rows = vmap(lambda x, i: one_by_one(name, None, x, i), randomness="different")(X, LABELS)
    torch.testing.assert_close(rows, value)
    got = vmap(grad(lambda p, x, i: one_by_one(name, p, x, i)), in_dims=(None, 0, 0), randomness="different")(
        PARAMETERS, X, LABELS
    )
    for b in range(len(X)):
        rows = torch.autograd.grad(value[b], list(NET.parameters()), retain_graph=True, materialize_grads=True)
        for found, row in zip(got.values(), rows):
            torch.testing.assert_close(found[b], row, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_the_same_noise_in_every_slice(name):
    got = vmap(lambda x, i: one_by_one(name, None, x, i), randomness="same")(X, LABELS)
    torch.testing.assert_close(got, torch.stack([one_by_one(name, None, x, i) for x, i in zip(X, LABELS)]))
    if not name.startswith(("ism j", "ism v", "trace")):  # exact: nothing is drawn
        with pytest.raises(RuntimeError, match="randomness='different'"):
            vmap(lambda x, i: one_by_one(name, None, x, i))(X, LABELS)


@pytest.mark.parametrize("name", CASES)
def test_over_networks(name):
    stacked = {k: torch.stack([p, -2 * p]) for k, p in PARAMETERS.items()}
    got = vmap(lambda p: whole(name, lambda y: functional_call(NET, p, (y,))), randomness="same")(stacked)
    for k in (0, 1):
        one = {n: p[k] for n, p in stacked.items()}
        torch.testing.assert_close(got[k], whole(name, lambda y, one=one: functional_call(NET, one, (y,))))


@pytest.mark.parametrize("name", CASES)
def test_batched_backward(name):
    x = X.clone().requires_grad_()
    value, inputs = whole(name, x=x), [x, *NET.parameters()]
    upstream = torch.eye(5, dtype=torch.float64) + 0.5
    got = torch.autograd.grad(value, inputs, upstream, is_grads_batched=True, retain_graph=True, allow_unused=True)
    for k, row in enumerate(upstream):
        wanted = torch.autograd.grad(value, inputs, row, retain_graph=True, allow_unused=True)
        for found, one in zip(got, wanted):
            assert (found is None) == (one is None)
            if one is not None:
                torch.testing.assert_close(found[k], one)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("ncsn", "annealed"))])
def test_a_noise_level_that_is_not_mapped(name):
    """Slices of one sample, sigma [1] beside each."""
    label = torch.tensor([1])
    got = vmap(lambda x: CASES[name](NET, x[None], label, fs.Philox(3))[0], randomness="different")(X)
    torch.testing.assert_close(got, CASES[name](NET, X, label.expand(5), fs.Philox(3)))
