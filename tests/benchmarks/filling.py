"""Puts many certificates on file, in the database of a service that is stopped."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from sqlalchemy import func, insert, select

from handclasp.certificate_service.domain.access_profiles import REGULAR_USER
from handclasp.certificate_service.domain.identifiers import new_id
from handclasp.certificate_service.domain.users import UserState
from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.schema import certificates, user_profiles, users

OWNERS = tuple(f"owner-{number}" for number in range(5))
"""The users that the certificates are mapped to in turn; each has the profile `regular-user`."""

_BATCH = 10_000
_KEPT = 2
_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Stored:
    """A certificate that was put on file."""

    id: str
    der: bytes = field(repr=False)


async def fill(database_url: str, until: int, progress: Callable[[int], None]) -> Sequence[Stored]:
    """Adds certificates until there are so many; returns a sample of those added, spread over all of them.

    They are copies of one that the service issued, with other serial numbers, so their signatures are wrong: nothing
    verifies the signature of a certificate that is on file.

    Args:
        progress: called now and then with how many there are.
    """
    database = open_database(database_url)
    try:
        template = await _template(database)
        copies = Copies(template["der"])
        present = await _count(database)
        await _add_owners(database)
        missing = until - present
        step = max(1, missing // _SAMPLES)
        # Spread over the year before, in order, as a service that has run for long would have them.
        begin, interval = datetime.now(UTC) - timedelta(days=365), timedelta(days=364) / max(1, missing)
        samples: list[Stored] = []
        for first in range(0, missing, _BATCH):
            numbers = range(first, min(first + _BATCH, missing))
            rows = [
                _copy(template, copies, begin + number * interval, OWNERS[number % len(OWNERS)]) for number in numbers
            ]
            samples += [
                Stored(row["id"], row["der"]) for number, row in zip(numbers, rows, strict=True) if number % step == 0
            ]
            await database.write(lambda transaction: transaction.execute(insert(certificates), rows))  # noqa: B023
            progress(present + numbers.stop)
        return samples
    finally:
        await database.close()


async def _template(database: Database) -> dict[str, Any]:
    """The certificate issued last."""
    query = select(certificates).order_by(certificates.c.id.desc()).limit(1)
    return dict((await database.read(lambda snapshot: snapshot.fetch(query))).one()._mapping)


async def _count(database: Database) -> int:
    query = select(func.count()).select_from(certificates)
    return int((await database.read(lambda snapshot: snapshot.fetch(query))).scalar_one())


async def _add_owners(database: Database) -> None:
    present = set((await database.read(lambda snapshot: snapshot.fetch(select(users.c.id)))).scalars())
    now = datetime.now(UTC)
    missing = [owner for owner in OWNERS if owner not in present]
    if not missing:
        return
    people = [
        {"id": owner, "display_name": "", "state": UserState.ACTIVE, "create_time": now, "update_time": now}
        for owner in missing
    ]
    held = [{"user_id": owner, "profile_id": REGULAR_USER} for owner in missing]
    await database.write(lambda transaction: transaction.execute(insert(users), people))
    await database.write(lambda transaction: transaction.execute(insert(user_profiles), held))


class Copies:
    """Makes copies of a certificate that differ in the serial number: other fingerprints, and still readable."""

    def __init__(self, der: bytes) -> None:
        leaf = x509.load_der_x509_certificate(der)
        signed = leaf.tbs_certificate_bytes
        # Of an INTEGER's contents the first two bytes stay: the number keeps its sign and its length, and a first byte
        # of zero is still needed by the second (X.690 8.3.2: the shortest form is the only one).
        number = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1)
        serial_begin = der.index(number) + _KEPT
        self._der = der
        self._first = number[:_KEPT]
        self._serial = slice(serial_begin, serial_begin + len(number) - _KEPT)
        self._signed = slice(der.index(signed), der.index(signed) + len(signed))

    def make(self) -> tuple[bytes, bytes, int]:
        """A copy's DER, the part of it that is signed, and its serial number."""
        rest = secrets.token_bytes(self._serial.stop - self._serial.start)
        der = self._der[: self._serial.start] + rest + self._der[self._serial.stop :]
        return der, der[self._signed], int.from_bytes(self._first + rest)


def _copy(template: dict[str, Any], copies: Copies, moment: datetime, owner: str) -> dict[str, Any]:
    der, signed, serial = copies.make()
    return template | {
        "id": new_id(moment),
        "user_id": owner,
        "serial": f"{serial:x}",
        "fingerprint": hashlib.sha256(der).hexdigest(),
        "tbs_fingerprint": hashlib.sha256(signed).hexdigest(),
        "der": der,
        "create_time": moment,
        "update_time": moment,
    }
