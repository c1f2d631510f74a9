"""Certificate and key are replaced together, whenever the process ends."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeoutError
from pathlib import Path

import pytest

from handclasp.relying_party.identity_files import FilesHeldError, IdentityFiles
from handclasp.serving.files import SecretFileError, write_secret
from handclasp.serving.tls import TlsIdentity, TlsMaterialError
from tests.support.outside_ca import CLIENT_AUTH, SERVER_AUTH, OutsideCA

CA = OutsideCA()


def issued() -> TlsIdentity:
    leaf = CA.issue("orders", purposes=(SERVER_AUTH, CLIENT_AUTH))
    return TlsIdentity(leaf.key_pem.encode(), leaf.pem.encode())


OLD, NEW = issued(), issued()


class Crash(BaseException):
    """The process ends here."""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.certificate, self.key = path / "cert.pem", path / "key.pem"
        self.files = IdentityFiles(self.certificate, self.key)
        self.certificate.write_bytes(OLD.chain_pem)
        write_secret(self.key, OLD.key_pem)

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_both_are_replaced(folder: Folder) -> None:
    folder.certificate.chmod(0o640)
    folder.files.replace(NEW)
    assert folder.files.read() == NEW
    assert stat.S_IMODE(folder.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.certificate.stat().st_mode) == 0o640
    assert folder.names() == {"cert.pem", "key.pem"}


def test_both_in_one_file_are_replaced_too(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    write_secret(path, OLD.chain_pem + OLD.key_pem)
    files = IdentityFiles(path, tmp_path / ".." / tmp_path.name / "identity.pem")
    files.replace(NEW)
    found = files.read()
    assert NEW.key_pem in found.key_pem
    assert found.check() == NEW.check()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["identity.pem"]


@pytest.mark.parametrize("step", range(5))
def test_whenever_the_process_ends_there_is_a_pair_at_the_next_start(
    folder: Folder, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename is a step: of the two new files into their `.next` names, then of those into their places."""
    done = 0
    rename = Path.replace

    def renamed(path: Path, target: Path) -> Path:
        nonlocal done
        if done == step:
            raise Crash
        done += 1
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", renamed)
        if step == 4:
            folder.files.replace(NEW)
        else:
            with pytest.raises(Crash):
                folder.files.replace(NEW)
    read = IdentityFiles(folder.certificate, folder.key).read()
    assert read == (OLD if step < 2 else NEW)
    assert folder.names() == {"cert.pem", "key.pem"}
    # It stays so.
    assert IdentityFiles(folder.certificate, folder.key).read() == read


def test_leftovers_that_are_no_pair_are_discarded(folder: Folder) -> None:
    (folder.path / "cert.pem.next").write_bytes(NEW.chain_pem)
    (folder.path / "key.pem.next").write_bytes(issued().key_pem)
    assert folder.files.read() == OLD
    assert folder.names() == {"cert.pem", "key.pem"}


def test_what_cannot_be_written_changes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        if path.name == "cert.pem.next":
            raise OSError(28, "No space left on device")
        path.write_bytes(NEW.key_pem)

    monkeypatch.setattr("handclasp.relying_party.identity_files.write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        folder.files.replace(NEW)
    assert folder.names() == {"cert.pem", "key.pem"}
    assert folder.files.read() == OLD


def test_a_key_that_cannot_be_replaced_changes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.replace

    def mounted(path: Path, target: Path) -> Path:
        if target == folder.key:
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", mounted)
    with pytest.raises(OSError, match="busy"):
        folder.files.replace(NEW)
    assert folder.names() == {"cert.pem", "key.pem"}
    assert folder.files.read() == OLD


def test_a_key_that_others_can_read_is_refused(folder: Folder) -> None:
    folder.key.chmod(0o644)
    with pytest.raises(SecretFileError, match="chmod 600"):
        folder.files.read()


@pytest.mark.parametrize(("purposes", "lacks"), [((CLIENT_AUTH,), "serverAuth"), ((SERVER_AUTH,), "clientAuth")])
def test_a_certificate_for_one_end_only_is_refused(tmp_path: Path, purposes: tuple[str, ...], lacks: str) -> None:
    leaf = CA.issue("orders", purposes=purposes)  # type: ignore[arg-type]
    (tmp_path / "cert.pem").write_text(leaf.pem)
    write_secret(tmp_path / "key.pem", leaf.key_pem.encode())
    with pytest.raises(TlsMaterialError, match=f"no {lacks}"):
        IdentityFiles(tmp_path / "cert.pem", tmp_path / "key.pem").read()


def test_one_process_at_a_time_replaces_them(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    other = IdentityFiles(folder.certificate, folder.key)
    with folder.files.held(), pytest.raises(FilesHeldError), other.held():
        pass
    with other.held():
        folder.files.replace(NEW)
    assert other.read() == NEW


def test_who_reads_waits_for_who_replaces(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    other = IdentityFiles(folder.certificate, folder.key)
    with ThreadPoolExecutor(1) as threads:
        with folder.files.held():
            reading = threads.submit(other.read)
            with pytest.raises(FuturesTimeoutError):
                reading.result(0.2)
            folder.files.replace(NEW)
        assert reading.result(5) == NEW


def test_a_folder_that_cannot_be_opened_is_nobodys_to_hold(tmp_path: Path) -> None:
    with IdentityFiles(tmp_path / "gone" / "cert.pem", tmp_path / "gone" / "key.pem").held():
        pass
