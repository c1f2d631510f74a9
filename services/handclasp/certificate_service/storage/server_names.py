"""The server names of certificates that were issued here: who may pass for which server."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select

from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import certificates, server_names


@dataclass(frozen=True, slots=True)
class NameInForce:
    """A server name of a certificate that is neither revoked nor expired.

    Attributes:
        vouched: whether whoever had it issued may give names that are in force elsewhere.
    """

    name: str
    certificate_id: str
    user_id: str
    vouched: bool


async def add_server_names(
    transaction: Transaction, certificate_id: str, names: Collection[str], vouched: Collection[str]
) -> None:
    """Writes down the names of a certificate; see `canonical_server_name`.

    Args:
        vouched: those for which whoever had it issued may give names that are in force elsewhere.
    """
    if names:
        rows = [
            {"name": name, "certificate_id": certificate_id, "vouched": name in vouched} for name in sorted(set(names))
        ]
        await transaction.execute(insert(server_names), rows)


async def vouched_names_of(snapshot: Snapshot, certificate_id: str) -> frozenset[str]:
    """Those for which whoever had the certificate, or its predecessor, issued could vouch."""
    query = select(server_names.c.name).where(
        server_names.c.certificate_id == certificate_id, server_names.c.vouched.is_(True)
    )
    return frozenset(row.name for row in await snapshot.fetch(query))


async def names_in_force(
    snapshot: Snapshot, names: Collection[str], *, now: datetime, except_of: str = ""
) -> list[NameInForce]:
    """Where those names are in force: in certificates that are not revoked, nor expired; on hold ones may come back.

    Args:
        except_of: the id of a user whose certificates are left out.
    """
    query = (
        select(server_names.c.name, server_names.c.vouched, certificates.c.id, certificates.c.user_id)
        .join(certificates, certificates.c.id == server_names.c.certificate_id)
        .where(
            server_names.c.name.in_(sorted(set(names))),
            certificates.c.revoke_time.is_(None),
            certificates.c.trusted_until > now,
            certificates.c.user_id != except_of,
        )
        .order_by(server_names.c.name, certificates.c.id)
    )
    return [NameInForce(row.name, row.id, row.user_id, row.vouched) for row in await snapshot.fetch(query)]
