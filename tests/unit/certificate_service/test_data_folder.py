"""Whose data folder is used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handclasp.certificate_service.data_folder import DataFolderError, make_data_folder, sqlite_file


def test_version_control_takes_nothing_in_from_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    make_data_folder(path)
    assert (path / ".gitignore").read_text() == "*\n"
    (path / ".gitignore").write_text("!ca.pem\n")
    make_data_folder(path)
    assert (path / ".gitignore").read_text() == "!ca.pem\n", "it is the owner's from then on"


@pytest.mark.skipif(os.geteuid() != 0, reason="others do not get into somebody else's folder")
def test_root_uses_nobody_elses_folder(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)
    with pytest.raises(DataFolderError, match="belongs to another user"):
        make_data_folder(path)


def test_a_symbolic_link_is_no_second_way_to_a_database(tmp_path: Path) -> None:
    database, link = tmp_path / "handclasp.db", tmp_path / "elsewhere" / "linked.db"
    database.touch()
    link.parent.mkdir()
    link.symlink_to(database)
    for first, second in ((database, link), (link, database)):
        with sqlite_file(first), pytest.raises(DataFolderError, match="another process"), sqlite_file(second):
            pass
