"""Calls that are begun and not ended, of every form, beside legitimate callers: they take neither the calls nor the
memory of others, and a revocation gets through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.e2e.attacked_pair import AttackedPair, Identity, Listener, attacked_pair
from tests.support.attacker import Counts, Pace, attacking
from tests.support.bystanders import bystanders
from tests.support.raw_http2 import Call, Target, connect, grpc_message

pytestmark = [pytest.mark.campaign, pytest.mark.attack, pytest.mark.timeout(300)]

BUNDLE = "/handclasp.certificates.v1.CertificateService/GetTrustBundle"
GET_USER = "/handclasp.accounts.v1.AccountService/GetUser"
WATCH = "/handclasp.authorization.v1.AuthorizationService/WatchAuthorization"
EXECUTE = "/handclasp.integrations.v1.IntegrationService/ExecuteIntegration"
HEALTH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

RATE = 500.0
"""Calls that an attack begins in a second at most."""
MOST_MEMORY = 256 * 1024 * 1024
"""Bytes that a service may grow by while it is attacked."""


@dataclass(frozen=True)
class Held:
    """What an attacker holds.

    Attributes:
        who: with whose certificate; None for none.
        calls: on each connection.
        sent: of each call's request.
        unread: whether the request is whole, and the answer not taken in.
    """

    listener: Listener
    who: Identity | None
    path: str
    connections: int
    calls: int
    sent: bytes = b""
    unread: bool = False


def announced(sent: int, length: int) -> bytes:
    """The beginning of a message that is said to be so long."""
    return grpc_message(b"\0" * sent, announced=length)


KIB, MIB = 1024, 1024 * 1024
SHAPES = {
    "no request, anonymous": Held("certificates_tls", None, BUNDLE, 5, 190),
    "no request, anonymous, many connections": Held("certificates_tls", None, BUNDLE, 100, 20),
    "no request, no credentials": Held("certificates_tls", None, GET_USER, 5, 190),
    "no request, revoked": Held("certificates_mtls", "revoked", BUNDLE, 5, 190),
    "no request, few rights": Held("certificates_mtls", "low", BUNDLE, 5, 190),
    "no request, execution server": Held("executions", "low", EXECUTE, 5, 190),
    "no request, execution server, revoked": Held("executions", "revoked", EXECUTE, 5, 190),
    "watches that do not begin": Held("certificates_mtls", "low", WATCH, 5, 190),
    "health": Held("certificates_tls", None, HEALTH, 5, 190, grpc_message(b"")),
    "health, execution server": Held("executions", "low", HEALTH, 5, 190, grpc_message(b"")),
    "reflection": Held("certificates_tls", None, REFLECTION, 5, 190),
    "all but a byte": Held("certificates_tls", None, BUNDLE, 20, 40, announced(255 * KIB, 255 * KIB + 1)),
    "above the limit": Held("certificates_tls", None, BUNDLE, 4, 50, announced(MIB, 4 * MIB)),
    "large, execution server": Held("executions", "low", EXECUTE, 10, 20, announced(MIB, 4 * MIB - 64)),
    "large, execution server, revoked": Held("executions", "revoked", EXECUTE, 10, 20, announced(MIB, 4 * MIB - 64)),
    "answers unread": Held("certificates_tls", None, BUNDLE, 20, 100, grpc_message(b""), unread=True),
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedPair]:
    with attacked_pair(tmp_path_factory.mktemp("held")) as running:
        yield running


async def hold(counts: Counts, target: Target, held: Held) -> None:
    """Keeps the calls open: what is ended is begun again."""
    tls, pace = target.tls(), Pace(RATE)
    sending: set[asyncio.Task[None]] = set()

    async def send(call: Call) -> None:
        try:
            await call.send(held.sent, end=held.unread)
            counts["sent"] += 1
        except ConnectionError:
            counts["cut off"] += 1

    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(held.connections):
            connection = await (connect(target, tls=tls, receive_window=0) if held.unread else connect(target, tls=tls))
            stack.callback(connection.close)
            calls: set[Call] = set()
            connections.append((connection, calls))
        counts["connections"] = len(connections)
        while True:
            for connection, calls in connections:
                calls -= {call for call in calls if call.ended}
                while len(calls) < held.calls:
                    call = connection.open_call(held.path)
                    calls.add(call)
                    counts["calls"] += 1
                    if held.sent:
                        sending.add(asyncio.create_task(send(call)))
                    await pace.after(1)
            sending -= {task for task in sending if task.done()}
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_that_are_held_harm_nobody(attacked: AttackedPair, shape: str) -> None:
    held, pair = SHAPES[shape], attacked.pair
    process = pair.service("executions" if held.listener == "executions" else "certificates")
    before = process.memory_info().rss
    folder = pair.folder / f"{shape.replace(',', '').replace(' ', '-')}-{time.monotonic_ns()}"
    pair.json("cert", "issue", "--user", "low", "--out", folder)
    newest = max(certificate["name"] for certificate in pair.json("cert", "list", "--user", "low")["certificates"])
    with bystanders(*attacked.bystanders()) as crowd:
        crowd.call_quietly(4)
        with attacking(hold, attacked.target(held.listener, held.who), held) as attack:
            crowd.call_under_attack(9)
            grown = process.memory_info().rss - before
            revoked = pair.run("cert", "revoke", newest.removeprefix("certificates/"))
    assert attack.counts["calls"] >= 150, "that was no attack"
    assert revoked.status == 0, revoked
    assert grown < MOST_MEMORY
    crowd.assert_served()
