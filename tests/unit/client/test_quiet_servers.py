"""Several servers, of which one becomes quiet while its connections stay: calls that may be made twice are made at
another one, too; all others are not sent to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from handclasp.accounts.v1 import account_service_pb2 as accounts
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client import HandclaspClient, TlsMaterial
from handclasp.client.liveness import LONGEST_PROBE, QUIET
from handclasp.errors import NotFound, Reason, Unauthenticated, Unavailable
from tests.support.faulty_link import FaultyLink, Flow, faulty_link
from tests.support.outside_ca import OutsideCA
from tests.unit.client.small_service import Small, serving

SLACK = 3.0
"""Seconds more than they should, that things may take on a busy machine; far below the timeouts of calls."""


@dataclass
class Pair:
    """A server behind a link that can be cut without a word, and one without."""

    behind: Small
    link: FaultyLink
    other: Small
    client: HandclaspClient

    async def connect(self) -> None:
        """To both."""
        for _ in range(2):
            await self.client.certificates.GetTrustBundle(messages.GetTrustBundleRequest())
        assert self.behind.seen
        assert self.other.seen

    def asked(self, method: str) -> tuple[int, int]:
        return len(self.behind.asked(method)), len(self.other.asked(method))


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    root = OutsideCA("root")
    async with AsyncExitStack() as stack:
        behind, other = [await stack.enter_async_context(serving(Small(root=root))) for _ in range(2)]
        link = await stack.enter_async_context(faulty_link(behind.tls_port))
        client = HandclaspClient(
            tls=TlsMaterial(root.pem.encode()), certificates=f"127.0.0.1:{link.port},{other.tls}", timeout=60
        )
        yield Pair(behind, link, other, await stack.enter_async_context(client))


REVOKE = messages.RevokeCertificateRequest(name="certificates/c0")
ISSUE = messages.IssueCertificateRequest(user="users/alice", generate_key=messages.KEY_ALGORITHM_EC_P256)
UPDATE = accounts.UpdateUserRequest()


async def test_a_taking_away_goes_on_at_another_one(pair: Pair) -> None:
    """Whichever of the two a call goes to first. The second one is made while the first may still be carried out."""
    await pair.connect()
    await pair.link.set(there=Flow.HOLD, back=Flow.HOLD)
    begin = time.monotonic()
    await asyncio.gather(*(pair.client.certificates.RevokeCertificate(REVOKE) for _ in range(2)))
    assert time.monotonic() - begin < QUIET + LONGEST_PROBE + SLACK
    assert pair.asked("RevokeCertificate") == (0, 2)


async def test_so_does_one_whose_answer_stays_on_the_way(pair: Pair) -> None:
    await pair.connect()
    await pair.link.set(back=Flow.HOLD)
    begin = time.monotonic()
    await asyncio.gather(*(pair.client.accounts.DisableUser(accounts.DisableUserRequest(name="users/a")) for _ in "ab"))
    assert time.monotonic() - begin < QUIET + LONGEST_PROBE + SLACK
    assert pair.asked("DisableUser") == (1, 2)


async def test_one_that_is_slow_but_there_is_waited_for(pair: Pair) -> None:
    """A barrier takes as long as somebody's lease, and a second call would take no less."""
    await pair.connect()
    pair.behind.seconds_in_force = pair.other.seconds_in_force = QUIET * 3 + LONGEST_PROBE
    await asyncio.gather(*(pair.client.certificates.RevokeCertificate(REVOKE) for _ in range(2)))
    assert pair.asked("RevokeCertificate") == (1, 1)


async def test_what_gives_or_is_answered_once_is_sent_only_to_who_is_there(pair: Pair) -> None:
    """Late, it could undo what somebody else did meanwhile; or a key that was made would be lost."""
    await pair.connect()
    await pair.link.set(there=Flow.HOLD, back=Flow.HOLD)
    await asyncio.sleep(QUIET)
    begin = time.monotonic()
    await asyncio.gather(*(pair.client.accounts.UpdateUser(UPDATE) for _ in range(2)))
    issued = await asyncio.gather(*(pair.client.certificates.IssueCertificate(ISSUE) for _ in range(2)))
    assert all(answer.private_key_pem for answer in issued)
    assert time.monotonic() - begin < 2 * LONGEST_PROBE + SLACK
    await pair.link.set()
    await asyncio.sleep(QUIET)
    assert pair.asked("UpdateUser") == (0, 2)
    assert pair.asked("IssueCertificate") == (0, 2)


async def test_a_refusal_says_that_the_first_attempt_may_have_been_carried_out(pair: Pair) -> None:
    """Who revokes the own certificate is refused at the second server."""
    await pair.connect()
    await pair.link.set(back=Flow.HOLD)
    refusal = Unauthenticated(Reason.CERTIFICATE_NOT_ACCEPTED, "the certificate is not accepted")
    pair.other.refuse["RevokeCertificate"] = [refusal] * 2
    ends = await asyncio.gather(
        *(pair.client.certificates.RevokeCertificate(REVOKE) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(end).__name__ for end in ends) == ["Unauthenticated", "Unavailable"]
    (doubtful,) = [end for end in ends if isinstance(end, Unavailable)]
    assert doubtful.reason == Reason.CONNECTION_LOST
    assert "has not answered" in doubtful.message


async def test_what_the_first_attempt_removed_is_removed(pair: Pair) -> None:
    """An anchor that nobody has removed is not found, as ever."""
    await pair.connect()
    missing = NotFound(Reason.TRUST_ANCHOR_NOT_FOUND, "there is no such anchor")
    remove = messages.RemoveTrustAnchorRequest(name="trustAnchors/a")
    pair.behind.refuse["RemoveTrustAnchor"] = [missing]
    pair.other.refuse["RemoveTrustAnchor"] = [missing]
    for _ in range(2):
        with pytest.raises(NotFound):
            await pair.client.certificates.RemoveTrustAnchor(remove)
    await pair.link.set(back=Flow.HOLD)
    pair.other.refuse["RemoveTrustAnchor"] = [missing] * 2
    ends = await asyncio.gather(
        *(pair.client.certificates.RemoveTrustAnchor(remove) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(end).__name__ for end in ends) == ["Empty", "NotFound"]
