"""When a renewal that failed is tried again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from handclasp.relying_party.identity_files import IdentityFiles
from handclasp.relying_party.renewal import IdentityRenewal, RenewalTimes
from handclasp.serving.tls import TlsMaterialError
from tests.unit.relying_party.test_identity_files import OLD


async def test_what_failed_before_a_success_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a certificate that is due at once whenever it is renewed, too."""
    outcomes = [False, False, True, False, False]

    async def renew(_: IdentityRenewal) -> None:
        if not outcomes:
            raise asyncio.CancelledError
        if not outcomes.pop(0):
            raise TlsMaterialError("no luck")

    monkeypatch.setattr(IdentityRenewal, "renew", renew)
    link: Any = SimpleNamespace(identity=OLD)
    nobody: Any = None
    renewal = IdentityRenewal(
        link,
        nobody,
        nobody,
        IdentityFiles(tmp_path / "cert.pem", tmp_path / "key.pem"),
        wall_clock=lambda: 1e11,
        times=RenewalTimes(check_interval=0, first_retry=0.001),
        timeout=1,
    )
    with structlog.testing.capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await renewal.run()
    assert [line["retry_in"] for line in lines] == [0.001, 0.002, 0.001, 0.002]
