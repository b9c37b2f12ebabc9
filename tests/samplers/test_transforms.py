"""Samplers inside torch.func.vmap and torch.compile."""

import pytest
import torch
from torch._dynamo.exc import Unsupported

import fastscore as fs
from fastscore.diagnostics import curl
from fastscore.likelihood import log_prob
from fastscore.samplers import Trajectory, dpm_solver, inpaint, langevin, mala

from .cases import CASES

V, B, D = 4, 2, 3
STARTS = 2 * fs.Philox(3).rand(V * B, D).view(V, B, D) - 1
RATES = 0.5 + torch.arange(V) / V
METRIC = torch.tensor([0.5, 1.0, 2.0])


def by_case(case, **options):
    return lambda x, w: case(lambda x, i: -w * x, x, rng=fs.Philox(1), **options)


# each sampler of the score -w x, from x [.., D]; w a number or one per row
SAMPLERS = {name: by_case(case) for name, case in CASES.items()} | {
    "annealed": by_case(CASES["annealed"], clamp=(-1, 1)),
    "interpolate": by_case(CASES["interpolate"], num_interpolations=1),
    "from noise": by_case(CASES["annealed"], start="normal"),
    "preconditioned": lambda x, w: langevin(
        lambda x: -w * x, x, num_steps=3, step_size=0.1, preconditioner=METRIC, thin=1, rng=fs.Philox(1)
    ).movedim(0, 1),
    "mala": lambda x, w: (
        mala(
            fs.energy_score(lambda x: (w * x.square()).sum(1) / 2),
            x,
            num_steps=4,
            warm_up=3,
            step_size=1.0,
            rng=fs.Philox(1),
        ).x
    ),
}
COMPILED = SAMPLERS | {"dpm": lambda x, w: dpm_solver(lambda x, i: -w * x, x.shape, [1.0, 0.3, 0.1], rng=fs.Philox(1))}
each_sampler = pytest.mark.parametrize("name", SAMPLERS)


@each_sampler
@pytest.mark.parametrize("mapped", ["both", "x", "w"])
def test_slices_of_vmap_with_the_same_noise(name, mapped):
    xs = STARTS if mapped != "w" else STARTS[:1].expand(V, B, D)
    ws = RATES if mapped != "x" else RATES[:1].expand(V)
    got = _vmapped(name, mapped, "same")
    torch.testing.assert_close(got, torch.stack([SAMPLERS[name](x, w) for x, w in zip(xs, ws)]), rtol=1e-6, atol=1e-6)


@each_sampler
@pytest.mark.parametrize("mapped", ["both", "x", "w"])
def test_slices_of_vmap_get_the_noise_of_the_whole_batch(name, mapped):
    xs = STARTS if mapped != "w" else STARTS[:1].expand(V, B, D)
    ws = RATES if mapped != "x" else RATES[:1].expand(V)
    got = _vmapped(name, mapped, "different")
    whole = SAMPLERS[name](xs.reshape(V * B, D), ws.repeat_interleave(B).view(-1, 1))
    torch.testing.assert_close(got.flatten(0, 1), whole, rtol=1e-6, atol=1e-6)


def _vmapped(name, mapped, randomness):
    dims = (0 if mapped != "w" else None, 0 if mapped != "x" else None)
    return torch.func.vmap(SAMPLERS[name], in_dims=dims, randomness=randomness)(
        STARTS if mapped != "w" else STARTS[0], RATES if mapped != "x" else RATES[0]
    )


def test_a_score_that_works_in_place_under_vmap():
    got = torch.func.vmap(
        lambda x: langevin(torch.neg_, x, num_steps=3, step_size=0.1, rng=fs.Philox(1)), randomness="same"
    )(STARTS)
    want = torch.stack([langevin(torch.neg, x, num_steps=3, step_size=0.1, rng=fs.Philox(1)) for x in STARTS])
    torch.testing.assert_close(got, want)


def test_a_trajectory_under_vmap_is_refused():
    with pytest.raises(ValueError, match=r"trajectory must be None under torch.func.vmap"):
        torch.func.vmap(
            lambda x: langevin(torch.neg, x, num_steps=2, step_size=0.1, trajectory=Trajectory()), randomness="same"
        )(STARTS)


@pytest.mark.parametrize(
    "fullgraph, name", [(True, "langevin"), (False, "annealed"), (False, "interpolate"), (True, "dpm")]
)
def test_inside_torch_compile(fullgraph, name):
    """As one graph where the noise levels are a list of numbers: of a tensor, says the error, they are not known yet."""
    compiled = torch.compile(lambda x: COMPILED[name](x, 0.5), backend="eager", fullgraph=fullgraph)
    torch.testing.assert_close(compiled(STARTS[0]), COMPILED[name](STARTS[0], 0.5), rtol=1e-6, atol=1e-6)
    if not fullgraph:
        whole = torch.compile(lambda x: COMPILED[name](x, 0.5), backend="eager", fullgraph=True)
        with pytest.raises(Unsupported, match=r"sigmas must be a list of numbers inside torch\.compile"):
            whole(STARTS[0])


LEVELS = [1.0, 0.3, 0.1]
NOT_RECORDED = {
    "start": lambda x: dpm_solver(lambda x, i: -x, x.shape, LEVELS, start=x),
    "x": lambda x: langevin(torch.neg, x, num_steps=1, step_size=0.1),
    "x of mala": lambda x: mala(fs.energy_score(lambda x: x.square().sum(1)), x, num_steps=1, step_size=0.1).x,
    "mean": lambda x: dpm_solver(lambda x, i: -x, x.shape, LEVELS, mean=x[0]),
    "image": lambda x: inpaint(lambda x, i: -x, x, torch.ones(D, dtype=torch.bool), LEVELS, step_size=0.01),
    "x of log_prob": lambda x: log_prob(lambda x, t: -x, x, fs.paths.vp_linear()).value,
    "x of curl": lambda x: curl(torch.neg, x).squared,
    "x of a trace": lambda x: fs.jacobian_trace(torch.sin, x).value,
}


@pytest.mark.parametrize("case", NOT_RECORDED)
def test_what_is_not_recorded_is_no_gradient_of_0(case):
    """torch.func.grad takes for a constant what is computed under no_grad, and says nothing; plain autograd does."""
    name = case.split()[0]

    def total(x):
        return NOT_RECORDED[case](x).sum().float()

    per_sample = torch.func.vmap(torch.func.grad(total), randomness="same")
    for differentiated in (
        torch.func.grad(total),
        lambda x: torch.func.jacrev(total)(x),
        lambda x: per_sample(x[None]),
    ):
        with pytest.raises(
            ValueError, match=rf"{name} must not be what torch\.func\.grad, vjp or jacrev differentiates in"
        ):
            differentiated(STARTS[0])
    slope = torch.func.grad(lambda w: w * total(STARTS[0]))(
        torch.ones(())
    )  # in something else it may be differentiated
    assert bool(slope.isfinite())
    assert torch.equal(torch.func.grad(lambda x: x.sum() + 0 * total(x.detach()))(STARTS[0]), torch.ones(B, D))


def test_forward_mode_sees_through_samplers():
    """The derivative of x + step/2 (-w x) + noise, three times."""
    _, slope = torch.func.jvp(lambda x: SAMPLERS["langevin"](x, 1.0), (STARTS[0],), (torch.ones(B, D),))
    ends = SAMPLERS["langevin"](STARTS[0] + 1, 1.0) - SAMPLERS["langevin"](STARTS[0], 1.0)
    torch.testing.assert_close(slope, ends, rtol=1e-5, atol=1e-5)
