"""Lists what was refused last, by whatever rule."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from handclasp.certificate_service.domain.denials import Denial
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.domain.refusals import Refusal
from handclasp.certificate_service.storage.database import Database, Snapshot
from handclasp.certificate_service.storage.denials import list_denials
from handclasp.certificate_service.storage.refusals import list_refusals
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.certificate_service.use_cases.denial_log import DenialLog
from handclasp.certificate_service.use_cases.pages import Page, PageRequest, PageTokens, limit
from handclasp.certificate_service.use_cases.refusal_records import RefusalRecords

_EVERY_DECISION = "decisions/*"

Recorded: TypeAlias = Denial | Refusal


class ListRefusals:
    def __init__(
        self, database: Database, denials: DenialLog, records: RefusalRecords, access: Access, tokens: PageTokens
    ) -> None:
        self._database = database
        self._denials = denials
        self._records = records
        self._access = access
        self._tokens = tokens

    async def list(self, caller: Caller, request: PageRequest, since: datetime | None) -> Page[Recorded]:
        """Denials and other refusals, the newest first by when their record began. What this process has recorded is
        among them at once, what others have a little later.

        Args:
            since: only those of which the last one was then, or later.

        Raises:
            PermissionDenied: the caller may not see every decision.
            InvalidArgument: for the page size or the page token.
        """
        self._access.require(caller, Permission.VIEW_AUDIT_LOG, _EVERY_DECISION)
        before = self._tokens.after(caller, request)
        await self._denials.try_to_flush()
        await self._records.try_to_flush()
        most = limit(request)

        async def read(snapshot: Snapshot) -> list[Recorded]:
            denied = await list_denials(snapshot, before=before, since=since, limit=most)
            others = await list_refusals(snapshot, before=before, since=since, limit=most)
            both: list[Recorded] = [*denied, *others]
            return sorted(both, key=lambda one: one.id, reverse=True)[:most]

        return self._tokens.page(caller, request, await self._database.read(read), lambda one: one.id)
