"""Bad input to jacobian_trace: each an error that names the argument, what it was and what it must be."""

import functools

import pytest
import torch

import fastscore as fs
from fastscore import jacobian_trace as jt

X, IMAGE = torch.zeros(4, 12), torch.zeros(4, 3, 2, 2)
NAN, INF = float("nan"), float("inf")


def f(x):
    raise AssertionError("f was called before the arguments were checked")


class Net(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, scale=1.0):
        return self.layer(x) * scale


BN = Net(torch.nn.BatchNorm1d(12))
DROP = Net(torch.nn.Dropout(0.1))


def wrapped(net):
    def inner(x):
        return net(x)

    return lambda x: inner(x)


class Holder:
    def __init__(self, net):
        self.net, self.other = net, torch.nn.BatchNorm1d(12)

    def score(self, x):
        return self.net(x)

    def function(self):
        return lambda x: self.net(x)


class Callable(Holder):
    def __call__(self, x):
        return self.net(x)


def through_another(x):
    return by_name(x)


def by_name(x, *, scale=1.0):
    return BN(x, scale)


HELD = {
    "a global variable": by_name,
    "a function that calls one": through_another,
    "a method": Holder(BN).score,
    "an attribute": Holder(BN).function(),
    "a callable object": Callable(BN),
    "a default": lambda x, net=BN: net(x),
    "a keyword's default": lambda x, *, net=BN: net(x),
}
CASES = {
    "f not callable": (lambda: jt(3, X), TypeError, "f must be a function of x.*got int 3"),
    "x a list": (lambda: jt(f, [1.0]), TypeError, "x must be a torch.Tensor, got list"),
    "x complex": (lambda: jt(f, X + 1j), TypeError, "x must be float16.*complex64"),
    "x integer": (lambda: jt(f, X.int()), TypeError, "x must be float16.*int32"),
    "x without dimensions": (lambda: jt(f, torch.tensor(1.0)), ValueError, "x must have a batch dimension"),
    "x of one dimension": (lambda: jt(f, X[0]), ValueError, r"x must be \[B, ...\] with at least 2 dim.*\(12,\)"),
    "no samples": (lambda: jt(f, X[:0]), ValueError, r"x must have at least one sample.*\(0, 12\)"),
    "no elements": (lambda: jt(f, X[:, :0]), ValueError, r"x must have at least one sample.*\(4, 0\)"),
    "method unknown": (lambda: jt(f, X, method="hutchinson"), ValueError, "method must be one of 'auto', 'rademacher'"),
    "mode unknown": (
        lambda: jt(f, X, mode="forward"),
        ValueError,
        "mode must be one of 'vjp', 'jvp', 'fd', got 'forward'",
    ),
    "no probes": (lambda: jt(f, X, num_probes=0), ValueError, "num_probes must be at least 1, got 0"),
    "num_probes a float": (
        lambda: jt(f, X, num_probes=8.0),
        TypeError,
        "num_probes must be an integer .*got float 8.0",
    ),
    "no blocks": (lambda: jt(f, X, blocks=0), ValueError, "blocks must be at least 1, got 0"),
    "chunk_size": (lambda: jt(f, X, chunk_size=0), ValueError, "chunk_size must be at least 1, got 0"),
    "not divisible": (
        lambda: jt(f, IMAGE, num_probes=7),
        ValueError,
        "num_probes must be a multiple of blocks=2, got 7",
    ),
    "probing beyond D": (
        lambda: jt(f, IMAGE, method="probing", num_probes=14),
        ValueError,
        "num_probes must be at most the 12 elements.*'probing'.*got 14: method='exact' takes 12",
    ),
    "hutchpp beyond D": (
        lambda: jt(f, X, method="hutchpp", num_probes=24),
        ValueError,
        "at most the 12.*method='exact'",
    ),
    "xtrace beyond D": (lambda: jt(f, X, method="xtrace", num_probes=24), ValueError, "at most the 12.*method='exact'"),
    "hutchpp too few": (
        lambda: jt(f, X, method="hutchpp", num_probes=4),
        ValueError,
        "at least 3 for each of blocks=2",
    ),
    "xtrace odd": (
        lambda: jt(f, X, method="xtrace", num_probes=6),
        ValueError,
        "even number for each of blocks=2.*got 6",
    ),
    "coloring unknown": (
        lambda: jt(f, IMAGE, coloring="morton"),
        ValueError,
        "coloring must be 'lattice' or .*'morton'",
    ),
    "coloring of other colours": (
        lambda: jt(f, IMAGE, coloring=fs.Coloring(3, 2, 2, 1)),
        ValueError,
        "coloring must have num_probes / blocks = 4 colors, got Coloring.colors=3",
    ),
    "shift zero": (lambda: jt(f, X, shift=0.0), ValueError, "shift must be finite and greater than 0, got 0.0"),
    "shift negative": (lambda: jt(f, X, shift=-1.0), ValueError, "shift must be finite and greater than 0, got -1.0"),
    "shift nan": (lambda: jt(f, X, shift=NAN), ValueError, "shift must be finite and greater than 0, got nan"),
    "shift infinite": (lambda: jt(f, X, shift=torch.tensor(INF)), ValueError, "shift must be finite .* got inf in"),
    "shift [B] bad": (
        lambda: jt(f, X, shift=torch.tensor([1, 1, NAN, 1])),
        ValueError,
        "shift must be finite .*got nan",
    ),
    "shift of another batch": (
        lambda: jt(f, X, shift=torch.ones(3)),
        ValueError,
        r"shift must be.*shape \(4,\).*\(3,\)",
    ),
    "shift text": (lambda: jt(f, X, shift="1"), TypeError, "shift must be a number greater than 0, got str"),
    "receptive_field negative": (
        lambda: jt(f, IMAGE, method="exact", receptive_field=-1),
        ValueError,
        "receptive_field must be at least 0, got -1",
    ),
    "receptive_field a float": (
        lambda: jt(f, IMAGE, method="exact", receptive_field=1.0),
        TypeError,
        "receptive_field must be an integer",
    ),
    "receptive_field elsewhere": (
        lambda: jt(f, IMAGE, receptive_field=1),
        ValueError,
        "receptive_field must be None where method is not 'exact', got 1 with method='probing'",
    ),
    "fd_step zero": (lambda: jt(f, X, mode="fd", fd_step=0.0), ValueError, "fd_step must be finite and greater than 0"),
    "fd_step nan": (lambda: jt(f, X, mode="fd", fd_step=torch.tensor(NAN)), ValueError, "fd_step must be finite"),
    "fd_step elsewhere": (lambda: jt(f, X, fd_step=0.1), ValueError, "fd_step must be None where mode is not 'fd'"),
    "no fd_step": (lambda: jt(f, X, mode="fd"), ValueError, "fd_step must be given where mode='fd' and shift is None"),
    "rng a seed": (lambda: jt(f, X, rng=5), TypeError, "rng must be a fastscore.Philox or None, got int 5"),
    "output of another shape": (
        lambda: jt(lambda x: x[:, :3], X),
        ValueError,
        r"the output of f must have the shape of x, \(4, 12\), got .*\(4, 3\)",
    ),
    "output summed": (lambda: jt(lambda x: x.sum(1), X), ValueError, "the output of f must have the shape of x"),
    "output a tuple": (lambda: jt(lambda x: (x, x), X), TypeError, "the output of f must be a torch.Tensor, got tuple"),
    "output an integer": (lambda: jt(lambda x: x.long(), X), TypeError, "the output of f must be float16"),
    "BatchNorm": (lambda: jt(BN, X), ValueError, r"each sample by itself.*BatchNorm1d 'layer'.*call .eval\(\)"),
    "BatchNorm in a method": (lambda: jt(BN.forward, X), ValueError, r"BatchNorm1d 'layer'.*call .eval\(\)"),
    "BatchNorm in a partial": (lambda: jt(functools.partial(BN, scale=2), X), ValueError, r"call .eval\(\)"),
    "BatchNorm as an argument": (lambda: jt(functools.partial(lambda net, x: net(x), BN), X), ValueError, "call .eval"),
    "BatchNorm in a closure": (lambda: jt(wrapped(BN), X), ValueError, r"BatchNorm1d 'layer'.*call .eval\(\)"),
    **{
        f"BatchNorm by {name}": (lambda held=held: jt(held, X), ValueError, r"BatchNorm1d 'layer'.*call .eval\(\)")
        for name, held in HELD.items()
    },
    "BatchNorm without statistics": (
        lambda: jt(torch.nn.BatchNorm1d(12, track_running_stats=False).eval(), X),
        ValueError,
        "statistics of the batch: give it track_running_stats=True",
    ),
    "Dropout and differences": (
        lambda: jt(DROP, X, mode="fd", fd_step=0.1),
        ValueError,
        "same function.*Dropout 'layer'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    call, error, text = CASES[name]
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
def test_output_shape_is_seen_in_every_mode_at_the_first_call(mode):
    calls = []

    def g(x):
        calls.append(1)
        return x[:, :3]

    with pytest.raises(ValueError, match="the output of f"):
        jt(g, X, mode=mode, chunk_size=1, fd_step=0.1 if mode == "fd" else None)
    assert len(calls) == 1


def test_what_is_fine_is_not_refused():
    jt(BN.eval(), X)
    for held in HELD.values():
        jt(held, X)  # `other`, which the code does not name, is in training mode
    BN.train()
    jt(DROP, X)
    jt(DROP, X, mode="vjp")
    jt(Net(torch.nn.Dropout(0.0)), X, mode="fd", fd_step=0.1)
    jt(DROP.eval(), X, mode="fd", fd_step=0.1)
    DROP.train()
    jt(Net(torch.nn.InstanceNorm1d(12)), torch.randn(4, 12, 3))
    jt(torch.sin, X, method="rademacher", num_probes=7)
    jt(torch.sin, X, method="exact", num_probes=500, blocks=3)
    jt(torch.nn.BatchNorm1d(12).eval(), X, method="gaussian", num_probes=50)

    def empty_cell():
        return lambda x: x if x is not None else later(x)
        later = None

    jt(empty_cell(), X)

    def calls_itself(x, deep=1):
        return calls_itself(x, deep - 1) if deep else x

    jt(calls_itself, X)


def test_nothing_is_drawn_for_a_refused_call():
    rng = fs.Philox(0)
    with pytest.raises(ValueError):
        jt(f, IMAGE, num_probes=7, rng=rng)
    assert rng.step == 0
