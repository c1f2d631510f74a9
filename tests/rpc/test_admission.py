"""Every method has an entry that says who may call it, and sends away whoever is not known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import pytest

from handclasp.accounts.v1 import account_service_pb2
from handclasp.authorization.v1 import authorization_service_pb2
from handclasp.certificate_service.main import SERVICE_NAMES
from handclasp.certificate_service.rpc.admission import ADMISSIONS, Admission
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.client.credentials import BasicCredentials
from handclasp.errors import HandclaspError, Reason
from handclasp.errors.status import from_rpc_error
from tests.rpc.account_calls import PASSWORD, WRONG_PASSWORD, disable
from tests.support.installation import Identity, Installation
from tests.support.outside_ca import OutsideCA

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICES = [
    *account_service_pb2.DESCRIPTOR.services_by_name.values(),
    *authorization_service_pb2.DESCRIPTOR.services_by_name.values(),
    *certificate_service_pb2.DESCRIPTOR.services_by_name.values(),
]
METHODS = sorted(f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods)
STREAMS = ["/handclasp.authorization.v1.AuthorizationService/WatchAuthorization"]
OPEN = [method for method, admission in ADMISSIONS.items() if admission is Admission.ANYBODY]
TRUST_BUNDLE, *ENROLLING = (
    f"/handclasp.certificates.v1.CertificateService/{method}"
    for method in ("GetTrustBundle", "Enroll", "EnrollReplica")
)
# Not a message of any method: parsing it would fail, and must not be tried for those who are not admitted.
GARBAGE = b"\xff\xff\xff"


class Caller:
    """Calls methods by name, with bytes."""

    def __init__(self, channel: grpc.aio.Channel, basic: BasicCredentials | None) -> None:
        self._channel = channel
        self._metadata = [] if basic is None else [("authorization", basic.header())]

    async def call(self, method: str, content: bytes = GARBAGE) -> HandclaspError | None:
        """The refusal, if there is one."""
        try:
            if method in STREAMS:
                stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
                await stream(iter([content]), metadata=self._metadata, timeout=20).read()
            else:
                unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
                await unary(content, metadata=self._metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        return None

    async def reasons(self) -> dict[str, set[str]]:
        """Of all methods that are not open to anybody: the methods by the reason of their refusal, `OK` if none."""
        found: dict[str, set[str]] = {}
        for method in METHODS:
            if method not in OPEN:
                error = await self.call(method)
                found.setdefault("OK" if error is None else error.reason, set()).add(method)
        return found


@asynccontextmanager
async def caller(
    installation: Installation, identity: Identity | None = None, user: str | None = None, password: str = PASSWORD
) -> AsyncIterator[Caller]:
    """Somebody at the mutual TLS listener, if there is a certificate, or else at the one-way TLS listener."""
    credentials = grpc.ssl_channel_credentials(
        installation.ca_pem, *(() if identity is None else (identity.key_pem, identity.certificate_pem))
    )
    address = installation.tls_address if identity is None else installation.mtls_address
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        yield Caller(channel, None if user is None else BasicCredentials(user, password))


@pytest.fixture
def mutual_only() -> set[str]:
    return {method for method, admission in ADMISSIONS.items() if admission is Admission.MUTUAL_TLS}


@pytest.fixture
def authenticated() -> set[str]:
    return {method for method, admission in ADMISSIONS.items() if admission is Admission.AUTHENTICATED}


async def test_every_method_has_an_entry_and_nothing_else_has() -> None:
    assert sorted(ADMISSIONS) == METHODS
    assert sorted(service.full_name for service in SERVICES) == sorted(SERVICE_NAMES)


async def test_open_to_anybody_is_the_trust_bundle_and_what_takes_a_token() -> None:
    assert sorted(OPEN) == sorted([TRUST_BUNDLE, *ENROLLING])


async def test_nobody_gets_in_without_credentials(
    installation: Installation, mutual_only: set[str], authenticated: set[str]
) -> None:
    async with caller(installation) as nobody:
        assert await nobody.reasons() == {
            Reason.CREDENTIALS_MISSING: authenticated,
            Reason.MUTUAL_TLS_REQUIRED: mutual_only,
        }
        assert await nobody.call(TRUST_BUNDLE, b"") is None
        # Without a token, that gets nobody anywhere.
        request = certificate_service_pb2.EnrollRequest(csr_der=b"-")
        for method in ENROLLING:
            error = await nobody.call(method, request.SerializeToString())
            assert error is not None
            assert error.reason == Reason.ENROLLMENT_TOKEN_INVALID


async def test_nobody_gets_in_with_a_wrong_password(
    installation: Installation, mutual_only: set[str], authenticated: set[str]
) -> None:
    user = await installation.new_user("administrator", password=PASSWORD)
    async with caller(installation, user=user, password=WRONG_PASSWORD) as guesser:
        reasons = await guesser.reasons()
        assert reasons.pop(Reason.MUTUAL_TLS_REQUIRED) == mutual_only
        assert set(reasons) == {Reason.CREDENTIALS_INVALID, Reason.CREDENTIALS_THROTTLED}
        assert reasons[Reason.CREDENTIALS_INVALID] | reasons[Reason.CREDENTIALS_THROTTLED] == authenticated
        # What is open to anybody is no place to try passwords, either.
        for method in OPEN:
            error = await guesser.call(method, b"")
            assert error is not None
            assert error.reason == Reason.CREDENTIALS_THROTTLED


async def test_an_administrator_by_password_reaches_all_but_what_needs_a_certificate(
    installation: Installation, mutual_only: set[str], authenticated: set[str]
) -> None:
    """Admitted, they are told that they sent garbage."""
    user = await installation.new_user("administrator", password=PASSWORD)
    async with caller(installation, user=user) as administrator:
        assert await administrator.reasons() == {
            Reason.REQUEST_MALFORMED: authenticated,
            Reason.MUTUAL_TLS_REQUIRED: mutual_only,
        }


async def test_a_certificate_reaches_all(
    installation: Installation, mutual_only: set[str], authenticated: set[str]
) -> None:
    async with caller(installation, installation.admin_identity) as administrator:
        assert await administrator.reasons() == {Reason.REQUEST_MALFORMED: authenticated | mutual_only}


@pytest.mark.parametrize("how", ["revoked", "expired", "user disabled", "unknown", "user disabled, by both"])
async def test_no_method_takes_a_certificate_that_is_not_good(
    installation: Installation, how: str, mutual_only: set[str], authenticated: set[str]
) -> None:
    user = await installation.new_user("administrator", password=PASSWORD)
    identity = await installation.issue(user)
    password: str | None = None
    ahead = timedelta()
    match how:
        case "revoked":
            await installation.admin.certificates.RevokeCertificate(
                certificate_service_pb2.RevokeCertificateRequest(name=identity.name)
            )
        case "expired":
            ahead = timedelta(days=91)
        case "user disabled":
            await installation.admin.accounts.DisableUser(disable(user))
        case "unknown":
            outside = OutsideCA(f"Partner of {user}")
            await installation.admin.certificates.AddTrustAnchor(
                certificate_service_pb2.AddTrustAnchorRequest(pem=outside.pem)
            )
            # In every way like the user's own, and never uploaded.
            issued = outside.issue(user)
            identity = Identity("", issued.pem.encode(), issued.key_pem.encode())
        case "user disabled, by both":
            await installation.admin.accounts.DisableUser(disable(user))
            password = PASSWORD
    with installation.clock.ahead(ahead):
        async with caller(installation, identity, user if password else None) as somebody:
            assert await somebody.reasons() == {Reason.CERTIFICATE_NOT_ACCEPTED: authenticated | mutual_only}
            for method in OPEN:
                error = await somebody.call(method, b"")
                assert error is not None
                assert error.reason == Reason.CERTIFICATE_NOT_ACCEPTED


async def test_a_disabled_user_gets_in_by_no_password(
    installation: Installation, mutual_only: set[str], authenticated: set[str]
) -> None:
    user = await installation.new_user("administrator", password=PASSWORD)
    await installation.admin.accounts.DisableUser(disable(user))
    async with caller(installation, user=user) as disabled:
        assert await disabled.reasons() == {
            Reason.CREDENTIALS_INVALID: authenticated,
            Reason.MUTUAL_TLS_REQUIRED: mutual_only,
        }


def _headers() -> Iterator[str]:
    yield "Bearer abc"
    yield "Basic"
    yield "Basic ###"
    yield "Basic " + "eA=="  # no colon
    yield "Basic " + "/zo="  # not UTF-8


@pytest.mark.parametrize("header", list(_headers()))
async def test_other_authorization_headers_are_refused_not_ignored(installation: Installation, header: str) -> None:
    """Even beside a good certificate, and where nobody needs any: whoever sends one means it."""
    for identity in (None, installation.admin_identity):
        async with caller(installation, identity) as somebody:
            somebody._metadata = [("authorization", header)]
            for method in (*OPEN, "/handclasp.accounts.v1.AccountService/ListUsers"):
                error = await somebody.call(method, b"")
                assert error is not None
                assert error.reason == Reason.CREDENTIALS_MALFORMED
