"""Whatever is sent, the answer is a status with a reason, never UNKNOWN or INTERNAL; a refusal changes nothing, and the
services stay up."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from handclasp.accounts.v1 import account_service_pb2
from handclasp.authorization.v1 import authorization_service_pb2
from handclasp.certificate_service.storage.database import Database
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import Reason
from handclasp.errors.status import DETAILS_KEY, DOMAIN, from_rpc_error
from handclasp.integrations.v1 import integration_service_pb2
from tests.rpc.certificate_harness import add_anchor, beside, counts, der, pem, signing_request
from tests.rpc.execution_harness import Pair, running_pair
from tests.support.installation import Identity, Installation
from tests.support.outside_ca import OutsideCA, huge_rsa_certificate, huge_rsa_request, pem_block

pytestmark = pytest.mark.asyncio(loop_scope="module")

CERTIFICATES = pb.DESCRIPTOR.services_by_name["CertificateService"]
ACCOUNTS = account_service_pb2.DESCRIPTOR.services_by_name["AccountService"]
AUTHORIZATION = authorization_service_pb2.DESCRIPTOR.services_by_name["AuthorizationService"]
INTEGRATIONS = integration_service_pb2.DESCRIPTOR.services_by_name["IntegrationService"]
METHODS: dict[str, MethodDescriptor] = {
    method.name: method for service in (CERTIFICATES, ACCOUNTS, AUTHORIZATION) for method in service.methods
}
RUNS: dict[str, MethodDescriptor] = {method.name: method for method in INTEGRATIONS.methods}

VICTIM = "victim"
"""A user that requests of any form may name; nothing can be said of the state it is in. Nothing here names the
administrator, who is to stay one."""
STEADY = "steady"
"""A user that requests with one thing wrong name."""
MAXIMUM_REQUEST = 256 * 1024
"""`limits.max_request_length` as it is by default, in bytes."""
CA = OutsideCA("Fuzzed CA")
LEAF = CA.issue()
CSR = signing_request()

MAXIMUM_DEPTH = 3

texts = st.one_of(
    st.sampled_from(
        [
            "",
            "\0",
            "a\0b",
            "*",
            "-",
            "/",
            "users/",
            f"users/{VICTIM}",
            f"users/{VICTIM}\0",
            "users/nobody",
            "users/ＡＤＭＩＮ",
            "accessProfiles/regular-user",
            "certificates/" + "0" * 26,
            "trustAnchors/" + "0" * 26,
            "decisions/" + "v" * 26,
            "integrations/echo",
            "integrations/orders.summarize",
            "1.0.0",
            "\u202eabc",
            "e\u0301\u0301\u0301",
            "\U0001f468\u200d\U0001f469",
            "\ufffe\uffff",
            "'; DROP TABLE users; --",
            "%s%n{0}",
            "x" * 70_000,
            "é" * 300,
            pem(CSR),
            LEAF.pem,
            "-----BEGIN CERTIFICATE-----\n",
        ]
    ),
    # Lone surrogates cannot be sent: protobuf's strings are UTF-8.
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
)
blobs = st.one_of(
    st.sampled_from([b"", b"\0", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", der(CSR), LEAF.der, b"\x30" * 70_000]),
    st.binary(max_size=200),
)


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.sampled_from([0, 1, low, high]), st.integers(low, high))


SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BYTES: blobs,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_INT32: integers(32, signed=True),
    FieldDescriptor.TYPE_INT64: integers(64, signed=True),
    FieldDescriptor.TYPE_FIXED64: integers(64, signed=False),
    FieldDescriptor.TYPE_ENUM: st.one_of(st.integers(0, 12), integers(32, signed=True)),
}


def fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    """Gives some of the fields of a message values, whatever their meaning."""
    descriptor: Descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        nested = field.type == FieldDescriptor.TYPE_MESSAGE
        if nested and depth >= MAXIMUM_DEPTH:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fill_map(draw, getattr(message, field.name), field.message_type.fields_by_name["value"], depth)
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                if nested:
                    fill(draw, getattr(message, field.name).add(), depth + 1)
                else:
                    getattr(message, field.name).append(draw(SCALARS[field.type]))
        elif nested:
            getattr(message, field.name).SetInParent()
            fill(draw, getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, draw(SCALARS[field.type]))


def fill_map(draw: st.DrawFn, entries: Any, value: FieldDescriptor, depth: int) -> None:
    for key in draw(st.lists(texts, max_size=2)):
        if value.type == FieldDescriptor.TYPE_MESSAGE:
            fill(draw, entries[key], depth + 1)
        else:
            entries[key] = draw(SCALARS[value.type])


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """Any message of a type."""
    message: Message = GetMessageClass(descriptor)()
    fill(draw, message, 0)
    return message


@dataclass(frozen=True)
class Damage:
    """Cuts bytes short, changes one, repeats some, or appends some."""

    how: str
    where: float
    """From 0 to 1."""
    change: int
    more: bytes

    def __call__(self, sound: bytes) -> bytes:
        position = min(int(self.where * len(sound)), len(sound) - 1)
        if self.how == "cut":
            return sound[:position]
        if self.how == "change":
            return sound[:position] + bytes([(sound[position] + self.change) % 256]) + sound[position + 1 :]
        if self.how == "repeat":
            return sound[:position] + sound[position : position + self.change] + sound[position:]
        return sound + self.more


damages = st.builds(
    Damage,
    how=st.sampled_from(["cut", "change", "repeat", "append"]),
    where=st.floats(0, 1),
    change=st.integers(1, 255),
    more=st.binary(min_size=1, max_size=20),
)


def damaged(sound: bytes) -> st.SearchStrategy[bytes]:
    """Sound bytes with something wrong."""
    return damages.map(lambda damage: damage(sound))


def path(method: MethodDescriptor) -> str:
    assert method.containing_service is not None
    return f"/{method.containing_service.full_name}/{method.name}"


async def answer(
    channel: grpc.aio.Channel, method: MethodDescriptor, request: Message | bytes, metadata: Any = None
) -> tuple[str, bytes]:
    """The reason of the refusal, or "" and the response. Any other end than those two fails."""
    sent = request if isinstance(request, bytes) else request.SerializeToString()
    try:
        if method.client_streaming:
            streaming: Any = channel.stream_stream(path(method))
            stream = streaming(iter([sent]), timeout=30, metadata=metadata)
            first = await stream.read()
            stream.cancel()
            return "", first
        call: Any = channel.unary_unary(path(method))
        return "", await call(sent, timeout=30, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return reason_of(error), b""


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a status that is as every refusal must be."""
    code = error.code()
    assert code not in {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}, error
    if from_rpc_error(error).reason == Reason.REQUEST_TOO_LARGE:
        # gRPC's own refusal, the one that has no details.
        return Reason.REQUEST_TOO_LARGE
    (details,) = (value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY)
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info), error
    assert info.domain == DOMAIN
    assert info.reason, error
    # Nothing that is sent makes the service fail; but a revision may be asked for that is yet to come.
    assert code is not grpc.StatusCode.UNAVAILABLE or info.reason == "REVISION_NOT_REACHED", error
    assert status.code == code.value[0]
    assert (error.details() or "").strip()
    return str(info.reason)


async def is_serving(channel: grpc.aio.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    found = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
    return bool(found.status == health_pb2.HealthCheckResponse.SERVING)


def open_channel(port: int, ca_pem: bytes, identity: Identity | None) -> grpc.aio.Channel:
    pair = (identity.key_pem, identity.certificate_pem) if identity else (None, None)
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(ca_pem, *pair), options=options)


@dataclass
class Target:
    """The certificate service, and what is in its database."""

    admin: grpc.aio.Channel
    relying_party: grpc.aio.Channel
    nobody: grpc.aio.Channel
    database: Database
    stored: Mapping[str, int]
    """Row counts after the last request."""

    def channel(self, method: MethodDescriptor) -> grpc.aio.Channel:
        """One whose caller gets as far as the method itself."""
        return self.relying_party if "Check" in method.name else self.admin

    async def ask(self, method: str, request: Message | bytes) -> tuple[str, bytes]:
        """What is answered. A refusal must have changed nothing, and the service must be up."""
        descriptor = METHODS[method]
        reason, response = await answer(self.channel(descriptor), descriptor, request)
        now = await counts(self.database)
        assert now == self.stored or not reason
        self.stored = now
        assert await is_serving(self.admin)
        return reason, response

    async def refused(self, method: str, request: Message | bytes) -> str:
        reason, _ = await self.ask(method, request)
        assert reason, "this must not be accepted"
        return reason


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(installation: Installation) -> AsyncIterator[Target]:
    for user in (VICTIM, STEADY):
        await installation.new_user(name=user)
    await add_anchor(installation, CA)
    async with AsyncExitStack() as stack:
        admin, relying_party, nobody = [
            await stack.enter_async_context(open_channel(installation.ports[port], installation.ca_pem, identity))
            for port, identity in (
                ("mtls_port", installation.admin_identity),
                ("mtls_port", installation.relying_party_identity),
                ("tls_port", None),
            )
        ]
        database = await stack.enter_async_context(beside(installation))
        yield Target(admin, relying_party, nobody, database, await counts(database))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """An execution server whose alice may run everything."""
    folder: Path = tmp_path_factory.mktemp("executions")
    async with running_pair(folder) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executions(pair: Pair) -> AsyncIterator[grpc.aio.Channel]:
    async with pair.channel(pair.alice) as channel:
        yield channel


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
async def test_any_message_to_any_method(target: Target, method: str, data: st.DataObject) -> None:
    await target.ask(method, data.draw(messages(METHODS[method].input_type)))


@pytest.mark.parametrize("method", RUNS)
@given(data=st.data())
async def test_any_message_to_the_execution_server(
    executions: grpc.aio.Channel, method: str, data: st.DataObject
) -> None:
    await answer(executions, RUNS[method], data.draw(messages(RUNS[method].input_type)))
    assert await is_serving(executions)


@given(method=st.sampled_from(sorted(METHODS)), sent=st.binary(max_size=300))
async def test_bytes_that_are_no_message(target: Target, method: str, sent: bytes) -> None:
    await target.ask(method, sent)


@given(method=st.sampled_from(sorted(RUNS)), sent=st.binary(max_size=300))
async def test_bytes_that_are_no_message_to_the_execution_server(
    executions: grpc.aio.Channel, method: str, sent: bytes
) -> None:
    await answer(executions, RUNS[method], sent)
    assert await is_serving(executions)


def text_fields(descriptor: Descriptor, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to each text in a message of that type; repeated ones and maps count as texts."""
    for field in descriptor.fields:
        here = (*prefix, field.name)
        message = field.message_type
        if field.type == FieldDescriptor.TYPE_STRING:
            yield here
        elif message is not None and message.GetOptions().map_entry:
            if message.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                yield here
        elif message is not None and not field.is_repeated and len(here) < 3:
            yield from text_fields(message, here)


@pytest.mark.parametrize(
    ("method", "where"),
    [(name, where) for name, method in METHODS.items() for where in text_fields(method.input_type)],
    ids=lambda value: value if isinstance(value, str) else ".".join(value),
)
async def test_nul_in_any_text(target: Target, method: str, where: tuple[str, ...]) -> None:
    """PostgreSQL takes no NUL, and C libraries stop at it."""
    request: Any = GetMessageClass(METHODS[method].input_type)()
    sound: dict[str, Any] = {
        "user": f"users/{STEADY}",
        "name": f"users/{STEADY}",
        "user_id": "nul",
        "csr_pem": pem(CSR),
    }
    for field, value in sound.items():
        known = request.DESCRIPTOR.fields_by_name.get(field)
        if known is not None and known.type == FieldDescriptor.TYPE_STRING:
            setattr(request, field, value)
    holder = request
    for name in where[:-1]:
        holder = getattr(holder, name)
    field = holder.DESCRIPTOR.fields_by_name[where[-1]]
    if field.message_type is not None:
        getattr(holder, field.name)["a"] = "\0"
    elif field.is_repeated:
        getattr(holder, field.name).append("a\0b")
    else:
        setattr(holder, field.name, "a\0b")
    reason, _ = await target.ask(method, request)
    assert reason not in {"STORAGE_UNAVAILABLE", "INTERNAL"}


@given(sent=damaged(der(CSR)))
async def test_damaged_signing_requests(target: Target, sent: bytes) -> None:
    reasons = {"CSR_INVALID", "CSR_SIGNATURE_INVALID", "KEY_NOT_ACCEPTED"}
    user = f"users/{STEADY}"
    assert await target.refused("IssueCertificate", pb.IssueCertificateRequest(user=user, csr_der=sent)) in reasons
    as_pem = pem_block("CERTIFICATE REQUEST", sent)
    assert await target.refused("IssueCertificate", pb.IssueCertificateRequest(user=user, csr_pem=as_pem)) in reasons


@given(sent=damaged(pem(CSR).encode()))
async def test_damaged_pem(target: Target, sent: bytes) -> None:
    """White space and what stands around a block do not matter; everything else does."""
    text = sent.decode("utf-8", "replace")
    reason, _ = await target.ask("IssueCertificate", pb.IssueCertificateRequest(user=f"users/{STEADY}", csr_pem=text))
    assert reason in {"", "CSR_INVALID", "CSR_SIGNATURE_INVALID", "KEY_NOT_ACCEPTED"}


@given(sent=damaged(LEAF.der))
async def test_damaged_certificates(target: Target, sent: bytes) -> None:
    user = f"users/{STEADY}"
    for request in (
        pb.UploadCertificateRequest(user=user, der=sent),
        pb.UploadCertificateRequest(user=user, pem=pem_block("CERTIFICATE", sent)),
    ):
        reason = await target.refused("UploadCertificate", request)
        assert reason.startswith(("CERTIFICATE_", "KEY_", "CHAIN_", "CLIENT_AUTH_", "TRUST_DOMAIN_")), reason
    decision = await target.ask(
        "CheckPermission",
        pb.CheckPermissionRequest(peer_certificate=sent, permission=5, resource="integrations/echo"),  # type: ignore[arg-type]  # an enum's number
    )
    assert decision[0] in {"", "FIELD_INVALID"}


@given(sent=damaged(CA.der))
async def test_damaged_anchors(target: Target, sent: bytes) -> None:
    reason, _ = await target.ask("AddTrustAnchor", pb.AddTrustAnchorRequest(der=sent))
    # Nobody relies on an anchor's own signature, so a change in what is not signed may pass.
    assert reason != "INTERNAL"


@pytest.mark.parametrize("bits", [8193, 16_384, 131_072])
async def test_huge_rsa_keys(target: Target, bits: int) -> None:
    """Refused before any arithmetic, which would take seconds; the test's time limit sees to that."""
    user = f"users/{STEADY}"
    request = huge_rsa_request(bits)
    certificate = huge_rsa_certificate(bits, like=LEAF.certificate)
    anchor = huge_rsa_certificate(bits, like=CA.certificate)
    for exponent in (65537, 2**bits - 3):
        odd = huge_rsa_request(bits, exponent=exponent)
        assert await target.refused("IssueCertificate", pb.IssueCertificateRequest(user=user, csr_der=odd))
    for method, message in (
        ("IssueCertificate", pb.IssueCertificateRequest(user=user, csr_der=request)),
        ("UploadCertificate", pb.UploadCertificateRequest(user=user, der=certificate)),
        ("UploadCertificate", pb.UploadCertificateRequest(user=user, pem=LEAF.pem + pem_block("CERTIFICATE", anchor))),
        ("AddTrustAnchor", pb.AddTrustAnchorRequest(der=anchor)),
    ):
        assert await target.refused(method, message) == "KEY_NOT_ACCEPTED"


@pytest.mark.parametrize("size", [65_537, 200_000, 1_000_000, 4_000_000])
async def test_oversized_material(target: Target, size: int) -> None:
    unparsed = size > MAXIMUM_REQUEST
    invalid_request = "REQUEST_TOO_LARGE" if unparsed else "CSR_INVALID"
    invalid_certificate = "REQUEST_TOO_LARGE" if unparsed else "CERTIFICATE_INVALID"
    user = f"users/{STEADY}"
    begin = "-----BEGIN CERTIFICATE REQUEST-----\n"
    for text in ("x" * size, begin * (size // len(begin)), pem(CSR) + " " * size):
        issue = pb.IssueCertificateRequest(user=user, csr_pem=text)
        assert await target.refused("IssueCertificate", issue) == invalid_request
        upload = pb.UploadCertificateRequest(user=user, pem=text)
        assert await target.refused("UploadCertificate", upload) == invalid_certificate
        anchor = pb.AddTrustAnchorRequest(pem=text)
        assert await target.refused("AddTrustAnchor", anchor) == invalid_certificate
    for method, message, reason in (
        ("IssueCertificate", pb.IssueCertificateRequest(user=user, csr_der=b"\x30" * size), invalid_request),
        (
            "UploadCertificate",
            pb.UploadCertificateRequest(user=user, der=LEAF.der + b"\0" * size),
            invalid_certificate,
        ),
        (
            "CheckPermission",
            pb.CheckPermissionRequest(peer_certificate=b"\x30" * size),
            "REQUEST_TOO_LARGE" if unparsed else "FIELD_INVALID",
        ),
    ):
        assert await target.refused(method, message) == reason


async def test_a_message_beyond_the_limit_is_refused_by_grpc_itself(target: Target) -> None:
    before = await counts(target.database)
    call: Any = target.admin.unary_unary(path(METHODS["IssueCertificate"]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\x12\x80\x80\x80\x04" + b"x" * 8 * 1024 * 1024, timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await counts(target.database) == before
    assert await is_serving(target.admin)


@given(text=texts, value=texts)
async def test_texts_are_refused_or_kept_as_they_are(target: Target, text: str, value: str) -> None:
    request = pb.IssueCertificateRequest(
        user=f"users/{STEADY}", csr_pem=pem(CSR), description=text, labels={"label": value}
    )
    reason, response = await target.ask("IssueCertificate", request)
    if reason:
        assert reason == "FIELD_INVALID"
        return
    issued = pb.IssueCertificateResponse.FromString(response).certificate
    _, listed = await target.ask("ListCertificates", pb.ListCertificatesRequest(serial=issued.serial))
    (stored,) = pb.ListCertificatesResponse.FromString(listed).certificates
    assert stored.description == unicodedata.normalize("NFC", text)
    assert dict(stored.labels) == {"label": unicodedata.normalize("NFC", value)}


@given(text=texts)
async def test_display_names_are_refused_or_kept(target: Target, text: str) -> None:
    request = account_service_pb2.UpdateUserRequest()
    request.user.name = f"users/{STEADY}"
    request.user.display_name = text
    request.update_mask.paths.append("display_name")
    reason, response = await target.ask("UpdateUser", request)
    assert reason in {"", "FIELD_INVALID"}
    if not reason:
        shown = account_service_pb2.DESCRIPTOR.message_types_by_name["CreateUserRequest"].fields_by_name["user"]
        assert shown.message_type is not None
        user: Any = GetMessageClass(shown.message_type).FromString(response)
        assert user.display_name == unicodedata.normalize("NFC", text)


@given(user_id=texts)
async def test_ids_that_are_none(target: Target, user_id: str) -> None:
    reason, _ = await target.ask("CreateUser", account_service_pb2.CreateUserRequest(user_id=user_id))
    plain = user_id.isascii() and user_id.replace(".", "").replace("_", "").replace("-", "").isalnum()
    assert reason in ({"", "USER_EXISTS", "FIELD_INVALID"} if plain else {"FIELD_INVALID"})


LISTS = {
    "ListCertificates": pb.ListCertificatesRequest,
    "ListTrustAnchors": pb.ListTrustAnchorsRequest,
    "ListEnrollmentTokens": pb.ListEnrollmentTokensRequest,
    "ListUsers": account_service_pb2.ListUsersRequest,
    "ListAccessProfiles": account_service_pb2.ListAccessProfilesRequest,
}


@given(method=st.sampled_from(sorted(LISTS)), size=integers(32, signed=True), token=texts)
async def test_page_sizes_and_made_up_tokens(target: Target, method: str, size: int, token: str) -> None:
    reason, _ = await target.ask(method, LISTS[method](page_size=size, page_token=token))
    if size < 0:
        assert reason == "FIELD_INVALID"
    else:
        assert reason == ("PAGE_TOKEN_INVALID" if token else "")


@given(inside=damages, outside=damages)
async def test_forged_page_tokens(target: Target, inside: Damage, outside: Damage) -> None:
    _, response = await target.ask("ListUsers", account_service_pb2.ListUsersRequest(page_size=1))
    token = account_service_pb2.ListUsersResponse.FromString(response).next_page_token
    assert token
    raw = base64.urlsafe_b64decode(token)
    for text in (base64.urlsafe_b64encode(inside(raw)).decode(), outside(token.encode()).decode("latin-1")):
        if text and not text.startswith(token):
            request = account_service_pb2.ListUsersRequest(page_token=text)
            assert await target.refused("ListUsers", request) == "PAGE_TOKEN_INVALID"


@given(seconds=integers(64, signed=True), nanos=integers(32, signed=True))
async def test_any_moment_and_any_duration(target: Target, seconds: int, nanos: int) -> None:
    moment: Any = {"seconds": seconds, "nanos": nanos}
    for field in ("expire_before", "expire_after"):
        reason, _ = await target.ask("ListCertificates", pb.ListCertificatesRequest(**{field: moment}))
        assert reason in {"", "FIELD_INVALID"}
    issue = pb.IssueCertificateRequest(user=f"users/{STEADY}", csr_pem=pem(CSR), lifetime=moment)
    reason, _ = await target.ask("IssueCertificate", issue)
    assert reason in {"", "LIFETIME_NOT_ACCEPTED", "FIELD_INVALID"}


@given(number=st.one_of(st.integers(-2, 12), integers(32, signed=True)))
async def test_enum_numbers_that_mean_nothing(target: Target, number: int) -> None:
    anything: Any = number
    user = f"users/{STEADY}"

    def expected(numbers: Collection[int]) -> str:
        return "" if number in numbers else "FIELD_INVALID"

    issue = pb.IssueCertificateRequest(user=user, generate_key=anything)
    assert (await target.ask("IssueCertificate", issue))[0] == expected(pb.KeyAlgorithm.values())
    revoke = pb.RevokeUserCertificatesRequest(user=user, reason=anything)
    assert (await target.ask("RevokeUserCertificates", revoke))[0] == expected(
        certificate_pb2.RevocationReason.values()
    )
    # Which state a list is filtered by has no default: the number that means "unspecified" is refused as well.
    listing = pb.ListCertificatesRequest(states=[anything])
    states = "FIELD_INVALID" if number == 0 else expected(certificate_pb2.Certificate.State.values())
    assert (await target.ask("ListCertificates", listing))[0] == states


@given(
    header=st.one_of(
        st.binary(max_size=60).map(lambda raw: "Basic " + base64.b64encode(raw).decode()),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60),
    )
)
async def test_any_authorization_header(target: Target, header: str) -> None:
    reason, _ = await answer(target.nobody, METHODS["ListCertificates"], b"", metadata=(("authorization", header),))
    assert reason in {"CREDENTIALS_MALFORMED", "CREDENTIALS_INVALID", "CREDENTIALS_THROTTLED"}
    assert await is_serving(target.nobody)


@given(
    text=st.one_of(
        texts,
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | texts,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
            max_leaves=8,
        ).map(repr),
    )
)
async def test_any_text_as_input(executions: grpc.aio.Channel, text: str) -> None:
    for name in ("integrations/echo", "integrations/orders.summarize"):
        request = integration_service_pb2.ExecuteIntegrationRequest(name=name, input_json=text)
        reason, _ = await answer(executions, RUNS["ExecuteIntegration"], request)
        assert reason in {"", "INPUT_INVALID"}


@pytest.mark.parametrize("depth", [99, 101, 5_000])
async def test_deep_inputs(executions: grpc.aio.Channel, depth: int) -> None:
    for text in ('{"a":' * depth + "1" + "}" * depth, '{"a":' + "[" * depth + "]" * depth + "}", "[" * depth):
        request = integration_service_pb2.ExecuteIntegrationRequest(name="integrations/echo", input_json=text)
        reason, _ = await answer(executions, RUNS["ExecuteIntegration"], request)
        assert reason in {"", "INPUT_INVALID"}
    value = b"\x08\x00"  # google.protobuf.Value, null
    for _ in range(depth):
        entry = b"\x0a\x01a\x12" + _varint(len(value)) + value
        struct = b"\x0a" + _varint(len(entry)) + entry
        value = b"\x2a" + _varint(len(struct)) + struct
        if len(value) > 3_000_000:
            break
    request_bytes = b"\x0a\x11integrations/echo\x1a" + _varint(len(struct)) + struct
    reason, _ = await answer(executions, RUNS["ExecuteIntegration"], request_bytes)
    assert reason in {"", "INPUT_INVALID", "REQUEST_MALFORMED"}
    assert await is_serving(executions)


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])
