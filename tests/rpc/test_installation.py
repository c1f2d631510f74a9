"""Starting the service: the first time, again, and when something is not as it was."""

from __future__ import annotations

import shutil
import stat
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from handclasp.accounts.v1 import account_service_pb2
from handclasp.certificate_service import certificate_authority, first_start
from handclasp.certificate_service.certificate_authority import InstallationError
from handclasp.certificate_service.data_folder import DataFolderError, data_folder
from handclasp.certificate_service.first_start import Administrator, RecoveryError
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.schema import authorities
from handclasp.certificate_service.x509.issuing import server_names_of
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from tests.rpc.certificate_harness import trusted_ca, upload, why
from tests.support.installation import Installation, SettableClock, running_installation

PASSPHRASE = "correct horse battery staple"


def running(folder: Path, url: str, **settings: Any) -> AbstractAsyncContextManager[Installation]:
    return running_installation(folder, url, **settings)


def key_files(folder: Path) -> list[Path]:
    return sorted((folder / "data" / "keys").glob("*.pem"))


async def make_empty(url: str) -> None:
    """Takes everything out of a database, its tables too."""
    path = make_url(url).database
    if url.startswith("sqlite"):
        assert path is not None
        for name in (path, f"{path}-wal", f"{path}-shm"):
            Path(name).unlink(missing_ok=True)  # noqa: ASYNC240
        return
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await engine.dispose()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def refuses(folder: Path, url: str, *words: str, kind: type[Exception] = InstallationError, **more: Any) -> None:
    """The service must not start, and say all of the words."""
    with pytest.raises(kind) as caught:
        async with running(folder, url, **more):
            pass
    for word in words:
        assert word in str(caught.value)


async def test_a_first_start_makes_everything_for_its_owner_only(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url) as first:
        data = tmp_path / "data"
        assert mode(data) == 0o700
        assert first.admin_password
        secret = [*key_files(tmp_path), *data.glob("identities/*/*/key.pem")]
        assert len(secret) == 4
        assert {mode(path) for path in secret} == {0o600}
        if database_url.startswith("sqlite"):
            # Wherever it is: it has the hashes of passwords.
            database = Path(make_url(database_url).database or "")
            assert {mode(path) for path in database.parent.glob(f"{database.name}*")} == {0o600}
        assert mode(data / "keys") == 0o700
        for path in key_files(tmp_path):
            load_pem_private_key(path.read_bytes(), None)
        assert (data / "ca.pem").read_bytes() == first.ca_pem
        assert first.ports["host"] == "127.0.0.1"
        users = (await first.admin.accounts.ListUsers(account_service_pb2.ListUsersRequest())).users
        assert [user.name for user in users] == ["users/admin", "users/execution-server"]
        async with first.client(user="admin", password=first.admin_password) as client:
            assert (await client.accounts.GetUser(account_service_pb2.GetUserRequest(name="users/admin"))).has_password


async def test_a_restart_keeps_everything(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url) as first:
        ca = await trusted_ca(first)
        alice = await first.new_user("regular-user", password="a long enough password")
        issued, leaf = await first.issue(alice), ca.issue()
        uploaded = await upload(first, alice, leaf)
        revoked = await first.issue(alice)
        await first.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=revoked.name))
        retried = pb.IssueCertificateRequest(
            user=f"users/{alice}", generate_key=pb.KEY_ALGORITHM_EC_P256, request_id="r"
        )
        answered = await first.admin.certificates.IssueCertificate(retried)
        page = await first.admin.certificates.ListCertificates(pb.ListCertificatesRequest(page_size=1))
        rest = pb.ListCertificatesRequest(page_token=page.next_page_token)
        listed = await first.admin.certificates.ListCertificates(rest)
        before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.pem")}

    async with running(tmp_path, database_url) as again:
        assert again.admin_password == "", "there is no second first administrator"
        assert again.admin_identity.certificate_pem == first.admin_identity.certificate_pem
        assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.pem")} == before
        assert await again.admin.certificates.ListCertificates(rest) == listed, "page tokens outlive it, too"
        assert await why(again, issued.der) == "ALLOWED"
        assert await why(again, leaf.der) == "ALLOWED"
        assert await why(again, revoked.der) == "REVOKED"
        found = await again.admin.certificates.GetCertificate(pb.GetCertificateRequest(name=uploaded.name))
        assert found == uploaded
        retry = await again.admin.certificates.IssueCertificate(retried)
        assert retry.certificate.name == answered.certificate.name
        assert retry.key_custody == pb.KEY_CUSTODY_KEY_NOT_RETAINED
        async with again.client(user=alice, password="a long enough password") as client:
            await client.certificates.GetCertificate(pb.GetCertificateRequest(name=issued.name))
        # The anchor lets its leaves through the handshake from the start.
        assert ca.pem in (await again.admin.certificates.GetTrustBundle(pb.GetTrustBundleRequest())).trust_anchors


async def test_the_execution_server_gets_another_certificate_once_other_names_are_set(
    tmp_path: Path, database_url: str
) -> None:
    """Else clients that call it by a new name would not believe it for weeks."""
    async with running(tmp_path, database_url) as first:
        assert server_names_of(first.relying_party_identity.leaf) == ("localhost", "127.0.0.1", "::1")
    names = ("Runs.example.org", "localhost")
    async with running(tmp_path, database_url, server_names=names) as renamed:
        assert server_names_of(renamed.relying_party_identity.leaf) == ("runs.example.org", "localhost")
        assert renamed.admin_identity.certificate_pem == first.admin_identity.certificate_pem
    async with running(tmp_path, database_url, server_names=names) as again:
        assert again.relying_party_identity.certificate_pem == renamed.relying_party_identity.certificate_pem


async def test_without_a_key_to_sign_with_it_says_what_to_do(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url):
        pass
    (path,) = (path for path in key_files(tmp_path) if path.name.startswith("issuing"))
    aside = tmp_path / "aside.pem"
    path.rename(aside)
    await refuses(tmp_path, database_url, str(path), "Restore", "backup", "enroll --replica")
    assert not path.exists(), "no other key is made in its place"
    aside.rename(path)
    async with running(tmp_path, database_url):
        pass


async def test_without_the_roots_key_it_goes_on(tmp_path: Path, database_url: str) -> None:
    """It is needed for further replicas only, and may be kept elsewhere."""
    async with running(tmp_path, database_url) as first:
        alice = await first.new_user("regular-user")
    (path,) = (path for path in key_files(tmp_path) if path.name.startswith("root"))
    aside = tmp_path / "aside.pem"
    path.rename(aside)
    async with running(tmp_path, database_url) as again:
        assert again.ca_pem == first.ca_pem
        assert await why(again, (await again.issue(alice)).der) == "ALLOWED"
    assert "root_key_elsewhere" in first.log.read_text()
    assert not path.exists(), "no other key is made in its place"
    aside.rename(path)
    path.chmod(0o640)
    await refuses(tmp_path, database_url, f"chmod 600 {path}")
    path.chmod(0o600)
    async with running(tmp_path, database_url):
        pass


async def test_the_key_of_another_ca_will_not_do(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url):
        pass
    issuing, root = key_files(tmp_path)
    saved = root.read_bytes()
    root.write_bytes(issuing.read_bytes())
    await refuses(tmp_path, database_url, str(root), "not the key of the CA")
    root.write_bytes(saved[: len(saved) // 2])
    await refuses(tmp_path, database_url, str(root), "damaged")


async def test_keys_are_encrypted_under_a_passphrase(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url, key_passphrase=PASSPHRASE) as first:
        ca_pem = first.ca_pem
    for path in key_files(tmp_path):
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
        with pytest.raises(TypeError, match="Password"):
            load_pem_private_key(path.read_bytes(), None)
        load_pem_private_key(path.read_bytes(), PASSPHRASE.encode())
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or PASSPHRASE.encode() not in path.read_bytes()
    await refuses(tmp_path, database_url, "is encrypted", "key_passphrase")
    await refuses(tmp_path, database_url, "passphrase is wrong", key_passphrase="another one")
    async with running(tmp_path, database_url, key_passphrase=PASSPHRASE) as again:
        assert again.ca_pem == ca_pem


async def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, database_url: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o750)
    await refuses(tmp_path, database_url, f"chmod 700 {data}", kind=DataFolderError)
    assert not list(data.iterdir())
    data.chmod(0o700)
    async with running(tmp_path, database_url):
        pass


async def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url) as first:
        await refuses(tmp_path, database_url, "in use by another process", kind=DataFolderError)
        users = await first.admin.accounts.ListUsers(account_service_pb2.ListUsersRequest())
        assert users.users, "the first goes on"
    with data_folder(tmp_path / "data"):
        await refuses(tmp_path, database_url, "in use by another process", kind=DataFolderError)
    async with running(tmp_path, database_url):
        pass


async def test_another_trust_domain_is_refused(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url, trust_domain="one.example"):
        pass
    await refuses(tmp_path, database_url, "one.example", "two.example", trust_domain="two.example")
    async with running(tmp_path, database_url, trust_domain="one.example") as again:
        bundle = await again.admin.certificates.GetTrustBundle(pb.GetTrustBundleRequest())
    assert bundle.trust_domain == "one.example"


async def test_a_lost_data_folder_is_not_taken_for_a_first_start(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url):
        pass
    shutil.rmtree(tmp_path / "data")
    await refuses(tmp_path, database_url, "cannot be had", "another --data-dir")


async def test_keys_without_their_database_are_not_taken_for_a_first_start(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url):
        pass
    before = {path: path.read_bytes() for path in key_files(tmp_path)}
    await make_empty(database_url)
    await refuses(tmp_path, database_url, "keys of another installation", "the database is empty", "database_url")
    assert {path: path.read_bytes() for path in key_files(tmp_path)} == before


async def test_a_crash_right_after_the_first_commit_is_made_up_for(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url) as first:
        ca_pem = first.ca_pem
    (tmp_path / "data/keys/complete").unlink()
    async with running(tmp_path, database_url) as again:
        assert again.ca_pem == ca_pem
    await make_empty(database_url)
    await refuses(tmp_path, database_url, "the database is empty")


async def recover(folder: Path, url: str | None, user: str = "admin") -> Administrator:
    given: dict[str, Any] = {} if url is None else {"database_url": url}
    settings = CertificateServiceSettings(data_dir=folder / "data", **given)
    administrator = (await first_start.recover(settings, SettableClock(), user)).administrator
    assert administrator is not None
    return administrator


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_recovery_makes_no_installation(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url):
        pass
    # The database that is meant is elsewhere, and the setting that says so is missing.
    before = tree(tmp_path / "data")
    with pytest.raises(RecoveryError, match=r"no database of .*HANDCLASP_CERTIFICATES_DATABASE"):
        await recover(tmp_path, None)
    assert tree(tmp_path / "data") == before

    await make_empty(database_url)
    with pytest.raises(RecoveryError, match="no database of a certificate service"):
        await recover(tmp_path, database_url)
    assert tree(tmp_path / "data") == before

    other = tmp_path / "other" / "data"
    other.mkdir(parents=True, mode=0o755)
    with pytest.raises(RecoveryError, match="is no data folder"):
        await recover(tmp_path / "other", database_url)
    assert not tree(other)


async def test_recovery_is_for_users_that_there_are(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path, database_url) as first:
        await first.new_user("administrator", name="zoe")
    said = "there is no user alicia; users with the profile administrator: admin, zoe"
    with pytest.raises(RecoveryError, match=said):
        await recover(tmp_path, database_url, "alicia")
    made = await recover(tmp_path, database_url, "zoe")
    async with (
        running(tmp_path, database_url) as again,
        again.client(user="zoe", password=made.password) as client,
    ):
        users = (await client.accounts.ListUsers(account_service_pb2.ListUsersRequest())).users
        assert "users/alicia" not in [user.name for user in users]


async def rows(database: Database) -> int:
    found = await database.read(lambda snapshot: snapshot.fetch(select(authorities.c.role)))
    return len(found.all())


async def test_a_crash_between_the_key_files_and_their_rows_leaves_a_folder_that_starts(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        """Ends the transaction before it is committed."""

    async def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(certificate_authority, "add_authority", crash)
        with pytest.raises(Crash):
            async with running(tmp_path, database_url):
                pass
    left_over = {path: path.read_bytes() for path in key_files(tmp_path)}
    assert len(left_over) == 2, "the keys were on disk before the rows"
    database = open_database(database_url)
    try:
        assert await rows(database) == 0
    finally:
        await database.close()

    async with running(tmp_path, database_url) as started:
        alice = await started.new_user("regular-user")
        assert await why(started, (await started.issue(alice)).der) == "ALLOWED"
    assert left_over.items() <= {path: path.read_bytes() for path in key_files(tmp_path)}.items()
    assert len(key_files(tmp_path)) == 4
