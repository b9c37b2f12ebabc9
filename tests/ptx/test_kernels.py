"""Every Triton kernel of the project, compiled for sm_90 and executed as PTX on the operators' table of cases: the bits
of the C++ backend, and the values of the reference; whatever the memory checker would find is an error in each of these
tests."""

from types import SimpleNamespace

import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore._core.registration import raw
from fastscore._core.sequence import KINDS
from fastscore.ops.dsm_loss import reference as dsm_loss_reference
from fastscore.ops.langevin_step import reference as langevin_step_reference
from fastscore.ops.perturb import reference as perturb_reference
from fastscore.rng import Stream
from tests.ops.cases import DTYPES, LAYOUTS, compiled_table, sigma_of, tensor

SEED, STEP, OFFSET = 2**64 - 987654321012345, 0xFFFFFF05, 0xFFFF0000
FULL, TAIL, SHORT, ODD, SMALL = (2, 1024), (2, 2051), (2, 3, 8, 8), (3, 7), (70, 30)
OPS = ("langevin_step", "perturb", "dsm_loss", "dsm_loss and gradient", "dsm_loss, gradient alone")
CASES = [pytest.param(op, *row.values, id=f"{op}-{row.id}") for op in OPS for row in compiled_table()]
CASES += [
    pytest.param(op, *row.values, id=f"{op}-{row.id}")
    for op in ("langevin_step, one alpha", "perturb, alpha")
    for row in compiled_table()
    if row.values[0] in (FULL, TAIL, ODD)
]


@pytest.fixture(autouse=True)
def native():
    if reason := backends.problem("native", "cpu"):
        pytest.skip(reason)


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()])


def inputs(shape, dtype, layout, how, stream):
    """x, score, a number for each row and one for all, z of the reference, and the noise as the operators take it."""
    x, score = (LAYOUTS[layout](tensor(shape, dtype, seed)) for seed in (1, 2))
    if how == "misaligned":  # one element past an aligned address
        x, score = (torch.cat([t.new_zeros(1), t.flatten()])[1:].view(shape) for t in (x, score))
    compute = torch.float64 if dtype == torch.float64 else torch.float32

    def noise(rows, offset, device=None):
        rng = fs.Philox(SEED, step=STEP, sample_offset=offset, device=device)
        return rng.noise_for(rows, stream, transformed=False)

    handle = noise(x, OFFSET, "cpu" if how == "on device" else None)
    where, z = list(handle.arguments()), handle.tensor(compute)
    if how == "index":
        index = torch.arange(shape[0]) * 7 + 4_000_000_000
        where[-1] = index
        z = torch.cat([noise(row[None], i).tensor(compute) for row, i in zip(x, index.tolist())])
    each, one = (sigma_of(kind, shape[0]).to(compute) for kind in ("per sample", "0-dim"))
    return x, score, each, one, z, where


def call(op, backend, x, score, a, one, z, where):
    """The operator on a backend, as a tuple."""
    result = {
        "langevin_step": lambda: raw("langevin_step", backend)(x, score, a, *where),
        "langevin_step, one alpha": lambda: raw("langevin_step", backend)(x, score, one, *where),
        "perturb": lambda: raw("perturb", backend)(x, None, a, *where),
        "perturb, alpha": lambda: raw("perturb", backend)(x, a.flip(0), a, *where),
        "dsm_loss": lambda: raw("dsm_loss", backend)(score, a, 1.5, *where),
        "dsm_loss and gradient": lambda: raw("dsm_loss_and_gradient", backend)(score, a, 2.0, 0.3, *where),
        "dsm_loss, gradient alone": lambda: raw("dsm_loss_gradient", backend)(score, a, 1.5, a.flip(0), *where),
    }[op]()
    return result if isinstance(result, tuple) else (result,)


def reference(op, x, score, a, one, z, where):
    """The first result of the operator in plain torch."""
    if op.startswith("langevin_step"):
        return langevin_step_reference(x, score, one if "one" in op else a, z)
    if op.startswith("perturb"):
        given = SimpleNamespace(tensor=lambda dtype: z.to(dtype))
        return perturb_reference(x, a.flip(0) if "alpha" in op else None, a, given)
    if "alone" not in op:
        return dsm_loss_reference(score, a, 2.0 if "and" in op else 1.5, z)
    a = a.view((-1,) + (1,) * (x.dim() - 1))
    return (a.flip(0) * a**1.5 * (score.to(a.dtype) + z / a)).to(x.dtype)


@pytest.mark.parametrize("op, shape, dtype, layout, how", CASES)
def test_the_bits_of_native_and_the_values_of_the_reference(on_ptx, op, shape, dtype, layout, how):
    given = inputs(shape, dtype, layout, how, Stream.LANGEVIN)
    x = given[0]
    got, native = (call(op, backend, *given) for backend in ("triton", "native"))
    assert sum(len(kernel.results) for kernel in on_ptx.values()) == (1 if x.numel() else 0)
    for ours, theirs in zip(got, native):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if op.startswith("dsm_loss") and ours.shape == x.shape[:1]:  # sums, whose order differs
            torch.testing.assert_close(ours, theirs, rtol=1e-13 if dtype == torch.float64 else 1e-6, atol=0)
        else:
            assert torch.equal(bits(ours), bits(theirs))
    exact = reference(op, *given)
    # normals differ by up to 8 ulp from the reference's, whose fma rounds twice; a product of up to 8 widens that
    slack = 4 * DTYPES[dtype] if dtype != torch.float64 else 1e-6
    torch.testing.assert_close(got[0], exact.to(got[0].dtype), rtol=slack, atol=8 * slack)


def gradients(op, x, score, a, alpha):
    """Of every input of an operator through its public name."""
    leaves = [t.clone().requires_grad_() for t in (x, score, a, alpha)]
    x, score, a, alpha = leaves
    if op == "langevin_step":
        result = fs.langevin_step(x, score, a, fs.Philox(5))
    elif op == "perturb":
        result = fs.perturb(x, a, fs.Philox(5), alpha=alpha)[0]
    else:
        result = fs.dsm_loss(
            score, fs.Philox(5).noise(score.shape, dtype=score.dtype), a if "sigma" in op else a.detach(), 2.0
        )
    result.mean().backward()
    return [t.grad for t in leaves if t.grad is not None]


@pytest.mark.parametrize(
    "shape, dtype",
    [(ODD, torch.float32), (SHORT, torch.bfloat16), (FULL, torch.float64)],
    ids=["odd", "bfloat16", "full"],
)
@pytest.mark.parametrize("op", ["langevin_step", "perturb", "dsm_loss", "dsm_loss, sigma too"])
def test_backward_through_the_public_names(on_ptx, op, shape, dtype):
    x, score, a, *_ = inputs(shape, dtype, "contiguous", "numbers", Stream.USER)
    results = {}
    for backend in ("triton", "native", "reference"):
        with fs.use_backend(backend):
            results[backend] = gradients(op, x, score, a, a.flip(0))
    assert len(results["triton"]) == {"perturb": 3, "langevin_step": 3, "dsm_loss": 1}.get(op, 2)
    assert any(kernel.results for kernel in on_ptx.values())
    for ours, theirs, exact in zip(*results.values()):
        assert torch.equal(bits(ours), bits(theirs))
        torch.testing.assert_close(ours, exact, rtol=4 * DTYPES[dtype] + 1e-6, atol=4 * DTYPES[dtype] + 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape, dtype, how",
    [
        (FULL, torch.float32, "numbers"),
        (TAIL, torch.float32, "numbers"),
        (ODD, torch.float32, "on device"),
        (SMALL, torch.float32, "index"),
        (SHORT, torch.bfloat16, "numbers"),
        (TAIL, torch.float16, "numbers"),
        (FULL, torch.float64, "numbers"),
        (ODD, torch.float64, "on device"),
    ],
)
def test_fill_has_the_bits_of_native(on_ptx, kind, shape, dtype, how):
    *_, where = inputs(shape, dtype, "contiguous", how, Stream.USER)
    x = torch.empty(shape, dtype=torch.int64 if kind == "words" else dtype)
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
    x, *_ = given = inputs((4, 2048), torch.float32, "contiguous", "numbers", Stream.LANGEVIN)
    call("langevin_step, one alpha", "triton", *given)
    (counters,) = on_ptx["langevin_step"].results
    counts = counters.an_element(x.numel())
    assert counts["sector_bytes"] == pytest.approx(12, abs=0.5) and counts["divergent_share"] == 0
    assert 50 < counts["instructions"] < 75 and counts["bank_conflicts"] == 0
    assert counts["global load"] == pytest.approx(2 / 4 + 2 / 8, abs=0.2) and counts["global store"] == 1 / 4
