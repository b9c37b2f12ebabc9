"""What every registered operator must do, from its declaration alone: see :mod:`.declared`."""

from functools import partial

import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore._core.operators import OPERATORS
from fastscore._core.registration import raw

from .cases import DTYPES, LAYOUTS
from .declared import FUNCTIONS, arguments, handle, noise, reference, results, row, run, samples, served

ROWS = [  # shape, dtype, layout: blocks, groups and tails of the native backend, full programs, nothing at all
    ((3, 7), torch.float64, "contiguous"),
    ((2, 3, 8, 8), torch.float32, "channels_last"),
    ((5, 129), torch.bfloat16, "contiguous"),
    ((70, 30), torch.float16, "transposed"),
    ((2, 2051), torch.float32, "expanded"),
    ((0, 3), torch.float32, "contiguous"),
    ((3, 0), torch.float32, "contiguous"),
]
INTERPRETED = [ROWS[0], ((2, 3, 4, 4), torch.bfloat16, "channels_last")]  # Triton's interpreter is slow
compiled = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def examples(name, shape, dtype, layout="contiguous", device="cpu"):
    """The examples of a function, their samples in a layout."""
    function = FUNCTIONS[name][1]
    for title, given in function.examples(shape, dtype, device, 0).items():
        laid = (
            LAYOUTS[layout](value) if kind == "batch" and argument != "out" and value is not None else value
            for value, kind, argument in zip(given, function.maps, arguments(function.schema))
        )
        yield title, tuple(laid)


def instruction_sets(backend, device):
    native = (backend, device) == ("native", "cpu")
    return backends.ISAS[: backends.ISAS.index(backends.isa()) + 1] if native else (None,)


@pytest.mark.parametrize("name, backend, device", served())
def test_the_values_are_the_references(name, backend, device):
    operator, function = FUNCTIONS[name]
    if reason := backends.problem(backend, device, operator.name):
        pytest.skip(reason)
    interpreted = (backend, device) == ("triton", "cpu")
    for shape, dtype, layout in INTERPRETED if interpreted else ROWS:
        if dtype not in operator.dtypes:
            continue
        for title, given in examples(name, shape, dtype, layout, device):
            form = samples(function, given)
            expected = reference(operator, function, given, handle(operator, *form, device=device))
            error = DTYPES.get(form[1], 0)
            if operator.stream is not None and form[1].is_floating_point:
                error = max(4 * error, 1e-6)  # of normals, whose fma rounds twice in the reference
            for isa in instruction_sets(backend, device)[:: 1 if dtype == torch.float32 else 4]:
                before = torch.ops.fastscore.native_isa(-1 if isa is None else backends.ISAS.index(isa))
                try:
                    got = run(function, raw(name, backend), given, noise(operator, shape[0], device=device))
                finally:
                    torch.ops.fastscore.native_isa(before)
                for ours, exact in zip(got, expected, strict=True):
                    assert ours.dtype == exact.dtype, title
                    torch.testing.assert_close(
                        ours, exact, rtol=error, atol=8 * error, msg=partial("{}: {}".format, title)
                    )


@compiled
@every_function
def test_rows_are_computed_as_if_alone(name):
    """The same bits, whether samples are told by their offset or by an index, seed and step by numbers or a tensor."""
    operator, function = FUNCTIONS[name]
    for shape, dtype in (((5, 6), torch.float32), ((3, 2, 5, 5), torch.float64)):
        for title, given in examples(name, shape, dtype):
            for how in ("numbers",) if operator.stream is None else ("numbers", "on device"):
                where = noise(operator, shape[0], how)
                whole = run(function, raw(name, "native"), given, where)
                for i in range(shape[0]):
                    alone = row(function, given, i)
                    if how == "on device":
                        at = (*where[:5], where[5][i : i + 1].contiguous())
                    else:
                        at = (*where[:3], where[3] + i, None, None) if where else ()
                    for many, one in zip(whole, run(function, raw(name, "native"), alone, at), strict=True):
                        if many.numel():  # else the gradient that was not asked for
                            assert torch.equal(many.narrow(function.batch, i, 1), one), (title, how)


@compiled
@every_function
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded"])
def test_opcheck(name, layout):
    """torch's own checks of the schema, the fake and, once, of what torch.compile makes of it."""
    operator, function = FUNCTIONS[name]
    tests = ["test_schema", "test_faketensor"]
    tests += ["test_aot_dispatch_static", "test_aot_dispatch_dynamic"] if layout == "contiguous" else []
    for title, given in examples(name, (2, 3, 4, 5), torch.float32, layout):
        if title in ("", next(iter(function.examples((2, 3), torch.float32, "cpu", 0)))) or layout != "contiguous":
            torch.library.opcheck(raw(name, "native"), (*given, *noise(operator, 2, "on device")), test_utils=tests)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_the_public_function_is_the_declared_one(name, backend, on_backend):
    """The declared call of every example draws what the declaration says, and the declared backend serves it."""
    on_backend(backend, "cpu", name)
    operator = OPERATORS[name]
    for title, given in examples(name, (3, 2, 2), torch.float32):
        form = samples(operator, given)
        rng = () if operator.stream is None else (fs.Philox(SEED, step=3, sample_offset=5),)
        at = () if operator.stream is None else (fs.Noise(SEED, 3, operator.stream, 5, form[0], torch.float32, "cpu"),)
        got = (operator.call or operator.public)(*given, *rng)
        assert backends.last[name] == backend, title
        torch.testing.assert_close(got, results(operator.reference(*given, *at))[0], rtol=1e-5, atol=1e-5)


SEED = 2**64 - 5


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATORS)
def test_a_device_computes_what_the_cpu_does(name):
    operator = OPERATORS[name]
    device = torch.device("cuda")
    for title, given in examples(name, (64, 3, 32, 32), torch.float32):
        rng = () if operator.stream is None else (1,)
        call = operator.call or operator.public
        there = (value.cuda() if isinstance(value, torch.Tensor) else value for value in given)
        got, expected = call(*there, *map(fs.Philox, rng)), call(*given, *map(fs.Philox, rng))
        assert got.device.type == "cuda" and backends.last[name] == backends.default(torch.device("cpu"), name)
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-5, msg=partial("{}: {}".format, title))
        assert backends.slow(name, device) is None
