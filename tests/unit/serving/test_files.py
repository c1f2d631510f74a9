"""Files with secrets, and files that are replaced as a whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from handclasp.serving.files import SecretFileError, read_secret, write_atomically, write_secret


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_for_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_secret(path, b"first")
    assert mode_of(path) == 0o600
    with pytest.raises(FileExistsError):
        write_secret(path, b"second")
    assert read_secret(path) == b"first"


def test_a_secret_is_not_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "key.pem").symlink_to(target)
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "key.pem", b"secret")
    assert not target.exists()


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    with pytest.raises(SecretFileError, match="chmod 600"):
        read_secret(path)


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretFileError, match="does not exist"):
        read_secret(tmp_path / "key.pem")


def test_an_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    write_atomically(path, b"old", 0o644)
    write_atomically(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_atomic_write_leaves_the_old_file_and_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="irectory"):
        write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_so_already_is_left_alone(tmp_path: Path) -> None:
    """And so needs no room: another content, mode or kind of file is replaced."""
    path = tmp_path / "ca.pem"
    write_atomically(path, b"content", 0o644)
    first = path.stat().st_ino
    write_atomically(path, b"content", 0o644)
    assert path.stat().st_ino == first
    for content, mode in ((b"contenT", 0o644), (b"contenT", 0o600), (b"", 0o600)):
        before = path.stat().st_ino
        write_atomically(path, content, mode)
        assert path.stat().st_ino != before
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (content, mode)
    link = tmp_path / "link"
    link.symlink_to(path)
    write_atomically(link, b"", 0o600)
    assert not link.is_symlink()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    write_atomically(pipe, b"", 0o600)
    assert pipe.is_file()
