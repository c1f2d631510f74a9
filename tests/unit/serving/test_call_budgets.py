"""By whom and by how much calls are counted."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from handclasp.errors import HandclaspError, ResourceExhausted
from handclasp.serving.call import Call
from handclasp.serving.call_budgets import Budget, CallBudgets, CallKind, CallLimits, OpenCall, peer_key
from handclasp.serving.peer import Peer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def peer(address: str = "192.0.2.1", certificate: bytes | None = None) -> Peer:
    return Peer(address, certificate, None, f"{address}:4711")


class Server:
    """Budgets, and calls that arrive and run at once."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.refused: list[HandclaspError] = []
        self.budgets = CallBudgets(
            CallLimits(**limits), lambda _call, error: self.refused.append(error), clock=self.clock
        )

    def run(self, who: Peer, kind: CallKind = CallKind.ORDINARY, length: int = 0) -> OpenCall:
        call: Any = Call("/a.B/C", who, None)  # type: ignore[arg-type]
        opened = self.budgets.arrive(call)
        try:
            self.budgets.run(opened, kind, length)
        except ResourceExhausted:
            self.budgets.leave(opened)
            raise
        return opened

    def fits(self, who: Peer, kind: CallKind = CallKind.ORDINARY, length: int = 0) -> int:
        """How many more of one peer run."""
        before = self.budgets.refusals.total()
        for number in range(10_000):
            try:
                self.run(who, kind, length)
            except ResourceExhausted:
                assert self.budgets.refusals.total() == before + 1
                return number
        raise AssertionError("there is no limit")


async def test_a_peer_gets_no_more_than_is_left_for_all_others() -> None:
    server = Server(running=100, reserved=0)
    assert server.fits(peer("192.0.2.1")) == 50
    assert server.fits(peer("192.0.2.2")) == 25
    assert server.fits(peer("192.0.2.3")) >= 12


async def test_a_peer_gets_no_more_than_its_limit() -> None:
    server = Server(running=100, reserved=0, running_per_peer=7)
    assert server.fits(peer(certificate=b"alice")) == 7
    assert server.fits(peer(certificate=b"bob")) == 7
    assert server.budgets.refusals[Budget.RUNNING_PER_PEER] == 2


async def test_what_is_reserved_is_there_when_nothing_else_is() -> None:
    server = Server(running=20, reserved=5)
    for number in range(200):
        server.fits(peer(f"192.0.2.{number}"))
    assert server.budgets.running == 15
    assert server.budgets.exhausted() is not None
    assert server.fits(peer("198.51.100.1"), CallKind.RESERVED) > 0


async def test_readiness_is_told_of_exhaustion_for_a_while() -> None:
    server = Server(running=1, reserved=0)
    assert server.budgets.exhausted() is None
    first = server.run(peer("192.0.2.1"))
    assert server.budgets.exhausted() is None, "nobody was refused"
    assert server.fits(peer("192.0.2.2")) == 0
    assert server.budgets.exhausted() == "room for calls: 1 run, 1 are the most"
    server.budgets.leave(first)
    server.clock.now += 10
    assert server.budgets.exhausted() is None


async def test_a_peer_that_uses_up_its_share_does_not_count_as_exhaustion() -> None:
    server = Server(running=100, reserved=0)
    server.fits(peer("192.0.2.1"))
    assert server.budgets.exhausted() is None


async def test_all_is_given_back() -> None:
    server = Server(running=100, reserved=10, request_bytes=10_000)
    opened = [
        server.run(peer(f"192.0.2.{number % 3}"), kind, length=number)
        for number in range(20)
        for kind in (CallKind.ORDINARY, CallKind.RESERVED, CallKind.UNCOUNTED)
    ]
    opened += [server.run(peer(), CallKind.OBSERVING, 7)]
    for one in opened:
        server.budgets.leave(one)
        server.budgets.leave(one)
    budgets = server.budgets
    assert (budgets.arriving, budgets.running, budgets.observing, budgets.request_bytes) == (0, 0, 0, 0)
    assert server.fits(peer(), length=1) == 45


async def test_streams_that_observe_take_up_no_other_calls() -> None:
    server = Server(running=2, reserved=0, observing=6, observing_per_peer=2)
    assert [server.fits(peer(f"192.0.2.{number}"), CallKind.OBSERVING) for number in range(4)] == [2, 2, 1, 1]
    assert server.budgets.running == 0
    assert server.fits(peer("192.0.2.9")) == 1


async def test_requests_together_have_a_limit_and_a_peer_half_of_it() -> None:
    server = Server(request_bytes=1000, max_request_length=100)
    assert server.fits(peer("192.0.2.1"), length=100) == 5
    assert server.budgets.refusals == {Budget.REQUEST_BYTES_PER_PEER: 1}
    with pytest.raises(ResourceExhausted):
        server.run(peer("192.0.2.2"), length=600)
    assert server.budgets.refusals[Budget.REQUEST_BYTES] == 1
    assert server.fits(peer("192.0.2.1"), length=0) > 0, "an empty request takes up nothing"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (peer("192.0.2.1"), peer("192.0.2.1"), True),
        (peer("192.0.2.1"), peer("192.0.2.2"), False),
        (peer("::ffff:192.0.2.1"), peer("192.0.2.1"), True),
        (peer("2001:db8::1"), peer("2001:db8::2:3"), True),
        (peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"), False),
        (peer("fe80::1%eth0"), peer("fe80::2%eth0"), True),
        (peer("192.0.2.1", b"alice"), peer("192.0.2.2", b"alice"), True),
        (peer("192.0.2.1", b"alice"), peer("192.0.2.1", b"bob"), False),
        (peer("192.0.2.1", b"alice"), peer("192.0.2.1"), False),
    ],
)
def test_a_peer_is_its_certificate_or_its_address(one: Peer, other: Peer, *, same: bool) -> None:
    assert (peer_key(one) == peer_key(other)) is same


def test_addresses_of_proxies_and_unknown_ones_are_nobodys() -> None:
    proxies = (ipaddress.ip_network("192.0.2.0/28"), ipaddress.ip_network("2001:db8::/32"))
    for address in ("192.0.2.7", "2001:db8:5::1", "", "unix"):
        assert peer_key(peer(address), proxies) is None
    assert peer_key(peer("192.0.2.77"), proxies) is not None
    assert peer_key(peer("192.0.2.7", b"alice"), proxies) is not None


async def test_a_proxy_has_no_share_of_its_own() -> None:
    server = Server(running=100, reserved=0, proxies=(ipaddress.ip_network("192.0.2.0/28"),))
    assert server.fits(peer("192.0.2.7")) == 100


async def test_a_refusal_says_when_to_try_again() -> None:
    server = Server(running=1, reserved=0)
    server.run(peer())
    with pytest.raises(ResourceExhausted, match="TOO_MANY_CALLS") as caught:
        server.run(peer("192.0.2.2"))
    assert caught.value.retry_after is not None


def test_refusals_to_very_many_peers_are_held_back_too() -> None:
    server = Server(refusals_per_second=100, refusals_per_second_in_all=50)
    delays = [server.budgets.refusal_delay(peer(f"192.0.2.{number}")) for number in range(200)]
    assert not any(delays[:100])
    assert max(delays) > 1.0
    assert CallLimits().refusal_delay >= max(delays)
