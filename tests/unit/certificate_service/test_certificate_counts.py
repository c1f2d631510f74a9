"""Certificates counted by state, as listing by state finds them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from handclasp.certificate_service.certificate_counting import CertificateCounting
from handclasp.certificate_service.domain.certificates import CertificateState, Hold, Revocation, RevocationReason
from handclasp.certificate_service.storage.certificates import (
    add_certificate,
    hold_certificate,
    revoke_certificate,
)
from handclasp.certificate_service.storage.database import Database, Transaction
from tests.unit.certificate_service.records import certificate, put_user
from tests.unit.x509.refusals import NOW


async def test_each_is_counted_in_its_state_and_by_its_end(database: Database) -> None:
    await put_user(database, "alice")
    ends = [timedelta(hours=12), timedelta(days=3), timedelta(days=20), timedelta(days=90), timedelta(seconds=-1)]
    active = [replace(certificate("alice", f"{end}"), trusted_until=NOW + end) for end in ends]
    later = replace(certificate("alice", "later"), not_before=NOW + timedelta(days=1), trusted_until=NOW + ends[3])
    revoked, held, both = (certificate("alice", text) for text in ("revoked", "held", "both"))

    async def work(transaction: Transaction) -> None:
        for record in (*active, later, revoked, held, both):
            await add_certificate(transaction, record)
        for record in (held, both):
            await hold_certificate(transaction, record.id, Hold(NOW, "admin"))
        for record in (revoked, both):
            await revoke_certificate(transaction, record.id, Revocation(NOW, RevocationReason.UNSPECIFIED, "admin"))

    await database.write(work)
    counting = CertificateCounting(database, lambda: NOW)
    await counting.count()
    assert counting.last is not None
    assert counting.last.by_state == {
        CertificateState.ACTIVE: 4,
        CertificateState.EXPIRED: 1,
        CertificateState.NOT_YET_VALID: 1,
        CertificateState.REVOKED: 2,
        CertificateState.ON_HOLD: 1,
    }
    assert counting.last.ending == {timedelta(days=1): 1, timedelta(days=7): 2, timedelta(days=30): 3}


async def test_counting_before_there_are_any(database: Database) -> None:
    counting = CertificateCounting(database, lambda: NOW)
    await counting.count()
    assert counting.last is not None
    assert set(counting.last.by_state.values()) == {0}
