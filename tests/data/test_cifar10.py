"""CIFAR-10 in both its forms, with crops of photographs for images, and what is said of files that are not its own."""

import pickle
import re
import shutil
import sys

import numpy as np
import pytest
import torch

from fastscore import DataError
from fastscore.data import cifar10, load
from fastscore.data._unpickle import unpickle

from ..conftest import optional
from . import cifar_files

optional("sklearn")
TRAIN, TEST = cifar_files.photos("train", 23), cifar_files.photos("heldout", 6)
PACK = {"python": cifar_files.pack_python, "binary": cifar_files.pack_binary}
FILE = {"python": "data_batch_3", "binary": "data_batch_3.bin"}


@pytest.fixture(params=PACK)
def version(request):
    return request.param


def pack(version, root, monkeypatch=None):
    folder = PACK[version](root, TRAIN, TEST)
    if monkeypatch is not None:
        cifar_files.publish(folder, monkeypatch)
    return folder


def fault(root, **options) -> str:
    """The text of the error, which is the same for both halves."""
    texts = set()
    for train in (True, False):
        with pytest.raises(DataError) as caught:
            cifar10(root, train=train, **options)
        texts.add(str(caught.value))
    assert len(texts) == 1
    return texts.pop()


def test_images_labels_and_order(version, tmp_path, monkeypatch):
    folder = pack(version, tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)  # nothing of it is needed
    for root in (tmp_path, folder):
        found = cifar10(root)
        cifar_files.assert_holds(found, *TRAIN)
        assert (found.name, found.shape, found.source) == ("cifar10", (3, 32, 32), str(root))
        assert found.images.is_contiguous() and found.images.dtype == torch.uint8
        test = load("cifar10", root=root, train=False, dequantize="uniform", flips=True)
        cifar_files.assert_holds(test, *TEST)
        assert (test.name, test.dequantize, test.flips, test.num_values) == ("cifar10-test", "uniform", True, 256)


def test_both_versions_are_the_same_data(tmp_path, monkeypatch):
    prints = []
    for version in PACK:
        pack(version, tmp_path / version, monkeypatch)
        prints.append(cifar10(tmp_path / version).fingerprint())
    assert prints[0] == prints[1]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_pickles_of_every_protocol(protocol, tmp_path):
    cifar_files.pack_python(tmp_path, TRAIN, TEST, protocol=protocol)
    cifar_files.assert_holds(cifar10(tmp_path, checksum=False), *TRAIN)


def test_a_pickle_of_python_2_and_numpy_1():
    """Written by hand: its strings are of bytes, its modules those of then."""
    old = (
        b"\x80\x02}q\x01(U\x0bbatch_labelU\x02b1U\x06labels](K\x07K\x02eU\x04datacnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x7f\x80\xff\x01\xfetbu."
    )
    found = unpickle(old)
    assert found["labels"] == [7, 2] and found["batch_label"] == "b1"
    np.testing.assert_array_equal(found["data"], np.array([[0, 127, 128], [255, 1, 254]], np.uint8))
    np.testing.assert_array_equal(pickle.loads(old, encoding="latin1")["data"], found["data"])


def test_another_file_than_the_published_is_refused_unless_said(version, tmp_path):
    pack(version, tmp_path)
    text = fault(tmp_path)
    algorithm, digits = {"python": ("MD5", 32), "binary": ("SHA1", 40)}[version]
    assert f"{FILE[version]} (its {algorithm} checksum is " in text and "--no-checksum" in text
    assert len(re.findall(rf"{algorithm} checksum is [0-9a-f]{{{digits}}}, not [0-9a-f]{{{digits}}}", text)) == 3
    assert f"{FILE[version].replace('3', '4')}, {FILE[version].replace('3', '5')}, test_batch" in text  # by name alone
    cifar_files.assert_holds(cifar10(tmp_path, checksum=False), *TRAIN)


def test_a_folder_that_is_not_cifar10_says_what_to_put_where(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"")
    text = fault(tmp_path)
    for words in (
        f"In {tmp_path / 'cifar-10-batches-py'} these files are missing: data_batch_1, ",
        "unpacked from https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz, or the binary version, "
        "cifar-10-batches-bin, from https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "pass download=True",
        "the data sets folder and npz (fastscore train: --data)",
    ):
        assert words in text
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    assert "cifar-10-binary.tar.gz is there: unpack it, with tar xzf cifar-10-binary.tar.gz" in fault(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cat.png", "cifar-10-binary.tar.gz"]


def test_one_missing_and_one_truncated_file_are_named_alone(version, tmp_path, monkeypatch):
    folder = pack(version, tmp_path, monkeypatch)
    content = (folder / FILE[version]).read_bytes()
    (folder / FILE[version]).write_bytes(content[:-1])
    text = fault(tmp_path)
    assert f"damaged: {FILE[version]} (its" in text and f"at {len(content) - 1:,} bytes). Put them there" in text
    reason = {"python": "it is damaged, cut short, or no pickle", "binary": "whole number of records of 3,073 bytes"}
    text = fault(tmp_path, checksum=False)
    assert f"damaged: {FILE[version]} (" in text and reason[version] in text and "test_batch" not in text
    (folder / FILE[version]).unlink()
    assert f"these files are missing: {FILE[version]}. Put them there" in fault(tmp_path)


@pytest.mark.parametrize("wrong, words", [(10, "10 (once)"), (255, "255 (once)")])
def test_labels_out_of_range(version, wrong, words, tmp_path):
    images, labels = TRAIN[0], TRAIN[1].clone()
    labels[12] = wrong  # of the third batch
    PACK[version](tmp_path, (images, labels), TEST)
    assert f"{FILE[version]} (labels must be from 0 to 9, got {words})" in fault(tmp_path, checksum=False)


@pytest.mark.parametrize(
    "value, words",
    [
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [4, -1]}, "labels must be from 0 to 9, got -1 (once)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [4]}, "it has 1 labels, and there are 2 images"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [4, 2**70]}, "'labels' must be a list of integers"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [4, 1]}, "got an array of shape (2, 3071)"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [4, 1]}, "its arrays must be uint8, got 'f4'"),
        ({"data": np.array([{}]), "labels": [4]}, "its arrays must be uint8, got 'O8'"),
        ({"data": [1, 2], "labels": [4]}, "uint8 of shape [N, 3072], got list"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [True]}, "'labels' must be a list of integers"),
        ([1, 2], "it must hold a dict with 'data' and 'labels'"),
        ({"data": 1}, "it must hold a dict with 'data' and 'labels'"),
    ],
)
def test_pickles_of_something_else(value, words, tmp_path):
    (pack("python", tmp_path) / "data_batch_3").write_bytes(pickle.dumps(value, protocol=2))
    assert words in fault(tmp_path, checksum=False)


class Trap:
    """Pickled, it makes a file where it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("where", ["whole", "label", "beside"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_named_and_not_run(where, protocol, checksum, tmp_path, monkeypatch):
    trap, marker = Trap(tmp_path / "sprung"), tmp_path / "sprung"
    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [trap if where == "label" else 3]}
    value = {"whole": trap, "label": batch, "beside": {"other": [trap], **batch}}[where]
    folder = pack("python", tmp_path)
    (folder / "data_batch_3").write_bytes(content := pickle.dumps(value, protocol=protocol))
    if checksum:  # the very file is expected, and read all the same by the unpickler that runs nothing
        cifar_files.publish(folder, monkeypatch)
    text = fault(tmp_path, checksum=checksum)
    assert (
        "data_batch_3 (it asks to use " in text and "open while it is read" in text and "nothing of it was run" in text
    )
    assert not marker.exists()
    pickle.loads(content)  # the file is a real trap
    assert marker.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # EXT1
        b"Ppersistent\n.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cnumpy\nndarray.__init__.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__.x\x93.",
    ],
)
def test_other_ways_to_ask_for_code(stream):
    with pytest.raises(ValueError, match=r"asks to use|is damaged, cut short"):
        unpickle(stream)


def test_a_file_cannot_change_how_the_next_is_read():
    """BUILD sets attributes of whatever it is given: a stand-in serves one file only."""
    changed = unpickle(b"cnumpy.core.multiarray\n_reconstruct\n(N}S'note'\nI1\nstb.")
    assert changed.note == 1 and not hasattr(unpickle(b"cnumpy.core.multiarray\n_reconstruct\n."), "note")


def test_a_read_only_folder_is_read(version, tmp_path, monkeypatch):
    folder = pack(version, tmp_path, monkeypatch)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o500 if path == folder else 0o400)
    cifar_files.assert_holds(cifar10(tmp_path), *TRAIN)
    folder.chmod(0o700)


def test_a_download_is_read_in_place_of_a_damaged_version(tmp_path, monkeypatch):
    """torchvision's, which brings the python version; replaced here, there being no network."""
    torchvision = optional("torchvision")
    calls, made = [], pack("python", tmp_path / "made", monkeypatch)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"damaged")

    def fetch(self):
        calls.append(self.root)
        shutil.copytree(made, tmp_path / made.name, dirs_exist_ok=True)
        raise OSError("late")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fetch)
    assert "damaged: test_batch.bin" in fault(tmp_path) and calls == []
    cifar_files.assert_holds(cifar10(tmp_path, download=True), *TRAIN)
    assert calls == [str(tmp_path)]
