"""The declaration of an operator: what it refuses, and what derives from it for all of them alike."""

import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore._core.operators import NOISE, OPERATORS, Function
from fastscore._core.registration import raw

FUNCTIONS = [(operator, function) for operator in OPERATORS.values() for function in operator.functions()]


def function(schema: str, *maps: str) -> Function:
    return Function(name="f", schema=schema, maps=maps, fake=None, examples=None)


@pytest.mark.parametrize(
    "schema, maps",
    [
        ("(Tensor x, Tensor scale) -> Tensor", ("batch",)),
        ("(Tensor x) -> Tensor", ("batch", "none")),
        ("(Tensor x, Tensor scale) -> Tensor", ("batch", "channels")),
        ("(Tensor scale, int n) -> Tensor", ("channel", "none")),
    ],
)
def test_maps_that_do_not_fit_the_schema(schema, maps):
    with pytest.raises(ValueError, match=r"maps must say for each of the \d arguments of f one of batch, row, channel"):
        function(schema, *maps)


def test_noise_arguments_are_appended_where_the_operator_draws():
    plain = function("(Tensor x, int n) -> (Tensor, Tensor)", "batch", "none")
    assert plain.full_schema("native", draws=False) == "f_native(Tensor x, int n) -> (Tensor, Tensor)"
    assert plain.full_schema("triton", draws=True) == f"f_triton(Tensor x, int n, {NOISE}) -> (Tensor, Tensor)"
    assert not plain.writes and function("(Tensor(a!) x) -> ()", "batch").writes


@pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")
@pytest.mark.parametrize("operator, function", FUNCTIONS, ids=[f.name for _, f in FUNCTIONS])
def test_autocast_changes_nothing(operator, function):
    """What is declared for all of them: the same bits, of the same dtypes."""
    arguments = next(iter(function.examples((3, 5), torch.float32, "cpu", 0).values()))
    if operator.stream is not None:
        arguments += fs.Philox(1).noise((3, 5), stream=operator.stream).arguments()
    call, out = (
        raw(function.name, "native"),
        next((i for i, a in enumerate(function.schema.split(", ")) if "!" in a), 0),
    )

    def run():
        results = call(*arguments)
        return [arguments[out]] if function.writes else list(results) if isinstance(results, tuple) else [results]

    expected = [result.clone() for result in run()]
    with torch.autocast("cpu", torch.bfloat16):
        got = run()
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(got, expected, strict=True))
