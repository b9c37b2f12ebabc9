"""MNIST in its real on-disk format, tiny, and what is said where it is not there."""

import struct

import pytest
import torch

from fastscore._core import errors
from fastscore.data import cifar10, load, mnist

from ..conftest import optional

torchvision = optional("torchvision")

GENERATOR = torch.Generator().manual_seed(0)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=GENERATOR).to(torch.uint8)


@pytest.fixture
def mnist_root(tmp_path):
    """The four idx files: magic number (type 8 = uint8, dimensions), sizes big-endian, bytes."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    made = {}
    for part, count in (("train", 7), ("t10k", 3)):
        images, labels = pixels(count, 28, 28), pixels(count) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x0803, count, 28, 28) + images.numpy().tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x0801, count) + labels.numpy().tobytes())
        made[part] = images, labels.long()
    return tmp_path, made


@pytest.mark.parametrize("train, part, name", [(True, "train", "mnist"), (False, "t10k", "mnist-test")])
def test_mnist(mnist_root, train, part, name):
    root, made = mnist_root
    data = mnist(root, train=train)
    images, labels = made[part]
    assert torch.equal(data.images, images[:, None]) and torch.equal(data.labels, labels)
    assert data.images.dtype == torch.uint8 and data.images.nbytes == len(images) * 784
    assert data.name == name and data.shape == (1, 28, 28)


def test_missing_data_says_what_to_put_where(tmp_path):
    with pytest.raises(errors.DataError) as caught:
        load("mnist", root=tmp_path)
    text = str(caught.value)
    assert text.startswith("mnist: ") and str(tmp_path.resolve() / "MNIST/raw") in text
    assert f"are missing: {', '.join(FILES)}. Put them there, unpacked from" in text
    assert "https://" in text and "pass download=True" in text
    assert not any(tmp_path.iterdir())


def test_only_the_missing_file_is_named(mnist_root):
    root, _ = mnist_root
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(errors.DataError, match=r"are missing: t10k-labels-idx1-ubyte\. Put them there"):
        mnist(root)


@pytest.mark.parametrize("content", [b"", b"damaged, long enough", struct.pack(">IIII", 0x0803, 7, 28, 28)])
def test_damaged_mnist_says_so(mnist_root, content):
    root, _ = mnist_root
    (root / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(
        errors.DataError,
        match=r"the data set does not read.*these files are damaged: "
        r"train-images-idx3-ubyte \([^)]*\)\. Put them there",
    ):
        mnist(root)


@pytest.mark.parametrize("function", [mnist, cifar10])
def test_a_download_is_made_on_request_and_its_failure_reported(tmp_path, monkeypatch, function):
    """No network: torchvision's download is replaced."""
    calls = []

    def failing(self):
        calls.append(type(self).__name__)
        raise OSError("no route to host")

    for cls in (torchvision.datasets.MNIST, torchvision.datasets.CIFAR10):
        monkeypatch.setattr(cls, "download", failing)
    with pytest.raises(errors.DataError, match="the data set does not read"):
        function(tmp_path)
    assert calls == []
    with pytest.raises(errors.DataError, match=r"the download failed \(OSError: no route") as caught:
        function(tmp_path, download=True)
    assert len(calls) == 1
    assert "pass download=True" not in str(caught.value) and "Put them there" in str(caught.value)


def test_missing_torchvision(tmp_path, monkeypatch):
    """Only a download needs it."""
    monkeypatch.setitem(__import__("sys").modules, "torchvision.datasets", None)
    for function in (mnist, cifar10):
        with pytest.raises(errors.MissingDependency, match="'torchvision'"):
            function(tmp_path, download=True)


FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(dims: tuple[int, ...], values: bytes) -> bytes:
    return struct.pack(f">I{len(dims)}I", 0x0800 + len(dims), *dims) + values


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("damaged", FILES)
@pytest.mark.parametrize(
    "damage, fault",
    [
        (lambda content: content[:-1], r"its header says [\dx ]+ values, [\d,]+ bytes in all, and it has [\d,]+"),
        (lambda content: content + b"x", r"its header says"),
        (lambda content: b"\x1f\x8b\x08\x00" + content[4:], r"it must begin with 0000080\d and .* begin with 1f8b0800"),
        (lambda content: content[:6], r"it must begin with 0000080\d and .* got 6 bytes"),
        (lambda content: content[:4] + bytes(4) + content[8:], r"its header says 0"),
    ],
)
def test_one_damaged_mnist_file_names_itself_alone(mnist_root, train, damaged, damage, fault):
    path = mnist_root[0] / "MNIST" / "raw" / damaged
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(errors.DataError, match=rf"these files are damaged: {damaged} \({fault}") as caught:
        mnist(mnist_root[0], train=train)
    assert not any(name in str(caught.value) for name in FILES if name != damaged)
    assert "or delete what is damaged and pass download=True" in str(caught.value)


def test_missing_and_damaged_files_have_different_errors(mnist_root):
    raw = mnist_root[0] / "MNIST" / "raw"
    (raw / FILES[0]).unlink()
    (raw / FILES[3]).write_bytes(b"")
    with pytest.raises(errors.DataError, match=rf"missing: {FILES[0]}; these files are damaged: {FILES[3]} \(it must"):
        mnist(mnist_root[0])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("half", ["train", "t10k"])
def test_labels_that_are_none(mnist_root, train, half):
    count = {"train": 7, "t10k": 3}[half]
    path = mnist_root[0] / "MNIST" / "raw" / f"{half}-labels-idx1-ubyte"
    path.write_bytes(idx((count,), bytes([113, 10, 113] + [9] * (count - 3))))
    with pytest.raises(
        errors.DataError,
        match=rf"damaged: {half}-labels-idx1-ubyte \(labels must be from 0 to 9, got "
        r"10 \(once\), 113 \(2 times\)\)\. Put",
    ):
        mnist(mnist_root[0], train=train)


def test_labels_are_one_an_image(mnist_root):
    path = mnist_root[0] / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx((4,), bytes(4)))
    with pytest.raises(errors.DataError, match=r"t10k-labels-idx1-ubyte \(it has 4 labels, and there are 3 images\)"):
        mnist(mnist_root[0])


@pytest.mark.parametrize("odd, other", [("train", "t10k"), ("t10k", "train")])
def test_halves_of_different_sizes(mnist_root, odd, other):
    count = {"train": 7, "t10k": 3}[odd]
    (mnist_root[0] / "MNIST" / "raw" / f"{odd}-images-idx3-ubyte").write_bytes(
        idx((count, 28, 31), bytes(count * 28 * 31))
    )
    with pytest.raises(
        errors.DataError,
        match=rf"damaged: {odd}-images-idx3-ubyte \(its images are 28 x 31, and those "
        rf"of {other}-images-idx3-ubyte 28 x 28\)",
    ):
        mnist(mnist_root[0])


def test_source_classes_and_labels_beside_a_batch(mnist_root, monkeypatch):
    monkeypatch.chdir(mnist_root[0])
    data = mnist("./")
    assert data.source == str(mnist_root[0]) and data.num_classes == 10
    images, labels = data.batch_with_labels(3, 5, seed=1)
    assert torch.equal(images, data.batch(3, 5, seed=1))
    assert torch.equal(labels, mnist_root[1]["train"][1][data.indices(3, 5, seed=1)])
    assert data.fingerprint() == mnist(mnist_root[0]).fingerprint() != mnist(".", train=False).fingerprint()


def test_after_a_download_what_is_there_counts(mnist_root, monkeypatch):
    """A download that brought the files is enough, even if something failed after it."""
    path = mnist_root[0] / "MNIST" / "raw" / FILES[1]
    content = path.read_bytes()
    path.unlink()

    def fetch(self):
        path.write_bytes(content)
        raise OSError("late")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fetch)
    assert len(mnist(mnist_root[0], download=True)) == 7
