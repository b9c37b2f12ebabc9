"""Arguments are checked once, before anything is drawn or run."""

import inspect
from collections import Counter

import pytest
import torch

import fastscore as fs
from fastscore import losses
from fastscore._core import checks
from fastscore.compat import ncsn, ncsnv2
from fastscore.trace import modules
from fastscore.trace.products import DEFAULT_MODE

X = torch.linspace(-1, 1, 12).reshape(4, 3)
SIGMAS = torch.tensor([1.0, 0.1])
NAN = float("nan")


def net(x, *condition):
    return x.sin()


CALLS = {  # loss(score_fn, x, **options), those of several noise levels with all their arguments
    "dsm": lambda f, x=X, sigma=0.5, **k: losses.dsm(f, x, sigma, **k),
    "ncsn": lambda f, x=X, sigmas=SIGMAS, **k: losses.ncsn(f, x, sigmas, **k),
    "ism": lambda f, x=X, **k: losses.ism(f, x, **{"method": "rademacher"} | k),
    "ssm": lambda f, x=X, **k: losses.ssm(f, x, **k),
    "ssm_vr": lambda f, x=X, **k: losses.ssm_vr(f, x, **k),
    "gradient_penalty": lambda f, x=X, **k: losses.gradient_penalty(f, x, **k),
    "fd_ssm": lambda f, x=X, **k: losses.fd_ssm(f, x, **k),
    "annealed_ssm_vr": lambda f, x=X, sigmas=SIGMAS, **k: losses.annealed_ssm_vr(f, x, sigmas, **k),
    "jacobian_trace": lambda f, x=X, **k: fs.jacobian_trace(f, x, **{"method": "rademacher"} | k),
    "compat.ncsn dsm": lambda f, x=X, sigmas=SIGMAS, **k: ncsn.anneal_dsm_score_estimation(f, x, None, sigmas, **k),
    "compat.ncsn ssm": lambda f, x=X, sigmas=SIGMAS, **k: ncsn.anneal_sliced_score_estimation_vr(
        f, x, None, sigmas, **k
    ),
    "compat.ncsnv2 dsm": lambda f, x=X, sigmas=SIGMAS, **k: ncsnv2.anneal_dsm_score_estimation(f, x, sigmas, **k),
}
ANNEALED = ("ncsn", "annealed_ssm_vr")
COMPAT = ("compat.ncsn dsm", "compat.ncsn ssm", "compat.ncsnv2 dsm")
SLICED = ("ssm", "ssm_vr", "gradient_penalty", "fd_ssm", "annealed_ssm_vr")
LOSSES = [name for name in CALLS if name not in ("jacobian_trace", *COMPAT)]
BAD = [  # (those that take it, the argument, its value)
    (CALLS, "x", X.int()),
    ([*LOSSES, *COMPAT], "x", X[:0]),
    (["dsm"], "sigma", torch.tensor([1.0, 1.0, NAN, 1.0])),
    (["dsm"], "alpha", torch.tensor([1.0, 1.0, -1.0, 1.0])),
    ([*ANNEALED, *COMPAT], "sigmas", torch.tensor([1.0, -0.1])),
    (ANNEALED, "sigmas", SIGMAS.flip(0)),
    (ANNEALED, "labels", torch.full((4,), 2)),
    (["dsm", *ANNEALED], "weight", NAN),
    (["dsm", *ANNEALED], "parametrization", "v"),
    (["dsm", *ANNEALED], "conditioning", "time"),
    (LOSSES, "reduction", "avg"),
    (LOSSES, "model_kwargs", {"y": 1}),
    (["ism", "jacobian_trace", *(name for name in SLICED if name != "fd_ssm")], "mode", "forward"),
    (SLICED, "projection", "signs"),
    ([*SLICED, "compat.ncsn ssm"], "n_particles", 0),
    (["ism", "jacobian_trace"], "num_probes", 0),
    (["compat.ncsn dsm", "compat.ncsnv2 dsm"], "anneal_power", NAN),
    (["fd_ssm"], "eps", 0.0),
]


@pytest.mark.parametrize(
    "name, argument, value", [(name, argument, value) for names, argument, value in BAD for name in names]
)
def test_a_refused_call_takes_no_random_step(name, argument, value):
    """Neither of the Philox nor, where there is none, of torch's generator; and the network is not run."""

    def untouched(x):
        raise AssertionError("the network was run")

    rng, before = fs.Philox(0), torch.get_rng_state()
    for source in (rng, None):
        with pytest.raises((TypeError, ValueError), match="samples|x must" if argument == "x" else argument):
            CALLS[name](untouched, rng=source, **{argument: value})
    assert rng.step == 0 and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_is_checked_once(name, monkeypatch):
    seen = Counter()

    def counted(module, function):
        def check(*arguments, **options):
            what = arguments[0] if isinstance(arguments[0], str) else ""
            if "output" not in what:  # of score_fn, at each of its calls
                seen[function.__name__, what] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, function.__name__, check)

    for function in (
        *(checks.floating, checks.integer, checks.one_of, checks.number, checks.positive, checks.sigmas),
        *(checks.labels, checks.row_numbers, checks.positive_values, checks.keywords),
    ):
        counted(checks, function)
    counted(modules, modules.check)
    CALLS[name](net, rng=fs.Philox(0))
    assert seen and max(seen.values()) == 1, seen


@pytest.mark.parametrize("name", ("ncsn", "annealed_ssm_vr"))
def test_given_labels_are_checked_and_drawn_ones_are_not(name, monkeypatch):
    seen, of_labels = [], checks.labels
    monkeypatch.setattr(checks, "labels", lambda *arguments: seen.append(1) or of_labels(*arguments))
    CALLS[name](net, rng=fs.Philox(0))
    assert not seen
    CALLS[name](net, rng=fs.Philox(0), labels=torch.tensor([0, 1, 1, 0]))
    assert len(seen) == 1


@pytest.mark.parametrize("levels", [[NAN], [1.0, NAN], [NAN, 1.0], [3.0, NAN, 1.0], [torch.inf, 1.0], [1.0, 0.0], [0]])
def test_noise_levels_that_are_no_numbers(levels):
    with pytest.raises(ValueError, match="sigmas must be finite and greater than 0 everywhere"):
        checks.sigmas("sigmas", torch.tensor(levels, dtype=torch.float64))


def test_one_default_mode():
    functions = [fs.jacobian_trace, losses.ism, losses.ssm, losses.ssm_vr, losses.annealed_ssm_vr]
    for function in (*functions, losses.gradient_penalty):
        assert inspect.signature(function).parameters["mode"].default == DEFAULT_MODE == "vjp"
