"""Where a result may be written: nowhere that another argument is read from in part."""

import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore.ops._memory import check_written

PATHS = {  # how langevin_step is served: by each backend, or with noise that is given
    "native": ("native", (4, 6), {}),
    "native, in threads": ("native", (3, 7000), {}),
    "reference": ("reference", (4, 6), {}),
    "triton": ("triton", (4, 6), {}),
    "noise": ("native", (4, 6), {"noise": torch.ones(4, 6)}),
}


@pytest.fixture(params=PATHS)
def path(request, on_backend):
    backend, shape, options = PATHS[request.param]
    on_backend(backend, "cpu", "langevin_step")

    def step(x, score, step_size, out=None):
        rng = fs.Philox(3)
        try:
            return fs.langevin_step(x, score, step_size, None if options else rng, out=out, **options)
        except ValueError:
            assert rng.step == 0
            raise

    return step, torch.Size(shape)


def memory(shape, extra=0, seed=0):
    return torch.randn(shape.numel() + extra, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [1, 5, -2])
@pytest.mark.parametrize("name", ["x", "score"])
def test_partly_overlapping_samples_are_refused(path, name, shift):
    step, shape = path
    buffer, n = memory(shape, 5), shape.numel()
    low, high = max(-shift, 0), max(shift, 0)
    given = {"x": torch.zeros(shape), "score": torch.zeros(shape), name: buffer[low : low + n].view(shape)}
    before = buffer.clone()
    with pytest.raises(ValueError, match=f"out must be {name} itself or share no memory .*overlaps {name} partly"):
        step(given["x"], given["score"], 0.1, out=buffer[high : high + n].view(shape))
    assert torch.equal(buffer, before)


@pytest.mark.parametrize("batch", [3, 7000])
def test_a_negative_view_is_written(batch, on_backend):
    """The imaginary part of a conjugate is minus what lies in its memory."""
    on_backend("native", "cpu", "langevin_step")
    x, out = torch.ones(batch, 4), torch.zeros(batch, 4, dtype=torch.complex64).conj().imag
    expected = fs.langevin_step(x, x, 0.1, fs.Philox(0))
    assert out.is_neg() and fs.langevin_step(x, x, 0.1, fs.Philox(0), out=out) is out
    assert torch.equal(out, expected)


def test_other_overlaps_are_refused(path):
    step, shape = path
    out = memory(shape).view(shape)
    with pytest.raises(ValueError, match="overlaps step_size partly"):
        step(torch.zeros(shape), torch.zeros(shape), out.view(-1)[1 : 1 + shape[0]].abs_(), out=out)
    with pytest.raises(ValueError, match="overlaps step_size partly"):
        step(torch.zeros(shape), torch.zeros(shape), out.abs_()[1, 2], out=out)
    square = torch.zeros(4, 4)
    with pytest.raises(ValueError, match="overlaps x partly"):  # the same memory in another order
        fs.langevin_step(square.T, torch.zeros(4, 4), 0.1, out=square)
    with pytest.raises(ValueError, match="overlaps noise partly"):
        fs.langevin_step(torch.zeros(4, 4), torch.zeros(4, 4), 0.1, noise=square.T, out=square)
    for itself in (torch.zeros(shape[1]).expand(shape), torch.zeros(shape.numel()).as_strided(shape, (1, 1))):
        with pytest.raises(ValueError, match="out must have memory of its own for every element"):
            step(torch.zeros(shape), torch.zeros(shape), 0.1, out=itself)


def test_what_is_exactly_there_or_apart_is_right(path):
    step, shape = path
    x, score, n = memory(shape).view(shape), memory(shape, seed=1).view(shape), shape.numel()
    step_size = torch.linspace(0.1, 0.5, shape[0])
    expected = step(x, score, step_size)
    for name in ("x", "score"):
        given = {"x": x.clone(), "score": score.clone()}
        assert torch.equal(
            step(**given, step_size=step_size, out=given[name].view(shape)), expected
        )  # another tensor object
    pair = torch.stack([x, torch.zeros(shape)], -1)
    assert torch.equal(step(pair[..., 0], score, step_size, out=pair[..., 1]), expected)  # interleaved
    assert torch.equal(pair[..., 0], x)
    buffer = torch.cat([x.flatten(), torch.zeros(n)])
    assert torch.equal(
        step(buffer[:n].view(shape), score, step_size, out=buffer[n:].view(shape)), expected
    )  # neighbours
    rows = torch.linspace(0.1, 0.5, shape[1])  # one number per sample: step_size itself may be written
    own = rows.clone()
    options = {"noise": torch.ones(shape[1])}
    want = fs.langevin_step(x[0], score[0], rows, **options)
    assert torch.equal(fs.langevin_step(x[0], score[0], own, out=own, **options), want)
    if backends.last["langevin_step"] == "native":
        own = rows.clone()
        want = fs.langevin_step(x[0], score[0], rows, fs.Philox(1))
        assert torch.equal(fs.langevin_step(x[0], score[0], own, fs.Philox(1), out=own), want)


def test_memory_that_only_looks_shared():
    """Windows of one buffer with a stride: elements decide, not the ranges that they lie in."""
    buffer = torch.zeros(6, 10)
    check_written("out", buffer[:, :4], x=buffer[:, 5:9])
    with pytest.raises(ValueError, match="overlaps x partly"):
        check_written("out", buffer[:, :4], x=buffer[:, 3:7])
    with pytest.raises(ValueError, match="overlaps x partly"):
        check_written("out", buffer[:, :4], x=buffer[0, 2].expand(3))
    check_written("out", buffer[:0], x=buffer)
    check_written("out", torch.zeros(23).as_strided((5, 3), (2, 7)))  # interlocked, but no two alike
    with pytest.raises(ValueError, match="memory of its own"):
        check_written("out", torch.zeros(30).as_strided((5, 3), (2, 4)))
    with pytest.raises(ValueError, match="overlaps x partly"):
        check_written("out", buffer[0, :4].view(torch.int32), x=buffer[0, :4])
    check_written("out", torch.zeros(2, device="meta"), x=torch.zeros(2, device="meta"))
