"""A replica that joins with a token: its own CA, whose key never travels, and which all others know at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handclasp.accounts.v1.account_service_pb2 import SetPasswordRequest
from handclasp.certificate_service.certificate_authority import Installation as Installed
from handclasp.certificate_service.certificate_authority import InstallationError, open_installation
from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.migrate import migrate
from handclasp.certificate_service.x509.fingerprints import authority_id
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.certificates.v1.enrollment_token_pb2 import EnrollmentToken
from handclasp.cli.enrolling_replica import Replica, enroll_as_replica
from handclasp.client.client import HandclaspClient
from handclasp.client.enrolling import enroll_replica
from handclasp.errors import (
    FailedPrecondition,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
)
from tests.rpc.account_calls import assign, disable
from tests.rpc.certificate_harness import add_anchor, at_once, pem, refusal, signing_request, why
from tests.rpc.test_enrollment import enroll, good_ones, revoke_token, token_of
from tests.rpc.test_watch import next_effects
from tests.rpc.test_who_may import ADMINISTRATIVE
from tests.support.installation import Identity, Installation, running_installation
from tests.support.outside_ca import OutsideCA
from tests.support.postgres import PostgresServer
from tests.support.raw_watcher import watching_from_now

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENT = {"throttle": {"free_attempts": 1000}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def first(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """Where the installation was made."""
    with postgres.database() as url:
        async with running_installation(tmp_path_factory.mktemp("first"), url, **PATIENT) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def second(first: Installation, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """One that joined it."""
    folder = tmp_path_factory.mktemp("second")
    await join(first, folder)
    async with running_installation(folder, first.settings.url(), **PATIENT) as running:
        yield running


async def replica_token(installation: Installation, client: HandclaspClient | None = None) -> EnrollmentToken:
    request = pb.CreateEnrollmentTokenRequest(purpose=EnrollmentToken.PURPOSE_REPLICA)
    return await (client or installation.admin).certificates.CreateEnrollmentToken(request)


async def join(installation: Installation, folder: Path, token: EnrollmentToken | None = None) -> Replica:
    """What `handclasp enroll --replica` does."""
    text = (token or await replica_token(installation)).token
    return await enroll_as_replica(text, fingerprint_of(installation), installation.tls_address, folder / "data")


async def certify(
    installation: Installation, token: EnrollmentToken, csr: x509.CertificateSigningRequest | None = None
) -> pb.EnrollReplicaResponse:
    async with installation.client() as nobody:
        request = pb.EnrollReplicaRequest(token=token.token, csr_pem=pem(csr or signing_request()))
        return await nobody.certificates.EnrollReplica(request)


def fingerprint_of(installation: Installation) -> str:
    return x509.load_pem_x509_certificate(installation.ca_pem).fingerprint(hashes.SHA256()).hex()


async def authorities(installation: Installation) -> list[str]:
    return list((await installation.admin.certificates.GetTrustBundle(pb.GetTrustBundleRequest())).authorities)


def chain_of(text: str | bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(text.encode() if isinstance(text, str) else text)


async def test_no_key_travels(first: Installation, second: Installation) -> None:
    files = [
        sorted(path.name for path in (installation.settings.data_dir / "keys").iterdir())
        for installation in (first, second)
    ]
    assert [[name.partition("-")[0] for name in names] for names in files] == [
        ["complete", "issuing", "root"],
        ["complete", "issuing"],
    ]
    assert set(files[0]) & set(files[1]) == {"complete"}
    assert second.ca_pem == first.ca_pem


async def test_its_ca_is_under_the_root_and_signs_leaves_only(first: Installation, second: Installation) -> None:
    root, *issuing = (x509.load_pem_x509_certificate(text.encode()) for text in await authorities(first))
    assert len(issuing) >= 2
    for certificate in issuing:
        certificate.verify_directly_issued_by(root)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
    assert await authorities(second) == await authorities(first)


async def test_each_issues_under_its_own_and_the_other_shows_the_same_chain(
    first: Installation, second: Installation
) -> None:
    user_id = await first.new_user("regular-user")
    identities = [await each.issue(user_id) for each in (first, second)]
    issuers = {identity.leaf.issuer for identity in identities}
    assert len(issuers) == 2
    for identity in identities:
        leaf, intermediate = chain_of(identity.certificate_pem)
        leaf.verify_directly_issued_by(intermediate)
        for each in (first, second):
            found = await each.admin.certificates.GetCertificate(pb.GetCertificateRequest(name=identity.name))
            assert found.pem.encode() == identity.certificate_pem
            assert await why(each, identity.der) == "ALLOWED"
    request = pb.ListCertificatesRequest(user=f"users/{user_id}", view=pb.CERTIFICATE_VIEW_FULL)
    for each in (first, second):
        listed = (await each.admin.certificates.ListCertificates(request)).certificates
        assert [item.pem.encode() for item in listed] == [identity.certificate_pem for identity in identities]


async def test_each_lets_in_what_the_other_issued_even_without_its_chain(
    first: Installation, second: Installation
) -> None:
    for one, other in ((first, second), (second, first)):
        identity = await one.issue(await one.new_user("regular-user"))
        alone = Identity(identity.name, identity.leaf.public_bytes(Encoding.PEM), identity.key_pem)
        async with other.client(alone) as client:
            await client.certificates.GetCertificate(pb.GetCertificateRequest(name=identity.name))


async def test_the_other_renews_what_one_issued(first: Installation, second: Installation) -> None:
    identity = await first.issue(await first.new_user("regular-user"))
    async with second.client(identity) as client:
        renewed = await client.certificates.RenewCertificate(
            pb.RenewCertificateRequest(name=identity.name, csr_pem=pem(signing_request()))
        )
    leaf, intermediate = chain_of(renewed.pem)
    assert leaf.issuer != identity.leaf.issuer
    leaf.verify_directly_issued_by(intermediate)


async def test_a_new_one_is_known_to_all_when_it_has_its_certificate(first: Installation, second: Installation) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with watching_from_now(second) as watcher:
        # Whose lease is waited for, unless it acknowledges.
        await watcher.ping()
        obeying = watcher.obeying()
        answer = await certify(first, await replica_token(second), signing_request(key))
        obeying.cancel()
    assert answer.trust_domain == "handclasp.local"
    assert answer.root.encode() == first.ca_pem
    for each in (first, second):
        assert answer.authority in await authorities(each)


async def test_who_watches_is_told(first: Installation, second: Installation) -> None:
    async with watching_from_now(second) as watcher:
        answer = await certify(first, await replica_token(first))
        public_key = x509.load_pem_x509_certificate(answer.authority.encode()).public_key()
        assert await next_effects(watcher, f"authorities/{authority_id(public_key)}") == {"GIVEN"}


async def test_one_without_the_roots_key_certifies_nobody(first: Installation, second: Installation) -> None:
    made = await replica_token(second)
    error = await refusal(certify(second, made), FailedPrecondition, "ROOT_KEY_ELSEWHERE")
    assert "where the installation was made" in error.message
    # The token is as good as before, there.
    await certify(first, made)


async def test_once_and_again_for_the_same_key(first: Installation) -> None:
    made = await replica_token(first)
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await certify(first, made, signing_request(key))
    assert await certify(first, made, signing_request(key)) == answer
    await refusal(certify(first, made), Unauthenticated, "ENROLLMENT_TOKEN_USED")
    # Another token does not make a second CA of one key.
    assert await certify(first, await replica_token(first), signing_request(key)) == answer
    late = await replica_token(first)
    with first.clock.ahead(timedelta(hours=1)):
        await refusal(certify(first, late), Unauthenticated, "ENROLLMENT_TOKEN_EXPIRED")


async def test_two_at_once_make_one_ca(first: Installation) -> None:
    made = await replica_token(first)
    before = len(await authorities(first))
    answers = await at_once(*(certify(first, made) for _ in range(3)))
    refused = [answer.reason for answer in answers if isinstance(answer, HandclaspError)]
    assert refused == ["ENROLLMENT_TOKEN_USED"] * 2, answers
    assert len(await authorities(first)) == before + 1


async def test_a_token_is_for_what_it_was_made_for(first: Installation) -> None:
    for_user, for_replica = await token_of(first, "admin"), await replica_token(first)
    await refusal(certify(first, for_user), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    await refusal(enroll(first, for_replica), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    assert (for_replica.user, list(for_replica.server_names)) == ("users/admin", [])
    for fields in ({"user": "users/admin"}, {"server_names": ["localhost"]}):
        request = pb.CreateEnrollmentTokenRequest(purpose=EnrollmentToken.PURPOSE_REPLICA, **fields)
        await refusal(first.admin.certificates.CreateEnrollmentToken(request), InvalidArgument, "FIELD_INVALID")


@pytest.mark.parametrize("lacking", ADMINISTRATIVE)
async def test_it_takes_every_administrative_permission(first: Installation, lacking: str) -> None:
    grants = {permission: "*" for permission in ADMINISTRATIVE if permission != lacking}
    for more in ({}, {lacking: "users/some-*"}):
        user_id = await first.new_user(grants=grants | more)
        async with first.client(await first.issue(user_id)) as client:
            await refusal(replica_token(first, client), PermissionDenied, "ACCESS_DENIED")


async def test_its_maker_must_still_be_one_who_may(first: Installation) -> None:
    profile = await first.new_profile(dict.fromkeys(ADMINISTRATIVE, "*"))
    makers = [await first.new_user(profile) for _ in range(3)]
    tokens = []
    for maker in makers:
        async with first.client(await first.issue(maker)) as client:
            tokens.append(await replica_token(first, client))
    await first.admin.accounts.DisableUser(disable(makers[0]))
    await refusal(certify(first, tokens[0]), FailedPrecondition, "USER_IS_DISABLED")
    await first.admin.accounts.UpdateUser(assign(makers[1]))
    await refusal(certify(first, tokens[1]), PermissionDenied, "ACCESS_DENIED")
    await first.admin.certificates.RevokeUserCertificates(pb.RevokeUserCertificatesRequest(user=f"users/{makers[2]}"))
    await refusal(certify(first, tokens[2]), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")


@pytest.mark.parametrize("how", ["revoked", "on hold"])
async def test_a_token_goes_with_the_certificate_that_it_was_made_with(first: Installation, how: str) -> None:
    """Whoever stole that certificate's key could have made it; and a CA is not taken back."""
    maker = await first.issue(await first.new_user(await first.new_profile(dict.fromkeys(ADMINISTRATIVE, "*"))))
    async with first.client(maker) as client:
        made, earlier = await replica_token(first, client), await replica_token(first, client)
    csr = signing_request()
    await certify(first, earlier, csr)
    if how == "revoked":
        await first.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=maker.name))
    else:
        await first.admin.certificates.HoldCertificate(pb.HoldCertificateRequest(name=maker.name))
    await refusal(certify(first, made), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    # What was given is no secret, and whoever lost the answer gets it again.
    await certify(first, earlier, csr)


async def test_one_that_was_made_by_password_goes_with_it(first: Installation) -> None:
    """Whoever had guessed that password could have made it."""
    password = "an old password 1"
    maker = await first.new_user(grants=dict.fromkeys(ADMINISTRATIVE, "*"), password=password)
    async with first.client(user=maker, password=password) as client:
        made = await replica_token(first, client)
    async with first.client(await first.issue(maker)) as client:
        by_certificate = await replica_token(first, client)
    another = SetPasswordRequest(name=f"users/{maker}", new_password="another password 2")
    await first.admin.accounts.SetPassword(another)
    await refusal(certify(first, made), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    await certify(first, by_certificate)


async def test_the_key_of_an_anchor_is_nobodys_here(first: Installation) -> None:
    ca = OutsideCA("Partner CA with a key of many uses", now=first.clock())
    await add_anchor(first, ca)
    made = await replica_token(first)
    await refusal(certify(first, made, signing_request(ca.key)), FailedPrecondition, "ANCHOR_CONFLICT")
    # Nor is the key of a replica an anchor's.
    other = OutsideCA("Replica in disguise", now=first.clock())
    await certify(first, made, signing_request(other.key))
    await refusal(add_anchor(first, other), FailedPrecondition, "ANCHOR_CONFLICT")


async def test_with_sqlite_there_are_no_replicas(tmp_path: Path) -> None:
    async with running_installation(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'database.sqlite'}") as alone:
        await refusal(replica_token(alone), FailedPrecondition, "DATABASE_NOT_SHARED")


async def test_of_two_first_starts_at_once_one_makes_the_installation(postgres: PostgresServer, tmp_path: Path) -> None:
    """The other one is told how it becomes a replica."""
    with postgres.database() as url:
        databases = [open_database(url) for _ in range(3)]
        await migrate(databases[0])

        async def start(database: Database, number: int) -> Installed:
            (tmp_path / str(number)).mkdir(mode=0o700)
            return await open_installation(
                database,
                tmp_path / str(number) / "keys",
                trust_domain="handclasp.local",
                passphrase=None,
                now=datetime.now(UTC),
            )

        answers = await at_once(*(start(database, number) for number, database in enumerate(databases)))
        for database in databases:
            await database.close()
    assert [isinstance(answer, Installed) for answer in answers].count(True) == 1, answers
    for answer in answers:
        assert isinstance(answer, Installed) or "handclasp enroll --replica" in str(answer)


async def test_an_enrolled_folder_makes_no_installation_of_its_own(
    first: Installation, postgres: PostgresServer, tmp_path: Path
) -> None:
    await join(first, tmp_path)
    with postgres.database() as empty, pytest.raises(InstallationError, match="the database is empty"):
        async with running_installation(tmp_path, empty):
            pass
    await refusal(join(first, tmp_path), FailedPrecondition, "ENROLLMENT_NOT_POSSIBLE")
    await refusal(join(first, first.settings.data_dir.parent), FailedPrecondition, "ENROLLMENT_NOT_POSSIBLE")


async def test_tokens_for_replicas_are_for_those_who_could_make_them(first: Installation) -> None:
    made, used = await replica_token(first), await replica_token(first)
    authority = (await certify(first, used)).authority
    lesser = await first.new_user(grants=dict.fromkeys(ADMINISTRATIVE[:-1], "*"))
    async with first.client(await first.issue(lesser)) as client:
        assert made.name not in {token.name for token in await good_ones(client)}
        for token in (made, used):
            await refusal(revoke_token(client, token), NotFound, "ENROLLMENT_TOKEN_NOT_FOUND")
    full = await first.new_user(grants=dict.fromkeys(ADMINISTRATIVE, "*"))
    async with first.client(await first.issue(full)) as client:
        listed = {token.name: token for token in await good_ones(client)}
        assert listed[made.name].purpose == EnrollmentToken.PURPOSE_REPLICA
        assert used.name not in listed
        await revoke_token(client, made)
        error = await refusal(revoke_token(client, used), FailedPrecondition, "ENROLLMENT_TOKEN_SPENT")
    assert (
        f"authorities/{authority_id(x509.load_pem_x509_certificate(authority.encode()).public_key())}" in error.message
    )
    await refusal(certify(first, made), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")


async def test_what_was_begun_is_gone_on_with(
    first: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the key of the first try, if that may have been certified."""

    async def lost(*arguments: Any) -> pb.EnrollReplicaResponse:
        await enroll_replica(*arguments)
        raise Unavailable(Reason.CONNECTION_LOST, "the answer was lost")

    token = await replica_token(first)
    with monkeypatch.context() as patch:
        patch.setattr("handclasp.cli.enrolling_replica.enroll_replica", lost)
        await refusal(join(first, tmp_path, token), Unavailable, "CONNECTION_LOST")
    (key_file,) = (tmp_path / "data" / "keys").glob("*.pem")
    key_pem = key_file.read_bytes()
    made = await join(first, tmp_path, token)
    assert key_file.read_bytes() == key_pem
    async with running_installation(tmp_path, first.settings.url()) as third:
        identity = await third.issue(await third.new_user("regular-user"))
    assert identity.leaf.issuer == made.authority.subject


async def test_the_key_is_encrypted_under_a_passphrase(
    first: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDCLASP_CERTIFICATES_KEY_PASSPHRASE", "correct horse battery staple")
    made = await join(first, tmp_path)
    (key_file,) = (tmp_path / "data" / "keys").glob("*.pem")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in key_file.read_bytes()
    async with running_installation(tmp_path, first.settings.url()) as third:
        identity = await third.issue(await third.new_user("regular-user"))
    assert identity.leaf.issuer == made.authority.subject
