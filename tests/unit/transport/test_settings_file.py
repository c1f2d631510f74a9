"""Whose settings file is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handclasp.transport.settings import SETTINGS_FILE_VARIABLE, read_section

NOBODY = 65534


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the working folder."""
    monkeypatch.delenv(SETTINGS_FILE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "handclasp.toml"
    path.write_text('[executions]\nintegrations_folder = "evil"\n')
    path.chmod(0o644)
    return path


def test_ones_own_in_the_working_folder_is_read(settings_file: Path) -> None:
    assert settings_file.exists()
    assert read_section("executions") == {"integrations_folder": "evil"}


def test_one_that_anybody_can_write_to_is_not(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file.chmod(0o666)
    with pytest.raises(ValueError, match="anybody can write to it"):
        read_section("executions")
    monkeypatch.setenv(SETTINGS_FILE_VARIABLE, str(settings_file))
    assert read_section("executions"), "whoever names it trusts it"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '[certificate]\ntrust_domain = "example.org"\n',
            r"a section \[certificate\].*did you mean \[certificates\]\?",
        ),
        (
            'trust_domain = "example.org"\n',
            r"`trust_domain` outside of a section; all settings are in \[certificates\]",
        ),
        ("[certificates]\n[logging]\n", r"a section \[logging\]; all settings are in"),
    ],
)
def test_what_nobody_reads_is_refused(settings_file: Path, content: str, said: str) -> None:
    """A first start with defaults instead would make an installation with another trust domain, for ever."""
    settings_file.write_text(content)
    for section in ("certificates", "executions"):
        with pytest.raises(ValueError, match=said):
            read_section(section)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_is_not(settings_file: Path) -> None:
    os.chown(settings_file, NOBODY, NOBODY)
    with pytest.raises(ValueError, match="belongs to another user"):
        read_section("executions")
