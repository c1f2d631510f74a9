"""Floods of HTTP/2 frames, of kinds that took down servers elsewhere, beside legitimate callers.

Anybody can send these, on the listener that asks for no certificate; and who holds any certificate, on the others.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.attacked_pair import AttackedPair, Listener, attacked_pair
from tests.support.attacker import Counts, Pace, attacking
from tests.support.bystanders import Crowd, bystanders
from tests.support.raw_http2 import (
    Connection,
    Flag,
    Kind,
    Setting,
    Target,
    call_headers,
    connect,
    connected,
    frame,
    header_block,
    settings_frame,
)

pytestmark = [pytest.mark.campaign, pytest.mark.attack, pytest.mark.timeout(300)]

GET_TRUST_BUNDLE = "/handclasp.certificates.v1.CertificateService/GetTrustBundle"
EXECUTE = "/handclasp.integrations.v1.IntegrationService/ExecuteIntegration"

SECONDS = 10.0
CONNECTION_RATE = 20.0  # a second; a handshake costs as much as many frames
_LONGEST_FRAME = 16384


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedPair]:
    with attacked_pair(tmp_path_factory.mktemp("floods")) as running:
        yield running


@pytest.fixture(scope="module")
def crowd(attacked: AttackedPair) -> Iterator[Crowd]:
    with bystanders(*attacked.bystanders()) as callers:
        callers.call_quietly(8)
        yield callers


@dataclass(frozen=True)
class Flood:
    """Frames that are sent again and again.

    Args:
        burst: a number of them.
        frames: how many those are.
        rate: how many are sent in a second, so that the attacker does not take up the test's machine by itself.
        opening: what is sent first on each connection.
    """

    burst: bytes
    frames: int
    rate: float
    opening: bytes = b""


def big_call(path: str, length: int) -> bytes:
    """The HEADERS of call 1 with so much metadata, in as many frames as it takes, without an end of the stream."""
    block = call_headers(path, [("x-junk", "a" * length)])
    parts = [block[start : start + _LONGEST_FRAME] for start in range(0, len(block), _LONGEST_FRAME)]
    last = len(parts) - 1
    return b"".join(
        frame(
            Kind.CONTINUATION if number else Kind.HEADERS,
            part,
            stream=1,
            flags=Flag.END_HEADERS if number == last else Flag.NONE,
        )
        for number, part in enumerate(parts)
    )


def floods(path: str) -> dict[str, Flood]:
    """The floods of one connection. `path` is that of a call which anybody can make there."""
    call = frame(Kind.HEADERS, call_headers(path), stream=1, flags=Flag.END_HEADERS)
    beginning = frame(Kind.HEADERS, header_block([(":method", "POST")]), stream=1)
    junk = header_block([("x-a", "b" * 100)] * 90)
    return {
        "pings": Flood(frame(Kind.PING, b"12345678") * 100, 100, 3000),
        "settings": Flood(settings_frame({Setting.INITIAL_WINDOW_SIZE: 65535}) * 100, 100, 3000),
        "empty DATA": Flood(frame(Kind.DATA, stream=1) * 100, 100, 3000, call),
        "priorities": Flood(frame(Kind.PRIORITY, b"\0\0\0\0\x10", stream=1) * 100, 100, 3000, call),
        "windows": Flood(frame(Kind.WINDOW_UPDATE, struct.pack(">I", 1), stream=1) * 100, 100, 3000, call),
        "headers without an end": Flood(frame(Kind.CONTINUATION, junk, stream=1), 1, 300, beginning),
    }


async def send_on(counts: Counts, target: Target, name: str, path: str) -> None:
    """Sends a flood, on a new connection whenever the server has closed one."""
    flood, tls = floods(path)[name], target.tls()
    frames, connections = Pace(flood.rate), Pace(CONNECTION_RATE)
    while True:
        counts["connections"] += 1
        try:
            async with connected(target, tls=tls) as connection:
                connection.write(flood.opening)
                while True:
                    connection.write(flood.burst)
                    await connection.drained()
                    counts["frames"] += flood.frames
                    await frames.after(flood.frames)
        except OSError:
            counts["connections lost"] += 1
        await connections.after(1)


async def reset_rapidly(counts: Counts, target: Target, path: str) -> None:
    """Calls that are given up in the moment they are made (CVE-2023-44487)."""
    headers, tls, pace = call_headers(path), target.tls(), Pace(1500)
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
                    counts["frames"] += 200
                    await pace.after(100)
        except OSError:
            counts["connections lost"] += 1


async def call_with_metadata(counts: Counts, target: Target, path: str, length: int) -> None:
    """Calls with much metadata, or more than is let in, each on a connection of its own."""
    call, tls, pace = big_call(path, length), target.tls(), Pace(CONNECTION_RATE)
    while True:
        try:
            async with connected(target, tls=tls) as connection:
                connection.write(call)
                await connection.drained()
                counts["frames"] += 1 + length // _LONGEST_FRAME
        except OSError:
            counts["connections lost"] += 1
        await pace.after(1)


async def send_headers_slowly(counts: Counts, target: Target, held: int) -> None:
    """Headers that come a few bytes at a time, on many connections."""
    tls = target.tls()
    beginning = frame(Kind.HEADERS, header_block([(":method", "POST")]), stream=1)
    more = frame(Kind.CONTINUATION, header_block([("x", "y")]), stream=1)
    pace = Pace(2 * CONNECTION_RATE)
    connections: list[Connection] = []
    while True:
        connections = [connection for connection in connections if not connection.lost]
        for connection in connections:
            connection.write(more)
            counts["frames"] += 1
        for _ in range(min(10, held - len(connections))):
            await pace.after(1)
            try:
                connections.append(await connect(target, tls=tls))
            except OSError:
                counts["refused"] += 1
            else:
                counts["connections"] += 1
                connections[-1].write(beginning)
        await asyncio.sleep(0.1)


def attacker_of(attacked: AttackedPair, listener: Listener) -> tuple[Target, str]:
    """Whoever can connect there, and what they call."""
    if listener == "certificates_tls":
        return attacked.target(listener), GET_TRUST_BUNDLE
    return attacked.target(listener, "low"), EXECUTE


@pytest.mark.parametrize("name", floods(""))
def test_frames(attacked: AttackedPair, crowd: Crowd, name: str) -> None:
    with attacking(send_on, *(attacked.target("certificates_tls"), name, GET_TRUST_BUNDLE)) as attack:
        crowd.call_under_attack(SECONDS)
    # A server that closes the connection gets the flood on the next one.
    assert attack.counts["frames"] > 100
    crowd.assert_served()


@pytest.mark.parametrize("listener", ["certificates_tls", "executions"])
def test_rapid_resets(attacked: AttackedPair, crowd: Crowd, listener: Listener) -> None:
    with attacking(reset_rapidly, *attacker_of(attacked, listener)) as attack:
        crowd.call_under_attack(SECONDS)
    assert attack.counts["frames"] > 5000
    crowd.assert_served()


@pytest.mark.parametrize("length", [15_000, 200_000])
@pytest.mark.parametrize("listener", ["certificates_tls", "executions"])
def test_metadata(attacked: AttackedPair, crowd: Crowd, listener: Listener, length: int) -> None:
    with attacking(call_with_metadata, *attacker_of(attacked, listener), length) as attack:
        crowd.call_under_attack(SECONDS)
    assert attack.counts["frames"] > 20
    crowd.assert_served()


def test_slow_headers(attacked: AttackedPair, crowd: Crowd) -> None:
    with attacking(send_headers_slowly, attacked.target("certificates_tls"), 500) as attack:
        crowd.call_under_attack(SECONDS)
    assert attack.counts["connections"] > 50
    crowd.assert_served()
