"""torch.compile(fullgraph=True): a loop compiles at most twice, whatever moves on with its calls, with eager's bits."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import fastscore as fs

X, SCORE, SIGMA = (torch.linspace(a, b, 24).reshape(8, 3) for a, b in ((-1, 2), (3, -2), (0.1, 1)))
NETWORK = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
SIGMAS = torch.tensor([1.0, 0.5, 0.1])


def labelled(x, labels):
    return NETWORK(x)


def chain(rng):
    x_tilde, noise = fs.perturb(X, SIGMA[:, 0], rng)
    return fs.dsm_loss(NETWORK(x_tilde), noise, SIGMA[:, 0])


def directions(rng):
    probes = fs.Probes(X, 3, rng)
    return fs.fill_probes(probes), fs.probe_dot(SCORE.expand(3, 8, 3), probes)


def sampler_step(rng):
    return fs.langevin_step(X, labelled(X, torch.zeros(8, dtype=torch.int64)), 0.1, rng)


CALLS = {
    "perturb": lambda rng: fs.perturb(X, 0.3, rng)[0],
    "perturb + dsm_loss": chain,
    "langevin_step": lambda rng: fs.langevin_step(X, SCORE, 0.1, rng),
    "affine_step": lambda rng: fs.affine_step(X, [SCORE, X], 0.9, [0.3, -0.1], 0.2, rng),
    "sampler step": sampler_step,
    "fill_probes, probe_dot": directions,
    "plain draws": lambda rng: [f(4, 3) for r in [rng or fs.Philox()] for f in (r.randn, r.rand, r.rademacher)],
    "labels": lambda rng: (rng or fs.Philox()).randint(7, 5),
}
OPERATORS = tuple(CALLS)
CALLS |= {
    "dsm": lambda rng: fs.losses.dsm(NETWORK, X, 0.3, rng=rng),
    "ncsn": lambda rng: fs.losses.ncsn(labelled, X, SIGMAS, rng=rng),
    "ism": lambda rng: fs.losses.ism(NETWORK, X, method="rademacher", num_probes=2, rng=rng),
    "ssm": lambda rng: fs.losses.ssm(NETWORK, X, rng=rng, n_particles=2),
    "ssm_vr, jvp": lambda rng: fs.losses.ssm_vr(NETWORK, X, rng=rng, mode="jvp"),
    "annealed_ssm_vr": lambda rng: fs.losses.annealed_ssm_vr(labelled, X, SIGMAS, rng=rng),
    "fd_ssm": lambda rng: fs.losses.fd_ssm(NETWORK, X, rng=rng),
    "gradient_penalty": lambda rng: fs.losses.gradient_penalty(NETWORK, X, rng=rng),
    "jacobian_trace": lambda rng: fs.jacobian_trace(NETWORK, X, num_probes=2, rng=rng).value,
}


def compiled(function, dynamic=None, backend="aot_eager"):
    """The compiled function, and the counter of its compilations."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, fullgraph=True, dynamic=dynamic, backend=counter), counter


def agree(function, arguments, *, calls, dynamic=None, backend="aot_eager", most=2):
    """Calls with what ``arguments()`` yields give eager's bits, from at most ``most`` compilations."""
    ours, counter = compiled(function, dynamic, backend)
    for mine, others in itertools.islice(zip(arguments(), arguments()), calls):
        torch.testing.assert_close(ours(*mine), function(*others), rtol=0, atol=0)
    assert counter.frame_count <= most


def one_philox():
    rng = fs.Philox(3)
    while True:
        yield (rng,)


@pytest.mark.parametrize("name", CALLS)
def test_a_loop_compiles_at_most_twice(name):
    agree(CALLS[name], one_philox, calls=100 if name in OPERATORS else 10)


@pytest.mark.parametrize("name", CALLS)
def test_dynamic(name):
    agree(CALLS[name], one_philox, calls=4, dynamic=True, backend="aot_eager" if name in OPERATORS else "eager")


@pytest.mark.parametrize("name", CALLS)
def test_without_an_rng_torchs_seed_governs(name):
    """One compilation, eager's bits, and torch's generator left where eager leaves it."""
    ours, counter = compiled(CALLS[name], backend="aot_eager" if name in OPERATORS else "eager")
    seen = []
    for function in (ours, CALLS[name]):
        torch.manual_seed(5)
        seen.append([*(function(None) for _ in range(5)), torch.get_rng_state()])
    torch.testing.assert_close(*seen, rtol=0, atol=0)
    assert counter.frame_count == 1


def test_without_an_rng_two_draws_differ():
    """Also where the compiler makes one of two equal pure calls, as it does where there is a backward pass."""
    factor = torch.ones(3, requires_grad=True)

    def twice():
        return fs.perturb(X * factor, 0.3)[0], fs.perturb(X * factor, 0.3)[0]

    one, other = compiled(twice, backend="aot_eager_decomp_partition")[0]()
    assert not torch.equal(one, other)


def test_inductor():
    """Our operators keep eager's bits; inductor's own code for the network between them is eager's to rounding."""

    def steps(rng):
        x_tilde, noise = fs.perturb(X, SIGMA[:, 0], rng)
        score = NETWORK(x_tilde)
        return x_tilde, score, fs.dsm_loss(score, noise, SIGMA[:, 0])

    ours, counter = compiled(steps, backend="inductor")
    rng, same = fs.Philox(3), fs.Philox(3)
    for _ in range(5):
        x_tilde, score, loss = ours(rng)
        expected, noise = fs.perturb(X, SIGMA[:, 0], same)
        torch.testing.assert_close(x_tilde, expected, rtol=0, atol=0)
        torch.testing.assert_close(score, NETWORK(expected))
        torch.testing.assert_close(loss, fs.dsm_loss(score, noise, SIGMA[:, 0]), rtol=0, atol=0)
    assert counter.frame_count <= 2


def seeds():
    for k in range(5):  # beyond 2^63 an int64 is negative
        yield (fs.Philox(2**64 - 1 - k),)


def offsets():
    for k in range(5):
        yield (fs.Philox(1, sample_offset=8 * k),)


def steps_near_2_to_the_31():
    rng = fs.Philox(1, step=2**31 - 2)
    while True:
        yield (rng,)


@pytest.mark.parametrize("arguments", [seeds, offsets, steps_near_2_to_the_31])
def test_another_philox_does_not_compile_anew(arguments):
    agree(CALLS["perturb"], arguments, calls=5)


@pytest.mark.parametrize(
    "function",
    [
        lambda rng, step_size: fs.langevin_step(X, SCORE, step_size, rng),
        lambda rng, sigma: fs.perturb(X.double(), sigma, rng)[0],
        lambda rng, sigma: fs.losses.dsm(NETWORK, X, sigma, rng=rng),
    ],
    ids=["langevin_step", "perturb", "dsm"],
)
@pytest.mark.parametrize("dynamic", [None, True])
def test_other_numbers_do_not_compile_anew(function, dynamic):
    """A sampler's step size, a schedule's sigma: Python numbers that change with every call."""

    def arguments():
        rng = fs.Philox(2)
        for k in range(1, 9):
            yield rng, 0.1 * k

    agree(function, arguments, calls=8, dynamic=dynamic)


GLOBAL = fs.Philox(3)


class Holder(torch.nn.Module):
    """A Philox where dynamo takes plain numbers for constants."""

    def __init__(self):
        super().__init__()
        self.rng = fs.Philox(3)

    def forward(self, x):
        return fs.losses.ssm_vr(NETWORK, fs.perturb(x, 0.3, self.rng)[0], rng=self.rng)


@pytest.mark.parametrize("dynamic", [None, False, True])
def test_a_philox_of_a_network_does_not_compile_anew(dynamic):
    eager, (ours, counter) = Holder(), compiled(Holder(), dynamic)
    for _ in range(10):
        torch.testing.assert_close(ours(X), eager(X), rtol=0, atol=0)
    assert counter.frame_count <= 2


def test_a_global_philox_does_not_compile_anew():
    ours, counter = compiled(lambda: fs.perturb(X, 0.3, GLOBAL)[0])
    GLOBAL.step, rng = 0, fs.Philox(3)
    for _ in range(10):
        assert torch.equal(ours(), fs.perturb(X, 0.3, rng)[0])
    assert GLOBAL.step == 10 and counter.frame_count <= 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x, rng: fs.losses.ism(NETWORK, x, rng=rng),
        lambda x, rng: fs.losses.ssm_vr(NETWORK, x, rng=rng),
        lambda x, rng: fs.jacobian_trace(NETWORK, x, mode="vjp", rng=rng).value,
    ],
    ids=["ism", "ssm_vr", "jacobian_trace"],
)
def test_other_batch_sizes_do_not_compile_anew(function):
    """In reverse mode: torch's own ``torch.func.jvp`` compiles for each shape."""

    def arguments():
        rng = fs.Philox(2)
        for size in range(2, 7):
            yield torch.linspace(-1, 1, 3 * size).reshape(size, 3), rng

    agree(function, arguments, calls=5)


def test_a_handle_as_an_argument():
    def handles():
        rng = fs.Philox(4)
        while True:
            yield (rng.noise((8, 3)),)

    agree(lambda noise: fs.dsm_loss(SCORE, noise, 0.3), handles, calls=5)


def test_a_handle_as_a_result():
    function, _ = compiled(lambda rng: fs.perturb(X, 0.5, rng))
    ours, others = fs.Philox(1), fs.Philox(1)
    for _ in range(3):
        (x_tilde, noise), (expected, expected_noise) = function(ours), fs.perturb(X, 0.5, others)
        assert torch.equal(x_tilde, expected) and torch.equal(noise.tensor(), expected_noise.tensor())
    x_tilde, noise = function(None)
    torch.testing.assert_close(x_tilde, X + 0.5 * noise.tensor())


@pytest.mark.parametrize("name", ["langevin_step", "labels"])
def test_the_reference_too(name):
    with fs.use_backend("reference"):
        agree(CALLS[name], one_philox, calls=5)


def test_gradients():
    weights = list(NETWORK.parameters())
    for name in ("ncsn", "ssm_vr, jvp"):
        ours, counter = compiled(CALLS[name])
        mine, others = fs.Philox(6), fs.Philox(6)
        for _ in range(4):
            got, expected = (
                torch.autograd.grad(f(rng), weights, allow_unused=True)
                for f, rng in ((ours, mine), (CALLS[name], others))
            )
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
        assert counter.frame_count <= 2


def test_a_look_for_the_compiler_does_not_disturb_it():
    """Other libraries ask whether torch._dynamo can be imported before anybody compiles."""
    subprocess.run(
        [
            sys.executable,
            "-c",
            """if True:
        import importlib.util, sys, torch, fastscore as fs
        assert "torch._dynamo" not in sys.modules
        importlib.util.find_spec("torch._dynamo")
        x = torch.ones(2, 3)
        draw = lambda rng: fs.perturb(x, 0.3, rng)[0]
        compiled = torch.compile(draw, fullgraph=True, backend="eager")
        assert torch.equal(compiled(fs.Philox(0)), draw(fs.Philox(0)))
        """,
        ],
        check=True,
    )
