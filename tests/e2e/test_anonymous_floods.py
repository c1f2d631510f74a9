"""Floods by whoever has no credentials: wrong passwords from many addresses, and what anybody may ask for."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import pytest

from tests.e2e.attacked_pair import AttackedPair, attacked_pair
from tests.support.attacker import Counts, attacking
from tests.support.bystanders import bystanders
from tests.support.raw_http2 import Connection, Target, connect, grpc_message

pytestmark = [pytest.mark.campaign, pytest.mark.attack, pytest.mark.timeout(300)]

GET_TRUST_BUNDLE = "/handclasp.certificates.v1.CertificateService/GetTrustBundle"
GET_USER = "/handclasp.accounts.v1.AccountService/GetUser"
ADDRESSES = [f"127.0.1.{last}" for last in range(2, 62)]
AT_ONCE = 15
"""Calls in flight on each connection."""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedPair]:
    with attacked_pair(tmp_path_factory.mktemp("passwords")) as running:
        yield running


async def flood_with_passwords(counts: Counts, targets: list[Target]) -> None:
    """Wrong passwords from each source, so many calls at once, of another user each time: none is throttled."""
    tls = targets[0].tls()

    async def send_one(connection: Connection) -> None:
        counts["attempts"] += 1
        sent = base64.b64encode("nobody-{0}:wrong {0}".format(counts["attempts"]).encode()).decode()
        call = connection.open_call(GET_USER, [("authorization", f"Basic {sent}")])
        await call.send(grpc_message(b""), end=True)
        counts[(await call.outcome()).reason or "no reason"] += 1

    async def send_on_and_on(connection: Connection) -> None:
        while True:
            await send_one(connection)

    async with asyncio.TaskGroup() as group:
        for target in targets:
            connection = await connect(target, tls=tls)
            for _ in range(AT_ONCE):
                group.create_task(send_on_and_on(connection))


def test_wrong_passwords_from_many_addresses(attacked: AttackedPair) -> None:
    targets = [attacked.target("certificates_tls", source=address) for address in ADDRESSES]
    with bystanders(*attacked.bystanders()) as crowd:
        crowd.call_quietly(6)
        with attacking(flood_with_passwords, targets) as attack:
            crowd.call_under_attack(15)
    assert attack.counts["attempts"] > 10 * len(ADDRESSES)
    crowd.assert_served()


async def flood_with_questions(counts: Counts, target: Target) -> None:
    """Asks for what anybody may ask for."""
    tls = target.tls()

    async def ask_on_and_on(connection: Connection) -> None:
        while True:
            call = connection.open_call(GET_TRUST_BUNDLE)
            await call.send(grpc_message(b""), end=True)
            counts[(await call.outcome()).reason or "no reason"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            connection = await connect(target, tls=tls)
            for _ in range(40):
                group.create_task(ask_on_and_on(connection))


def test_questions_that_anybody_may_ask(attacked: AttackedPair) -> None:
    with bystanders(*attacked.bystanders()) as crowd:
        crowd.call_quietly(6)
        with attacking(flood_with_questions, attacked.target("certificates_tls")) as attack:
            crowd.call_under_attack(15)
    assert attack.counts["no reason"] > 1000, "answered"
    crowd.assert_served()
