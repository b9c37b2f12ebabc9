"""Every Triton kernel of the project, compiled for sm_90 and executed as PTX on the operators' table of cases: the bits
of the C++ backend, and the values of the reference; whatever the memory checker would find is an error in each of these
tests."""

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore._core.checks import compute_dtype
from fastscore._core.registration import raw
from fastscore._core.sequence import KINDS
from tests.ops.cases import DTYPES, LAYOUTS, compiled_table, tensor
from tests.ops.declared import FUNCTIONS, arguments, handle, noise, reference, results, row, samples

FULL, TAIL, SHORT, ODD, SMALL = (2, 1024), (2, 2051), (2, 3, 8, 8), (3, 7), (70, 30)
OTHERS = [(shape, torch.float32) for shape in (FULL, TAIL, SHORT, ODD, SMALL)]
OTHERS += [(ODD, torch.bfloat16), (FULL, torch.float64)]


def cases() -> list:
    """(function, example, shape, dtype, layout, how) of every function that has a Triton kernel.

    The plainest example runs on the whole table of what compiled kernels are run on, the others on some of it.
    """
    found = []
    for name, (operator, function) in FUNCTIONS.items():
        if "triton" not in operator.backends or function.writes:  # the same kernels, writing elsewhere
            continue
        for i, title in enumerate(function.examples((2, 3), torch.float32, "cpu", 0)):
            for case in compiled_table():
                shape, dtype, layout, how = case.values
                here = i == 0 or ((layout, how) == ("contiguous", "numbers") and (shape, dtype) in OTHERS)
                if here and (operator.stream is not None or how not in ("on device", "index")):
                    found.append(pytest.param(name, title, *case.values, id=f"{name}, {title}-{case.id}"))
    return found


@pytest.fixture(autouse=True)
def native():
    if reason := backends.problem("native", "cpu"):
        pytest.skip(reason)


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(
        {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    )


def inputs(name, title, shape, dtype, layout="contiguous", how="numbers"):
    """A function's arguments at an example, its samples as said, and its noise."""
    operator, function = FUNCTIONS[name]
    given = list(function.examples(shape, dtype, "cpu", 1)[title])
    for place, (kind, argument) in enumerate(zip(function.maps, arguments(function.schema))):
        if kind == "batch" and argument != "like" and given[place] is not None:
            x = LAYOUTS[layout](given[place])
            if how == "misaligned":  # one element past an aligned address
                x = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
            given[place] = x
    return tuple(given), noise(operator, shape[0], "on device" if how in ("on device", "index") else "numbers")


# Operators that divide by what they sum: every result depends on the order of sums, which the C++ has another of. Their
# results differ by no more than so many roundings of a tensor's largest number (5.2 were seen, in float32 and float64).
REDUCED, ROUNDINGS = ("instance_norm_plus",), 32


def sums(name):
    """Which of a function's results have fewer dimensions than its samples."""
    operator, function = FUNCTIONS[name]
    given = next(iter(function.examples((2, 3), torch.float32, "cpu", 0).values()))
    return [value.dim() < 2 and value.numel() > 0 for value in results(function.fake(*given, *noise(operator, 2)))]


def exact(name, given, where):
    """The first result of a function in plain torch: in one batch, or sample by sample where an index tells them."""
    operator, function = FUNCTIONS[name]
    shape, dtype = samples(function, given)
    if not where or where[-1] is None:
        return reference(operator, function, given, handle(operator, shape, dtype))[0]
    rows = [
        reference(operator, function, row(function, given, i), handle(operator, (1, *shape[1:]), dtype, first))[0]
        for i, first in enumerate(where[-1].tolist())
    ]
    return torch.cat(rows, function.batch)


@pytest.mark.parametrize("name, title, shape, dtype, layout, how", cases())
def test_the_bits_of_native_and_the_values_of_the_reference(on_ptx, name, title, shape, dtype, layout, how):
    given, where = inputs(name, title, shape, dtype, layout, how)
    got, native = (raw(name, backend)(*given, *where) for backend in ("triton", "native"))
    got, native = results(got), results(native)
    x = given[0]
    reduced = FUNCTIONS[name][0].name in REDUCED
    launches = sum(len(kernel.results) for kernel in on_ptx.values())
    among = sums(name)
    assert launches == 0 if not x.numel() else launches >= 1 if reduced or any(among) else launches == 1
    for ours, theirs, summed in zip(got, native, among, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if reduced and x.numel():
            bound = ROUNDINGS * torch.finfo(compute_dtype(x)).eps + torch.finfo(ours.dtype).eps
            assert float((ours - theirs).abs().max()) <= bound * float(theirs.abs().max())
        elif summed:  # in another order
            torch.testing.assert_close(ours, theirs, rtol=1e-13 if dtype == torch.float64 else 1e-6, atol=0)
        else:
            assert torch.equal(bits(ours), bits(theirs))
    # normals differ by up to 8 ulp from the reference's, whose fma rounds twice; a product of up to 8 widens that
    slack = 4 * DTYPES[dtype] if dtype != torch.float64 else 1e-6
    torch.testing.assert_close(got[0], exact(name, given, where).to(got[0].dtype), rtol=slack, atol=8 * slack)


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
    (x, score, a), _ = inputs("langevin_step", "", shape, dtype)
    results = {}
    for backend in ("triton", "native", "reference"):
        with fs.use_backend(backend):
            results[backend] = gradients(op, x, score, a, a.flip(0))
    assert len(results["triton"]) == {"perturb": 3, "langevin_step": 3, "dsm_loss": 1}.get(op, 2)
    assert any(kernel.results for kernel in on_ptx.values())
    for ours, theirs, exact in zip(*results.values()):
        assert torch.equal(bits(ours), bits(theirs))
        torch.testing.assert_close(ours, exact, rtol=4 * DTYPES[dtype] + 1e-6, atol=4 * DTYPES[dtype] + 1e-6)


@pytest.mark.parametrize(
    "rows, width, dtype",
    [
        pytest.param(4, 1028, torch.float16, id="addresses that 16 does not divide"),
        pytest.param(16, 64, torch.float32, id="a full program"),
        pytest.param(3, 2051, torch.float32, id="tiles"),
        pytest.param(2, 4096, torch.float32, id="large tiles"),
        pytest.param(5, 6, torch.float32, id="short rows"),
    ],
)
def test_a_samples_loss_has_its_bits_in_every_batch(on_ptx, rows, width, dtype):
    score, sigma = tensor((rows, width), dtype, 1), 0.3 + tensor((rows,), torch.float32, 2).abs()

    def losses(first: int, last: int, backend: str = "triton") -> torch.Tensor:
        noise = (7, 1, int(fs.Stream.PERTURB), first, None, None)
        return raw("dsm_loss", backend)(score[first:last], sigma[first:last], 2.0, *noise)

    together, apart = losses(0, rows), [losses(i, i + 1) for i in range(min(rows, 4))]
    assert torch.equal(bits(torch.cat([*apart, losses(len(apart), rows)])), bits(together))
    torch.testing.assert_close(together, losses(0, rows, "native"), rtol=1e-6, atol=0)
    assert bool(on_ptx["add_tiles"].results) == (width > 1024)  # torch's sum has another order for other batches


def test_random123s_known_answer(on_ptx):
    like = torch.empty(1, 4, dtype=torch.int64)
    words = raw("fill", "triton")(like, list(KINDS).index("words"), 0, 0, 0, 0, None, None)
    assert [f"{w:08x}" for w in words.flatten().tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def test_many_normals_bit_for_bit(on_ptx):
    like, where = torch.empty(48, 4096), (-987654321012345, 17, 3, 5, None, None)
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
    given, where = inputs("langevin_step", "one step_size", (4, 2048), torch.float32)
    raw("langevin_step", "triton")(*given, *where)
    (counters,) = on_ptx["langevin_step"].results
    counts = counters.an_element(given[0].numel())
    assert counts["sector_bytes"] == pytest.approx(12, abs=0.5) and counts["divergent_share"] == 0
    assert 50 < counts["instructions"] < 75 and counts["bank_conflicts"] == 0
    assert counts["global load"] == pytest.approx(2 / 4 + 2 / 8, abs=0.2) and counts["global store"] == 1 / 4


@pytest.mark.parametrize(
    "title, scores", [("", 1), ("three tensors, one number each", 3), ("two tensors, no noise", 2)]
)
def test_an_affine_step_moves_each_tensor_once(on_ptx, title, scores):
    given, where = inputs("affine_step", title, (4, 2048), torch.float32)
    raw("affine_step", "triton")(*given, *where)
    counts = on_ptx["affine_step"].results[0].an_element(given[0].numel())
    assert counts["footprint"] == pytest.approx(4 * (2 + scores), abs=0.1) and counts["divergent_share"] == 0
    assert 50 < counts["instructions"] < 75 if "no noise" not in title else counts["instructions"] < 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_langevin_step_is_a_case_of_affine_step(on_ptx, dtype):
    (x, score, step_size), where = inputs("langevin_step", "", (3, 70), dtype)
    root = torch.from_numpy(np.sqrt(step_size.numpy()))  # rounded to nearest, which torch's is not
    factors = (torch.ones_like(step_size), step_size / 2, None, None, root)
    got = raw("affine_step", "triton")(x, score, None, None, *factors, *where)
    assert torch.equal(bits(got), bits(raw("langevin_step", "triton")(x, score, step_size, *where)))
