"""fastscore._core.files: a file is written whole or not at all, on the disk before it has its name."""

from __future__ import annotations

import errno
import os

import pytest

from fastscore._core import errors, files


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []

    def noted(name, function):
        def call(*args):
            kind = "" if name == "replace" else " folder" if os.path.isdir(f"/proc/self/fd/{args[0]}") else " file"
            done.append(name + kind)
            return function(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    files.write_atomically(tmp_path / "a", b"new")
    assert done == ["fsync file", "replace", "fsync folder"]
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_what_was_there_stays_where_a_write_fails(call, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "another name")

    with monkeypatch.context() as patch:
        patch.setattr(f"{'builtins' if call == 'open' else 'os'}.{call}", full)
        with pytest.raises(
            errors.CannotWrite, match=f"^{tmp_path}/a cannot be written: No space left on device$"
        ) as told:
            files.write_atomically(tmp_path / "a", b"new")
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_flushed_is_no_failure_and_one_that_fails_is(tmp_path, monkeypatch):
    """Some network file systems cannot flush a folder (EINVAL); a damaged disk (EIO) is told."""
    flush, number = os.fsync, errno.EINVAL

    def refuses(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(os, "fsync", refuses)
    files.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    number = errno.EIO
    with pytest.raises(errors.CannotWrite, match="a cannot be written: Input/output error"):
        files.write_atomically(tmp_path / "a", b"newer")


def test_a_missing_folder_is_reported_with_the_name_of_the_file(tmp_path):
    with pytest.raises(errors.CannotWrite, match="none/a cannot be written: No such file or directory"):
        files.write_atomically(tmp_path / "none" / "a", b"")
    (tmp_path / "file").touch()
    with pytest.raises(errors.CannotWrite, match="file/a cannot be written: Not a directory"):
        files.write_atomically(tmp_path / "file" / "a", b"")
