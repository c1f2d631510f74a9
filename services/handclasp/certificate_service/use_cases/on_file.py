"""Turns an X.509 certificate into the record that is put on file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handclasp.certificate_service.domain.certificates import (
    MAXIMUM_DESCRIPTION,
    Certificate,
    Origin,
    check_labels,
)
from handclasp.certificate_service.domain.identifiers import new_id
from handclasp.certificate_service.domain.users import check_text
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.certificate_service.x509.fingerprints import fingerprint, serial_hex, tbs_fingerprint
from handclasp.certificate_service.x509.keys import describe_key, read_public_key


def certificate_on_file(
    leaf: x509.Certificate,
    *,
    user_id: str,
    origin: Origin,
    caller: Caller,
    now: datetime,
    description: str,
    labels: Mapping[str, str],
    trusted_until: datetime | None = None,
    chain: tuple[x509.Certificate, ...] = (),
    anchor_fingerprint: str | None = None,
    renewed_from: str | None = None,
) -> Certificate:
    """A new record with a new id.

    Args:
        trusted_until: when the first certificate of its path expires; that of the leaf if None.
        chain: the intermediates that were uploaded with it.
        anchor_fingerprint: of the trust anchor; None if it is our own.
        renewed_from: the id of the certificate whose successor it is; None if of none.

    Raises:
        InvalidArgument: description or labels do not fit.
    """
    der = leaf.public_bytes(Encoding.DER)
    return Certificate(
        id=new_id(now),
        user_id=user_id,
        origin=origin,
        serial=serial_hex(leaf.serial_number),
        fingerprint=fingerprint(der),
        tbs_fingerprint=tbs_fingerprint(leaf),
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        key_algorithm=describe_key(read_public_key(leaf)),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        trusted_until=leaf.not_valid_after_utc if trusted_until is None else trusted_until,
        der=der,
        chain_der=tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
        anchor_fingerprint=anchor_fingerprint,
        create_time=now,
        update_time=now,
        created_by=caller.user_id,
        created_with=caller.certificate_id,
        description=check_text(description, "description", maximum=MAXIMUM_DESCRIPTION),
        labels=check_labels(labels),
        renewed_from=renewed_from,
    )
