"""What the client says when a connection does not come about. Each case is provoked on real TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest

from handclasp.certificates.v1.certificate_service_pb2 import GetCertificateRequest, GetTrustBundleRequest
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.client.channels import open_channel
from handclasp.client.credentials import BasicCredentials, TlsMaterial
from handclasp.errors import (
    DeadlineExceeded,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    invalid_field,
)
from handclasp.integrations.v1.integration_service_pb2 import ListIntegrationsRequest
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from tests.support.outside_ca import Issued, OutsideCA
from tests.unit.client.small_service import Small, one_way_tls, server_certificate, serving


@pytest.fixture
async def small() -> AsyncIterator[Small]:
    async with serving(Small()) as running:
        yield running


def material(small: Small, client: Issued | None = None) -> TlsMaterial:
    roots = small.root.pem.encode()
    return TlsMaterial(roots) if client is None else TlsMaterial(roots, client.pem.encode(), client.key_pem.encode())


async def refusal(address: str, tls: TlsMaterial, timeout: float = 20.0) -> HandclaspError:
    async with open_channel(address, tls, timeout=timeout) as channel:
        with pytest.raises(HandclaspError) as caught:
            await CertificateServiceStub(channel).GetTrustBundle(GetTrustBundleRequest())
    return caught.value


def holder(small: Small, *, not_before: datetime | None = None, not_after: datetime | None = None) -> Issued:
    return small.issuing.issue("alice", not_before=not_before, not_after=not_after)


@asynccontextmanager
async def server_that_does_nothing(certificate: Issued, host: str = "127.0.0.1") -> AsyncIterator[str]:
    server = grpc.aio.server()
    port = server.add_secure_port(f"{host}:0", one_way_tls(certificate))
    await server.start()
    try:
        yield f"{host}:{port}"
    finally:
        await server.stop(None)


async def test_both_listeners_let_in_whom_they_should(small: Small) -> None:
    for address, tls in ((small.tls, material(small)), (small.mtls, material(small, holder(small)))):
        async with open_channel(address, tls) as channel:
            bundle = await CertificateServiceStub(channel).GetTrustBundle(GetTrustBundleRequest())
        assert len(bundle.authorities) == 2


async def test_no_certificate_where_one_is_wanted(small: Small) -> None:
    error = await refusal(small.mtls, material(small))
    assert (type(error), error.reason) == (Unauthenticated, Reason.HANDSHAKE_REFUSED)
    assert "no client certificate was presented" in error.message


async def test_an_expired_certificate_is_named_with_its_date(small: Small) -> None:
    expired = holder(small, not_after=small.root.now - timedelta(hours=1))
    error = await refusal(small.mtls, material(small, expired))
    assert (type(error), error.reason) == (Unauthenticated, Reason.HANDSHAKE_REFUSED)
    assert f"expired at {expired.certificate.not_valid_after_utc:%Y-%m-%d}" in error.message


async def test_a_certificate_of_the_future(small: Small) -> None:
    error = await refusal(small.mtls, material(small, holder(small, not_before=small.root.now + timedelta(hours=1))))
    assert error.reason == Reason.HANDSHAKE_REFUSED
    assert "valid only from" in error.message


async def test_a_foreign_certificate(small: Small) -> None:
    error = await refusal(small.mtls, material(small, OutsideCA("foreign").issue("mallory")))
    assert (type(error), error.reason) == (Unavailable, Reason.HANDSHAKE_REFUSED)
    assert "CN=mallory, issued by CN=foreign" in error.message
    assert "trusts the CA" in error.message


async def test_a_certificate_without_its_intermediate(small: Small) -> None:
    mine = holder(small)
    alone = Issued(mine.certificate, mine.key)
    error = await refusal(small.mtls, material(small, alone))
    assert error.reason == Reason.HANDSHAKE_REFUSED
    assert "intermediates" in error.message


async def test_a_key_of_another_certificate(small: Small) -> None:
    mine = holder(small)
    tls = TlsMaterial(small.root.pem.encode(), mine.pem.encode(), holder(small).key_pem.encode())
    error = await refusal(small.mtls, tls)
    assert "does not belong to the client certificate" in error.message
    assert "PRIVATE KEY" not in error.message + repr(tls)


@pytest.mark.parametrize(
    ("certificate", "key", "fault"),
    [
        (b"nonsense", None, "certificate file is not PEM"),
        (None, b"nonsense", "is not a PEM private key"),
    ],
)
async def test_garbage_in_the_files(small: Small, certificate: bytes | None, key: bytes | None, fault: str) -> None:
    mine = holder(small)
    tls = TlsMaterial(small.root.pem.encode(), certificate or mine.pem.encode(), key or mine.key_pem.encode())
    error = await refusal(small.mtls, tls)
    assert fault in error.message


async def test_garbage_instead_of_a_ca(small: Small) -> None:
    error = await refusal(small.tls, TlsMaterial(b"nonsense"))
    assert "CA file is not PEM" in error.message
    with pytest.raises(InvalidArgument, match="empty"):
        TlsMaterial(b" \n")


async def test_a_server_of_another_ca(small: Small) -> None:
    error = await refusal(small.tls, TlsMaterial(OutsideCA("foreign").pem.encode()))
    assert (type(error), error.reason) == (Unauthenticated, Reason.SERVER_CERTIFICATE_REFUSED)
    assert "unable to get local issuer certificate" in error.message


async def test_a_server_whose_certificate_expired() -> None:
    root = OutsideCA()
    expired = server_certificate(root, not_after=root.now - timedelta(hours=1))
    async with server_that_does_nothing(expired) as address:
        error = await refusal(address, TlsMaterial(root.pem.encode()))
    assert error.reason == Reason.SERVER_CERTIFICATE_REFUSED
    assert "certificate has expired" in error.message


async def test_a_server_of_another_name() -> None:
    root = OutsideCA()
    async with server_that_does_nothing(server_certificate(root), host="127.0.0.2") as address:
        error = await refusal(address, TlsMaterial(root.pem.encode()))
    assert error.reason == Reason.SERVER_CERTIFICATE_REFUSED
    assert "does not name 127.0.0.2" in error.message


async def test_nothing_listens(small: Small) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await refusal(f"127.0.0.1:{taken.getsockname()[1]}", material(small))
    assert (type(error), error.reason) == (Unavailable, Reason.SERVER_UNREACHABLE)
    assert "connection refused" in error.message


async def test_a_name_that_does_not_resolve(small: Small) -> None:
    error = await refusal("nosuch.invalid:8443", material(small))
    assert error.reason == Reason.SERVER_UNREACHABLE
    assert "cannot be resolved" in error.message


async def test_servers_that_are_not_ours(small: Small, tmp_path: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    (tmp_path / "chain.pem").write_text(small.server.pem)
    (tmp_path / "key.pem").write_text(small.server.key_pem)
    web = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    web.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    for handler, context, fault in (
        (plain, None, "does not speak gRPC over TLS"),
        (mute, None, "closed the connection before TLS was set up"),
        (mute, web, "does not speak gRPC over TLS"),
    ):
        async with await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context) as other:
            error = await refusal(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", material(small))
        assert (type(error), error.reason) == (Unavailable, Reason.SERVER_UNREACHABLE)
        assert fault in error.message


async def test_a_silent_server_is_given_up_after_the_default_timeout(small: Small) -> None:
    leave = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as other:
        error = await refusal(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", material(small), timeout=0.5)
        leave.set()
    assert type(error) is DeadlineExceeded


async def test_a_connection_that_breaks_during_the_call_may_have_been_carried_out() -> None:
    root = OutsideCA()
    entered = asyncio.Event()

    async def hang(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        entered.set()
        await asyncio.sleep(30)
        return b""

    server = grpc.aio.server()
    name = "handclasp.certificates.v1.CertificateService"
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "GetTrustBundle": grpc.unary_unary_rpc_method_handler(hang)
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    port = server.add_secure_port("127.0.0.1:0", one_way_tls(server_certificate(root)))
    await server.start()
    asked = asyncio.create_task(refusal(f"127.0.0.1:{port}", TlsMaterial(root.pem.encode())))
    await entered.wait()
    await server.stop(None)
    error = await asked
    assert (type(error), error.reason) == (Unavailable, Reason.CONNECTION_LOST)
    assert "may or may not have been carried out" in error.message


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.CANCELLED, ""),
        (grpc.StatusCode.INTERNAL, "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"),
    ],
)
async def test_a_call_that_a_server_drops_without_a_word_may_have_been_carried_out(
    code: grpc.StatusCode, details: str
) -> None:
    """As it happens to one that arrives while the server stops."""
    root = OutsideCA()

    async def drop(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        context.set_code(code)
        context.set_details(details)
        return b""

    name = "handclasp.certificates.v1.CertificateService"
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "GetTrustBundle": grpc.unary_unary_rpc_method_handler(drop)
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    port = server.add_secure_port("127.0.0.1:0", one_way_tls(server_certificate(root)))
    await server.start()
    error = await refusal(f"127.0.0.1:{port}", TlsMaterial(root.pem.encode()))
    await server.stop(None)
    assert (type(error), error.reason) == (Unavailable, Reason.CONNECTION_LOST)


async def test_errors_of_the_service_come_back_as_the_same_type(small: Small) -> None:
    sent: list[HandclaspError | grpc.StatusCode] = [
        NotFound(Reason.CERTIFICATE_NOT_FOUND, "no certificate x"),
        PermissionDenied(Reason.ACCESS_DENIED, "not allowed", metadata={"decision": "decisions/d1"}),
        invalid_field("name", "is too long"),
        Unavailable(Reason.STORAGE_UNAVAILABLE, "the database is down", retry_after=timedelta(seconds=2)),
    ]
    small.refuse["GetCertificate"] = [*sent]
    async with open_channel(small.tls, material(small)) as channel:
        for error in sent:
            with pytest.raises(HandclaspError) as caught:
                await CertificateServiceStub(channel).GetCertificate(GetCertificateRequest(name="certificates/x"))
            assert type(caught.value) is type(error)
            assert vars(caught.value) == vars(error)


async def test_credentials_go_with_each_call_and_into_no_text(small: Small) -> None:
    basic = BasicCredentials("alice", "pässword: with colon")
    async with open_channel(small.tls, material(small), basic=basic) as channel:
        for _ in range(2):
            await CertificateServiceStub(channel).GetCertificate(GetCertificateRequest(name="certificates/x"))
    assert {seen.authorization for seen in small.seen} == {"Basic YWxpY2U6cMOkc3N3b3JkOiB3aXRoIGNvbG9u"}
    assert "ssword" not in repr(basic)
    with pytest.raises(InvalidArgument):
        BasicCredentials("ali:ce", "x").header()


async def test_a_service_at_the_wrong_address(small: Small) -> None:
    async with server_that_does_nothing(small.server) as address:
        error = await refusal(address, material(small))
        assert isinstance(error, Unimplemented)
        assert error.reason == Reason.METHOD_UNKNOWN
        assert error.message.startswith(f"{address} has no CertificateService; it is not the certificate service (")
        async with open_channel(address, material(small)) as channel:
            with pytest.raises(Unimplemented) as caught:
                await IntegrationServiceStub(channel).ListIntegrations(ListIntegrationsRequest())
    assert caught.value.message == (
        f"{address} has no IntegrationService; it is not an execution server (8443 by default)"
    )
