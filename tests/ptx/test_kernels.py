"""Every Triton kernel of the project, compiled for sm_90 and executed as PTX: the bits of the C++ backend, and the
values of the reference; whatever the memory checker would find is an error in each of these tests."""

import pytest
import torch

import fastscore as fs
from fastscore import backends
from fastscore._library import raw
from fastscore.ops.dsm_loss import reference as dsm_loss_reference
from fastscore.ops.langevin_step import reference as langevin_step_reference
from fastscore.ops.perturb import reference as perturb_reference
from fastscore.rng import KINDS, Stream
from tests.ops.cases import DTYPES, tensor

SEED, STEP, OFFSET = 2**64 - 987654321012345, 0xFFFFFF05, 0xFFFF0000
ROWS, TAIL, SHORT, ODD, SMALL = (2, 1024), (3, 2051), (2, 3, 8, 8), (3, 7), (70, 30)
SHAPES = [ROWS, TAIL, SHORT, ODD, SMALL, (5, 1), (5, 498), (0, 3), (3, 0)]
OPS = ("langevin_step", "langevin_step, one alpha", "perturb", "perturb, alpha", "dsm_loss", "dsm_loss and gradient",
       "dsm_loss, gradient alone")
TABLE = [(shape, torch.float32, "numbers") for shape in SHAPES]
TABLE += [(shape, dtype, "numbers") for dtype in DTYPES if dtype != torch.float32 for shape in (ROWS, TAIL, ODD)]
TABLE += [(ROWS, torch.float32, "on device"), (ODD, torch.float32, "on device"), (ROWS, torch.float32, "index"),
          (SMALL, torch.bfloat16, "index"), (ROWS, torch.float32, "misaligned"), (SHORT, torch.float16, "misaligned")]


def name_of(value):
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value)[6:] if isinstance(value, torch.dtype) else None


@pytest.fixture(autouse=True)
def native():
    if reason := backends.problem("native", "cpu"):
        pytest.skip(reason)


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()])


def inputs(shape, dtype, how, stream):
    """x, score and a number a row, and the noise as a handle and as the operators' arguments."""
    x, score = (tensor(shape, dtype, seed) for seed in (1, 2))
    if how == "misaligned":  # one element past an aligned address
        x, score = (torch.cat([t.new_zeros(1), t.flatten()])[1:].view(shape) for t in (x, score))
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    rng = fs.Philox(SEED, step=STEP, sample_offset=OFFSET, device="cpu" if how == "on device" else None)
    noise = rng.noise_for(x, stream, transformed=False)
    where = list(noise.arguments())
    if how == "index":
        where[-1] = torch.arange(shape[0]) * 7 + 4_000_000_000
    return x, score, torch.linspace(0.3, 2.0, shape[0], dtype=compute), noise, where


def call(op, backend, x, score, a, where):
    """The operator on a backend, as a tuple."""
    result = {
        "langevin_step": lambda: raw("langevin_step", backend)(x, score, a, *where),
        "langevin_step, one alpha": lambda: raw("langevin_step", backend)(x, score, a.new_tensor(0.7), *where),
        "perturb": lambda: raw("perturb", backend)(x, None, a, *where),
        "perturb, alpha": lambda: raw("perturb", backend)(x, a.flip(0), a, *where),
        "dsm_loss": lambda: raw("dsm_loss", backend)(score, a, 2.0, 1.0, False, *where)[0],
        "dsm_loss and gradient": lambda: raw("dsm_loss", backend)(score, a, 2.0, 0.25, True, *where),
        "dsm_loss, gradient alone": lambda: raw("dsm_loss_gradient", backend)(score, a, 2.0, a.flip(0), *where),
    }[op]()
    return result if isinstance(result, tuple) else (result,)


def reference(op, x, score, a, noise):
    """The first result of the operator in plain torch."""
    if op.startswith("langevin_step"):
        return langevin_step_reference(x, score, a.new_tensor(0.7) if "one" in op else a, noise)
    if op.startswith("perturb"):
        return perturb_reference(x, a, noise, a.flip(0) if "alpha" in op else None)
    if "alone" not in op:
        return dsm_loss_reference(score, noise, a, 2.0)
    rows = (-1,) + (1,) * (x.dim() - 1)
    a, wide = a.view(rows), a.dtype
    return (a.flip(0) * a**2 * (score.to(wide) + noise.tensor(wide) / a)).to(x.dtype)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape, dtype, how", TABLE, ids=name_of)
def test_the_bits_of_native_and_the_values_of_the_reference(on_ptx, op, shape, dtype, how):
    x, score, a, noise, where = inputs(shape, dtype, how, Stream.LANGEVIN)
    got, native = (call(op, backend, x, score, a, where) for backend in ("triton", "native"))
    assert sum(len(kernel.results) for kernel in on_ptx.values()) == (1 if x.numel() else 0)
    for ours, theirs in zip(got, native):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if op == "dsm_loss, gradient alone":  # its factor a row is rounded on the host: natively once, from float64
            torch.testing.assert_close(ours, theirs, rtol=2e-7 if dtype == torch.float32 else 0, atol=0)
        elif ours.shape == x.shape:  # whatever is computed element by element
            assert torch.equal(bits(ours), bits(theirs))
        else:  # sums, whose order differs
            torch.testing.assert_close(ours, theirs, rtol=1e-13 if dtype == torch.float64 else 1e-6, atol=0)
    if how != "index":
        with fs.use_backend("reference"):
            exact = reference(op, x, score, a, noise)
        # normals differ by up to 8 ulp from the reference's, whose fma rounds twice; a product of up to 8 widens that
        slack = 4 * DTYPES[dtype] if dtype not in (torch.float64,) else 1e-6
        torch.testing.assert_close(got[0], exact.to(got[0].dtype), rtol=slack, atol=8 * slack)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape, dtype, how", [
    (ROWS, torch.float32, "numbers"), (TAIL, torch.float32, "numbers"), (ODD, torch.float32, "on device"),
    (SMALL, torch.float32, "index"), (SHORT, torch.bfloat16, "numbers"), (TAIL, torch.float16, "numbers"),
    (ROWS, torch.float64, "numbers"), (ODD, torch.float64, "on device")], ids=name_of)
def test_fill_has_the_bits_of_native(on_ptx, kind, shape, dtype, how):
    x, *_, where = inputs(shape, torch.int64 if kind == "words" else dtype, how, Stream.USER)
    got, native = (raw("fill", backend)(x, list(KINDS).index(kind), *where) for backend in ("triton", "native"))
    assert torch.equal(bits(got), bits(native)) and len(on_ptx["fill"].results) == 1


def test_random123s_known_answer(on_ptx):
    like = torch.empty(1, 4, dtype=torch.int64)
    words = raw("fill", "triton")(like, list(KINDS).index("words"), 0, 0, 0, 0, None, None)
    assert [f"{w:08x}" for w in words.flatten().tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def test_many_normals_bit_for_bit(on_ptx):
    like, where = torch.empty(48, 4096), (SEED - 2**64, 17, 3, 5, None, None)
    got, native = (raw("fill", backend)(like, list(KINDS).index("normal"), *where) for backend in ("triton", "native"))
    assert torch.equal(bits(got), bits(native)) and got.abs().max() > 3.8


def test_in_place_and_other_layouts_through_the_public_names(on_ptx):
    x, score = (tensor((2, 3, 4, 6), torch.float32, s).contiguous(memory_format=torch.channels_last) for s in (3, 4))
    results = []
    for backend in ("triton", "native"):
        with fs.use_backend(backend):
            own = x.clone(memory_format=torch.contiguous_format)
            assert fs.langevin_step(own, score, 0.1, fs.Philox(3), out=own) is own
            results.append((fs.langevin_step(x, score, 0.1, fs.Philox(3)), own, fs.perturb(x, 0.5, fs.Philox(3))[0]))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(*results))
    assert all(on_ptx[name].results for name in ("langevin_step", "perturb"))


def test_an_update_moves_its_twelve_bytes_and_never_diverges(on_ptx):
    x, score, a, _, where = inputs((4, 2048), torch.float32, "numbers", Stream.LANGEVIN)
    call("langevin_step, one alpha", "triton", x, score, a, where)
    counters, = (result.counters for result in on_ptx["langevin_step"].results)
    counts = counters.an_element(x.numel())
    assert counts["sector_bytes"] == pytest.approx(12, abs=0.5) and counts["divergent_share"] == 0
    assert 50 < counts["instructions"] < 75 and counts["bank_conflicts"] == 0
    assert counts["global load"] == pytest.approx(2 / 4 + 2 / 8, abs=0.2) and counts["global store"] == 1 / 4
