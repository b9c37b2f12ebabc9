"""The random-number contract: words, batch splits, laws."""

import math

import pytest
import scipy.stats
import torch

import fastscore as fs
from fastscore._core.sequence import box_muller, numbers, philox4x32

from .conftest import z_mean

KNOWN_ANSWERS = [  # Random123's kat_vectors, philox4x32-10: counter | key -> output
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
N = 10_000_000


def words(text: str) -> list[int]:
    return [int(w, 16) for w in text.split()]


@pytest.fixture(scope="module")
def normals() -> torch.Tensor:
    """1e7 normals: 10 samples of a million."""
    return fs.Philox(seed=7).randn(10, N // 10).double()


@pytest.mark.parametrize("counter, key, output", KNOWN_ANSWERS)
def test_known_answers(counter, key, output):
    got = philox4x32([torch.tensor([w]) for w in words(counter)], tuple(words(key)))
    assert [int(w) for w in got] == words(output)


def test_counter_layout():
    """(block, sample, step, stream) and (seed low, seed high), as the contract has them."""
    seed = (5 << 32) | 9
    got = numbers("words", seed, 3, 2, 40, 2, 8, torch.device("cpu"))
    for row in range(2):
        for block in range(2):
            counter = [torch.tensor([c]) for c in (block, 40 + row, 3, 2)]
            expected = [int(w) for w in philox4x32(counter, (9, 5))]
            assert got[row, 4 * block : 4 * block + 4].tolist() == expected


def test_normals_follow_from_the_words():
    """Within 5 ulp of a float64 evaluation of the same words (4.5 is the most seen in 2e6 pairs)."""
    r, s = numbers("words", 1, 0, 0, 0, 1, 400_000, torch.device("cpu")).view(-1, 2).unbind(1)
    u = ((r >> 1).float().double() * 2.0**-31 + 2.0**-32).float().double()
    low = (s << 2) & 0xFFFFFFFF
    low = torch.where(low >= 2**31, low - 2**32, low)
    angle = math.pi / 2 * (s >> 30).double() + 2 * math.pi * 2.0**-34 * low.double()
    radius = torch.sqrt(-2 * torch.log(u))
    for got, exact in zip(box_muller(r, s), (radius * angle.cos(), radius * angle.sin())):
        ulp = torch.pow(2.0, torch.frexp(exact)[1].double() - 24)
        assert float(((got.double() - exact).abs() / ulp).max()) < 5


def test_extreme_words_give_finite_normals():
    edge = torch.tensor([0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1])
    r, s = torch.cartesian_prod(edge, edge).unbind(1)
    for z in box_muller(r, s):
        assert bool(torch.isfinite(z).all()) and float(z.abs().max()) <= 6.67
    largest, _ = box_muller(torch.tensor([0]), torch.tensor([0]))
    assert math.isclose(float(largest), math.sqrt(64 * math.log(2)), rel_tol=1e-6)


@pytest.mark.parametrize("kind", ["randn", "rand", "rademacher"])
@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 5), (8, 3, 2, 7), (8, 129)])
def test_batch_split_invariance(kind, shape):
    whole = getattr(fs.Philox(3), kind)(shape)
    for split in (1, 3, 8):
        parts = [
            getattr(fs.Philox(3, sample_offset=i), kind)((min(split, 8 - i), *shape[1:])) for i in range(0, 8, split)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_a_sample_alone_and_a_chunked_draw(monkeypatch):
    whole = fs.Philox(0).randn(10_000, 7)
    assert torch.equal(fs.Philox(0, sample_offset=9_876).randn(1, 7)[0], whole[9_876])
    monkeypatch.setattr("fastscore._core.sequence._BLOCKS_AT_ONCE", 13)
    assert torch.equal(fs.Philox(0).randn(100, 7), whole[:100])


def test_order_is_the_logical_one():
    assert torch.equal(fs.Philox(0).randn(2, 3, 4, 5), fs.Philox(0).randn(2, 60).view(2, 3, 4, 5))


def test_dtypes_hold_the_same_noise():
    exact = fs.Philox(1).randn(4, 9, dtype=torch.float64)
    assert torch.equal(fs.Philox(1).randn(4, 9, dtype=torch.float32).double(), exact)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(fs.Philox(1).randn(4, 9, dtype=dtype), exact.to(dtype))


def test_every_draw_takes_one_step():
    rng = fs.Philox(5)
    first, second = rng.randn(3, 4), rng.randn(3, 4)
    assert rng.step == 2 and not torch.equal(first, second)
    rng.step = 1
    assert torch.equal(rng.randn(3, 4), second)


def test_noise_handle_regenerates():
    rng = fs.Philox(5, step=3, sample_offset=2)
    noise = rng.noise((4, 6), stream=fs.Stream.PERTURB)
    assert torch.equal(noise.tensor(), noise.tensor())
    again = fs.Philox(5, step=3).randn(4, 6, stream=fs.Stream.PERTURB, sample_offset=2)
    assert torch.equal(noise.tensor(), again)


def test_torch_manual_seed_governs_where_no_rng_is_given():
    x = torch.zeros(4, 4)
    torch.manual_seed(1)
    a, b = fs.perturb(x, 1.0)[0], fs.perturb(x, 1.0)[0]
    torch.manual_seed(1)
    assert torch.equal(fs.perturb(x, 1.0)[0], a) and not torch.equal(a, b)


def test_moments(normals):
    z = normals.flatten()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs(z_mean(z**power, mean, variance)) < 4, power


def test_normals_pass_kolmogorov_smirnov_and_chi2(normals):
    assert scipy.stats.kstest(normals[0, :500_000].numpy(), "norm").pvalue > 1e-4
    cells = (torch.special.ndtr(normals.flatten()) * 1000).long().clamp(max=999)
    assert scipy.stats.chisquare(cells.bincount(minlength=1000).numpy()).pvalue > 1e-4


def test_tails_reach_where_they_should(normals):
    """|z| > 5.7 has probability 1.2e-8: none is likely in 1e7 draws, so look where the words are extreme."""
    assert 5.0 < float(normals.abs().max()) <= 6.67
    beyond = int((normals.abs() > 4).sum())
    expected = N * 2 * float(scipy.stats.norm.sf(4))
    assert abs(beyond - expected) < 4 * expected**0.5
    r = torch.arange(64)  # radius words of about 2^-27 and less, of any angle
    z, _ = box_muller(r, torch.zeros_like(r))
    assert bool((z > 5.7).all())


def test_pairs_of_one_block_are_uncorrelated(normals):
    blocks = normals.reshape(-1, 4)
    n = len(blocks)
    for i in range(4):
        for j in range(i + 1, 4):
            assert abs(z_mean(blocks[:, i] * blocks[:, j], 0, 1)) < 4, (i, j)
            squares = (blocks[:, i].square() - 1) * (blocks[:, j].square() - 1)
            assert abs(float(squares.mean()) / (4 / n) ** 0.5) < 4, (i, j)


@pytest.mark.parametrize("other", ["stream", "sample", "step", "seed low", "seed high", "lag"])
def test_sequences_are_uncorrelated(normals, other):
    """1e7 products of normals that differ in one coordinate of the counter or key have mean 0, variance 1."""
    z = normals
    shape = (10, N // 10)
    if other == "stream":
        w = fs.Philox(7).randn(shape, stream=fs.Stream.LANGEVIN)
    elif other == "sample":
        w = z.roll(1, 0)
    elif other == "step":
        w = fs.Philox(7, step=1).randn(shape)
    elif other == "seed low":
        w = fs.Philox(8).randn(shape)
    elif other == "seed high":
        w = fs.Philox(7 + 2**32).randn(shape)
    else:
        w = z.roll(4, 1)
    assert abs(z_mean(z * w, 0, 1)) < 4


def test_uniforms():
    u = fs.Philox(11).rand(10, N // 10).double().flatten()
    assert float(u.min()) >= 0 and float(u.max()) < 1
    assert bool((u * 2**24 == (u * 2**24).round()).all())
    assert abs(z_mean(u, 0.5, 1 / 12)) < 4
    assert scipy.stats.chisquare((u * 1000).long().bincount(minlength=1000).numpy()).pvalue > 1e-4


def test_signs():
    v = fs.Philox(12).rademacher(10, N // 10)
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    assert abs(z_mean(v, 0, 1)) < 4
    for lag in (1, 32, 128):
        assert abs(z_mean(v[:, lag:] * v[:, :-lag], 0, 1)) < 4, lag
    word = numbers("words", 12, 0, 0, 0, 1, 4, torch.device("cpu"))[0]
    bits = [1 - 2 * (int(word[e // 32]) >> e % 32 & 1) for e in range(128)]
    assert v[0, :128].tolist() == bits


def test_labels_are_uniform():
    counts = fs.Philox(13).randint(10, 1_000_000).bincount(minlength=10)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert len(counts) == 10


def test_permutation():
    p = fs.Philox(1).permutation(1000)
    assert torch.equal(p.sort().values, torch.arange(1000))
    assert torch.equal(p, fs.Philox(1).permutation(1000))
    first = torch.stack([fs.Philox(s).permutation(5) for s in range(2000)])[:, 0].bincount(minlength=5)
    assert scipy.stats.chisquare(first.numpy()).pvalue > 1e-4


def test_empty_draws():
    assert fs.Philox(0).randn(0, 5).shape == (0, 5) and fs.Philox(0).rand(5, 0).shape == (5, 0)


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    for kind in ("rand", "rademacher"):
        assert torch.equal(
            getattr(fs.Philox(3), kind)(8, 1001, device="cuda").cpu(),
            getattr(fs.Philox(3), kind)(8, 1001, device="cpu"),
        )
    torch.testing.assert_close(
        fs.Philox(3).randn(8, 1001, device="cuda").cpu(), fs.Philox(3).randn(8, 1001, device="cpu"), rtol=1e-6, atol=0
    )


def test_a_source_at_a_state():
    """Draws as the numbers do, moves the state on, and takes what is written there; seed and step are read when asked."""
    state = torch.tensor([-7, 3])
    rng, numbers = fs.Philox.at(state, sample_offset=2), fs.Philox(2**64 - 7, step=3, sample_offset=2)
    assert torch.equal(rng.randn(4, 3), numbers.randn(4, 3)) and state.tolist() == [-7, 4]
    x = torch.zeros(4, 3)
    assert torch.equal(fs.perturb(x, 0.5, rng)[0], fs.perturb(x, 0.5, numbers)[0])
    assert (rng.seed, rng.step, repr(rng)) == (numbers.seed, numbers.step, repr(numbers))
    assert rng.substream(6).seed == numbers.substream(6).seed
    state[:] = torch.tensor([5, 8])
    assert torch.equal(rng.rademacher(4, 3), fs.Philox(5, step=8, sample_offset=2).rademacher(4, 3))
    rng.state = None
    assert (rng.seed, rng.step) == (5, 9)
    for bad in (torch.zeros(2), torch.zeros(3, dtype=torch.int64), 7, torch.zeros(4, dtype=torch.int64)[::2]):
        with pytest.raises(TypeError, match=r"state must be a contiguous int64 tensor of shape \(2,\)"):
            fs.Philox.at(bad)
