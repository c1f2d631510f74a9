"""Certificates that an outside CA signed, before they are put on file.

In this order: `read_upload`, `check_leaf`, `verify_chain`. What the first two refuse, they refuse before anything is
computed with a key that came along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from handclasp.certificate_service.x509.certificates import extension, is_self_issued, load_certificate, shown
from handclasp.certificate_service.x509.encodings import CERTIFICATE_LABELS, read_ders
from handclasp.certificate_service.x509.keys import check_ca_key, check_client_key, read_public_key
from handclasp.certificate_service.x509.paths import build_path
from handclasp.certificate_service.x509.rules import (
    client_purpose_fault,
    critical_extension_fault,
    signature_fault,
    validity_fault,
)
from handclasp.certificate_service.x509.spiffe import claims_trust_domain
from handclasp.errors import InvalidArgument, Reason

MAX_CERTIFICATES = 10


@dataclass(frozen=True, slots=True)
class UploadedChain:
    """What was sent: the leaf, and whatever came after it, in no order that can be relied on."""

    leaf: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class TrustAnchorCertificate:
    """A trust anchor, and the id that it has on file."""

    id: str
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A leaf that chains to a trust anchor.

    Attributes:
        anchor_id: the anchor it chains to.
        path: the leaf and then the intermediates that lead to the anchor, which is not among them.
        trusted_until: the earliest end of validity on the path, leaf and anchor included.
    """

    anchor_id: str
    path: tuple[x509.Certificate, ...]
    trusted_until: datetime


def read_upload(*, pem: str | None = None, der: bytes | None = None) -> UploadedChain:
    """The certificates in an upload: the first is the leaf. At most 64 KiB and 10 certificates.

    Raises:
        InvalidArgument: `CERTIFICATE_INVALID` for anything that is not certificates through and through;
            `KEY_NOT_ACCEPTED` for a key that nobody should compute with, in any of them.
    """
    ders = read_ders(pem=pem, der=der, labels=CERTIFICATE_LABELS, what="certificate", reason=Reason.CERTIFICATE_INVALID)
    if len(ders) > MAX_CERTIFICATES:
        raise InvalidArgument(
            Reason.CERTIFICATE_INVALID,
            f"There are {len(ders)} certificates in it, and {MAX_CERTIFICATES} are the limit. Send the leaf and the "
            "intermediates between it and a trust anchor.",
        )
    leaf, *intermediates = [load_certificate(item) for item in ders]
    check_client_key(read_public_key(leaf))
    for intermediate in intermediates:
        check_ca_key(read_public_key(intermediate))
    return UploadedChain(leaf, tuple(intermediates))


def check_leaf(chain: UploadedChain, *, trust_domain: str, now: datetime) -> None:
    """Refuses a leaf that cannot be a client certificate here. Whether it is to be trusted is for `verify_chain`.

    Raises:
        InvalidArgument: `CERTIFICATE_INVALID` (version 1, a forgeable signature, critical extensions that nobody here
            understands), `KEY_NOT_ACCEPTED`, `CERTIFICATE_SELF_SIGNED`, `CERTIFICATE_IS_CA`, `CERTIFICATE_EXPIRED`,
            `CERTIFICATE_NOT_YET_VALID`, `CLIENT_AUTH_NOT_ALLOWED`, `TRUST_DOMAIN_CLAIMED`.
    """
    leaf = chain.leaf
    check_client_key(read_public_key(leaf))
    if leaf.version is not x509.Version.v3:
        raise _refused(leaf, Reason.CERTIFICATE_INVALID, "is of version 1, and cannot say what it is for", _REISSUE)
    # Before the question whether it is a CA's: most self-signed ones say that they are, since openssl's defaults do.
    if is_self_issued(leaf):
        raise _refused(leaf, Reason.CERTIFICATE_SELF_SIGNED, "is self-signed: its issuer is its own subject", _SIGNED)
    _check_is_no_ca(leaf)
    fault = signature_fault(leaf) or critical_extension_fault(leaf)
    if fault is not None:
        raise _refused(leaf, Reason.CERTIFICATE_INVALID, fault, _REISSUE)
    check_validity(leaf, now)
    usage = extension(leaf, x509.KeyUsage)
    fault = client_purpose_fault(leaf)
    if fault is None and usage is not None and not usage.digital_signature:
        fault = "has a key usage without digitalSignature, which TLS needs"
    if fault is not None:
        raise _refused(leaf, Reason.CLIENT_AUTH_NOT_ALLOWED, fault, "Have the CA issue one for clientAuth.")
    alternative = extension(leaf, x509.SubjectAlternativeName)
    uris = alternative.get_values_for_type(x509.UniformResourceIdentifier) if alternative is not None else []
    if any(claims_trust_domain(uri, trust_domain) for uri in uris):
        raise _refused(
            leaf,
            Reason.TRUST_DOMAIN_CLAIMED,
            f"has a URI that names the trust domain {trust_domain}, for which only this service signs",
            "Have the CA issue one without that URI.",
        )


def verify_chain(chain: UploadedChain, anchors: Sequence[TrustAnchorCertificate], *, now: datetime) -> VerifiedChain:
    """Finds the way from a leaf that `check_leaf` let pass to one of the anchors.

    Raises:
        InvalidArgument: `CHAIN_NOT_TRUSTED`.
    """
    ids = {anchor.certificate: anchor.id for anchor in reversed(anchors)}
    path, anchor = build_path(chain.leaf, chain.intermediates, [item.certificate for item in anchors], now=now)
    trusted_until = min(certificate.not_valid_after_utc for certificate in (*path, anchor))
    return VerifiedChain(ids[anchor], path, trusted_until)


def check_validity(certificate: x509.Certificate, now: datetime) -> None:
    """Raises `InvalidArgument` (`CERTIFICATE_EXPIRED`, `CERTIFICATE_NOT_YET_VALID`) outside of the validity."""
    fault = validity_fault(certificate, now)
    if fault is None:
        return
    if now > certificate.not_valid_after_utc:
        raise _refused(certificate, Reason.CERTIFICATE_EXPIRED, fault, "Send one that is valid now.")
    raise _refused(certificate, Reason.CERTIFICATE_NOT_YET_VALID, fault, "Wait until then, or check both clocks.")


_REISSUE = "Have the CA issue it anew."
_SIGNED = "Send one that a CA signed which is a trust anchor here; a CA's own certificate is added as a trust anchor."


def _check_is_no_ca(leaf: x509.Certificate) -> None:
    constraints, usage = extension(leaf, x509.BasicConstraints), extension(leaf, x509.KeyUsage)
    if constraints is not None and constraints.ca:
        fault = "is a CA's (BasicConstraints says CA:TRUE)"
    elif usage is not None and usage.key_cert_sign:
        fault = "may sign certificates (its key usage includes keyCertSign)"
    else:
        return
    raise _refused(leaf, Reason.CERTIFICATE_IS_CA, fault, "Send the leaf first, and its intermediates after it.")


def _refused(certificate: x509.Certificate, reason: Reason, fault: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(reason, f"The certificate of {shown(certificate.subject)} {fault}. {remedy}")
