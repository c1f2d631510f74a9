"""What grpcio does with TLS, as far as the services rely on it or guard against it, on real sockets.

Much of this is not documented. A test here that fails after an upgrade of grpcio is news to act upon: either a guard in
the services has become unnecessary, or something that they build on is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier
from grpc._cython.cygrpc import SSLSessionCacheLRU

from tests.support.outside_ca import (
    ANY_PURPOSE,
    CLIENT_AUTH,
    SERVER_AUTH,
    Issued,
    OutsideCA,
    glued_pem,
    key_usage,
    pem_of,
    rsa_key,
    self_signed,
    sha1_signed,
    signature_twin,
    version_1,
)
from tests.support.tls_lab import (
    PATIENCE_SECONDS,
    AuthContext,
    bare_server,
    call,
    configuration,
    connect,
    gets_in,
    key_and_chain,
    mutual_tls,
    mutual_tls_with_bundle,
    server_identity,
)

CA = OutsideCA()
SERVER = server_identity(CA)
CLIENT = CA.issue("client")
HOUR = timedelta(hours=1)
BAD_PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


async def until_expired(certificate: x509.Certificate) -> None:
    remaining = certificate.not_valid_after_utc - datetime.now(UTC)
    await asyncio.sleep(remaining.total_seconds() + 0.1)


def short_lived_client() -> Issued:
    """Valid for two to three more seconds: the end of a validity is a whole second."""
    return CA.issue("client", not_after=datetime.now(UTC) + timedelta(seconds=3))


class TestExpiry:
    @pytest.mark.parametrize(("begin", "end"), [(-2 * HOUR, -HOUR), (HOUR, 2 * HOUR)], ids=["expired", "not yet valid"])
    async def test_refused_at_a_first_handshake(self, begin: timedelta, end: timedelta) -> None:
        client = CA.issue("client", not_before=CA.now + begin, not_after=CA.now + end)
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert not await gets_in(server.port, CA.certificate, client)

    async def test_an_open_connection_outlives_the_certificate(self) -> None:
        client = short_lived_client()
        async with (
            bare_server(mutual_tls(SERVER, CA.certificate)) as server,
            connect(server.port, CA.certificate, client) as channel,
        ):
            await call(channel)
            await until_expired(client.certificate)
            await call(channel)

    async def test_session_resumption_lets_an_expired_certificate_in(self) -> None:
        client = short_lived_client()
        # Sessions are kept by name; under an address there is none.
        resuming = [("grpc.ssl_session_cache", SSLSessionCacheLRU(10)), ("grpc.ssl_target_name_override", "localhost")]
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, client, resuming)
            await until_expired(client.certificate)
            assert not await gets_in(server.port, CA.certificate, client), "a full handshake must refuse it"
            assert await gets_in(server.port, CA.certificate, client, resuming)
            assert [list(context["ssl_session_reused"]) for context in server.seen] == [[b"false"], [b"true"]]
            # The certificate is shown to the application all the same, which can look at its validity.
            resumed = server.seen[-1]
            assert presented(resumed, "x509_pem_cert") == [client.der]

    @pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda tls: tls.name)
    async def test_session_resumption_lets_an_expired_certificate_in_by_either_version(
        self, tls: ssl.TLSVersion, tmp_path: Path
    ) -> None:
        client = short_lived_client()
        context = client_context(CA.certificate, client, tmp_path, tls)
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            session = await asyncio.to_thread(handshake, context, server.port)
            assert not session.reused
            await until_expired(client.certificate)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(handshake, context, server.port)
            resumed = await asyncio.to_thread(handshake, context, server.port, session.session)
            assert resumed.reused

    async def test_a_new_configuration_invalidates_sessions(self, tmp_path: Path) -> None:
        context = client_context(CA.certificate, CLIENT, tmp_path, ssl.TLSVersion.TLSv1_3)
        pending: list[grpc.ServerCertificateConfiguration] = []
        async with bare_server(fetching(lambda: pending.pop() if pending else None)) as server:
            first = await asyncio.to_thread(handshake, context, server.port)
            resumed = await asyncio.to_thread(handshake, context, server.port, first.session)
            assert resumed.reused
            pending.append(configuration(SERVER, CA.certificate))
            afterwards = await asyncio.to_thread(handshake, context, server.port, first.session)
            assert not afterwards.reused


@dataclass(frozen=True)
class Handshake:
    reused: bool
    session: ssl.SSLSession | None


def client_context(roots: x509.Certificate, client: Issued, folder: Path, tls: ssl.TLSVersion) -> ssl.SSLContext:
    files = folder / "client.pem"
    files.write_text(client.key_pem + client.pem)
    context = ssl.create_default_context(cadata=pem_of(roots))
    context.load_cert_chain(files)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = tls
    return context


def handshake(context: ssl.SSLContext, port: int, session: ssl.SSLSession | None = None) -> Handshake:
    """A handshake that the server has accepted too, since it went on to speak HTTP/2. Blocks.

    Raises:
        ssl.SSLError, ConnectionError: it was refused.
    """
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
    ):
        preface, empty_settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"
        connection.sendall(preface + empty_settings)
        if not connection.recv(1):
            raise ConnectionResetError("closed without a word")
        return Handshake(bool(connection.session_reused), connection.session)


Fetcher = Callable[[], Any]


def fetching(fetch: Fetcher) -> grpc.ServerCredentials:
    """Credentials that begin with `SERVER` and `CA`, and ask `fetch` at each handshake."""
    return grpc.dynamic_ssl_server_credentials(configuration(SERVER, CA.certificate), fetch, True)


class TestSwappingConfigurations:
    async def test_client_authorities_and_own_certificate_swap_while_running(self) -> None:
        other = OutsideCA("Another CA")
        others_client = other.issue("client")
        pending: list[grpc.ServerCertificateConfiguration] = []
        async with (
            bare_server(fetching(lambda: pending.pop() if pending else None)) as server,
            connect(server.port, CA.certificate, CLIENT) as open_before,
        ):
            await call(open_before)
            assert not await gets_in(server.port, CA.certificate, others_client)
            pending.append(configuration(server_identity(other), other.certificate))
            assert await gets_in(server.port, other.certificate, others_client)
            assert not await gets_in(server.port, other.certificate, CLIENT)
            # What is open already is not checked again.
            await call(open_before)

    async def test_the_fetcher_is_asked_once_a_handshake_on_a_thread_of_grpcs(self) -> None:
        threads: list[threading.Thread] = []
        async with bare_server(fetching(lambda: threads.append(threading.current_thread()))) as server:
            for _ in range(3):
                assert await gets_in(server.port, CA.certificate, CLIENT)
        assert len(threads) == 3
        assert threading.current_thread() not in threads

    @pytest.mark.parametrize("answer", ["exception", "wrong type", "bad certificate", "bad key"])
    async def test_a_failing_fetcher_leaves_the_old_configuration_in_force(self, answer: str) -> None:
        asked: list[str] = []

        def fetch() -> object:
            asked.append(answer)
            if answer == "exception":
                raise RuntimeError("the fetcher fails, as this test wants it to")
            if answer == "wrong type":
                return "not a configuration"
            key, chain = key_and_chain(SERVER)
            pair = (key, BAD_PEM.encode()) if answer == "bad certificate" else (b"not a key", chain)
            return grpc.ssl_server_certificate_configuration([pair], CA.pem.encode())

        async with bare_server(fetching(fetch)) as server:
            assert await gets_in(server.port, CA.certificate, CLIENT)
        assert asked

    @pytest.mark.parametrize("roots", [None, b""])
    async def test_no_roots_refuse_everybody(self, roots: bytes | None) -> None:
        nobody = grpc.ssl_server_certificate_configuration([key_and_chain(SERVER)], roots)
        credentials = grpc.dynamic_ssl_server_credentials(nobody, lambda: nobody, True)
        async with bare_server(credentials) as server:
            assert not await gets_in(server.port, CA.certificate, CLIENT)
            assert not await gets_in(server.port, CA.certificate, None)


class TestWhatTheBundleMeans:
    @pytest.mark.parametrize(
        ("usage", "acts_as_ca"),
        [(None, True), (key_usage("digital_signature"), False)],
        ids=["no key usage", "key usage"],
    )
    async def test_a_leaf_in_it_acts_as_a_ca(self, usage: x509.KeyUsage | None, *, acts_as_ca: bool) -> None:
        # CA:FALSE does not keep it from vouching for others; only a key usage does.
        not_a_ca = (x509.BasicConstraints(ca=False, path_length=None), True)
        leaf = OutsideCA(
            "an ordinary leaf",
            parent=CA,
            basic_constraints=False,
            extensions=[not_a_ca],
            usage=usage,
            purposes=(CLIENT_AUTH,),
        )
        async with bare_server(mutual_tls(SERVER, leaf.certificate)) as server:
            child = leaf.issue("nobody's child")
            assert await gets_in(server.port, CA.certificate, replace(child, intermediates=())) is acts_as_ca

    @pytest.mark.parametrize("between", ["", BAD_PEM], ids=["whole", "a bad one between"])
    async def test_it_is_read_up_to_the_first_bad_certificate(self, between: str) -> None:
        second = OutsideCA("Second CA")
        async with bare_server(mutual_tls_with_bundle(SERVER, CA.pem + between + second.pem)) as server:
            assert await gets_in(server.port, CA.certificate, CLIENT)
            assert await gets_in(server.port, CA.certificate, second.issue()) is (not between)

    async def test_a_missing_newline_hides_what_follows(self) -> None:
        glued = [OutsideCA("Second CA"), OutsideCA("Third CA")]
        bundle = CA.pem + glued_pem(*(ca.certificate for ca in glued))
        async with bare_server(mutual_tls_with_bundle(SERVER, bundle)) as server:
            assert await gets_in(server.port, CA.certificate, CLIENT)
            assert [await gets_in(server.port, CA.certificate, ca.issue()) for ca in glued] == [False, False]

    @pytest.mark.parametrize("key_identifiers", [True, False])
    async def test_two_authorities_of_one_name_need_key_identifiers(self, *, key_identifiers: bool) -> None:
        twins = [OutsideCA("One name", key_identifiers=key_identifiers) for _ in range(2)]
        async with bare_server(mutual_tls(SERVER, *(twin.certificate for twin in twins))) as server:
            let_in = [await gets_in(server.port, CA.certificate, twin.issue()) for twin in twins]
        assert sum(let_in) == (2 if key_identifiers else 1)

    async def test_an_intermediate_alone_is_enough(self) -> None:
        intermediate = CA.intermediate()
        client = replace(intermediate.issue(), intermediates=())
        async with bare_server(mutual_tls(SERVER, intermediate.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, client)

    async def test_a_root_alone_needs_the_intermediate_from_the_client(self) -> None:
        client = CA.intermediate().issue()
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, client)
            assert not await gets_in(server.port, CA.certificate, replace(client, intermediates=()))

    async def test_expired_authorities_refuse_their_leaves(self) -> None:
        expired = OutsideCA(not_after=CA.now - HOUR)
        async with bare_server(mutual_tls(SERVER, expired.certificate)) as server:
            assert not await gets_in(server.port, CA.certificate, expired.issue())


class TestWhatTheHandshakeAccepts:
    @pytest.mark.parametrize(
        ("key", "accepted"),
        [
            ("RSA 1024", True),
            ("RSA 2048", True),
            ("RSA 3072", True),
            ("RSA 4096", True),
            pytest.param("RSA 8192", True, marks=pytest.mark.campaign),
            ("EC P-256", True),
            ("EC P-384", True),
            ("EC P-521", False),
            ("Ed25519", False),
        ],
    )
    async def test_client_keys(self, key: str, *, accepted: bool) -> None:
        client = CA.issue(key=make_key(key))
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, client) is accepted

    @pytest.mark.parametrize("key", ["EC P-521", "Ed25519"])
    async def test_grpc_clients_cannot_speak_to_servers_with_these_keys(self, key: str) -> None:
        async with bare_server(mutual_tls(server_identity(CA, make_key(key)), CA.certificate)) as server:
            assert not await gets_in(server.port, CA.certificate, CLIENT)

    @pytest.mark.parametrize("key", ["EC P-521", "Ed25519", "RSA 4096"])
    async def test_authorities_may_have_keys_that_leaves_may_not(self, key: str) -> None:
        root = OutsideCA(key=make_key(key))
        async with bare_server(mutual_tls(SERVER, root.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, root.issue())

    @pytest.mark.parametrize(
        ("usages", "accepted"),
        [
            ([CLIENT_AUTH], True),
            ([CLIENT_AUTH, SERVER_AUTH], True),
            ([SERVER_AUTH], False),
            # RFC 5280 would let it stand for all purposes; BoringSSL does not.
            ([ANY_PURPOSE], False),
            (None, True),
        ],
        ids=["client", "client and server", "server", "any", "no extension"],
    )
    async def test_extended_key_usages(self, usages: list[ObjectIdentifier] | None, *, accepted: bool) -> None:
        client = CA.issue(purposes=usages)
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, client) is accepted

    async def test_a_self_signed_certificate_and_none_are_refused(self) -> None:
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert not await gets_in(server.port, CA.certificate, self_signed())
            assert not await gets_in(server.port, CA.certificate, None)

    @pytest.mark.parametrize("make", [version_1, sha1_signed])
    async def test_old_forms_are_accepted(self, make: Callable[[OutsideCA], Issued]) -> None:
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, make(CA))

    async def test_the_refused_client_is_not_told_why(self) -> None:
        async with (
            bare_server(mutual_tls(SERVER, CA.certificate)) as server,
            connect(server.port, CA.certificate, None) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "certificate" not in (refused.value.details() or "").lower()

    async def test_the_rewritten_signature_of_a_certificate_passes(self) -> None:
        twin = replace(CLIENT, certificate=x509.load_der_x509_certificate(signature_twin(CLIENT.certificate)))
        assert twin.certificate.tbs_certificate_bytes == CLIENT.certificate.tbs_certificate_bytes
        assert hashlib.sha256(twin.der).digest() != hashlib.sha256(CLIENT.der).digest()
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, twin)
            assert presented(server.seen[0], "x509_pem_cert") == [twin.der]


def make_key(kind: str) -> CertificateIssuerPrivateKeyTypes:
    family, _, size = kind.partition(" ")
    if family == "RSA":
        return rsa_key(int(size))
    curves: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    return ec.generate_private_key(curves[size]) if family == "EC" else ed25519.Ed25519PrivateKey.generate()


def presented(context: AuthContext, key: str) -> list[bytes]:
    """The certificates under a key of the auth context, as DER."""
    blob = b"".join(context.get(key, ())).decode()
    return [certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(blob.encode())]


class TestWhatTheApplicationSees:
    async def test_the_leaf_alone_is_verified(self) -> None:
        unrelated = OutsideCA("Nobody's CA").issue("administrator")
        client = replace(CLIENT, intermediates=(unrelated.certificate,))
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, client)
            context = server.seen[0]
        assert presented(context, "x509_pem_cert") == [client.der]
        # What was sent after the leaf comes along too, and vouches for nothing.
        assert unrelated.der in presented(context, "x509_pem_cert_chain")

    async def test_the_tls_version_is_known(self) -> None:
        async with bare_server(mutual_tls(SERVER, CA.certificate)) as server:
            assert await gets_in(server.port, CA.certificate, CLIENT)
            assert list(server.seen[0]["ssl_tls_version"]) == [b"TLSv1.3"]


class TestListeners:
    async def test_a_second_process_could_share_the_port_unless_told_otherwise(self) -> None:
        async def bind(port: int, *options: tuple[str, int]) -> tuple[grpc.aio.Server, int]:
            server = grpc.aio.server(options=options)
            return server, server.add_secure_port(f"127.0.0.1:{port}", mutual_tls(SERVER, CA.certificate))

        first, port = await bind(0)
        second, shared = await bind(port)
        assert shared == port
        exclusive = ("grpc.so_reuseport", 0)
        third, taken = await bind(0, exclusive)
        with pytest.raises(RuntimeError, match="Failed to bind"):
            await bind(taken, exclusive)
        for server in (first, second, third):
            await server.stop(None)


class TestCuttingOffACall:
    @pytest.mark.parametrize("abort_first", [True, False])
    async def test_the_client_hears_of_a_cancelled_handler_only_if_it_aborts_first(self, *, abort_first: bool) -> None:
        handlers: list[asyncio.Task[object]] = []
        contexts: list[grpc.aio.ServicerContext[bytes, bytes]] = []
        running = asyncio.Event()

        async def wait_for_ever(context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            task = asyncio.current_task()
            assert task is not None
            handlers.append(task)
            contexts.append(context)
            running.set()
            await asyncio.Event().wait()
            return b""

        async with (
            bare_server(mutual_tls(SERVER, CA.certificate), wait_for_ever) as server,
            connect(server.port, CA.certificate, CLIENT) as channel,
        ):
            waiting = asyncio.create_task(call(channel, timeout=PATIENCE_SECONDS if abort_first else 2.0))
            await running.wait()
            if abort_first:
                with pytest.raises(grpc.aio.AbortError):
                    await contexts[0].abort(grpc.StatusCode.PERMISSION_DENIED, "revoked")
            handlers[0].cancel()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await waiting
        expected = grpc.StatusCode.PERMISSION_DENIED if abort_first else grpc.StatusCode.DEADLINE_EXCEEDED
        assert ended.value.code() is expected
