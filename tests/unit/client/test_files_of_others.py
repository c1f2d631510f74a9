"""What others could have prepared, or could change, is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handclasp.client import context as contexts
from handclasp.client import files
from handclasp.errors import InvalidArgument, Reason

SOMEBODY_ELSE = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")


@pytest.fixture
def context_file(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "context.toml"
    contexts.write(path, contexts.Context(executions="run.example:8443"))
    return path


def refused(path: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        contexts.load(path)
    assert caught.value.reason == Reason.FILE_OPEN_TO_OTHERS
    return caught.value.message


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_context_file_that_others_can_write(context_file: Path, mode: int) -> None:
    context_file.chmod(mode)
    assert "chmod go-w" in refused(context_file)
    context_file.chmod(0o644)
    assert contexts.load(context_file).executions == "run.example:8443"


def test_a_context_file_where_anybody_could_replace_it(context_file: Path) -> None:
    context_file.parent.chmod(0o777)
    assert "chmod o-w" in refused(context_file)
    context_file.parent.chmod(0o1777)
    assert contexts.load(context_file).executions


@as_root
def test_a_context_file_of_another_user(context_file: Path) -> None:
    os.chown(context_file, SOMEBODY_ELSE, -1)
    assert str(SOMEBODY_ELSE) in refused(context_file)
    # The service's own, which its administrator uses as root.
    os.chown(context_file.parent, SOMEBODY_ELSE, -1)
    assert contexts.load(context_file).executions


def prepared(folder: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        files.refuse_prepared(folder, ("key.pem",))
    assert caught.value.reason == Reason.FILE_OPEN_TO_OTHERS
    return caught.value.message


def test_a_folder_for_a_key_in_which_anybody_can_write(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    files.refuse_prepared(folder, ("key.pem",))
    folder.mkdir(mode=0o700)
    files.refuse_prepared(folder, ("key.pem",))
    folder.chmod(0o777)
    assert "chmod 700" in prepared(folder)


@as_root
def test_a_key_of_another_user(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch(0o600)
    files.refuse_prepared(tmp_path, ("key.pem",))
    os.chown(key, SOMEBODY_ELSE, -1)
    assert str(key) in prepared(tmp_path)
    key.unlink()
    os.chown(tmp_path, SOMEBODY_ELSE, -1)
    assert "another user" in prepared(tmp_path)
