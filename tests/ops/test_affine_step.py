"""affine_step against its formula in float64, without noise, in place, and where langevin_step is its case."""

import math

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore._core import backends

from ..conftest import z_variance
from .cases import DTYPES, LAYOUTS, tensor
from .test_perturb import column

X, NAN = torch.ones(4, 3), float("nan")
SHAPES = [(3, 7), (300, 2), (2, 2051), (2, 3, 8, 8), (2, 70, 3, 3), (1, 1, 9000)]


def tensors(shape, dtype, count):
    return [tensor(shape, dtype, seed) for seed in range(count)]


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("draws", [False, True])
def test_equals_the_formula(on_backend, backend, count, draws):
    on_backend(backend)
    for shape in SHAPES:
        z = fs.Philox(3).randn(shape, stream=fs.Stream.LANGEVIN, dtype=torch.float64)
        numbers = (0.7, [-0.5, 1.5, 0.2][:count], 0.3 if draws else None)
        each = [torch.linspace(low, 1, shape[0], dtype=torch.float64) for low in (-1.0, -0.5, 0.2, 2.0, 0.1)]
        for dtype, layout in [(dtype, "contiguous") for dtype in DTYPES] + [(torch.float32, "channels_last")]:
            x, *scores = map(LAYOUTS[layout], tensors(shape, dtype, 1 + count))
            for a, b, c in (numbers, (each[0], each[1 : 1 + count], each[4] if draws else None)):
                exact = column(a, x) * x.double() + sum(column(f, x) * s.double() for f, s in zip(b, scores))
                exact += column(c, x) * z if draws else 0
                got = fs.affine_step(x, scores, a, b, c, fs.Philox(3))
                tolerance = max(DTYPES[dtype], 0 if dtype == torch.float64 else 1e-6)
                torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=4 * tolerance)
                assert got.dtype == dtype and backends.last["affine_step"] == backend
                for into in (x, *scores):
                    given = [t.clone() if t is into else t for t in (x, *scores)]
                    out = next(new for new, old in zip(given, (x, *scores)) if new is not old)
                    assert fs.affine_step(given[0], given[1:], a, b, c, fs.Philox(3), out=out) is out
                    assert torch.equal(out, got)


@pytest.mark.parametrize("isa", backends.ISAS)
def test_langevin_step_is_a_case_of_it(on_backend, isa):
    """The same bits, on every instruction set, where sqrt(step_size) is rounded to nearest, which torch's is not."""
    on_backend("native")
    if backends.ISAS.index(isa) > backends.ISAS.index(backends.isa()):
        pytest.skip(f"this processor has no {isa}")
    with backends.native_isa(isa):
        for shape in SHAPES:
            for dtype in DTYPES:
                x, score = tensors(shape, dtype, 2)
                rows = np.linspace(0, 1, shape[0], dtype=np.float64 if dtype == torch.float64 else np.float32)
                step_size, root = torch.from_numpy(rows), torch.from_numpy(np.sqrt(rows))
                expected = fs.langevin_step(x, score, step_size, fs.Philox(3, step=9))
                got = fs.affine_step(x, [score], 1.0, [step_size / 2], root, fs.Philox(3, step=9))
                assert torch.equal(got, expected)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_without_noise_nothing_is_drawn(on_backend, backend):
    on_backend(backend)
    rng, seeds = fs.Philox(0), torch.get_rng_state()
    expected = fs.affine_step(X, [X], 0.5, [0.25])
    for c in (None, 0, 0.0, np.float32(0)):
        assert torch.equal(fs.affine_step(X, [X], 0.5, [0.25], c, rng), expected)
        assert torch.equal(fs.affine_step(X, [X], 0.5, [0.25], c, noise=X), expected)
    assert rng.step == 0 and torch.equal(torch.get_rng_state(), seeds) and expected.eq(0.75).all()
    mapped = torch.func.vmap(lambda x: fs.affine_step(x, [x], 0.5, [0.25], 0.0, rng))(X[:, None])
    assert torch.equal(mapped[:, 0], expected)
    assert torch.equal(fs.affine_step(X, [X], 0.5, [0.25], torch.zeros(4), rng), expected) and rng.step == 1
    with pytest.raises(RuntimeError, match="randomness='different'"):
        torch.func.vmap(lambda x: fs.affine_step(x, [], 0.5, [], 0.1, rng))(X[:, None])


def test_a_sample_is_the_same_alone():
    x, score, c = *tensors((4, 5), torch.float32, 2), torch.tensor([0.0, 0.1, 0.2, 0.3])
    whole = fs.affine_step(x, [score], 0.5, [c], c, fs.Philox(1))
    for k in range(4):
        row = slice(k, k + 1)
        alone = fs.affine_step(x[row], [score[row]], 0.5, [c[row]], c[row], fs.Philox(1, sample_offset=k))
        assert torch.equal(alone, whole[row])


def test_given_noise_and_dtypes_that_differ():
    x, (half, brain) = tensor((3, 5), torch.float16, 0), [tensor((3, 5), d, 1) for d in (torch.float16, torch.bfloat16)]
    noise = fs.Philox(3).noise((3, 5), stream=fs.Stream.LANGEVIN)
    expected = fs.affine_step(x, [half, brain], 0.5, [1.0, 2.0], 0.1, fs.Philox(3))
    assert torch.equal(fs.affine_step(x, [half, brain], 0.5, [1.0, 2.0], 0.1, noise=noise), expected)
    exact = 0.5 * x.float() + half.float() + 2 * brain.float() + 0.1 * noise.tensor()
    torch.testing.assert_close(expected, exact.half())
    torch.testing.assert_close(
        fs.affine_step(x, [half, brain], 0.5, [1.0, 2.0], 0.1, noise=noise.tensor()), exact.half()
    )


@pytest.mark.parametrize("c", [None, 0.3, torch.linspace(0, 1, 20)])
def test_threads_change_nothing(c):
    x, s, b = *tensors((20, 9000), torch.float32, 2), torch.linspace(-1, 1, 20)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append([fs.affine_step(x, [s], 0.9, [factor], c, fs.Philox(2)) for factor in (0.5, b)])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("channels", [3, 300, 2000])
def test_channels_last_without_noise(channels):
    x, s = (t.contiguous(memory_format=torch.channels_last) for t in tensors((2, channels, 4, 3), torch.float32, 2))
    got = fs.affine_step(x, [s], 0.5, [0.25])
    assert got.stride() == x.stride() and torch.equal(got, torch.add(0.5 * x, s, alpha=0.25))


def test_a_chain_has_the_variance_of_its_recursion():
    """x' = a x + b s + c z with the score s = -x/2: v' = (a - b/2)^2 v + c^2."""
    x, variance, rng = torch.zeros(100, 5000), 0.0, fs.Philox(4)
    for a, b, c in ((0.9, 0.1, 0.5), (1.1, 0.4, 0.7), (0.8, -0.2, 0.3)):
        x, variance = fs.affine_step(x, [-x / 2], a, [b], c, rng), (a - b / 2) ** 2 * variance + c**2
        assert abs(z_variance(x, variance)) < 4


def test_a_multistep_solver_is_a_table_of_coefficients():
    """Adams and Bashforth's second-order method on dx/dt = -x, from 0 to 1: the slope of its error is 2."""

    def error(steps):
        h = 1 / steps
        x, before = torch.full((1, 1), math.exp(-h), dtype=torch.float64), -torch.ones(1, 1, dtype=torch.float64)
        for _ in range(steps - 1):
            slope = -x
            x, before = fs.affine_step(x, [slope, before], 1.0, [1.5 * h, -0.5 * h]), slope
        return abs(x.item() - math.exp(-1))

    assert math.log2(error(40) / error(80)) == pytest.approx(2, abs=0.15)


ERRORS = {
    "one tensor": (
        lambda: fs.affine_step(X, X, 1.0, [1.0]),
        TypeError,
        "scores must be a list or tuple.*got a float32",
    ),
    "one number": (lambda: fs.affine_step(X, [X], 1.0, 1.0), TypeError, "b must be a list or tuple.*got float 1.0"),
    "four": (lambda: fs.affine_step(X, [X] * 4, 1.0, [1.0] * 4), ValueError, "scores must have at most 3.*got 4"),
    "counts": (lambda: fs.affine_step(X, [X, X], 1.0, [1.0]), ValueError, "each of the 2 scores, got 1"),
    "shape": (
        lambda: fs.affine_step(X, [X, X[:2]], 1.0, [1.0, 1.0]),
        ValueError,
        r"scores\[1\] must .*\(4, 3\).*\(2, 3\)",
    ),
    "integers": (lambda: fs.affine_step(X, [X.int()], 1.0, [1.0]), TypeError, r"scores\[0\] must be float16.*int32"),
    "a nan": (lambda: fs.affine_step(X, [], NAN, []), ValueError, "a must be finite, got nan"),
    "a text": (lambda: fs.affine_step(X, [], "1", []), TypeError, "a must be a number, got str"),
    "a None": (lambda: fs.affine_step(X, [], None, []), TypeError, "a must be a number, got None"),
    "a too large": (lambda: fs.affine_step(X, [], -1e39, []), ValueError, "a must be finite as the float32.*-1e.39"),
    "b nan": (
        lambda: fs.affine_step(X, [X], 1.0, [torch.tensor([1, NAN, 1, 1])]),
        ValueError,
        r"b\[0\] must be finite everywhere, got nan in a float32 tensor of shape \(4,\)",
    ),
    "b shape": (lambda: fs.affine_step(X, [X], 1.0, [torch.ones(3)]), ValueError, r"b\[0\] must be.*shape \(4,\)"),
    "c negative": (
        lambda: fs.affine_step(X, [], 1.0, [], -0.1),
        ValueError,
        "c must be finite and at least 0, got -0.1",
    ),
    "c [B] negative": (
        lambda: fs.affine_step(X, [], 1.0, [], -torch.ones(4)),
        ValueError,
        "c must be .*at least 0 every",
    ),
    "rng": (lambda: fs.affine_step(X, [], 1.0, [], 0.1, 5), TypeError, "rng must be a fastscore.Philox"),
    "rng and noise": (
        lambda: fs.affine_step(X, [], 1.0, [], 1.0, fs.Philox(0), noise=X),
        ValueError,
        "rng must be None",
    ),
    "noise": (lambda: fs.affine_step(X, [], 1.0, [], 1.0, noise=X[:2]), ValueError, r"noise must .*\(2, 3\)"),
    "out dtype": (lambda: fs.affine_step(X, [], 1.0, [], out=X.double()), TypeError, "out must have the dtype of x"),
    "out and grad": (
        lambda: fs.affine_step(X, [X.clone().requires_grad_()], 1.0, [1.0], out=X.clone()),
        ValueError,
        "out must be None where gradients are recorded",
    ),
    "out in part": (
        lambda: (lambda t: fs.affine_step(X, [X, t[1:13].view(4, 3)], 1.0, [1.0, 1.0], out=t[:12].view(4, 3)))(
            torch.zeros(13)
        ),
        ValueError,
        r"out must be scores\[1\] itself or share no memory",
    ),
    "out over a number": (
        lambda: (lambda t: fs.affine_step(X, [X], 1.0, [t[0, 0]], out=t))(torch.zeros(4, 3)),
        ValueError,
        r"out must be b\[0\] itself or share no memory",
    ),
}


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("name", ERRORS)
def test_errors(on_backend, backend, name):
    on_backend(backend)
    call, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text):
        call()
    assert X.eq(1).all()
