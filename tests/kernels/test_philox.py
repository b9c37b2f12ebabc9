"""The kernels' numbers against the contract, and how the work is shared out among programs."""

import math

import pytest
import torch

from fastscore._core.sequence import box_muller, numbers

from ..test_rng import KNOWN_ANSWERS, words
from .cases import (
    DEVICE,
    DTYPES,
    SHAPES,
    Z_ULP,
    _launch,
    assert_close,
    fill,
    noise,
    philox,
    small_blocks,
    tl,
    triton,
    ulps,
)

KINDS = ["normal", "uniform", "rademacher", "words"]


@triton.jit
def words_kernel(out, word, quad):
    """The words of (counter | key) = six numbers, as the launches get them: from scalars and from a tensor."""
    seed = tl.load(word + 4) | (tl.load(word + 5) << 32)
    counter = tl.load(quad + tl.arange(0, 2))
    step, stream, sample = tl.load(word + 2), tl.load(word + 3), tl.load(word + 1)
    r = philox.words(counter, tl.zeros_like(counter), seed, step, stream, sample, None, None)
    for i in tl.static_range(4):
        tl.store(out + 4 * tl.arange(0, 2) + i, r[i].to(tl.int64))


@triton.jit
def pair_kernel(out, r, angle, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first, second = philox.box_muller(
        tl.load(r + i, mask=i < n).to(tl.uint32), tl.load(angle + i, mask=i < n).to(tl.uint32)
    )
    tl.store(out + 2 * i, first, mask=i < n)
    tl.store(out + 2 * i + 1, second, mask=i < n)


@triton.jit
def root_kernel(out, x, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, philox.root(tl.load(x + i, mask=i < n, other=1.0)), mask=i < n)


@triton.jit(do_not_specialize=("pid", *_launch.INTEGERS))
def place_kernel(
    out,
    pid: tl.int32,
    rows: tl.int64,
    quads: tl.int32,
    tiles: tl.int32,
    magic: tl.uint32,
    shift: tl.uint32,
    BLOCK: tl.constexpr,
    QUADS: tl.constexpr,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Row, quad, element, existence of every place of one program, as int64 [4, BLOCK, 4]."""
    row, quad, base, offset, exists = philox.elements(
        pid, rows, quads, tiles, magic, shift, BLOCK, QUADS, PAD, MASK, WIDE
    )
    zero = tl.zeros([BLOCK, 4], tl.int64)
    at = out + 4 * tl.arange(0, BLOCK)[:, None] + tl.arange(0, 4)[None, :]
    tl.store(at, zero + row)
    tl.store(at + 4 * BLOCK, zero + quad)
    tl.store(at + 8 * BLOCK, zero + base + offset)
    tl.store(at + 12 * BLOCK, zero + exists.to(tl.int64))


# ---------------------------------------------------------------------------------------------- words and normals
@pytest.mark.parametrize("counter, key, output", KNOWN_ANSWERS)
def test_known_answers(counter, key, output):
    c, k = words(counter), words(key)
    out = torch.zeros(2, 4, dtype=torch.int64, device=DEVICE)
    numbers = torch.tensor([*c, *k], device=DEVICE)
    words_kernel[(1,)](out, numbers, torch.tensor([c[0], c[0]], device=DEVICE))
    assert out.tolist() == [words(output)] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 129), (2, 300), (1, 128)], ids=str)
@pytest.mark.parametrize("on_device", [False, True])
def test_fill(kind, shape, on_device):
    arguments, expected = noise(shape, on_device, kind)
    out = torch.full(shape, 99, dtype=torch.int64 if kind == "words" else torch.float32, device=DEVICE)
    assert fill.launch(out, kind, *arguments) is out
    if kind == "normal":
        assert out.numel() == 0 or float(ulps(out.cpu(), expected).max()) <= Z_ULP
    else:
        assert torch.equal(out.cpu(), expected.to(out.dtype))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x80000000, (5 << 32) | 9])
@pytest.mark.parametrize("step, stream", [(0, 0), (1, 1), (2**31, 10), (2**32 - 1, 2**32 - 1)])
def test_words_for_every_form_of_number(seed, step, stream):
    """0 and 1, which a compiler may treat apart; and numbers from 2^31 and 2^32 up, which take other types."""
    out = torch.empty(3, 9, dtype=torch.int64, device=DEVICE)
    for offset in (0, 1, 2**31 - 1, 2**32 - 3):
        fill.launch(out, "words", seed, step, stream, offset, None, None)
        expected = numbers("words", seed % 2**64, step, stream, offset, 3, 9, torch.device("cpu"))
        assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "uniform", "rademacher"])
def test_fill_dtypes_and_layouts(kind, dtype):
    arguments, expected = noise((2, 3, 4, 5), False, kind)
    plain = torch.empty(2, 3, 4, 5, dtype=dtype, device=DEVICE)
    last = plain.to(memory_format=torch.channels_last)
    for out in (plain, last):
        fill.launch(out, kind, *arguments)
        assert_close(out, expected.double(), 0 * expected.double(), expected.double())
    assert last.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="'words', got 'gamma'"):
        fill.launch(plain, "gamma", *arguments)


def pairs(r: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(r), 2, device=DEVICE)
    given = (v.contiguous().to(DEVICE) for v in (r, angle))
    pair_kernel[(triton.cdiv(len(r), 1 << 16),)](out, *given, len(r), BLOCK=1 << 16, **_launch.OPTIONS)
    return out.cpu()


def test_normals_of_extreme_words():
    edge = torch.tensor([0, 1, 2, 3, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    edge = torch.cat([edge, torch.tensor([int(2**31 * math.sqrt(2)) + i for i in range(-64, 65)])])
    r, angle = torch.cartesian_prod(edge, edge).unbind(1)
    expected = torch.stack(box_muller(r, angle), 1)
    got = pairs(r, angle)
    assert bool(torch.isfinite(got).all()) and float(got.abs().max()) <= 6.67
    # beside u = 1, where ln u nears 0, its relative error is that of the last fma: bounded in absolute terms
    assert float((got - expected).abs().max()) <= (2.0**-20 if Z_ULP else 0)


def test_the_root_is_rounded_to_nearest():
    """Of zeros, and of what -2 ln u can be: on a GPU all numbers from 2^-26 to 2^6, which is how they are known to be
    right, since the root starts from what the device says of 1 / sqrt(x)."""
    first, last = (torch.tensor([2.0**-26, 2.0**6]).view(torch.int32)).tolist()
    zeros = torch.tensor([0.0, -0.0], device=DEVICE)
    for begin in range(first, last, 1 << 25):
        bits = torch.arange(begin, min(begin + (1 << 25), last), 1 if DEVICE.type == "cuda" else 8209, device=DEVICE)
        x = torch.cat([zeros, bits.to(torch.int32).view(torch.float32)])
        out = torch.empty_like(x)
        root_kernel[(triton.cdiv(len(x), 1 << 12),)](out, x, len(x), BLOCK=1 << 12, **_launch.OPTIONS)
        exact = x.double().sqrt().float()  # the second rounding changes nothing: 53 > 2 * 24 + 1 bits
        assert torch.equal(out.view(torch.int32), exact.view(torch.int32))


def test_normals_are_those_of_the_contract():
    """The bits of fastscore._core.sequence where tl.fma rounds once; below 5 ulp from float64 (4.3 seen in 1.6e7)."""
    r, angle = numbers("words", 1, 0, 0, 0, 1, 800_000, torch.device("cpu")).view(-1, 2).unbind(1)
    got = pairs(r, angle)
    assert float(ulps(got, torch.stack(box_muller(r, angle), 1)).max()) <= Z_ULP
    u = ((r >> 1).float().double() * 2.0**-31 + 2.0**-32).float().double()
    turn = (angle & 0x3FFFFFFF) - ((angle & 0x20000000) << 1)
    a = math.pi / 2 * (angle >> 30).double() + 2 * math.pi * 2.0**-32 * turn.double()
    radius = torch.sqrt(-2 * torch.log(u))
    exact = torch.stack((radius * a.cos(), radius * a.sin()), 1)
    assert float(ulps(got, exact).max()) < 5 + Z_ULP


# ------------------------------------------------------------------------------------------------- sharing out
def test_reciprocal_divides_exactly():
    ends = [2**31 - 1, 2**31 - 2, 2**30, 2**30 + 1, 65537, 10**9 + 7]
    for d in [*range(1, 300), *ends]:
        magic, shift = _launch.reciprocal(d)
        assert 0 < magic < 2**32
        multiples = [m for k in (1, 2, 3, (2**31 - 1) // d) for m in (k * d - 1, k * d, k * d + 1)]
        for n in [0, 1, 2, *ends, *(m for m in multiples if 0 <= m < 2**31)]:
            assert (2 * n * magic >> 32) >> shift == n // d


def places(pid: int, rows: int, width: int, whole_rows: bool = False, block: int = 64):
    """[BLOCK, 4] each: row, quad, element, existence of one program's places."""
    _, where, _ = _launch.plan(rows, width, whole_rows=whole_rows)
    assert where["BLOCK"] == block
    out = torch.empty(4, block, 4, dtype=torch.int64, device=DEVICE)
    place_kernel[(1,)](out, pid, **where)
    return out.cpu(), where


@pytest.mark.parametrize(
    "rows, width, whole_rows, way",
    [
        (3, 2**32, False, "tiles"),
        (3, 2**32 - 3, False, "tiles"),
        (2**26, 4096, False, "tiles"),
        (2**31 - 64, 4, False, "line"),
        (2**29, 13, False, "wide"),
        (2**32, 1, False, "wide"),
        (2**32, 2, True, "packed"),
        (2**31, 29, True, "packed"),
    ],
)
def test_more_than_2_to_31_elements(monkeypatch, rows, width, whole_rows, way):
    """The first, a middle and the last program of tensors far beyond 2^31 elements, without the memory for them."""
    small_blocks(monkeypatch, 64)
    (programs,), where, tiles = _launch.plan(rows, width, whole_rows=whole_rows)
    got_way = "tiles" if where["QUADS"] == 64 else "packed" if where["QUADS"] else "wide" if where["WIDE"] else "line"
    assert got_way == way and programs < 2**31
    quads = -(-width // 4)
    for pid in (0, programs // 2 + 1, programs - 1):
        (row, quad, element, exists), _ = places(pid, rows, width, whole_rows)
        local = torch.arange(64)[:, None].expand(64, 4)
        if way == "tiles":
            wanted_row, wanted_quad = torch.full((64, 4), pid // tiles), pid % tiles * 64 + local
        elif way == "packed":
            wanted_row = pid * (64 // where["QUADS"]) + local // where["QUADS"]
            wanted_quad = local % where["QUADS"]
        else:
            wanted_row, wanted_quad = (pid * 64 + local) // quads, (pid * 64 + local) % quads
        inside = 4 * wanted_quad + torch.arange(4)
        there = (wanted_row < rows) & (inside < width)
        assert torch.equal(exists.bool(), there)
        assert torch.equal(row[there], wanted_row[there]) and torch.equal(quad[there], wanted_quad[there])
        assert torch.equal(element[there], (wanted_row * width + inside)[there])
        assert int(row.max()) < rows  # what is loaded for a row stays inside its tensor


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 127, 128, 129, 255, 256, 1000])
@pytest.mark.parametrize("rows", [1, 2, 5, 64])
@pytest.mark.parametrize("whole_rows", [False, True])
def test_every_element_once(monkeypatch, rows, width, whole_rows):
    small_blocks(monkeypatch, 64)
    (programs,), *_ = _launch.plan(rows, width, whole_rows=whole_rows)
    seen = torch.zeros(rows * width, dtype=torch.int64)
    for pid in range(programs) if programs <= 8 else (0, 1, programs - 2, programs - 1):
        (row, _, element, exists), _ = places(pid, rows, width, whole_rows)
        assert int(row.min()) >= 0 and int(row.max()) < rows  # for places that do not exist too: numbers are loaded
        seen.index_add_(0, element[exists.bool()], torch.ones_like(element[exists.bool()]))
    assert int(seen.max()) == 1 and (programs > 8 or int(seen.min()) == 1)


def test_too_long_a_sample_is_refused():
    with pytest.raises(ValueError, match=r"at most 2\^33"):
        _launch.plan(1, 2**33)
