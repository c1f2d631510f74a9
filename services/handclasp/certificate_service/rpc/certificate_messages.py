"""Certificates and trust anchors: protobuf to domain and back."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from datetime import datetime

from handclasp.certificate_service.domain.certificates import (
    Certificate,
    CertificateFilter,
    CertificateState,
    Origin,
    RevocationReason,
    TrustAnchor,
)
from handclasp.certificate_service.domain.enrollment_tokens import EnrollmentToken, Purpose
from handclasp.certificate_service.domain.identifiers import (
    certificate_name,
    enrollment_token_name,
    parse_user_name,
    trust_anchor_name,
    user_name,
)
from handclasp.certificate_service.rpc.fields import EnumTable, to_datetime, to_timestamp
from handclasp.certificate_service.use_cases.enrollment_tokens import MadeToken
from handclasp.certificates.v1 import certificate_pb2, enrollment_token_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import invalid_field

_ORIGINS = EnumTable(certificate_pb2.Certificate.Origin, "ORIGIN_", Origin)
STATES = EnumTable(certificate_pb2.Certificate.State, "STATE_", CertificateState)
REVOCATION_REASONS = EnumTable(
    certificate_pb2.RevocationReason,
    "REVOCATION_REASON_",
    RevocationReason,
    renamed={"NONE_GIVEN": RevocationReason.UNSPECIFIED},
    unspecified=RevocationReason.UNSPECIFIED,
)
PURPOSES = EnumTable(enrollment_token_pb2.EnrollmentToken.Purpose, "PURPOSE_", Purpose, unspecified=Purpose.CERTIFICATE)

_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)


def from_certificate(
    certificate: Certificate, *, now: datetime, chain: Sequence[bytes] | None
) -> certificate_pb2.Certificate:
    """The resource as it is at a moment.

    Args:
        chain: DER of the intermediates; None if the certificate itself is to be left out.
    """
    message = certificate_pb2.Certificate(
        name=certificate_name(certificate.id),
        user=user_name(certificate.user_id),
        origin=_ORIGINS.to_proto(certificate.origin),
        state=STATES.to_proto(certificate.state(now)),
        serial=certificate.serial,
        fingerprint=certificate.fingerprint,
        subject=certificate.subject,
        issuer=certificate.issuer,
        key_algorithm=certificate.key_algorithm,
        not_before=to_timestamp(certificate.not_before),
        not_after=to_timestamp(certificate.not_after),
        description=certificate.description,
        labels=certificate.labels,
        create_time=to_timestamp(certificate.create_time),
        update_time=to_timestamp(certificate.update_time),
        created_by=user_name(certificate.created_by),
        created_with=certificate_name(certificate.created_with),
        renewed_from=certificate_name(certificate.renewed_from or ""),
    )
    revocation = certificate.revocation
    if revocation is not None:
        message.revocation.CopyFrom(
            certificate_pb2.Revocation(
                revoke_time=to_timestamp(revocation.time),
                reason=REVOCATION_REASONS.to_proto(revocation.reason),
                revoked_by=user_name(revocation.revoked_by),
            )
        )
    hold = certificate.hold
    if hold is not None:
        message.hold.CopyFrom(certificate_pb2.Hold(hold_time=to_timestamp(hold.time), held_by=user_name(hold.held_by)))
    if chain is not None:
        message.pem = "".join(map(ssl.DER_cert_to_PEM_cert, (certificate.der, *chain)))
    return message


def from_anchor(anchor: TrustAnchor) -> certificate_pb2.TrustAnchor:
    return certificate_pb2.TrustAnchor(
        name=trust_anchor_name(anchor.id),
        display_name=anchor.display_name,
        subject=anchor.subject,
        fingerprint=anchor.fingerprint,
        not_before=to_timestamp(anchor.not_before),
        not_after=to_timestamp(anchor.not_after),
        create_time=to_timestamp(anchor.create_time),
        created_by=user_name(anchor.created_by),
        pem=ssl.DER_cert_to_PEM_cert(anchor.der),
    )


def from_made_token(made: MadeToken) -> enrollment_token_pb2.EnrollmentToken:
    """The only message that has the token itself."""
    message = from_token(made.kept)
    message.token = made.token
    return message


def from_token(kept: EnrollmentToken) -> enrollment_token_pb2.EnrollmentToken:
    return enrollment_token_pb2.EnrollmentToken(
        name=enrollment_token_name(kept.id),
        user=user_name(kept.user_id),
        server_names=kept.server_names,
        create_time=to_timestamp(kept.create_time),
        expire_time=to_timestamp(kept.expire_time),
        created_by=user_name(kept.created_by),
        purpose=PURPOSES.to_proto(kept.purpose),
    )


def to_filter(request: pb.ListCertificatesRequest) -> CertificateFilter:
    """Raises InvalidArgument for a filter that cannot match anything as it is written."""
    serial = _hexadecimal(request.serial)
    if serial:
        serial = serial.lstrip("0") or "0"
    # Also of what is nothing but colons: without a filter the list would have everything.
    if request.serial and _SERIAL.fullmatch(serial) is None:
        raise invalid_field("serial", "must be hexadecimal, of at most 40 digits")
    fingerprint = _hexadecimal(request.fingerprint)
    if request.fingerprint and _FINGERPRINT.fullmatch(fingerprint) is None:
        raise invalid_field("fingerprint", "must be a SHA-256: 64 hexadecimal digits")
    return CertificateFilter(
        user_id=parse_user_name(request.user, "user") if request.user else None,
        states=frozenset(STATES.to_domain(state, "states") for state in set(request.states)),
        serial=serial or None,
        fingerprint=fingerprint or None,
        expire_before=to_datetime(request.expire_before, "expire_before")
        if request.HasField("expire_before")
        else None,
        expire_after=to_datetime(request.expire_after, "expire_after") if request.HasField("expire_after") else None,
    )


def _hexadecimal(text: str) -> str:
    return text.replace(":", "").lower()
