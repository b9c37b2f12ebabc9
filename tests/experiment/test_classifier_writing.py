"""RUN/classifier is one process's while it trains, and at every moment whole: the old one or the new."""

import dataclasses
import shutil

import pytest
import torch

import fastscore as fs
from fastscore._core import files
from fastscore.experiment import checkpoint, classifier, classifier_folder
from fastscore.experiment.checkpoint.files import read_signed_json
from fastscore.experiment.train import Trainer
from fastscore.models import NoiseClassifier

from .test_train import TOY

CONFIG = dataclasses.replace(TOY, iterations=1)
QUICK = classifier.Training(iterations=1, batch_size=8, width=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a classifier."""
    run = tmp_path_factory.mktemp("run")
    Trainer(CONFIG, run).train(progress=False)
    classifier.train_classifier(run, QUICK, progress=False)
    return run


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def put(run, network):
    """Write ``network`` as the classifier of ``run``, as if it were right as often as its first weight says."""
    about = read_signed_json((run / "classifier" / "classifier.json").read_bytes())
    share = float(next(network.parameters()).detach().flatten()[0].sigmoid())
    accuracy = about["accuracy"] | {"accuracy": [share] * len(about["accuracy"]["sigma"])}
    with classifier_folder.held(run) as lock:
        return classifier_folder.write(
            run, CONFIG, network, checkpoint.read_identity(run), about["training"], accuracy, lock
        )


@pytest.fixture
def other(monkeypatch):
    """A network; a picture is the numbers it would show, which takes no time."""

    def drawn(sigma, accuracy, path, **_):
        files.write_atomically(path, repr(accuracy).encode())

    monkeypatch.setattr(classifier_folder.level_plots, "save_accuracy", drawn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return NoiseClassifier((2,), 2, 4)


class Killed(BaseException):
    """What no handler of errors catches."""


class Kill:
    """Ends the process before its ``last``-th change of a file: that one and all that follow do not happen."""

    def __init__(self, monkeypatch, last):
        self.left = last
        for where, name in ((files, "_write"), (files.os, "replace"), (classifier_folder.Path, "unlink")):
            monkeypatch.setattr(where, name, self.counted(getattr(where, name)))

    def counted(self, change):
        def counted(*given, **how):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return change(*given, **how)

        return counted


def shows(run):
    """What table and picture of ``run`` show, None of one that is away, once each is known to be the classifier's."""
    folder = run / "classifier"
    about, found = read_signed_json((folder / "classifier.json").read_bytes()), []
    for name, right in (
        ("accuracy.md", classifier.table(about)),
        ("accuracy.png", repr(about["accuracy"]["accuracy"])),
    ):
        path = folder / name
        assert not path.exists() or path.read_text() == right, name
        found.append(path.exists())
    return found


def test_a_kill_at_any_moment_leaves_a_whole_classifier_and_no_table_of_another(run, other, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        before = put(run, NoiseClassifier((2,), 2, 4))["weights"]["sha256"]
    assert shows(run) == [True, True]
    found = []
    for last in range(100):
        copy = shutil.copytree(run, run.parent / f"killed{last}")
        with monkeypatch.context() as patch:
            kill = Kill(patch, last)
            try:
                after = put(copy, other)["weights"]["sha256"]
            except Killed:
                after = None
        found.append((classifier_folder.read(copy, CONFIG)[1], shows(copy)))
        if after is not None:
            assert kill.left == 0
            break
        assert put(copy, other)["weights"]["sha256"] != before and shows(copy) == [True, True]  # and the next mends it
    assert found[0] == (before, [True, True]) and found[-1] == (after, [True, True])
    checksums = [checksum for checksum, _ in found]
    assert set(checksums) == {before, after} and checksums == sorted(checksums, key=[before, after].index)
    assert all(there == [True, True] for _, there in found[:8])  # while what is new is written beside
    assert len([path for path in (copy / "classifier").iterdir()]) == 5


def test_two_cannot_train_one_and_neither_waits_for_the_run_itself(run):
    with (
        classifier_folder.held(run),
        pytest.raises(fs.CheckpointError, match=f"another process trains a classifier in {run}/classifier: wait"),
    ):
        classifier.train_classifier(run, QUICK, progress=False, overwrite=True)
    with Trainer(CONFIG, run, resume=True), pytest.raises(fs.FastscoreError, match="--overwrite replaces it"):
        classifier.train_classifier(run, QUICK, progress=False)
    with classifier_folder.held(run):
        Trainer(CONFIG, run, resume=True).train(progress=False)


def test_what_came_to_be_while_it_waited_for_nothing_is_not_replaced(run, monkeypatch):
    """A second launch that begins after the first has ended finds its classifier, though it looked at the run before."""
    shutil.move(run / "classifier", run / "of the first")
    held = classifier_folder.held

    def first_ends(run):
        shutil.move(run / "of the first", run / "classifier")
        return held(run)

    monkeypatch.setattr(classifier_folder, "held", first_ends)
    with pytest.raises(fs.FastscoreError, match="holds a classifier: --overwrite replaces it"):
        classifier.train_classifier(run, QUICK, progress=False)


def test_a_folder_that_is_gone_when_it_is_trained_is_not_made_again(run, monkeypatch):
    def removed(*given, found=classifier._accuracy):
        shutil.rmtree(run / "classifier")
        return found(*given)

    monkeypatch.setattr(classifier, "_accuracy", removed)
    with pytest.raises(
        fs.CheckpointError, match=r"classifier was removed, moved or replaced while .* nothing was written"
    ):
        classifier.train_classifier(run, QUICK, progress=False, overwrite=True)
    assert not (run / "classifier").exists()


def test_who_reads_while_another_replaces_it_has_the_new_one(run, other, monkeypatch):
    old, new = classifier_folder.read(run, CONFIG)[1], []

    def read_about(*given, read=classifier_folder._read_about):
        about = read(*given)
        if not new:
            new.append(put(run, other)["weights"]["sha256"])
        return about

    monkeypatch.setattr(classifier_folder, "_read_about", read_about)
    assert classifier_folder.read(run, CONFIG)[1] == new[0] != old
