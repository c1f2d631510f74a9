"""Certificates on file."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, false, insert, or_, select, update

from handclasp.certificate_service.domain.certificates import (
    Certificate,
    CertificateFilter,
    CertificateState,
    Hold,
    Origin,
    Revocation,
    RevocationReason,
)
from handclasp.certificate_service.domain.visibility import Visible
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import certificates
from handclasp.certificate_service.storage.users import ids_visible

_END = "-----END CERTIFICATE-----\n"

# Made once: SQLAlchemy then knows them at once when they are run again.
_find = select(certificates).where(certificates.c.id == bindparam("id"))
_add = insert(certificates)


async def find_certificate(snapshot: Snapshot, certificate_id: str) -> Certificate | None:
    row = (await snapshot.fetch(_find, {"id": certificate_id})).one_or_none()
    return None if row is None else _certificate(row)


async def find_same_certificate(snapshot: Snapshot, *, fingerprint: str, tbs_fingerprint: str) -> Certificate | None:
    """The certificate on file with that DER, or with that to-be-signed part."""
    same = or_(certificates.c.fingerprint == fingerprint, certificates.c.tbs_fingerprint == tbs_fingerprint)
    row = (await snapshot.fetch(select(certificates).where(same).limit(1))).one_or_none()
    return None if row is None else _certificate(row)


async def list_certificates(
    snapshot: Snapshot, visible: Visible, wanted: CertificateFilter, *, now: datetime, after: str, limit: int
) -> list[Certificate]:
    """Certificates of users that may be seen, in order of id, which is that of creation."""
    column = certificates.c
    conditions = [column.id > after]
    if "" not in visible.prefixes:
        conditions.append(ids_visible(column.user_id, visible))
    exact = {column.user_id: wanted.user_id, column.serial: wanted.serial, column.fingerprint: wanted.fingerprint}
    conditions += [key == value for key, value in exact.items() if value is not None]
    if wanted.states:
        conditions.append(or_(false(), *(in_state(state, now) for state in sorted(wanted.states))))
    if wanted.expire_before is not None:
        conditions.append(column.trusted_until < wanted.expire_before)
    if wanted.expire_after is not None:
        conditions.append(column.trusted_until >= wanted.expire_after)
    query = select(certificates).where(*conditions).order_by(column.id).limit(limit)
    return [_certificate(row) for row in await snapshot.fetch(query)]


async def add_certificate(transaction: Transaction, certificate: Certificate) -> None:
    await transaction.execute(_add, [_row(certificate)])


async def save_annotations(transaction: Transaction, certificate: Certificate) -> None:
    """Writes description and labels."""
    await transaction.execute(
        update(certificates)
        .where(certificates.c.id == certificate.id)
        .values(
            description=certificate.description,
            labels=_labels_text(certificate.labels),
            update_time=certificate.update_time,
        )
    )


async def _revoke(transaction: Transaction, condition: ColumnElement[bool], revocation: Revocation) -> int:
    """Revokes those that match and are not revoked yet; returns how many."""
    done = await transaction.execute(
        update(certificates)
        .where(condition, certificates.c.revoke_time.is_(None))
        .values(
            revoke_time=revocation.time,
            revocation_reason=revocation.reason,
            revoked_by=revocation.revoked_by,
            update_time=revocation.time,
        )
    )
    return int(getattr(done, "rowcount", 0))


async def revoke_certificate(transaction: Transaction, certificate_id: str, revocation: Revocation) -> int:
    return await _revoke(transaction, certificates.c.id == certificate_id, revocation)


async def revoke_certificates_of(transaction: Transaction, user_id: str, revocation: Revocation) -> int:
    return await _revoke(transaction, certificates.c.user_id == user_id, revocation)


async def hold_certificate(transaction: Transaction, certificate_id: str, hold: Hold) -> bool:
    """Whether it was neither revoked nor on hold, and is on hold now."""
    done = await transaction.execute(
        update(certificates)
        .where(
            certificates.c.id == certificate_id,
            certificates.c.revoke_time.is_(None),
            certificates.c.hold_time.is_(None),
        )
        .values(hold_time=hold.time, held_by=hold.held_by, update_time=hold.time)
    )
    return int(getattr(done, "rowcount", 0)) > 0


async def reinstate_certificate(transaction: Transaction, certificate_id: str, now: datetime) -> bool:
    """Whether it was on hold and not revoked, and is no longer on hold."""
    done = await transaction.execute(
        update(certificates)
        .where(
            certificates.c.id == certificate_id,
            certificates.c.revoke_time.is_(None),
            certificates.c.hold_time.is_not(None),
        )
        .values(hold_time=None, held_by=None, update_time=now)
    )
    return int(getattr(done, "rowcount", 0)) > 0


def in_state(state: CertificateState, now: datetime) -> ColumnElement[bool]:
    """The same rules as `Certificate.state`."""
    column = certificates.c
    valid = and_(column.revoke_time.is_(None), column.hold_time.is_(None))
    match state:
        case CertificateState.REVOKED:
            return column.revoke_time.is_not(None)
        case CertificateState.ON_HOLD:
            return and_(column.revoke_time.is_(None), column.hold_time.is_not(None))
        case CertificateState.EXPIRED:
            return and_(valid, column.trusted_until <= now)
        case CertificateState.NOT_YET_VALID:
            return and_(valid, column.trusted_until > now, column.not_before > now)
        case CertificateState.ACTIVE:
            return and_(valid, column.trusted_until > now, column.not_before <= now)


def _row(certificate: Certificate) -> dict[str, Any]:
    return {
        "id": certificate.id,
        "user_id": certificate.user_id,
        "origin": certificate.origin,
        "serial": certificate.serial,
        "fingerprint": certificate.fingerprint,
        "tbs_fingerprint": certificate.tbs_fingerprint,
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "key_algorithm": certificate.key_algorithm,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "trusted_until": certificate.trusted_until,
        "der": certificate.der,
        "chain_pem": "".join(ssl.DER_cert_to_PEM_cert(der) for der in certificate.chain_der),
        "anchor_fingerprint": certificate.anchor_fingerprint,
        "create_time": certificate.create_time,
        "update_time": certificate.update_time,
        "created_by": certificate.created_by,
        "created_with": certificate.created_with,
        "description": certificate.description,
        "labels": _labels_text(certificate.labels),
        "renewed_from": certificate.renewed_from,
    }


def _certificate(row: Row[Any]) -> Certificate:
    revocation = None
    if row.revoke_time is not None:
        revocation = Revocation(row.revoke_time, RevocationReason(row.revocation_reason), row.revoked_by)
    hold = None if row.hold_time is None else Hold(row.hold_time, row.held_by)
    return Certificate(
        id=row.id,
        user_id=row.user_id,
        origin=Origin(row.origin),
        serial=row.serial,
        fingerprint=row.fingerprint,
        tbs_fingerprint=row.tbs_fingerprint,
        subject=row.subject,
        issuer=row.issuer,
        key_algorithm=row.key_algorithm,
        not_before=row.not_before,
        not_after=row.not_after,
        trusted_until=row.trusted_until,
        der=row.der,
        chain_der=_chain(row.chain_pem),
        anchor_fingerprint=row.anchor_fingerprint,
        create_time=row.create_time,
        update_time=row.update_time,
        created_by=row.created_by,
        created_with=row.created_with,
        description=row.description,
        labels=json.loads(row.labels),
        revocation=revocation,
        hold=hold,
        renewed_from=row.renewed_from,
    )


def _chain(text: str) -> tuple[bytes, ...]:
    return tuple(ssl.PEM_cert_to_DER_cert(part + _END) for part in text.split(_END)[:-1])


def _labels_text(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(labels.items())), ensure_ascii=False) if labels else "{}"
