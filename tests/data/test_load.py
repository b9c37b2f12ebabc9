"""The registry: names, options, and what is said of wrong ones."""

import doctest
import subprocess
import sys

import pytest
import torch

import fastscore.data
from fastscore._core.errors import DataError
from fastscore.data import DATASETS, Data, load


def test_doctests():
    assert doctest.testmod(fastscore.data).failed == 0


def test_names():
    assert list(DATASETS) == [
        "checkerboard",
        "cifar10",
        "digits",
        "folder",
        "gray_scott",
        "mixture",
        "mnist",
        "npz",
        "photos",
        "swiss_roll",
        "two_moons",
    ]


@pytest.mark.parametrize(
    "name, options, shape, length",
    [
        ("digits", {}, (1, 8, 8), 898),
        ("digits", {"split": "heldout"}, (1, 8, 8), 899),
        ("gray_scott", {"num_images": 7, "steps": 10}, (1, 32, 32), 7),
        ("mixture", {}, (2,), 10_000),
        ("checkerboard", {"size": 5}, (2,), 5),
    ],
)
def test_load(name, options, shape, length):
    data = load(name, **options)
    assert isinstance(data, Data) and tuple(data.shape) == shape and len(data) == length
    assert torch.equal(data.batch(1, 3, seed=0), load(name, **options).batch(1, 3, seed=0))


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"name must be one of 'checkerboard', .*'two_moons', got 'cifar'"):
        load("cifar")


def test_unknown_option_lists_the_options():
    with pytest.raises(
        TypeError,
        match="data set 'digits': got an unexpected keyword argument 'half'; its options are split, dequantize, flips",
    ):
        load("digits", half=1)
    with pytest.raises(TypeError, match="data set 'folder': missing a required argument: 'root'; its"):
        load("folder")


def test_errors_from_inside_are_not_renamed(tmp_path):
    with pytest.raises(DataError, match="has no image"):
        load("folder", root=tmp_path, image_size=8)
    with pytest.raises(ValueError, match="split must be one of"):
        load("digits", split="test")


def test_optional_packages_load_when_first_needed():
    code = (
        "import sys, fastscore.data as d; d.load('mixture').batch(0, 2, seed=0); "
        "d.load('gray_scott', num_images=1, steps=1); "
        "print([m for m in ('torchvision', 'sklearn', 'PIL', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=fastscore.data.__file__.rsplit("/fastscore/", 1)[0],
    )
    assert done.stdout.strip() == "[]"


LABELLED = [
    ("digits", {}, 10),
    ("gray_scott", {"num_images": 9, "steps": 3}, 6),
    ("mixture", {}, 2),
    ("two_moons", {}, 2),
    ("checkerboard", {}, 8),
]


@pytest.mark.parametrize("name, options, classes", LABELLED)
def test_labels_beside_a_batch(name, options, classes):
    """The batch is batch()'s, the labels are int64 of the classes, and parts make up the whole."""
    data = load(name, **options)
    assert data.num_classes == classes and data.source is None
    for iteration in (0, 5):
        x, labels = data.batch_with_labels(iteration, 80, seed=4)
        assert torch.equal(x, data.batch(iteration, 80, seed=4))
        assert labels.dtype == torch.int64 and labels.shape == (80,)
        assert set(labels.tolist()) == set(range(classes))
        parts = [
            data.batch_with_labels(iteration, n, seed=4, sample_offset=at, global_batch_size=80)
            for n, at in ((33, 0), (47, 33))
        ]
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


@pytest.mark.parametrize(
    "data", [load("swiss_roll"), fastscore.data.ImageData(torch.zeros(2, 1, 2, 2).byte())], ids=lambda data: data.name
)
def test_a_set_without_labels_says_so(data):
    assert data.num_classes is None
    with pytest.raises(ValueError, match=rf"the data set '{data.name}' has no labels: use batch\(\)"):
        data.batch_with_labels(0, 2, seed=0)


@pytest.mark.parametrize(
    "name, options, other",
    [
        ("digits", {}, {"split": "heldout"}),
        ("gray_scott", {"num_images": 3, "steps": 3}, {"sample_offset": 3}),
        ("two_moons", {}, {"noise_std": 0.2}),
        ("swiss_roll", {}, {"noise_std": 0.2}),
    ],
)
def test_a_fingerprint_is_of_the_distribution(name, options, other):
    """The same when made again, and whatever batches do to the samples; another for other samples."""
    first = load(name, **options)
    assert len(first.fingerprint()) == 64 and int(first.fingerprint(), 16) >= 0
    assert load(name, **options).fingerprint() == first.fingerprint()
    assert load(name, **{**options, **other}).fingerprint() != first.fingerprint()
    if isinstance(first, fastscore.data.ImageData):
        assert first.with_options(dequantize="uniform", flips=True).fingerprint() == first.fingerprint()
    else:
        assert load(name, size=7).fingerprint() == first.fingerprint()


def test_fingerprints_of_toys_differ():
    toys = ("mixture", "two_moons", "checkerboard", "swiss_roll")
    assert len({load(name).fingerprint() for name in toys}) == len(toys)


@pytest.mark.parametrize(
    "name, text",
    [
        ("digits", "digits-train: 898 images of (1, 8, 8) in 10 classes"),
        ("checkerboard", "checkerboard: points of (2,) in 8 classes, drawn anew in every batch, 10,000 an epoch"),
    ],
)
def test_description(name, text):
    assert load(name).describe() == text
