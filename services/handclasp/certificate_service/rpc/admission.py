"""Who may call which method at all. What they may do there is up to the use cases."""

from __future__ import annotations

from enum import Enum

from handclasp.certificate_service.use_cases.authentication import Authenticator
from handclasp.certificate_service.use_cases.caller import Caller, Credentials
from handclasp.errors import PermissionDenied, Reason
from handclasp.serving.call_budgets import CallKind
from handclasp.serving.interceptor import OPEN_PREFIXES, current_caller
from handclasp.serving.peer import BasicCredentials, Peer


class Admission(Enum):
    """What a method needs of its caller."""

    ANYBODY = "whoever reaches the listener; credentials that are sent must be right"
    AUTHENTICATED = "a certificate, or Basic credentials"
    MUTUAL_TLS = "a certificate"


_CERTIFICATES = "/handclasp.certificates.v1.CertificateService/"
_ACCOUNTS = "/handclasp.accounts.v1.AccountService/"
_AUTHORIZATION = "/handclasp.authorization.v1.AuthorizationService/"

# By full method name; a test sees to it that each method of the protos is here. What is not is refused.
ADMISSIONS = {
    _CERTIFICATES + "IssueCertificate": Admission.AUTHENTICATED,
    _CERTIFICATES + "UploadCertificate": Admission.AUTHENTICATED,
    _CERTIFICATES + "GetCertificate": Admission.AUTHENTICATED,
    _CERTIFICATES + "ListCertificates": Admission.AUTHENTICATED,
    _CERTIFICATES + "UpdateCertificate": Admission.AUTHENTICATED,
    _CERTIFICATES + "RevokeCertificate": Admission.AUTHENTICATED,
    _CERTIFICATES + "RevokeUserCertificates": Admission.AUTHENTICATED,
    _CERTIFICATES + "HoldCertificate": Admission.AUTHENTICATED,
    _CERTIFICATES + "ReinstateCertificate": Admission.AUTHENTICATED,
    _CERTIFICATES + "RenewCertificate": Admission.MUTUAL_TLS,
    _CERTIFICATES + "CreateEnrollmentToken": Admission.AUTHENTICATED,
    _CERTIFICATES + "ListEnrollmentTokens": Admission.AUTHENTICATED,
    _CERTIFICATES + "RevokeEnrollmentToken": Admission.AUTHENTICATED,
    # The token in the request is the credential.
    _CERTIFICATES + "Enroll": Admission.ANYBODY,
    _CERTIFICATES + "EnrollReplica": Admission.ANYBODY,
    _CERTIFICATES + "CheckPermission": Admission.MUTUAL_TLS,
    _CERTIFICATES + "BatchCheckPermissions": Admission.MUTUAL_TLS,
    _CERTIFICATES + "CheckPeer": Admission.MUTUAL_TLS,
    _CERTIFICATES + "AddTrustAnchor": Admission.AUTHENTICATED,
    _CERTIFICATES + "ListTrustAnchors": Admission.AUTHENTICATED,
    _CERTIFICATES + "RemoveTrustAnchor": Admission.AUTHENTICATED,
    _CERTIFICATES + "GetTrustBundle": Admission.ANYBODY,
    _ACCOUNTS + "CreateUser": Admission.AUTHENTICATED,
    _ACCOUNTS + "GetUser": Admission.AUTHENTICATED,
    _ACCOUNTS + "ListUsers": Admission.AUTHENTICATED,
    _ACCOUNTS + "UpdateUser": Admission.AUTHENTICATED,
    _ACCOUNTS + "DisableUser": Admission.AUTHENTICATED,
    _ACCOUNTS + "EnableUser": Admission.AUTHENTICATED,
    _ACCOUNTS + "SetPassword": Admission.AUTHENTICATED,
    _ACCOUNTS + "CreateAccessProfile": Admission.AUTHENTICATED,
    _ACCOUNTS + "GetAccessProfile": Admission.AUTHENTICATED,
    _ACCOUNTS + "ListAccessProfiles": Admission.AUTHENTICATED,
    _ACCOUNTS + "UpdateAccessProfile": Admission.AUTHENTICATED,
    _ACCOUNTS + "DeleteAccessProfile": Admission.AUTHENTICATED,
    _AUTHORIZATION + "ExplainDecision": Admission.AUTHENTICATED,
    _AUTHORIZATION + "ListRefusals": Admission.AUTHENTICATED,
    _AUTHORIZATION + "ReportRefusals": Admission.MUTUAL_TLS,
    _AUTHORIZATION + "WatchAuthorization": Admission.MUTUAL_TLS,
}


# Calls that take something away from somebody, and so must get through whatever others do.
TAKING_AWAY = frozenset(
    {
        _CERTIFICATES + "RevokeCertificate",
        _CERTIFICATES + "RevokeUserCertificates",
        _CERTIFICATES + "HoldCertificate",
        _CERTIFICATES + "RevokeEnrollmentToken",
        _CERTIFICATES + "RemoveTrustAnchor",
        _ACCOUNTS + "UpdateUser",
        _ACCOUNTS + "DisableUser",
        _ACCOUNTS + "SetPassword",
        _ACCOUNTS + "UpdateAccessProfile",
        _ACCOUNTS + "DeleteAccessProfile",
    }
)
_WATCH = _AUTHORIZATION + "WatchAuthorization"


def call_kind(method: str, caller: object) -> CallKind:
    """By what a call is counted."""
    if method == _WATCH:
        return CallKind.UNCOUNTED  # `maximum_watchers` limits those.
    if method in TAKING_AWAY or (isinstance(caller, Caller) and caller.is_relying_party):
        return CallKind.RESERVED
    return CallKind.ORDINARY


class Admitter:
    """Admits calls for the interceptor."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, method: str, peer: Peer) -> Caller | None:
        """The caller; None only for methods that are open to anybody.

        Raises:
            Unauthenticated, PermissionDenied, ResourceExhausted
        """
        needed = ADMISSIONS.get(method)
        if needed is None and method.startswith(OPEN_PREFIXES):
            # On the one-way listener its TLS is enough; on the other the certificate must be in force.
            return None if peer.certificate_der is None else await self._authenticate(method, peer)
        if needed is None:
            raise PermissionDenied(Reason.ACCESS_DENIED, f"nobody may call {method}; update the client or the server")
        if needed is Admission.MUTUAL_TLS and peer.certificate_der is None:
            raise PermissionDenied(
                Reason.MUTUAL_TLS_REQUIRED,
                "this method is for callers with a client certificate; call it on the mutual TLS port",
            )
        if needed is Admission.ANYBODY and peer.certificate_der is None and peer.credentials is None:
            return None
        return await self._authenticate(method, peer)

    async def _authenticate(self, method: str, peer: Peer) -> Caller:
        return await self._authenticator.authenticate(
            fingerprint=peer.fingerprint,
            credentials=to_credentials(peer.credentials),
            address=peer.address,
            method=method,
        )


def to_credentials(sent: BasicCredentials | None) -> Credentials | None:
    return None if sent is None else Credentials(sent.username, sent.password)


def the_caller() -> Caller:
    """The caller of the method that is being handled, which is not one open to anybody."""
    caller = current_caller()
    if not isinstance(caller, Caller):
        raise PermissionDenied(Reason.ACCESS_DENIED, "this method needs credentials; send a certificate or a password")
    return caller


def the_caller_if_known() -> Caller | None:
    """The caller of a method that is open to anybody."""
    caller = current_caller()
    return caller if isinstance(caller, Caller) else None
