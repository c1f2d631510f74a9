"""Counts the certificates now and then, for the metrics."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.storage.certificate_counts import CertificateCounts, count_certificates
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.use_cases.caller import Clock

WITHIN = {"1d": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
"""Times within which active certificates end, by the name that the metric has for each."""

_INTERVAL = 300.0
"""Seconds: a count of a million takes one or two of them, in a thread of its own."""

_LOG = structlog.stdlib.get_logger(__name__)


class CertificateCounting:
    """Counts off the way of calls.

    Attributes:
        last: the last count; None before the first.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.last: CertificateCounts | None = None

    async def run(self) -> None:
        """Counts until cancelled."""
        while True:
            try:
                await self.count()
            except SQLAlchemyError as error:
                _LOG.warning("certificates_not_counted", error=type(error).__name__)
            await asyncio.sleep(_INTERVAL)

    async def count(self) -> None:
        """Counts once. Raises SQLAlchemyError."""
        now = self._clock()
        within = list(WITHIN.values())
        self.last = await self._database.query(lambda snapshot: count_certificates(snapshot, now, within))
