"""Connections that are opened and not used, by nobody in particular: legitimate callers still get theirs.

An attacker holds more of them than it takes, and opens those that are closed anew, at once.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.attacked_pair import AttackedPair, Listener, attacked_pair
from tests.support.attacker import Attack, Counts, Pace, attacking
from tests.support.bystanders import bystanders
from tests.support.raw_http2 import PREFACE, Target, settings_frame

pytestmark = [pytest.mark.campaign, pytest.mark.attack, pytest.mark.timeout(300)]

HELD = 2100
SECONDS = 15.0
FEW = 300
TLS_RATE = 60.0  # a second
_CONNECTING = 32  # at once

# A ClientHello of 512 bytes, of which these are the first ones.
BEGINNING_OF_HELLO = bytes.fromhex("1603010200010001fc0303") + os.urandom(20)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedPair]:
    with attacked_pair(tmp_path_factory.mktemp("connections")) as running:
        yield running


class Held(asyncio.Protocol):
    """A connection that says something once, and nothing more."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._says)

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


async def hold(
    counts: Counts, target: Target, says: bytes, *, tls: ssl.SSLContext | None, held: int, rate: float = math.inf
) -> None:
    """Holds so many connections, and opens at most `rate` of them in a second."""
    pace = Pace(rate)
    loop = asyncio.get_running_loop()
    connecting = asyncio.Semaphore(_CONNECTING)

    async def one() -> None:
        while True:
            await pace.after(1)
            try:
                async with connecting, asyncio.timeout(10):
                    name = "localhost" if tls else None
                    _, connection = await loop.create_connection(
                        lambda: Held(says), target.host, target.port, ssl=tls, server_hostname=name
                    )
            except OSError:
                counts["refused"] += 1
                await asyncio.sleep(0.1)
            else:
                counts["opened"] += 1
                await connection.lost.wait()
                counts["closed"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(held):
            group.create_task(one())


async def half_open(counts: Counts, target: Target, held: int = HELD) -> None:
    """TCP, and nothing else."""
    await hold(counts, target, b"", tls=None, held=held)


async def slow_hello(counts: Counts, target: Target, held: int = HELD) -> None:
    """TLS that does not get further than a part of the first message."""
    await hold(counts, target, BEGINNING_OF_HELLO, tls=None, held=held)


async def idle_tls(counts: Counts, target: Target, held: int = HELD) -> None:
    """TLS, and no HTTP/2 in it."""
    await hold(counts, target, b"", tls=target.tls(), held=held, rate=TLS_RATE)


async def idle_http2(counts: Counts, target: Target, held: int = HELD) -> None:
    """HTTP/2 without a call."""
    await hold(counts, target, PREFACE + settings_frame({}), tls=target.tls(), held=held, rate=TLS_RATE)


@pytest.mark.parametrize(
    ("attack", "listener"),
    [
        (half_open, "certificates_tls"),
        (half_open, "certificates_mtls"),
        (half_open, "executions"),
        (slow_hello, "executions"),
    ],
)
def test_connections_without_a_handshake(attacked: AttackedPair, attack: Attack, listener: Listener) -> None:
    with bystanders(*attacked.bystanders()) as crowd:
        crowd.call_quietly(6)
        with attacking(attack, attacked.target(listener)) as running:
            crowd.call_under_attack(SECONDS)
    assert running.counts["opened"] > 2 * HELD
    crowd.assert_served()


@pytest.mark.parametrize("attack", [idle_tls, idle_http2])
def test_connections_without_a_call(tmp_path: Path, attack: Attack) -> None:
    """Scaled down, since handshakes cost the attacker more of this machine than the service."""
    settings = {
        "HANDCLASP_CERTIFICATES_LIMITS__MAX_CONNECTIONS": str(FEW),
        "HANDCLASP_CERTIFICATES_LIMITS__ANONYMOUS_IDLE": "1",
    }
    with attacked_pair(tmp_path, settings) as attacked, bystanders(*attacked.bystanders()) as crowd:
        crowd.call_quietly(6)
        with attacking(attack, attacked.target("certificates_tls")) as running:
            crowd.call_under_attack(SECONDS)
    assert running.counts["opened"] > 1.5 * FEW
    crowd.assert_served()
