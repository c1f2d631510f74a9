"""Paging, retries, files, signing requests, and trust by fingerprint."""

from __future__ import annotations

import asyncio
import itertools
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handclasp.certificates.v1.certificate_service_pb2 import (
    IssueCertificateRequest,
    ListCertificatesRequest,
    ListCertificatesResponse,
)
from handclasp.client import HandclaspClient, TlsMaterial, fetch_authority, files, issue_with_local_key, items
from handclasp.client.csr import Curve, make_key_and_request
from handclasp.client.retries import repeat_if_lost
from handclasp.errors import (
    Aborted,
    AlreadyExists,
    HandclaspError,
    InvalidArgument,
    Reason,
    Unauthenticated,
    Unavailable,
    invalid_field,
)
from tests.support.outside_ca import SERVER_AUTH
from tests.unit.client.small_service import Small, serving


@pytest.fixture
async def small() -> AsyncIterator[Small]:
    async with serving(Small()) as running:
        yield running


@asynccontextmanager
async def in_turn(services: Sequence[Small]) -> AsyncIterator[tuple[str, list[int]]]:
    """Something that passes TCP on, each connection to the next of the services: its address, and the ports that it has
    connected to."""
    ports = itertools.cycle([service.tls_port for service in services])
    taken: list[int] = []
    passing: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(next(ports))
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", taken[-1])
        for task in (copy(reader, there_writer), copy(there_reader, writer)):
            passing.add(asyncio.create_task(task))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", taken
    finally:
        server.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


def client_of(small: Small) -> HandclaspClient:
    return HandclaspClient(tls=TlsMaterial(small.root.pem.encode()), certificates=small.tls)


@pytest.mark.parametrize(("limit", "count", "calls"), [(None, 5, 3), (5, 5, 3), (3, 3, 2), (1, 1, 1), (0, 0, 0)])
async def test_paging_takes_what_is_asked_for_and_no_page_more(
    small: Small, limit: int | None, count: int, calls: int
) -> None:
    small.certificate_count = 5
    async with client_of(small) as client:
        request = ListCertificatesRequest(user="users/alice")
        found = items(client.certificates.ListCertificates, request, lambda page: list(page.certificates), limit)
        names = [certificate.name async for certificate in found]
    assert names == [f"certificates/c{number}" for number in range(count)]
    assert len(small.seen) == calls
    assert {seen.request.user for seen in small.seen} <= {"users/alice"}


@pytest.mark.parametrize("same", [True, False])
async def test_pages_without_an_end_are_given_up(same: bool) -> None:
    tokens = itertools.count(1)

    async def list_endlessly(request: ListCertificatesRequest) -> ListCertificatesResponse:
        return ListCertificatesResponse(next_page_token="again" if same else str(next(tokens)))

    found = items(list_endlessly, ListCertificatesRequest(), lambda page: list(page.certificates))
    with pytest.raises(Aborted) as caught:
        _ = [certificate async for certificate in found]
    assert caught.value.reason == Reason.ANSWER_NOT_USABLE


async def test_a_lost_answer_is_asked_for_again_with_the_same_request_id(small: Small) -> None:
    small.refuse["IssueCertificate"] = [grpc.StatusCode.UNAVAILABLE]
    async with client_of(small) as client:
        made, answer = await issue_with_local_key(client, IssueCertificateRequest(user="users/alice"))
    first, second = small.seen
    assert first.request.request_id == second.request.request_id != ""
    leaf = x509.load_pem_x509_certificates(answer.certificate.pem.encode())[0]
    assert load_pem_private_key(made.key_pem, None).public_key() == leaf.public_key()
    assert "PRIVATE" not in repr(made)


async def test_what_is_not_lost_is_not_repeated() -> None:
    calls: list[HandclaspError] = []

    async def refused() -> None:
        calls.append(waiting.pop(0))
        raise calls[-1]

    unreachable = Unavailable(Reason.SERVER_UNREACHABLE, "nobody there")
    lost = Unavailable(Reason.CONNECTION_LOST, "broke")
    for first in (unreachable, Unavailable(Reason.HANDSHAKE_REFUSED, "no"), invalid_field("user", "is odd")):
        calls.clear()
        waiting = [first]
        with pytest.raises(HandclaspError) as caught:
            await repeat_if_lost(refused, (0.0, 0.0))
        assert caught.value is first
    # Once something was lost, a server that is away for a moment is waited for; and it stays said that it was lost,
    # even if a later attempt is refused for certain.
    for last in (unreachable, invalid_field("user", "is odd")):
        calls.clear()
        waiting = [lost, unreachable, last]
        with pytest.raises(Unavailable) as doubt:
            await repeat_if_lost(refused, (0.0, 0.0))
        assert len(calls) == 3
        assert doubt.value.reason == Reason.CONNECTION_LOST
        assert str(last) in doubt.value.message
    # One that says that it is being stopped was there, and did nothing: it is waited for, and nothing is in doubt.
    stopping = Unavailable(Reason.SERVER_STOPPING, "is being stopped")
    calls.clear()
    waiting = [stopping, unreachable, unreachable]
    with pytest.raises(Unavailable) as sure:
        await repeat_if_lost(refused, (0.0, 0.0))
    assert len(calls) == 3
    assert sure.value is unreachable
    # One that was stopped while the call ran may have done a part of it.
    interrupted = Unavailable(Reason.CALL_INTERRUPTED, "was stopped")
    calls.clear()
    waiting = [interrupted, unreachable, unreachable]
    with pytest.raises(Unavailable) as doubtful:
        await repeat_if_lost(refused, (0.0, 0.0))
    assert len(calls) == 3
    assert doubtful.value.reason == Reason.CALL_INTERRUPTED


@pytest.mark.parametrize(("curve", "curve_type"), [("p256", ec.SECP256R1), ("p384", ec.SECP384R1)])
def test_a_signing_request_of_each_curve(curve: Curve, curve_type: type[ec.EllipticCurve]) -> None:
    made = make_key_and_request("partner", curve)
    request = x509.load_pem_x509_csr(made.csr_pem)
    key = load_pem_private_key(made.key_pem, None)
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, curve_type)
    assert request.subject.rfc4514_string() == "CN=partner"


def test_new_files_are_private_never_overwritten_and_go_away_unless_filled(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with files.NewFile(path, files.SECRET_MODE) as file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.fill(b"first")
    for existing in (path, tmp_path / "dangling"):
        if existing != path:
            existing.symlink_to(tmp_path / "nowhere")
        with pytest.raises(AlreadyExists):
            files.write_new(existing, b"second", files.PUBLIC_MODE)
        with pytest.raises(AlreadyExists):
            files.refuse_existing([existing])
    assert path.read_bytes() == b"first"
    with pytest.raises(ZeroDivisionError), files.NewFile(tmp_path / "other", files.SECRET_MODE):
        raise ZeroDivisionError
    assert not (tmp_path / "other").exists()
    with pytest.raises(InvalidArgument) as caught:
        files.write_new(tmp_path / "no" / "folder", b"", files.PUBLIC_MODE)
    assert caught.value.reason == Reason.FILE_NOT_USABLE


@pytest.mark.parametrize(
    ("content", "password"), [(b"word\n", "word"), (b"word\r\nmore", "word"), (b" s p \n", " s p "), (b"w", "w")]
)
def test_the_password_is_the_first_line(content: bytes, password: str) -> None:
    assert files.password_text(content, "it") == password


@pytest.mark.parametrize("content", [b"", b"\nword", b"\xff\xfesecret"])
def test_passwords_that_are_none(content: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        files.password_text(content, "it")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_trust_by_fingerprint(small: Small) -> None:
    upper_with_colons = ":".join(small.fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
    for given in (small.fingerprint, upper_with_colons, f"sha256 Fingerprint={upper_with_colons}\n"):
        assert (await fetch_authority(small.tls, given)).decode() == small.root.pem
    issuing = small.issuing.certificate.fingerprint(hashes.SHA256()).hex()
    assert (await fetch_authority(small.tls, issuing)).decode() == small.issuing.pem


async def test_trust_by_fingerprint_where_each_connection_is_another_process_s(small: Small) -> None:
    """As with several workers, or several services behind one address: each has a server certificate of its own."""
    others = [Small(root=small.root) for _ in range(2)]
    async with serving(others[0]), serving(others[1]), in_turn([small, *others]) as (address, taken):
        for _ in range(3):
            assert (await fetch_authority(address, small.fingerprint)).decode() == small.root.pem
    assert len(set(taken)) == 3


async def test_a_server_with_another_name_is_not_asked_without_end(small: Small) -> None:
    small.server = small.issuing.issue("server", purposes=(SERVER_AUTH,), alternative=[x509.DNSName("other.example")])
    async with serving(small), in_turn([small]) as (address, taken):
        with pytest.raises(Unauthenticated) as caught:
            await fetch_authority(address, small.fingerprint)
    assert caught.value.reason == Reason.SERVER_CERTIFICATE_REFUSED
    assert "does not name 127.0.0.1" in caught.value.message
    assert len(taken) < 20


async def test_another_fingerprint_is_refused_and_none_is_offered_instead(small: Small) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await fetch_authority(small.tls, "0" * 64)
    assert caught.value.reason == Reason.CA_FINGERPRINT_MISMATCH
    assert small.fingerprint not in caught.value.message


async def test_trust_by_fingerprint_at_another_port(small: Small) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await fetch_authority(small.mtls, small.fingerprint)
    assert "needs the one-way TLS port" in caught.value.message


@pytest.mark.parametrize(("certificate", "key"), [(b"", b"x"), (b"x", b""), (b"x", b"\n")])
def test_empty_material_never_reaches_grpc(certificate: bytes, key: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TlsMaterial(b"authorities", certificate, key)
    assert caught.value.reason == Reason.FILE_NOT_USABLE
    assert "is empty" in caught.value.message


@pytest.mark.parametrize("fingerprint", ["", "ab", "g" * 64, "a" * 63, "a" * 65])
async def test_fingerprints_that_are_none(small: Small, fingerprint: str) -> None:
    with pytest.raises(InvalidArgument):
        await fetch_authority(small.tls, fingerprint)
    assert not small.seen


async def test_a_server_that_shows_the_ca_but_is_not_under_it(small: Small) -> None:
    """Somebody in between can pass on the true bundle, since CA certificates are public."""
    between = Small()
    between.root, genuine = small.root, small.fingerprint
    stranger = Small()
    between.server = stranger.server
    async with serving(between):
        with pytest.raises(Unauthenticated) as caught:
            await fetch_authority(between.tls, genuine)
    assert caught.value.reason == Reason.SERVER_CERTIFICATE_REFUSED


async def test_a_leaf_is_no_authority_even_with_the_right_fingerprint(small: Small) -> None:
    leaf = small.issuing.issue("alice", not_after=small.root.now + timedelta(days=1))
    small.more_authorities.append(leaf.pem)
    with pytest.raises(Unauthenticated) as caught:
        await fetch_authority(small.tls, leaf.certificate.fingerprint(hashes.SHA256()).hex())
    assert caught.value.reason == Reason.CA_FINGERPRINT_MISMATCH


async def test_fetching_from_nowhere() -> None:
    with pytest.raises(Unavailable) as caught:
        await fetch_authority("127.0.0.1:1", "0" * 64)
    assert caught.value.reason == Reason.SERVER_UNREACHABLE
    with pytest.raises(Unavailable, match="cannot be resolved; check its spelling"):
        await fetch_authority("nowhere.invalid:8442", "0" * 64)
