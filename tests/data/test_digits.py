"""scikit-learn's digits: values, split halves, and 17-valued dequantisation."""

import pytest
import torch
from sklearn.datasets import load_digits

from fastscore._core import errors
from fastscore.data import digits

from ..conftest import z_mean

BUNCH = load_digits()


def test_values_are_those_of_scikit_learn():
    data = digits("all")
    assert data.images.shape == (1797, 1, 8, 8) and data.images.dtype == torch.uint8
    assert data.images.nbytes == 1797 * 64
    want = torch.tensor([round(v * 255 / 16) for v in range(17)])[torch.from_numpy(BUNCH.images).long()]
    assert torch.equal(data.images[:, 0].long(), want)
    assert torch.equal(data.labels, torch.from_numpy(BUNCH.target).long())
    assert sorted(data.images.unique().tolist()) == [round(v * 255 / 16) for v in range(17)]


def test_halves_part_the_set():
    """Together the two are every image once; each is the same whenever it is asked for; classes are even."""
    train, heldout, everything = digits("train"), digits("heldout"), digits("all")
    assert (len(train), len(heldout)) == (898, 899)
    assert torch.equal(train.images, digits("train").images)

    def rows(*parts):
        tables = [torch.cat([part.labels[:, None], part.images.flatten(1)], 1) for part in parts]
        return sorted(tuple(row) for row in torch.cat(tables).tolist())

    assert rows(train, heldout) == rows(everything)
    assert not torch.equal(train.images, everything.images[:898])
    counts, total = train.labels.bincount(minlength=10), everything.labels.bincount(minlength=10)
    variance = total * (1 - total / 1797) / 4  # hypergeometric, half of all drawn
    assert float(((counts - total * 898 / 1797) / variance.sqrt()).abs().max()) < 4


def test_split_is_pinned():
    """If the generator or the seed changed, no Frechet distance to the held-out half could be compared any
    more."""
    first = [1083, 594, 1182, 173, 383, 1414, 22, 1086]
    assert digits("train").labels[:8].tolist() == BUNCH.target[first].tolist()
    assert torch.equal(digits("train").images[:8], digits("all").images[first])


def test_dequantised_in_17_bins():
    """17 x is uniform on [v, v + 1) for every v: the bins touch, and floor gives back v."""
    data = digits("all", dequantize="uniform")
    assert data.num_values == 17
    index = data.indices(0, 1797, seed=0)
    v = torch.from_numpy(BUNCH.images)[index][:, None].long()
    x = 17 * data.batch(0, 1797, seed=0).double()
    inside = x - v
    assert float(inside.min()) > -1e-5 and float(inside.max()) < 1 + 1e-5
    for value in range(17):
        here = inside[v == value]
        assert abs(z_mean(here, 0.5, 1 / 12)) < 4
        assert abs(z_mean((here - 0.5).square(), 1 / 12, 1 / 180)) < 4


def test_unknown_split():
    with pytest.raises(ValueError, match="split must be one of 'train', 'heldout', 'all', got 'test'"):
        digits("test")


def test_missing_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(errors.MissingDependency, match=r"pip install --no-build-isolation '.\[train\]'"):
        digits()
