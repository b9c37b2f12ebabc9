"""Sub-streams of a seed: a sequence of its own for each iteration of a training run."""

import numpy as np
import pytest
import scipy.stats
import torch

import fastscore as fs
from fastscore._core.sequence import numbers

N = 4096


def test_the_formula():
    """a + 2^32 (b XOR i), the first words of the blocks (0, 0, i, SUBSTREAM) and (1, 0, 0, SUBSTREAM)."""
    for seed, i in ((0, 0), (3, 7), ((5 << 32) | 9, 2**32 - 1), (2**64 - 1, 12345)):
        signed, stream = seed - (1 << 64) if seed >= 1 << 63 else seed, int(fs.Stream.SUBSTREAM)
        a = numbers("words", signed, i, stream, 0, 1, 4, torch.device("cpu"))[0, 0]
        b = numbers("words", signed, 0, stream, 0, 1, 8, torch.device("cpu"))[0, 4]
        assert fs.Philox(seed).substream(i).seed == int(a) + (int(b) ^ i) * 2**32


def test_it_depends_on_seed_and_index_alone():
    rng = fs.Philox(3, step=5, sample_offset=7)
    sub = rng.substream(2)
    assert rng.step == 5 and (sub.step, sub.sample_offset, sub.state) == (0, 7, None)
    rng.randn(4, 2)
    assert rng.substream(2).seed == sub.seed == fs.Philox(3).substream(2).seed
    whole = fs.Philox(3).substream(2).randn(9, 5)
    assert torch.equal(sub.randn(2, 5), whole[7:])
    nested = {fs.Philox(3).substream(i).substream(j).seed for i in range(30) for j in range(30)}
    assert len(nested | {fs.Philox(3).substream(i).seed for i in range(30)}) == 930


def test_no_two_iterations_share_numbers():
    """The high words of all keys of a seed are different, by construction; so are whole keys of other seeds."""
    for seed in (0, 1, 2**63):
        rng = fs.Philox(seed)
        indices = [*range(N), *(2**32 - 1 - k for k in range(N)), *(1 << k for k in range(13, 32))]
        keys = [rng.substream(i).seed for i in indices]
        assert len({key >> 32 for key in keys}) == len(indices)
    keys = {fs.Philox(seed).substream(i).seed for seed in range(64) for i in range(64)} | set(range(64))
    assert len(keys) == 64 * 64 + 64


def test_sub_streams_are_independent_of_each_other_and_of_their_seed():
    """One normal of each of 4,096 sub-streams: their law, their correlation with the next and with the seed's own."""
    rng = fs.Philox(11)
    z = torch.cat([rng.substream(i).randn(1, 2) for i in range(N)]).double().numpy()
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    own = fs.Philox(11).randn(N, 2).double().numpy()
    for a, b in ((z[1:, 0], z[:-1, 0]), (z[:, 0], z[:, 1]), (z[2:, 0] ** 2, z[:-2, 0] ** 2), (z[:, 0], own[:, 0])):
        assert abs(np.corrcoef(a, b)[0, 1]) * len(a) ** 0.5 < 4
    low = np.array([rng.substream(i).seed % 2**32 for i in range(N)])
    assert scipy.stats.kstest(low / 2**32, "uniform").pvalue > 1e-3


def test_arguments(monkeypatch):
    rng = fs.Philox(1)
    for index, error in ((-1, ValueError), (2**32, ValueError), (0.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"index must be an integer from 0 to|index must be from 0 to"):
            rng.substream(index)
    on_device = fs.Philox(1, device="cpu").substream(4)
    assert on_device.state.tolist()[1] == 0 and torch.equal(on_device.randn(3, 2), rng.substream(4).randn(3, 2))
    monkeypatch.setattr("fastscore.rng.is_compiling", lambda: True)
    with pytest.raises(RuntimeError, match=r"a sub-stream must be made outside torch.compile"):
        rng.substream(3)
