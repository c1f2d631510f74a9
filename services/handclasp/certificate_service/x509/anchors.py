"""Trust anchors: outside CAs whose leaves are let in.

A leaf in a bundle of roots acts as a CA in gRPC's TLS stack, so only what is a CA's by its own word becomes an anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from handclasp.certificate_service.x509.certificates import (
    comparable,
    extension,
    is_self_issued,
    load_certificate,
    shown,
)
from handclasp.certificate_service.x509.encodings import CERTIFICATE_LABELS, read_ders
from handclasp.certificate_service.x509.keys import check_ca_key, read_public_key
from handclasp.certificate_service.x509.rules import (
    ca_fault,
    client_purpose_fault,
    critical_extension_fault,
    signature_fault,
)
from handclasp.certificate_service.x509.uploaded import check_validity
from handclasp.errors import InvalidArgument, Reason


def read_anchor(*, pem: str | None = None, der: bytes | None = None, now: datetime) -> x509.Certificate:
    """The CA certificate in a request to add a trust anchor.

    It need not be a root: an anchor may be an intermediate whose root nobody here trusts. The hash of a self-signed
    anchor's own signature does not matter, for nobody relies on that signature.

    Raises:
        InvalidArgument: `CERTIFICATE_INVALID`, `KEY_NOT_ACCEPTED`, `ANCHOR_NOT_A_CA`, `CLIENT_AUTH_NOT_ALLOWED` (its
            extended key usage rules client certificates out), `CERTIFICATE_EXPIRED`, `CERTIFICATE_NOT_YET_VALID`.
    """
    ders = read_ders(
        pem=pem, der=der, labels=CERTIFICATE_LABELS, what="CA certificate", reason=Reason.CERTIFICATE_INVALID
    )
    if len(ders) > 1:
        raise InvalidArgument(
            Reason.CERTIFICATE_INVALID, f"There are {len(ders)} certificates in it. Add one trust anchor at a time."
        )
    anchor = load_certificate(ders[0])
    check_ca_key(read_public_key(anchor))
    who = f"The certificate of {shown(anchor.subject)}"
    fault = ca_fault(anchor)
    if fault is not None:
        remedy = "Add the certificate of the CA that signs the leaves, or of the one above it."
        raise InvalidArgument(Reason.ANCHOR_NOT_A_CA, f"{who} {fault}. {remedy}")
    check_validity(anchor, now)
    fault = client_purpose_fault(anchor)
    if fault is not None:
        remedy = "What it signs is refused as a client certificate; add a CA that may sign them."
        raise InvalidArgument(Reason.CLIENT_AUTH_NOT_ALLOWED, f"{who} {fault}. {remedy}")
    fault = critical_extension_fault(anchor) or _own_signature_fault(anchor)
    if fault is not None:
        raise InvalidArgument(
            Reason.CERTIFICATE_INVALID, f"{who} {fault}. Get the CA's certificate from its owner again."
        )
    return anchor


def conflict(anchor: x509.Certificate, others: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """The first other CA that TLS stacks could take for this one; its key is another.

    They look an issuer up by subject and subject key identifier, take the first that fits, and do not try the next. An
    anchor without subject key identifier fits everything that was issued under its name, so it gets on with no other of
    that name. The same key again, in a renewed certificate say, is no conflict.
    """
    return next((other for other in others if _confusable(anchor, other) and not _same_key(anchor, other)), None)


def conflict_with_own(anchor: x509.Certificate, own: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The first CA of this service that the anchor could be taken for, or whose key it has.

    The service's own CAs are trusted as such, for what is on file; they are never anchors for uploads.
    """
    return next((ca for ca in own if _confusable(anchor, ca) or _same_key(anchor, ca)), None)


def _confusable(one: x509.Certificate, other: x509.Certificate) -> bool:
    if comparable(one.subject) != comparable(other.subject):
        return False
    one_id, other_id = extension(one, x509.SubjectKeyIdentifier), extension(other, x509.SubjectKeyIdentifier)
    return one_id is None or other_id is None or one_id == other_id


def _same_key(one: x509.Certificate, other: x509.Certificate) -> bool:
    return _key_bytes(one) == _key_bytes(other)


def _key_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _own_signature_fault(anchor: x509.Certificate) -> str | None:
    fault = signature_fault(anchor)
    if not is_self_issued(anchor):
        return fault
    if fault is not None:
        return None
    try:
        anchor.verify_directly_issued_by(anchor)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        # A new key of a CA that was signed with the CA's old one, under the same name, lands here too.
        return "has itself as issuer, and is not signed by its own key"
    return None
