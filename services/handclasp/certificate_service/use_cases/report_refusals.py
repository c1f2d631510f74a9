"""Takes in what relying parties have refused by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.domain.refusals import Refused
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.certificate_service.use_cases.refusal_records import RefusalRecords


@dataclass(frozen=True, slots=True)
class Report:
    """Equal refusals at a relying party."""

    refused: Refused
    count: int


class ReportRefusals:
    def __init__(self, records: RefusalRecords, access: Access) -> None:
        self._records = records
        self._access = access

    def require_relying_party(self, caller: Caller) -> None:
        """Raises PermissionDenied unless the caller is a relying party, for whatever resource."""
        self._access.require_some(caller, Permission.AUTHORIZE_PEERS)

    def report(self, caller: Caller, reports: Sequence[Report]) -> None:
        """Records them, as reported by the caller whatever they say.

        Raises:
            PermissionDenied: the caller is no relying party.
        """
        self.require_relying_party(caller)
        for one in reports:
            self._records.record(replace(one.refused, relying_party=caller.user_id), one.count)
