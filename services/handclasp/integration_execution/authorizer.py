"""Asks the certificate service whether a peer may do something, each time anew.

Whatever goes wrong while asking is UNAVAILABLE, and never a yes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import structlog

from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.errors import HandclaspError, PermissionDenied, Reason, ResourceExhausted, Unauthenticated, Unavailable
from handclasp.errors.status import from_rpc_error
from handclasp.transport.peer import Peer

Permission: TypeAlias = "permission_pb2.Permission.ValueType"

CHUNK = 100
"""How many resources one BatchCheckPermissions takes."""

_NOT_ACCEPTED = frozenset(
    {
        decision_pb2.DECISION_REASON_UNKNOWN_CERTIFICATE,
        decision_pb2.DECISION_REASON_REVOKED,
        decision_pb2.DECISION_REASON_ON_HOLD,
        decision_pb2.DECISION_REASON_EXPIRED,
        decision_pb2.DECISION_REASON_NOT_YET_VALID,
        decision_pb2.DECISION_REASON_USER_DISABLED,
        decision_pb2.DECISION_REASON_ANCHOR_REMOVED,
    }
)
_OWN_IDENTITY_REFUSED = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Allowed:
    """A yes, and whom it is for.

    Args:
        user: `users/{user}` that the peer acts as.
        certificate: `certificates/{certificate}` that it presented.
        decision: `decisions/{decision}`.
    """

    user: str
    certificate: str
    decision: str


class RemoteAuthorizer:
    """Asks over a channel that stays open.

    Args:
        channel: to the certificate service, over mTLS, with an identity that holds AUTHORIZE_PEERS.
        timeout: in seconds, for one question.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout: float) -> None:
        self._stub = CertificateServiceStub(channel)
        self._timeout = timeout

    async def require(self, peer: Peer, permission: Permission, resource: str) -> Allowed:
        """Returns if the peer may, now.

        Raises:
            Unauthenticated: CERTIFICATE_NOT_ACCEPTED, CREDENTIALS_INVALID, CREDENTIALS_MISMATCH, CREDENTIALS_MISSING.
            PermissionDenied: ACCESS_DENIED.
            ResourceExhausted: CREDENTIALS_THROTTLED, PASSWORD_CHECKS_BUSY.
            Unavailable: AUTHORIZER_UNAVAILABLE, if the service could not be asked.
        """
        request = messages.CheckPermissionRequest(
            peer_certificate=_leaf(peer),
            basic_credentials=_credentials(peer),
            permission=permission,
            resource=resource,
            peer_address=peer.address,
        )
        try:
            decision = await self._stub.CheckPermission(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise _unanswered(error) from None
        return _judged(decision, permission, resource)

    async def allowed(self, peer: Peer, permission: Permission, resources: Sequence[str]) -> list[bool]:
        """For each of the resources, whether the peer may, now.

        Raises:
            Unauthenticated, ResourceExhausted, Unavailable: as `require`.
        """
        answers: list[bool] = []
        for chunk in _chunks(resources):
            request = messages.BatchCheckPermissionsRequest(
                peer_certificate=_leaf(peer),
                basic_credentials=_credentials(peer),
                permission=permission,
                resources=chunk,
                peer_address=peer.address,
            )
            try:
                response = await self._stub.BatchCheckPermissions(request, timeout=self._timeout)
            except grpc.aio.AioRpcError as error:
                raise _unanswered(error) from None
            if len(response.decisions) != len(chunk):
                raise _nonsense(f"{len(response.decisions)} decisions for {len(chunk)} resources")
            for decision, resource in zip(response.decisions, chunk, strict=True):
                try:
                    _judged(decision, permission, resource)
                except PermissionDenied:
                    answers.append(False)
                else:
                    answers.append(True)
        return answers


def _chunks(resources: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(resources), CHUNK):
        yield resources[start : start + CHUNK]


def _leaf(peer: Peer) -> bytes:
    if peer.certificate_der is None:
        raise Unauthenticated(
            Reason.CREDENTIALS_MISSING, "no client certificate was presented; call with one, over mutual TLS"
        )
    return peer.certificate_der


def _credentials(peer: Peer) -> decision_pb2.BasicCredentials | None:
    if peer.credentials is None:
        return None
    return decision_pb2.BasicCredentials(username=peer.credentials.username, password=peer.credentials.password)


def _judged(decision: decision_pb2.Decision, permission: Permission, resource: str) -> Allowed:
    """Turns a decision into a return or a typed error. The peer is told no more than the coarse status and the id."""
    if decision.permission != permission or decision.resource != resource:
        raise _nonsense("a decision about something else than was asked")
    # The log of this call, and of what runs in it, is to say for whom; each call has a context of its own.
    structlog.contextvars.bind_contextvars(user=decision.user)
    if decision.allowed and decision.reason == decision_pb2.DECISION_REASON_ALLOWED:
        return Allowed(decision.user, decision.certificate, decision.name)
    structlog.contextvars.bind_contextvars(decision=decision.name, decision_reason=_reason_name(decision))
    raise _refusal(decision)


def _refusal(decision: decision_pb2.Decision) -> HandclaspError:
    reason = decision.reason
    metadata = {"decision": decision.name}
    explained = (
        f"this is decision {decision.name}; whoever may see the audit log can run "
        f"`handclasp explain {decision.name.removeprefix('decisions/')}`"
    )
    if reason in _NOT_ACCEPTED:
        message = f"the client certificate is not accepted; {explained}"
        return Unauthenticated(Reason.CERTIFICATE_NOT_ACCEPTED, message, metadata=metadata)
    if reason == decision_pb2.DECISION_REASON_CREDENTIALS_INVALID:
        message = f"user name or password is wrong; send the right ones or none; {explained}"
        return Unauthenticated(Reason.CREDENTIALS_INVALID, message, metadata=metadata)
    if reason == decision_pb2.DECISION_REASON_CREDENTIALS_MISMATCH:
        message = f"the user name is not the certificate's user; send that one's credentials or none; {explained}"
        return Unauthenticated(Reason.CREDENTIALS_MISMATCH, message, metadata=metadata)
    if reason == decision_pb2.DECISION_REASON_CREDENTIALS_THROTTLED:
        # Both times are the service's, so the two clocks need not agree.
        delay = decision.retry_time.ToDatetime() - decision.decide_time.ToDatetime()
        message = f"too many wrong passwords; wait {delay.total_seconds():.0f} s, or send no password; {explained}"
        return ResourceExhausted(Reason.CREDENTIALS_THROTTLED, message, metadata=metadata, retry_after=delay)
    # Also for reasons that a newer service may have: a no is a no.
    return PermissionDenied(Reason.ACCESS_DENIED, f"not allowed; {explained}", metadata=metadata)


def _reason_name(decision: decision_pb2.Decision) -> str:
    known = decision_pb2.DecisionReason.DESCRIPTOR.values_by_number.get(decision.reason)
    return known.name.removeprefix("DECISION_REASON_") if known else str(int(decision.reason))


def _unanswered(error: grpc.aio.AioRpcError) -> HandclaspError:
    refusal = from_rpc_error(error)
    if refusal.reason == Reason.PASSWORD_CHECKS_BUSY:
        # About the peer, and nobody else: too many passwords from its address wait to be checked.
        return refusal
    if error.code() in _OWN_IDENTITY_REFUSED:
        _LOG.error(
            "own_identity_refused",
            status=error.code().name,
            details=error.details(),
            hint="check that the certificate in `identity_cert` is on file at the certificate service, neither revoked "
            "nor expired, and that its user is active and holds AUTHORIZE_PEERS (profile relying-party) on the "
            "integrations",
        )
    else:
        _LOG.warning("certificate_service_not_asked", status=error.code().name, details=error.details())
    return _not_asked()


def _nonsense(what: str) -> Unavailable:
    _LOG.error("decision_makes_no_sense", answer=what, hint="check the version of the certificate service")
    return _not_asked()


def _not_asked() -> Unavailable:
    return Unavailable(
        Reason.AUTHORIZER_UNAVAILABLE,
        "whether this is allowed cannot be found out now; try again, and if it stays so tell whoever runs this server",
    )
