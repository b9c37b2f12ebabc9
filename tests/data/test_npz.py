"""Images in a NumPy archive: the names and shapes that are taken, and what is said of others."""

import dataclasses

import numpy as np
import pytest
import torch

from fastscore import DataError
from fastscore.data import npz
from fastscore.experiment.build import make_data
from fastscore.experiment.presets import preset

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
TEST = RANDOM.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 1, 0])


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": IMAGES, "labels": LABELS, "test_images": TEST, "test_labels": np.array([2, 0])},
        {"x_train": IMAGES.transpose(0, 2, 3, 1), "y_train": LABELS[:, None].astype(np.uint8)}
        | {"x_test": TEST.transpose(0, 2, 3, 1), "y_test": np.array([[2], [0]])},
    ],
)
def test_both_halves(arrays, tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    train, test = npz(tmp_path / "mine.npz"), npz(tmp_path / "mine.npz", train=False, flips=True)
    assert torch.equal(train.images, torch.from_numpy(IMAGES)) and train.labels.tolist() == LABELS.tolist()
    assert torch.equal(test.images, torch.from_numpy(TEST)) and test.labels.tolist() == [2, 0] and test.flips
    assert (train.num_classes, test.num_classes, train.name, test.name) == (3, 3, "mine", "mine-test")
    assert train.source == str(tmp_path / "mine.npz")


def test_grey_images_without_labels_and_without_a_test_half(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES[:, 0])  # unnamed
    found = npz(tmp_path / "a.npz")
    assert torch.equal(found.images, torch.from_numpy(IMAGES[:, :1])) and found.labels is None
    config = dataclasses.replace(preset("digits"), data="npz", data_dir=str(tmp_path / "a.npz"))
    assert len(make_data(config)) == 5 and make_data(config, heldout=True) is None
    with pytest.raises(DataError, match="has no test images"):
        npz(tmp_path / "a.npz", train=False)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"other": IMAGES}, r"it must have 'images', and has 'other'"),
        ({"images": IMAGES / 255}, r"'images' must be uint8 .* got float64 \[5, 3, 8, 8\]"),
        ({"images": IMAGES[:0]}, r"'images' must be uint8"),
        ({"images": IMAGES[:, :, :, :3]}, r"one of the axes 1 and 3 .* got \[5, 3, 8, 3\]"),
        ({"images": IMAGES, "labels": LABELS[:4]}, r"'labels' must be one for each of the 5 'images', got 4"),
        ({"images": IMAGES, "labels": LABELS - 1}, r"'labels' must be integers from 0 to 2147483647, got -1 to 1"),
        (
            {"images": IMAGES, "labels": LABELS.astype(np.uint64) + 2**63},  # which int64 would make negative
            r"'labels' must be integers from 0 to 2147483647, got 9223372036854775808 to 9223372036854775810",
        ),
        ({"images": IMAGES, "labels": LABELS / 2}, r"'labels' must be integers \[N\] from 0, got float64"),
        ({"images": IMAGES, "test_images": TEST[:, :, :4]}, r"of shape \(3, 8, 8\) and 'test_images' of \(3, 4, 8\)"),
        (
            {"images": IMAGES, "labels": LABELS, "test_labels": LABELS},
            "it has 'test_labels' without 'test_images', whose they are: put both in, or neither",
        ),
        ({"images": IMAGES, "x_test": TEST}, "it must have one set of names, got 'x_test' beside 'images'"),
        ({"images": IMAGES, "labels": LABELS, "test_images": TEST}, "it must have both 'labels' and 'test_labels'"),
        (
            {"images": IMAGES, "labels": LABELS, "test_images": TEST, "test_labels": np.array([0, 3])},
            "'test_labels' has the class 3, which 'labels' has not",
        ),
        ({"images": np.array([{}, {}])}, "Object arrays cannot be loaded when allow_pickle=False"),
    ],
)
def test_other_archives(arrays, words, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rf"a\.npz is not a .npz file of images: .*{words}"):
        npz(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0, 3, 300, -30])
def test_damaged_files(keep, tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:keep])
    with pytest.raises(DataError, match=r"is not a \.npz file of images"):
        npz(tmp_path / "a.npz")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(OSError, match=r"a\.npz does not read: Is a directory$"):
        npz(tmp_path / "a.npz")


def test_a_missing_file_and_a_single_array(tmp_path):
    with pytest.raises(DataError, match=r"\(fastscore train: --data-dir\) must be a .npz file of images; there is no"):
        npz(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(DataError, match="it holds one array, with no name"):
        npz(tmp_path / "a.npy")
