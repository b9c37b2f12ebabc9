"""The registry: names, options, and what is said of wrong ones."""

import doctest
import subprocess
import sys

import pytest
import torch

import fastscore.data
from fastscore.data import DATASETS, Data, load
from fastscore.errors import DataError


def test_doctests():
    assert doctest.testmod(fastscore.data).failed == 0


def test_names():
    assert list(DATASETS) == ["checkerboard", "cifar10", "digits", "folder", "gray_scott", "mixture", "mnist",
                              "swiss_roll", "two_moons"]


@pytest.mark.parametrize("name, options, shape, length", [
    ("digits", {}, (1, 8, 8), 898),
    ("digits", {"split": "heldout"}, (1, 8, 8), 899),
    ("gray_scott", {"num_images": 7, "steps": 10}, (1, 32, 32), 7),
    ("mixture", {}, (2,), 10_000),
    ("checkerboard", {"size": 5}, (2,), 5),
])
def test_load(name, options, shape, length):
    data = load(name, **options)
    assert isinstance(data, Data) and tuple(data.shape) == shape and len(data) == length
    assert torch.equal(data.batch(1, 3, seed=0), load(name, **options).batch(1, 3, seed=0))


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"name must be one of 'checkerboard', .*'two_moons', got 'cifar'"):
        load("cifar")


def test_unknown_option_lists_the_options():
    with pytest.raises(TypeError, match="data set 'digits': got an unexpected keyword argument 'half'; its "
                                        "options are split, dequantize, flips"):
        load("digits", half=1)
    with pytest.raises(TypeError, match="data set 'folder': missing a required argument: 'root'; its"):
        load("folder")


def test_errors_from_inside_are_not_renamed(tmp_path):
    with pytest.raises(DataError, match="has no image"):
        load("folder", root=tmp_path, image_size=8)
    with pytest.raises(ValueError, match="split must be one of"):
        load("digits", split="test")


def test_optional_packages_load_when_first_needed():
    code = ("import sys, fastscore.data as d; d.load('mixture').batch(0, 2, seed=0); "
            "d.load('gray_scott', num_images=1, steps=1); "
            "print([m for m in ('torchvision', 'sklearn', 'PIL', 'scipy') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=fastscore.data.__file__.rsplit("/fastscore/", 1)[0])
    assert done.stdout.strip() == "[]"
