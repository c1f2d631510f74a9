"""The listeners' own certificate."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from handclasp.certificate_service.certificate_authority import Installation
from handclasp.certificate_service.listeners import ListenerCredentials
from handclasp.certificate_service.use_cases.trust_bundle import TrustBundle
from handclasp.certificate_service.x509.issuing import make_issuing_authority, make_root

DOMAIN = "example.test"


async def test_is_renewed_whatever_the_database_does() -> None:
    async def read_bundle() -> TrustBundle:
        raise OSError("the database is down")

    now = datetime.now(UTC)
    root = make_root(trust_domain=DOMAIN, now=now)
    issuing = make_issuing_authority(root, trust_domain=DOMAIN, now=now)
    listeners = ListenerCredentials(
        Installation(DOMAIN, root.certificate, root, issuing, b""),
        names=("localhost",),
        lifetime=timedelta(seconds=0.01),
        read_bundle=read_bundle,
        clock=lambda: datetime.now(UTC),
    )
    with structlog.testing.capture_logs() as lines:
        renewing = asyncio.create_task(listeners.keep_certificate_fresh())
        while len(lines) < 2 and not renewing.done():  # noqa: ASYNC110 - the log is what shows it
            await asyncio.sleep(0.01)
        renewing.cancel()
        await asyncio.wait({renewing})
    assert renewing.cancelled()
    assert {line["event"] for line in lines} == {"server_certificate_renewed"}
