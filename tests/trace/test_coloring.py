"""The search for a lattice, beside a naive one that looks at every pair."""

import math
import time

import pytest
import torch

import fastscore as fs
from fastscore.trace import coloring, lattice


def cost(shape, color):
    """The prior summed over ordered pairs of one colour."""
    channels, height, width = coloring.box(shape)
    c, y, x = (i.flatten() for i in torch.meshgrid(*map(torch.arange, (channels, height, width)), indexing="ij"))
    squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 + (c[:, None] != c).long()
    prior = torch.exp(-1.5 * squared.double().sqrt()).fill_diagonal_(0)
    return float((prior * (color.flatten()[:, None] == color.flatten())).sum())


@pytest.mark.parametrize("shape", [(9,), (4, 5), (1, 6, 6), (3, 4, 4), (2, 2, 3, 3)])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 6, 8])
def test_no_lattice_is_better(shape, m):
    channels, height, width = coloring.box(shape)
    best = min(
        cost(shape, fs.Coloring(m, width, height, a, b, e).of(shape))
        for a in range(m)
        for b in range(m if height > 1 else 1)
        for e in range(m if channels > 1 else 1)
    )
    found = lattice(shape, m)
    assert (found.colors, found.width, found.height) == (m, width, height)
    assert cost(shape, found.of(shape)) <= best * (1 + 1e-8)


def test_far_and_farther_have_different_values():
    """60 colours of a strip of 2 x 60: the prior is down to e^-40 there, and still decides."""
    best = min(cost((2, 60), fs.Coloring(60, 60, 2, a, b).of((2, 60))) for a in (1, 2, 3) for b in range(60))
    assert 0 < best < 1e-15 and cost((2, 60), lattice((2, 60), 60).of((2, 60))) <= best * (1 + 1e-8)


def test_known_lattices():
    assert torch.equal(lattice((8, 8), 2).of((8, 8)), torch.arange(8)[:, None].add(torch.arange(8)) % 2)  # red-black
    assert torch.equal(lattice((50,), 7).of((50,)), torch.arange(50) % 7)
    assert lattice((3, 32, 32), 16)[3:] == (1, 3, 5)  # ties do not move from machine to machine


def test_channels_at_one_pixel_differ():
    """The strongest coupling that the prior knows: no two channels of a pixel, nor near pixels, share a colour."""
    for m in (8, 16, 32, 64):
        color = lattice((3, 32, 32), m).of((3, 32, 32))
        assert all((color[i] != color[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))
        assert (color[:, 1:] != color[:, :-1]).all() and (color[:, :, 1:] != color[:, :, :-1]).all()
        assert sorted(color.unique().tolist()) == list(range(m))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (64, 16, 16), (3, 4, 16, 16), (3072,), (1, 1, 500)])
def test_it_is_quick_and_kept(shape):
    for m in (16, 64):
        coloring._search.cache_clear()
        start = time.process_time()
        lattice(shape, m)
        assert time.process_time() - start < 0.05
        lattice(shape, m)
        assert coloring._search.cache_info().hits == 1


def test_many_colours():
    color = lattice((3, 16, 16), 200).of((3, 16, 16))
    assert color.max() == 199
    counts = torch.bincount(color.flatten())
    assert counts.max() <= 2 * math.ceil(768 / 200)
