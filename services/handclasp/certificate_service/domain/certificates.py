"""Certificates on file, and trust anchors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from handclasp.certificate_service.domain.users import check_text
from handclasp.errors import invalid_field

MAXIMUM_DESCRIPTION = 1000
MAXIMUM_ANCHOR_DISPLAY_NAME = 200
MAXIMUM_LABELS = 32
MAXIMUM_LABEL_VALUE = 256

_LABEL_KEY = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}", re.ASCII)


class Origin(StrEnum):
    GENERATED = "GENERATED"
    SIGNED = "SIGNED"
    UPLOADED = "UPLOADED"


class CertificateState(StrEnum):
    """What a certificate is good for at a moment. Revocations and holds are stored; the rest follows from the clock."""

    ACTIVE = "ACTIVE"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    ON_HOLD = "ON_HOLD"


class RevocationReason(StrEnum):
    """CRLReason (RFC 5280, section 5.3.1), less those that only lists of revoked certificates use."""

    UNSPECIFIED = "UNSPECIFIED"
    KEY_COMPROMISE = "KEY_COMPROMISE"
    CA_COMPROMISE = "CA_COMPROMISE"
    AFFILIATION_CHANGED = "AFFILIATION_CHANGED"
    SUPERSEDED = "SUPERSEDED"
    CESSATION_OF_OPERATION = "CESSATION_OF_OPERATION"
    PRIVILEGE_WITHDRAWN = "PRIVILEGE_WITHDRAWN"
    AA_COMPROMISE = "AA_COMPROMISE"


@dataclass(frozen=True, slots=True)
class Revocation:
    time: datetime
    reason: RevocationReason
    revoked_by: str
    """The user's id."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A revocation that can be taken back (certificateHold, RFC 5280, section 5.3.1)."""

    time: datetime
    held_by: str
    """The user's id."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate on file, mapped to one user.

    Attributes:
        serial: lower-case hexadecimal, without leading zeros.
        fingerprint: SHA-256 of the DER, lower-case hexadecimal.
        tbs_fingerprint: SHA-256 of what is signed. ECDSA signatures can be rewritten, which changes the DER and leaves
            this; so no two certificates on file share it.
        trusted_until: the first moment at which the leaf or one that it chains to has expired.
        chain_der: the intermediates that were uploaded with it, leaf's issuer first, without the anchor; empty if it is
            our own.
        anchor_fingerprint: of the trust anchor that it chains to; None if it is our own.
        created_by, created_with: ids of the user who issued or uploaded it, and of the certificate they used; empty if
            the service itself, or a password.
        hold: stays on record if it is revoked.
        renewed_from: the id of the certificate whose successor it is; None if of none.
    """

    id: str
    user_id: str
    origin: Origin
    serial: str
    fingerprint: str
    tbs_fingerprint: str
    subject: str
    issuer: str
    key_algorithm: str
    not_before: datetime
    not_after: datetime
    trusted_until: datetime
    der: bytes = field(repr=False)
    chain_der: tuple[bytes, ...] = field(repr=False)
    anchor_fingerprint: str | None
    create_time: datetime
    update_time: datetime
    created_by: str
    created_with: str
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    revocation: Revocation | None = None
    hold: Hold | None = None
    renewed_from: str | None = None

    def state(self, now: datetime) -> CertificateState:
        if self.revocation is not None:
            return CertificateState.REVOKED
        if self.hold is not None:
            return CertificateState.ON_HOLD
        if now >= self.trusted_until:
            return CertificateState.EXPIRED
        return CertificateState.NOT_YET_VALID if now < self.not_before else CertificateState.ACTIVE


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """An outside CA whose leaves may be uploaded."""

    id: str
    display_name: str
    subject: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    der: bytes = field(repr=False)
    create_time: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class CertificateFilter:
    """Which certificates to list; what is None or empty does not narrow."""

    user_id: str | None = None
    states: frozenset[CertificateState] = frozenset()
    serial: str | None = None
    fingerprint: str | None = None
    expire_before: datetime | None = None
    expire_after: datetime | None = None


def check_labels(labels: Mapping[str, str], field_name: str = "labels") -> dict[str, str]:
    """Labels as callers send them.

    Raises:
        InvalidArgument: too many, or a key or value that does not fit.
    """
    if len(labels) > MAXIMUM_LABELS:
        raise invalid_field(field_name, f"must be at most {MAXIMUM_LABELS}, not {len(labels)}")
    for key in labels:
        if _LABEL_KEY.fullmatch(key) is None:
            raise invalid_field(
                field_name, "keys must be 1 to 63 of a-z, 0-9, '.', '_', '/', '-', beginning with a letter or a digit"
            )
    return {key: check_text(value, f"{field_name}.{key}", maximum=MAXIMUM_LABEL_VALUE) for key, value in labels.items()}
