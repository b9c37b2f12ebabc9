"""Crops of photographs: which they are, and that no pixel is in both halves."""

import sys

import pytest
import torch

from fastscore import MissingDependency
from fastscore.data import load, photos

from ..conftest import optional

datasets = optional("sklearn.datasets")
optional("PIL")


@pytest.fixture(scope="module")
def halves():
    return {split: photos(split) for split in ("train", "heldout")}


def test_counts_classes_and_that_none_comes_twice(halves):
    for split, each in (("train", 2500), ("heldout", 500)):
        found = halves[split]
        assert found.shape == (3, 32, 32) and found.num_classes == 10 and found.source is None
        assert torch.equal(found.labels, torch.arange(10).repeat_interleave(each))
    windows = halves["train"].images[:2500].flatten(1)  # sky, which repeats itself, is in other classes too
    assert len(windows.unique(dim=0)) == 2500


def test_a_class_is_a_strip_and_the_halves_are_bands(halves):
    """Every crop is found in the photograph, inside the strip of its class and a band of its half."""
    bands = {"train": ((0, 149), (213, 363)), "heldout": ((149, 213), (363, 427))}
    for split, found in halves.items():
        rows = {row for top, end in bands[split] for row in range(top, end - 31)}
        for index in range(7, len(found), len(found) // 40):
            label, crop = int(found.labels[index]), found.images[index]
            name = "china.jpg" if label < 5 else "flower.jpg"
            picture = torch.from_numpy(datasets.load_sample_image(name).copy())
            strip = picture[:, label % 5 * 128 :][:, :128].permute(2, 0, 1)
            corners = strip[:, :-31, :-31] == crop[:, :1, :1]
            places = [
                (int(y), int(x))
                for y, x in corners.all(0).nonzero()
                if torch.equal(strip[:, y : y + 32, x : x + 32], crop)
            ]
            assert any(y in rows for y, _ in places), (split, index)


def test_the_same_at_every_call(halves):
    again = load("photos", split="heldout", dequantize="uniform", flips=True)
    assert again.fingerprint() == halves["heldout"].fingerprint() != halves["train"].fingerprint()
    with pytest.raises(ValueError, match="split must be one of"):
        photos("test")


def test_missing_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match="'sklearn'"):
        photos()
