"""Looks, at a start, whether somebody else's certificate has a name that clients call this service by."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from cryptography import x509

from handclasp.certificate_service.domain.identifiers import certificate_name, user_name
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.server_names import names_in_force
from handclasp.certificate_service.use_cases.caller import Clock
from handclasp.certificate_service.x509.issuing import canonical_server_name, parse_server_name

_LOG = structlog.stdlib.get_logger(__name__)


async def warn_of_names_elsewhere(database: Database, own_names: Sequence[str], clock: Clock) -> None:
    """Logs each certificate whose holder could pass for this service; as a warning, if it was issued by somebody who
    might not have given a name that is in force elsewhere.

    The service starts all the same: whoever was given such a name must not be able to keep it from starting, and the
    name may have been given on purpose. Names of the machine itself are left out: all servers on it share them.
    """
    names = [canonical_server_name(name) for name in own_names if not _is_of_this_machine(name)]
    for found in await database.read(lambda snapshot: names_in_force(snapshot, names, now=clock())):
        # The pair on one machine has one name, and an administrator may have given it on purpose.
        log = _LOG.info if found.vouched else _LOG.warning
        log(
            "own_server_name_elsewhere",
            server_name=found.name,
            certificate=certificate_name(found.certificate_id),
            user=user_name(found.user_id),
            hint="whoever holds that certificate's key can pass for this service; if it was not meant so, revoke it",
        )


def _is_of_this_machine(name: str) -> bool:
    parsed = parse_server_name(name)
    if isinstance(parsed, x509.IPAddress):
        return bool(getattr(parsed.value, "is_loopback", False))
    return parsed.value == "localhost"
