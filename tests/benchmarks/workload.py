"""What is called, as whom, and with which requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handclasp.accounts.v1 import account_service_pb2, user_pb2
from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.certificates.v1 import certificate_pb2, certificate_service_pb2
from handclasp.client import context
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.client.names import CERTIFICATES, USERS, resource_name
from handclasp.integrations.v1 import integration_service_pb2
from tests.benchmarks import echo
from tests.benchmarks.echo import EchoIdentity
from tests.benchmarks.filling import OWNERS, Stored
from tests.benchmarks.load import Calls, Loop, Server
from tests.benchmarks.services import RunningServices
from tests.benchmarks.signing import SigningLoop

ECHO = "bare echo"
SIGNING = "signing loop"
GET = "GetCertificate"
LIST = "ListCertificates, pages of 100"
LIST_OWN = "ListCertificates of one user, pages of 100"
CHECK = "CheckPermission"
EXECUTE = "ExecuteIntegration(echo)"
GUARDED = "the echo behind the interceptor"
ISSUE = "IssueCertificate from a CSR"

MEASURED = (GET, LIST, LIST_OWN, CHECK, EXECUTE, GUARDED, ISSUE)
"""In this order: the last one puts more certificates on file."""

_PAGE_SIZE = 100
_SIGNING_REQUESTS = 64
_CERTIFICATES = "/handclasp.certificates.v1.CertificateService/"
_EXECUTE_METHOD = "/handclasp.integrations.v1.IntegrationService/ExecuteIntegration"
_EXECUTE_INTEGRATIONS = permission_pb2.PERMISSION_EXECUTE_INTEGRATIONS
_INTEGRATION = "integrations/echo"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, with its issuers below the root, and its key, as PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part."""

    ca_pem: bytes
    administrator: Identity
    relying_party: Identity
    caller: Identity

    def server(self, address: str, identity: Identity) -> Server:
        return Server(address, self.ca_pem, identity.certificate_pem, identity.key_pem)

    @property
    def echo_identity(self) -> EchoIdentity:
        """The relying party's, whose certificate is good for a server too."""
        return EchoIdentity(self.relying_party.certificate_pem, self.relying_party.key_pem, self.ca_pem)


async def make_cast(services: RunningServices) -> Cast:
    """Creates the users and issues their certificates, on services that were started for the first time."""
    described = context.load(services.context_file)
    if described.certificate is None or described.key is None:
        raise ValueError(f"{services.context_file} names no certificate")
    administrator = Identity(described.certificate.read_bytes(), described.key.read_bytes())
    async with HandclaspClient.from_context(described) as client:
        relying_party = await _new_user(client, "bench-server", "relying-party", server_names=["localhost"])
        caller = await _new_user(client, "caller", "regular-user")
    return Cast(services.ca_file.read_bytes(), administrator, relying_party, caller)


async def _new_user(client: HandclaspClient, user_id: str, profile: str, server_names: Sequence[str] = ()) -> Identity:
    user = user_pb2.User(access_profiles=[f"accessProfiles/{profile}"])
    await client.accounts.CreateUser(account_service_pb2.CreateUserRequest(user_id=user_id, user=user))
    made = make_key_and_request(user_id)
    response = await client.certificates.IssueCertificate(
        certificate_service_pb2.IssueCertificateRequest(
            user=resource_name(USERS, user_id), csr_pem=made.csr_pem.decode(), server_names=server_names
        )
    )
    return Identity(response.certificate.pem.encode(), made.key_pem)


def make_workload(
    services: RunningServices, cast: Cast, echo_address: str, guarded_address: str, stored: Sequence[Stored]
) -> dict[str, Calls | Loop]:
    """Everything that the load's process is to know how to do.

    Args:
        echo_address, guarded_address: of the bare echo, and of the one that is a relying party of these services.
        stored: certificates on file, to ask for and to ask about.
    """
    certificates, executions = services.addresses["certificates_mtls"], services.addresses["executions"]
    administrator = cast.server(certificates, cast.administrator)
    signing_requests = [make_key_and_request("caller").csr_pem for _ in range(_SIGNING_REQUESTS)]
    leaf = x509.load_pem_x509_certificate(cast.caller.certificate_pem).public_bytes(Encoding.DER)

    def calls(server: Server, method: str, requests: Sequence[bytes]) -> Calls:
        return Calls(server, _CERTIFICATES + method, requests)

    return {
        ECHO: Calls(cast.server(echo_address, cast.caller), echo.METHOD, [leaf]),
        GUARDED: Calls(cast.server(guarded_address, cast.caller), echo.METHOD, [leaf]),
        SIGNING: SigningLoop(signing_requests),
        GET: calls(
            administrator,
            "GetCertificate",
            [
                certificate_service_pb2.GetCertificateRequest(
                    name=resource_name(CERTIFICATES, one.id)
                ).SerializeToString()
                for one in stored
            ],
        ),
        LIST: _pages(administrator, [certificate_service_pb2.ListCertificatesRequest(page_size=_PAGE_SIZE)]),
        LIST_OWN: _pages(
            administrator,
            [
                certificate_service_pb2.ListCertificatesRequest(page_size=_PAGE_SIZE, user=resource_name(USERS, owner))
                for owner in OWNERS
            ],
        ),
        CHECK: calls(
            cast.server(certificates, cast.relying_party),
            "CheckPermission",
            [
                certificate_service_pb2.CheckPermissionRequest(
                    peer_certificate=one.der,
                    permission=_EXECUTE_INTEGRATIONS,
                    resource=_INTEGRATION,
                    peer_address="127.0.0.1",
                ).SerializeToString()
                for one in stored
            ],
        ),
        EXECUTE: Calls(
            cast.server(executions, cast.caller),
            _EXECUTE_METHOD,
            [
                integration_service_pb2.ExecuteIntegrationRequest(
                    name=_INTEGRATION, input_json='{"hello": "world"}'
                ).SerializeToString()
            ],
        ),
        ISSUE: calls(
            administrator,
            "IssueCertificate",
            [
                certificate_service_pb2.IssueCertificateRequest(
                    user=resource_name(USERS, "caller"), csr_pem=request.decode()
                ).SerializeToString()
                for request in signing_requests
            ],
        ),
    }


def _pages(server: Server, requests: Sequence[certificate_service_pb2.ListCertificatesRequest]) -> Calls:
    return Calls(
        server, _CERTIFICATES + "ListCertificates", [request.SerializeToString() for request in requests], next_page
    )


def next_page(request: bytes, response: bytes) -> bytes:
    """The request for the page after this one; for the first one after the last."""
    asked = certificate_service_pb2.ListCertificatesRequest.FromString(request)
    asked.page_token = certificate_service_pb2.ListCertificatesResponse.FromString(response).next_page_token
    return asked.SerializeToString()


def is_right(name: str, answer: bytes) -> bool:
    """Whether an answer is what was asked for; an answer that comes fast and is wrong is worth nothing."""
    check = _CHECKS.get(name)
    return check is None or check(answer)


_CHECKS: Mapping[str, Callable[[bytes], bool]] = {
    GET: lambda answer: (
        certificate_pb2.Certificate.FromString(answer).state == certificate_pb2.Certificate.STATE_ACTIVE
    ),
    LIST: lambda answer: bool(certificate_service_pb2.ListCertificatesResponse.FromString(answer).certificates),
    LIST_OWN: lambda answer: bool(certificate_service_pb2.ListCertificatesResponse.FromString(answer).certificates),
    CHECK: lambda answer: decision_pb2.Decision.FromString(answer).allowed,
    EXECUTE: lambda answer: (
        integration_service_pb2.ExecuteIntegrationResponse.FromString(answer).output_json == '{"hello":"world"}'
    ),
    ISSUE: lambda answer: (
        certificate_service_pb2.IssueCertificateResponse.FromString(answer).certificate.user
        == resource_name(USERS, "caller")
    ),
}
