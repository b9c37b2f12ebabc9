"""What ``fastscore reproduce`` says of files that are not CIFAR-10's, or damaged; nothing of them is run or written."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fastscore.experiment import cli

from ..conftest import optional
from ..data import cifar_files
from ..data.test_cifar10 import Trap

optional("sklearn")
TRAIN, TEST = cifar_files.photos("train", 30), cifar_files.photos("heldout", 6)


def refused(data: Path, out: Path, capsys, *words: str) -> str:
    """The one line of the error; ``data`` is as it was, and nothing was begun."""
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        cli.main(["reproduce", "cifar10", "--data", str(data), "--out", str(out), "--feature", "pixels", *words])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1, line
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    assert [path.name for path in out.rglob("*")] in ([], [".lock"])
    return line


@pytest.mark.parametrize("pack", [cifar_files.pack_python, cifar_files.pack_binary])
@pytest.mark.parametrize("fault", ["truncated", "labels", "published"])
def test_faults_of_the_files_are_named(fault, pack, tmp_path, capsys):
    images, labels = TRAIN[0], TRAIN[1].clone()
    labels[14] = 10 if fault == "labels" else 9  # of the third batch
    folder = pack(tmp_path / "data", (images, labels), TEST)
    batch = next(folder.glob("data_batch_3*"))
    words = ["--no-checksum"]
    if fault == "truncated":
        batch.write_bytes(batch.read_bytes()[:-7])
        text = "cut short" if pack is cifar_files.pack_python else "it must be a whole number of records"
    elif fault == "labels":
        text = "labels must be from 0 to 9, got 10 (once)"
    else:  # nothing is wrong, but that they are not CIFAR-10
        words, text = [], "--no-checksum"
    line = refused(tmp_path / "data", tmp_path / "out", capsys, *words)
    assert batch.name in line and text in line
    if fault != "published":
        assert "data_batch_2" not in line


def test_code_in_a_pickle_is_named_and_not_run(tmp_path, capsys):
    folder, marker = cifar_files.pack_python(tmp_path / "data", TRAIN, TEST), tmp_path / "sprung"
    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [Trap(marker)]}
    (folder / "data_batch_4").write_bytes(pickle.dumps(batch, protocol=2))
    line = refused(tmp_path / "data", tmp_path / "out", capsys, "--no-checksum")
    assert "data_batch_4 (it asks to use " in line and "nothing of it was run" in line and not marker.exists()


@pytest.mark.parametrize("where", ["data", "data/cifar-100-python"])
def test_cifar_100_is_named(where, tmp_path, capsys):
    (tmp_path / "data" / "cifar-100-python").mkdir(parents=True)
    (tmp_path / "data" / "cifar-100-python" / "train").touch()
    text = refused(tmp_path / where, tmp_path / "out", capsys)
    assert "CIFAR-100, which lies there, is another data set. CIFAR-10 itself is looked for in" in text
