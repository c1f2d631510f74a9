"""Says why something was refused."""

from __future__ import annotations

from handclasp.certificate_service.domain.denials import Denial
from handclasp.certificate_service.domain.identifiers import decision_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.certificate_service.use_cases.denial_log import DenialLog
from handclasp.errors import NotFound, Reason


class ExplainDecision:
    def __init__(self, denials: DenialLog, access: Access) -> None:
        self._denials = denials
        self._access = access

    async def explain(self, caller: Caller, decision_id: str) -> Denial:
        """The denial on record.

        Raises:
            PermissionDenied: the caller may not see the audit log.
            NotFound: DECISION_NOT_FOUND.
        """
        name = decision_name(decision_id)
        self._access.require(caller, Permission.VIEW_AUDIT_LOG, name)
        denial = await self._denials.explain(decision_id)
        if denial is None:
            raise NotFound(
                Reason.DECISION_NOT_FOUND,
                f"there is no {name} on record; only the newest denials are kept, and what was allowed is not",
            )
        return denial
