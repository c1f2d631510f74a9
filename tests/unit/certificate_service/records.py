"""Users and certificates put on file directly, for tests of what reads them."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from handclasp.certificate_service.domain.access_profiles import AccessProfile
from handclasp.certificate_service.domain.certificates import Certificate, Origin
from handclasp.certificate_service.domain.identifiers import new_id
from handclasp.certificate_service.domain.permissions import Grant
from handclasp.certificate_service.domain.users import User, UserState
from handclasp.certificate_service.storage.access_profiles import add_profile
from handclasp.certificate_service.storage.certificates import add_certificate
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.users import add_user
from tests.unit.x509.refusals import NOW


async def put_profile(database: Database, profile_id: str, *grants: Grant) -> None:
    profile = AccessProfile(profile_id, "", grants, built_in=False, create_time=NOW, update_time=NOW)
    await database.write(lambda transaction: add_profile(transaction, profile))


def user(user_id: str, *profiles: str) -> User:
    return User(
        id=user_id,
        display_name="",
        state=UserState.ACTIVE,
        profile_ids=profiles,
        has_password=False,
        create_time=NOW,
        update_time=NOW,
    )


async def put_user(database: Database, user_id: str, *profiles: str) -> None:
    await database.write(lambda transaction: add_user(transaction, user(user_id, *profiles), None))


def certificate(user_id: str, text: str) -> Certificate:
    """A record for a certificate whose DER is that text: nothing here parses it."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Certificate(
        id=new_id(NOW),
        user_id=user_id,
        origin=Origin.SIGNED,
        serial=digest[:32],
        fingerprint=digest,
        tbs_fingerprint=digest,
        subject=f"CN={user_id}",
        issuer="CN=CA",
        key_algorithm="EC P-256",
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1),
        trusted_until=NOW + timedelta(days=1),
        der=text.encode(),
        chain_der=(),
        anchor_fingerprint=None,
        create_time=NOW,
        update_time=NOW,
        created_by="",
        created_with="",
    )


async def put_certificate(database: Database, user_id: str, text: str) -> Certificate:
    record = certificate(user_id, text)

    async def work(transaction: Transaction) -> None:
        await add_certificate(transaction, record)

    await database.write(work)
    return record
