"""When a renewal that failed is tried again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from cryptography import x509

from handclasp.relying_party.identity_files import IdentityFiles
from handclasp.relying_party.renewal import IdentityRenewal, RenewalTimes
from handclasp.serving.tls import TlsMaterialError
from tests.unit.relying_party.test_identity_files import OLD


async def pauses(folder: Path, monkeypatch: pytest.MonkeyPatch, outcomes: list[bool], left: float) -> list[float]:
    """Seconds after each of the attempts that fail, with so many seconds left until the certificate expires."""

    async def renew(_: IdentityRenewal) -> None:
        if not outcomes:
            raise asyncio.CancelledError
        if not outcomes.pop(0):
            raise TlsMaterialError("no luck")

    monkeypatch.setattr(IdentityRenewal, "renew", renew)
    end = x509.load_pem_x509_certificates(OLD.chain_pem)[0].not_valid_after_utc.timestamp()
    link: Any = SimpleNamespace(identity=OLD)
    nobody: Any = None
    renewal = IdentityRenewal(
        link,
        nobody,
        nobody,
        IdentityFiles(folder / "cert.pem", folder / "key.pem"),
        wall_clock=lambda: end - left,
        times=RenewalTimes(check_interval=0, first_retry=0.001),
        timeout=1,
    )
    with structlog.testing.capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await renewal.run()
    return [line["retry_in"] for line in lines]


async def test_what_failed_before_a_success_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a certificate that is due at once whenever it is renewed, too."""
    found = await pauses(tmp_path, monkeypatch, [False, False, True, False, False], left=10)
    assert found == [0.001, 0.002, 0.001, 0.002]


async def test_the_last_attempt_is_not_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await pauses(tmp_path, monkeypatch, [False] * 8, left=0.03)
    assert found[:4] == [0.001, 0.002, 0.004, 0.008]
    assert found[4:] == pytest.approx([0.01] * 4, abs=0.001)
    assert await pauses(tmp_path, monkeypatch, [False] * 4, left=-1) == [0.001, 0.002, 0.004, 0.008]
