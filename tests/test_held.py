"""What an rng, a handle, a Coloring and Probes hold is checked when it is set, and handles cannot be set at all."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastscore as fs
from fastscore import losses, samplers

from .ops.cases import BACKENDS

X = torch.zeros(4, 3)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize(
    "name, value, error, message",
    [
        ("step", -3, ValueError, "step must be from 0 to 4294967295, got -3"),
        ("step", 2**32, ValueError, "step must be from 0 to 4294967295, got 4294967296"),
        ("step", 2.0, TypeError, "step must be an integer from 0 to 4294967295, got float 2.0"),
        ("step", None, TypeError, "step must be an integer .* got NoneType None"),
        ("step", True, TypeError, "step must be an integer .* got bool True"),
        ("seed", -1, ValueError, "seed must be from 0 to 18446744073709551615, got -1"),
        ("seed", "0", TypeError, "seed must be an integer .* got str '0'"),
        ("sample_offset", -1, ValueError, "sample_offset must be from 0 to 4294967295, got -1"),
        ("sample_offset", 0.5, TypeError, "sample_offset must be an integer .* got float 0.5"),
        (
            "state",
            torch.zeros(2),
            TypeError,
            r"state must be a contiguous int64 tensor of shape \(2,\).* got a float32",
        ),
        ("state", torch.zeros(3, dtype=torch.int64), TypeError, r"state must be .* got a int64 tensor of shape \(3,\)"),
        ("state", torch.tensor([5, -1]), ValueError, r"state\[1\], the step, must be from 0 to 4294967295, got -1"),
        ("state", 7, TypeError, "state must be .* got int 7"),
    ],
)
def test_an_rng_refuses_what_its_constructor_would(name, value, error, message, device):
    rng = fs.Philox(5, step=2, sample_offset=1, device=device)
    with pytest.raises(error, match=message):
        setattr(rng, name, value)
    assert (rng.seed, rng.step, rng.sample_offset) == (5, 2, 1)
    assert torch.equal(rng.randn(2, 3), fs.Philox(5, step=2, sample_offset=1).randn(2, 3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_an_rng_takes_what_is_set(backend, device, on_backend):
    on_backend(backend)
    expected = fs.Philox(2**64 - 7, step=9, sample_offset=4).randn(2, 3)
    rng = fs.Philox(1, device=device)
    rng.seed, rng.step, rng.sample_offset = 2**64 - 7, np.int64(9), torch.tensor(4)
    assert type(rng.sample_offset) is int
    assert torch.equal(copy.deepcopy(rng).randn(2, 3), expected)
    assert torch.equal(pickle.loads(pickle.dumps(rng)).randn(2, 3), expected)
    other = fs.Philox(1, sample_offset=4)
    other.state = torch.tensor([-7, 9])
    assert (other.seed, other.step) == (2**64 - 7, 9) and torch.equal(other.randn(2, 3), expected)
    other.state = None
    assert other.step == 10 and torch.equal(
        other.randn(2, 3), fs.Philox(2**64 - 7, step=10, sample_offset=4).randn(2, 3)
    )


def test_steps_on_a_device_wrap_alike(on_backend):
    """On a device nobody looks at the step: past the last one the backends still agree."""
    rows = []
    for backend in BACKENDS:
        on_backend(backend)
        rng = fs.Philox(3, step=2**32 - 1, device="cpu")
        rows.append(torch.stack([rng.rademacher(3, 5) for _ in range(2)]))
    assert torch.equal(*rows) and torch.equal(rows[0][1], fs.Philox(3).rademacher(3, 5))


@pytest.mark.parametrize(
    "made",
    [
        lambda: fs.perturb(X, 1.0, fs.Philox(0))[1],
        lambda: fs.Philox(0, device="cpu").noise((4, 3)),
        lambda: fs.Probes(X, 6, fs.Philox(0), coloring=fs.Coloring(3, 3, 1, 1)),
        lambda: fs.Coloring(3, 3, 1, 1),
    ],
    ids=["perturb's", "noise", "Probes", "Coloring"],
)
def test_a_handle_cannot_be_changed(made):
    handle, before = made(), repr(made())
    names = [n.lstrip("_") for n in (getattr(type(handle), "_fields", None) or type(handle).__slots__)]
    assert len(names) >= 4
    for name in names:
        value = getattr(handle, name)
        for change in (
            lambda name=name, value=value: setattr(handle, name, value),
            lambda name=name: delattr(handle, name),
        ):
            with pytest.raises(AttributeError):
                change()
    assert repr(handle) == before and repr(copy.deepcopy(handle)) == before
    assert repr(pickle.loads(pickle.dumps(handle))) == before
    if not isinstance(handle, tuple):
        with pytest.raises(
            AttributeError, match=f"{names[0]} of a {type(handle).__name__} cannot be changed .*got str 'a'"
        ):
            setattr(handle, names[0], "a")


NOISE = {
    "seed": 1,
    "step": 2,
    "stream": 3,
    "sample_offset": 4,
    "shape": (4, 3),
    "dtype": torch.float32,
    "device": "cpu",
}


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("seed", -1, "seed must be from 0"),
        ("step", 2**32, "step must be from 0"),
        ("stream", 1.5, "stream must be an int"),
        ("sample_offset", -1, "sample_offset must be"),
        ("shape", (), r"shape must be \[B, ...\]"),
        ("shape", "ab", "shape must be int"),
        ("dtype", torch.int64, "dtype must be torch.float16"),
        ("state", X, "state must be"),
        ("first", 3, "first must be an int64"),
    ],
)
def test_a_handle_is_checked_when_made(name, value, message):
    expected = fs.Philox(1, step=2, sample_offset=4).randn(4, 3, stream=3)
    assert torch.equal(fs.Noise(**NOISE).tensor(), expected)
    with pytest.raises((TypeError, ValueError), match=message):
        fs.Noise(**(NOISE | {name: value}))


def test_a_coloring_is_checked_when_made():
    for change, message in (
        ({"colors": 0}, "coloring.colors must be from 1 to 32768, got 0"),
        ({"a": 1.5}, "coloring.a must be an int"),
        ({"height": 0}, "coloring.height must be from 1"),
        ({"e": -1}, "coloring.e must be from 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fs.Coloring(**({"colors": 3, "width": 3, "height": 1, "a": 1} | change))
        with pytest.raises((TypeError, ValueError), match=message):
            fs.Coloring(3, 3, 1, 1)._replace(**change)
    with pytest.raises(TypeError, match=r"coloring must be a fastscore.Coloring or None, got tuple"):
        fs.Probes(X, 3, coloring=(3, 3, 1, 1, 0, 0))


def test_an_rng_stays_where_it_was_after_too_many_steps():
    rng, rest = fs.Philox(3, step=2**32 - 2), fs.Philox(3, step=2**32 - 2)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"3 more would be beyond the 2\^32 steps .* taken 4294967294: go on with another seed"
        ):
            fs.Probes(X, 3, rng)
    assert torch.equal(rng.randn(2, 3), rest.randn(2, 3)) and torch.equal(rng.randn(2, 3), rest.randn(2, 3))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1 more would be beyond the 2\^32 steps"):
            rng.randn(2, 3)
    assert rng.step == 2**32


def test_a_handle_has_an_index_for_every_sample():
    """One beyond the last index is no word: the backends would each make something else of it."""
    assert fs.Noise(**NOISE | {"sample_offset": 2**32 - 4}).tensor().shape == (4, 3)
    with pytest.raises(ValueError, match=r"sample_offset \+ batch size must be at most 2\^32, got 4294967293 \+ 4"):
        fs.Noise(**NOISE | {"sample_offset": 2**32 - 3})


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"state": torch.tensor([1, 2], device="meta")},
            "state must be on the device of the noise, cpu, got a int64 .* on meta",
        ),
        (
            {"first": torch.tensor(5, device="meta")},
            "first must be on the device of the noise, cpu, got a int64 .* on meta",
        ),
        ({"first": torch.tensor(-5)}, r"first must be from 0 to 2\^32 - 4, .* got -5"),
        ({"first": torch.tensor(2**32 - 3)}, r"first must be from 0 to 2\^32 - 4, .* got 4294967293"),
    ],
)
def test_what_stands_in_place_of_a_handles_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        fs.Noise(**NOISE | change)
    taken = fs.Noise(**NOISE | {"state": torch.tensor([1, 2]), "first": torch.tensor(2**32 - 4)}).tensor()
    assert torch.equal(taken, fs.Philox(1, step=2, sample_offset=2**32 - 4).randn(4, 3, stream=3))


@pytest.mark.parametrize("device", ["abc", -1, 1.5, ["cpu"], "cpu:-3"])
def test_a_device_is_named(device):
    with pytest.raises((TypeError, ValueError, RuntimeError), match="device must be a torch"):
        fs.Philox(0).randn(2, 3, device=device)


BAD_DRAWS = {
    "stream must be from 0": lambda rng: rng.randn(2, 3, stream=-1),
    "sample_offset must be an integer": lambda rng: rng.rand(2, 3, sample_offset=1.0),
    "dtype must be torch.float16, bfloat16": lambda rng: rng.randn(2, 3, dtype=torch.int32),
    "dtype must be torch.float16": lambda rng: rng.rademacher(2, 3, dtype=torch.complex64),
    "shape must be integers": lambda rng: rng.rand(2, 3.0),
    "high must be an integer": lambda rng: rng.randint(3.0, 2),
}


@pytest.mark.parametrize("message", BAD_DRAWS)
def test_bad_draws_take_no_step(message):
    rng = fs.Philox(0)
    with pytest.raises((TypeError, ValueError), match=message):
        BAD_DRAWS[message](rng)
    assert rng.step == 0


def test_slices_beyond_the_last_sample():
    with pytest.raises(ValueError, match=r"sample_offset \+ batch size must be at most 2\^32"):
        torch.func.vmap(lambda x: fs.perturb(x, 1.0, fs.Philox(0, sample_offset=2**32 - 5))[0], randomness="different")(
            torch.zeros(3, 2, 2)
        )


@pytest.mark.parametrize("width", [3, 20_000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_handle_of_another_device_is_refused(width, backend, on_backend):
    on_backend(backend)
    x, there = torch.zeros(2, width), torch.zeros(2, width, device="meta")
    noise = fs.Philox(0).noise((2, width), device="meta")
    for call in (lambda: fs.dsm_loss(x, noise, 0.5), lambda: fs.langevin_step(x, x, 0.5, noise=noise)):
        with pytest.raises(ValueError, match=r"noise must have .*cpu, got .*meta"):
            call()
    probes = fs.Probes(there, 2, fs.Philox(0))
    with pytest.raises(ValueError, match=r"product must be .* on meta"):
        fs.probe_dot(torch.zeros(2, 2, width), probes)


def test_a_device_without_its_number_is_the_one_that_tensors_name():
    with FakeTensorMode(), fs.use_backend("reference"):
        noise, x = fs.Philox(0).noise((2, 3), device="cuda"), torch.zeros(2, 3, device="cuda")
        assert noise.device == x.device == torch.device("cuda:0")
        assert fs.dsm_loss(x, noise, 0.5).shape == (2,) and fs.langevin_step(x, x, 0.1, noise=noise).shape == (2, 3)


SCORE = torch.linspace(-1, 1, 12).view(4, 3)
SIGMAS = [1.0, 0.5, 0.25]
NUMBERS = {  # a call with a number or numbers; each must take what float and int are taken for
    "sigma": (lambda v: fs.perturb(SCORE, v, fs.Philox(0))[0], 0.5),
    "step_size": (lambda v: fs.langevin_step(X, SCORE, v, fs.Philox(0)), 0.25),
    "coefficients": (lambda v: fs.affine_step(X, [SCORE], v, [v], v, fs.Philox(0)), 0.25),
    "weight": (lambda v: fs.dsm_loss(SCORE, fs.Philox(0).noise((4, 3)), 0.5, v), 2.0),
    "loss weight": (
        lambda v: losses.annealed_ssm_vr(lambda x, _: x.sin(), SCORE, SIGMAS, rng=fs.Philox(0), weight=v),
        1.5,
    ),
    "eps": (lambda v: losses.fd_ssm(torch.sin, SCORE, rng=fs.Philox(0), eps=v), 0.125),
    "eta": (lambda v: samplers.consistent_annealed(lambda x, _: -x, (4, 3), SIGMAS, eta=v, rng=fs.Philox(0)), 0.75),
    "step sizes of a sampler": (
        lambda v: samplers.langevin(lambda x: -x, SCORE, num_steps=3, step_size=v, rng=fs.Philox(0)),
        0.25,
    ),
    "annealed": (
        lambda v: samplers.annealed_langevin(
            lambda x, _: -x, (4, 3), SIGMAS, step_size=v, steps_per_level=2, rng=fs.Philox(0)
        ),
        0.125,
    ),
    "schedule": (lambda v: fs.schedules.geometric_sigmas(v, 0.01, 4), 2.0),
    "n_particles": (lambda v: losses.ssm(torch.sin, SCORE, rng=fs.Philox(0), n_particles=v), 3),
    "num_probes": (
        lambda v: fs.jacobian_trace(torch.sin, SCORE, rng=fs.Philox(0), num_probes=v, chunk_size=v).value,
        2,
    ),
    "high": (lambda v: fs.Philox(0).randint(v, 5), 7),
    "seed": (lambda v: fs.Philox(v).randn(2, 3), 9),
    "first": (lambda v: fs.fill_probes(fs.Probes(X, 5, fs.Philox(0)), first=v), 2),
    "count": (
        lambda v: fs.probe_dot(
            fs.fill_probes(fs.Probes(X, 4, fs.Philox(0)))[2:], fs.Probes(X, 4, fs.Philox(0)), first=v
        ),
        2,
    ),
    "shape": (lambda v: fs.Philox(0).randn(v, 3), 4),
    "coloring": (lambda v: fs.Coloring(v, 3, 1, 1).of((3,)), 2),
    "steps": (lambda v: samplers.langevin(lambda x: -x, SCORE, num_steps=v, step_size=0.1, rng=fs.Philox(0)), 3),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_and_torch_are_numbers(name):
    call, value = NUMBERS[name]
    kinds = (
        [np.float64, np.float32, np.float16, torch.tensor]
        if isinstance(value, float)
        else [np.int64, np.uint8, torch.tensor]
    )
    expected = call(value)
    for kind in (*kinds, np.array):
        torch.testing.assert_close(call(kind(value)), expected)
    for wrong in (True, np.bool_(True), np.array([value, value]), "1"):
        with pytest.raises((TypeError, ValueError)):
            call(wrong)


@pytest.mark.parametrize(
    "kind",
    [
        np.array,
        lambda v: np.array(v, np.float32),
        lambda v: list(map(np.float32, v)),
        lambda v: tuple(map(torch.tensor, v)),
    ],
)
def test_levels_of_numpy_and_torch(kind):
    for call in (
        lambda s: losses.ncsn(lambda x, _: -x, SCORE, s, rng=fs.Philox(0)),
        lambda s: samplers.annealed_langevin(
            lambda x, _: -x, (4, 3), s, step_size=0.01, steps_per_level=2, rng=fs.Philox(0)
        ),
    ):
        assert torch.equal(call(kind(SIGMAS)), call(SIGMAS))
    with pytest.raises(ValueError, match="sigmas must be strictly decreasing"):
        losses.ncsn(lambda x, _: -x, SCORE, kind(SIGMAS[::-1]))


@pytest.mark.parametrize(
    "value, message",
    [
        (np.array(SIGMAS)[None], "sigmas must be a torch.Tensor, got ndarray"),
        (np.array([True, False]), r"sigmas\[0\] must be a number"),
        (np.array([]), r"sigmas must have shape \(L,\)"),
        (np.array([1.0, np.nan]), r"sigmas\[1\] must be finite"),
    ],
)
def test_levels_that_are_none(value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        losses.ncsn(lambda x, _: -x, SCORE, value)


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**5000), 1e-60, 1e39, torch.tensor(0.5, requires_grad=True)],
    ids=lambda v: str(v)[:9] if isinstance(v, float) else "",
)
def test_numbers_that_no_float_holds(value, on_backend):
    """Neither an OverflowError nor, on any backend, a sigma that is 0 or infinite once it is a float32."""
    for backend in BACKENDS:
        on_backend(backend)
        if isinstance(value, torch.Tensor):
            with pytest.raises(TypeError, match="weight must be a number, got a float32 tensor"):
                fs.dsm_loss(SCORE, fs.Philox(0).noise((4, 3)), 0.5, value)
        else:
            with pytest.raises(ValueError, match="sigma must be finite and greater than 0"):
                fs.perturb(SCORE, value, fs.Philox(0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, ">f8"])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_an_array_holds_one_number_per_sample(dtype, given, on_backend):
    values, x = np.array([4, 1, 2, 3], dtype)[::-1], SCORE.to(given)
    calls = (
        lambda v: fs.perturb(x, v, fs.Philox(0), alpha=v)[0],
        lambda v: fs.langevin_step(x, x, v, fs.Philox(0)),
        lambda v: fs.dsm_loss(x, fs.Philox(0).noise((4, 3)), v),
        lambda v: losses.dsm(lambda x: -x, x, v, rng=fs.Philox(0)),
    )
    for backend in BACKENDS:
        on_backend(backend)
        for call in calls:
            assert torch.equal(call(values), call(torch.tensor([3.0, 2.0, 1.0, 4.0], dtype=given)))
        for wrong, message in (
            (np.array([1.0, 2.0]), r"must be a number or have shape \(4,\)"),
            (np.array([1.0, 1, np.nan, 1]), r"\[2\] must be"),
            (np.array([1e60] * 4), "must be .*finite"),
            (np.array([[1.0] * 4]), "must be a number"),
        ):
            if given == torch.float32 or "finite" not in message:
                with pytest.raises((TypeError, ValueError), match=message):
                    calls[0](wrong)
