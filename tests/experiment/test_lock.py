"""The lock of a run folder: held by one, freed by any end, never by a file that outlives its process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from fastscore import CheckpointError
from fastscore.experiment.checkpoint import Lock


def refused(path):
    with pytest.raises(
        CheckpointError, match=f"another process.*trains in {path.parent}: wait until it ends, or choose"
    ):
        Lock(path)


def test_another_thread_may_release_it(tmp_path):
    """A Trainer made in one thread may be closed in another."""
    lock = Lock(tmp_path / ".lock")
    refused(tmp_path / ".lock")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert not lock.held
    assert Lock(tmp_path / ".lock").held


def test_the_end_of_the_object_frees_it(tmp_path):
    lock = Lock(tmp_path / ".lock")
    assert lock.still_there()
    del lock
    assert Lock(tmp_path / ".lock").held


def test_a_kill_frees_it_though_a_child_lives_on(tmp_path):
    """A forked child, which has the parent's open files, does not keep the folder of a parent that was killed."""
    code = (
        "import os, signal, sys; from pathlib import Path; from fastscore.experiment.checkpoint import Lock\n"
        "lock = Lock(Path(sys.argv[1])); child = os.fork()\n"
        "if child == 0: signal.pause()\n"
        "print(child, flush=True); signal.pause()"
    )
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        try:
            refused(path)
            holder.kill()
            holder.wait()
            os.kill(child, 0)  # it lives
            assert Lock(path).held
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_there_is_a_warning_and_no_other_kind_of_lock(number, tmp_path, monkeypatch):
    """Not filelock's own way out, a file whose existence is the lock: a kill would leave it, and the folder taken."""

    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"\.lock cannot be locked \(.*{os.strerror(number)}\): take care"):
            lock = Lock(tmp_path / ".lock")
        assert lock.held and lock.still_there()
    assert os.listdir(tmp_path) == [".lock"] and (tmp_path / ".lock").read_bytes() == b""


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(IsADirectoryError, match=r"\.lock"):
        Lock(tmp_path / ".lock")


def test_still_there_knows_the_very_file(tmp_path):
    path = tmp_path / "run" / ".lock"
    path.parent.mkdir()
    lock = Lock(path)
    path.rename(path.with_name("moved"))
    assert not lock.still_there()
    path.touch()
    assert not lock.still_there(), "another file of that name"
    path.unlink()
    path.with_name("moved").rename(path)
    assert lock.still_there()
