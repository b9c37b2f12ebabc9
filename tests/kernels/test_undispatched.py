"""Triton launches without torch's dispatcher: only where nobody but the launch would have seen the call."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastscore._core.private_torch import undispatched
from fastscore._core.registration import direct, inside, raw

from .cases import DEVICE, triton  # noqa: F401  the interpreter is chosen there

X = torch.linspace(-2, 2, 12, device=DEVICE).reshape(3, 4)
ELU = torch.where(X > 0, X, torch.expm1(X))


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Own(torch.Tensor):
    """A class of its own, which takes part by what the dispatcher hands it."""


def dispatched(function, *arguments) -> bool:
    with torch.autograd.profiler.profile(use_cpu=True) as profile:
        out = function(*arguments)
    torch.testing.assert_close(torch.as_tensor(out), ELU)
    return "fastscore::elu_triton" in {event.name for event in profile.function_events}


@pytest.mark.parametrize("called", [direct, inside])
def test_a_plain_call_is_a_launch(called):
    assert dispatched(raw("elu", "triton"), X) and not dispatched(called("elu", "triton"), X)
    with torch.no_grad():
        assert not dispatched(called("elu", "triton"), torch.nn.Parameter(X.clone()))
    with torch.inference_mode():
        assert not dispatched(called("elu", "triton"), X)


def test_who_watches_sees_the_operator():
    with Seen() as seen:
        direct("elu", "triton")(X)
    assert seen.names[0] == "fastscore.elu_triton.default"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        traced = torch.jit.trace(direct("elu", "triton"), (X,), check_trace=False)
    assert "fastscore::elu_triton" in str(traced.graph)
    torch.testing.assert_close(traced(2 * X), torch.where(X > 0, 2 * X, torch.expm1(2 * X)))


def test_what_is_left_to_the_dispatcher():
    found = []

    def noted(x):
        found.append(undispatched((x,)))
        return x.sum()

    assert undispatched((X, 1, 0.5, None, True)) and not undispatched((X.as_subclass(Own),))
    torch.func.vmap(noted)(X)
    torch.func.grad(noted)(X)
    x = X.clone().requires_grad_()
    y = x * 1
    y.register_hook(lambda g: found.append(undispatched((g,))))
    torch.autograd.grad(y, x, torch.stack([X, X]), is_grads_batched=True)
    assert found == [False] * 3
