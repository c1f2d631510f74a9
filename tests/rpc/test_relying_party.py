"""A relying party against a certificate service that does as the test says. docs/revocation.md has the rules."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handclasp.authorization.v1 import authorization_service_pb2 as messages
from handclasp.authorization.v1 import decision_pb2
from handclasp.errors import PermissionDenied, Unauthenticated, Unavailable
from handclasp.relying_party import Options
from tests.rpc.execution_harness import PROFILE, USER, certificate_name, until
from tests.rpc.party_lab import SERVICE, Shop, refusal, running_shop
from tests.rpc.scripted_watch import (
    ALTERED,
    CREDENTIALS,
    GIVEN,
    WITHDRAWN,
    Response,
    ScriptedStream,
    ScriptedWatches,
)

Ping = messages.WatchAuthorizationRequest.Ping
REVOKED = decision_pb2.DECISION_REASON_REVOKED


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with running_shop(tmp_path) as running:
        yield running


def basic(username: str, password: str) -> tuple[tuple[str, str]]:
    return (("authorization", "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()),)


async def test_a_yes_is_remembered(shop: Shop) -> None:
    for _ in range(5):
        assert await shop.unary() == b"x"
    assert shop.asked == 1
    assert (shop.party.counters.hits, shop.party.counters.asked, shop.party.remembered) == (4, 1, 1)


async def test_a_no_is_not_remembered(shop: Shop) -> None:
    shop.service.reasons[shop.alice.der] = REVOKED
    for _ in range(2):
        assert type(await refusal(shop.unary())) is Unauthenticated
    assert shop.asked == 2
    assert shop.party.remembered == 0


@pytest.mark.parametrize("what", ["certificate", "user", "profile"])
@pytest.mark.parametrize("effect", [ALTERED, WITHDRAWN, CREDENTIALS])
async def test_once_a_change_is_acknowledged_no_yes_from_before_is_used(shop: Shop, what: str, effect: Any) -> None:
    await shop.unary()
    shop.service.reasons[shop.alice.der] = REVOKED
    names = {"certificate": certificate_name(shop.alice.der), "user": USER, "profile": PROFILE}
    await shop.watches.change((names[what], effect))
    assert type(await refusal(shop.unary())) is Unauthenticated


async def test_what_is_given_and_what_others_lose_costs_no_question(shop: Shop) -> None:
    await shop.unary()
    await shop.watches.change((USER, GIVEN), ("users/bob", WITHDRAWN))
    await shop.unary()
    assert shop.asked == 1


async def test_credentials_are_part_of_the_question(shop: Shop) -> None:
    await shop.unary()
    for password in ("one", "one", "two"):
        await shop.unary(metadata=basic("alice", password))
    assert [request.basic_credentials.password for request in shop.service.checked] == ["", "one", "two"]


async def test_methods_are_refused_unless_the_table_has_them(shop: Shop) -> None:
    error = await refusal(shop.unary("Elsewhere"))
    assert (type(error), error.reason) == (PermissionDenied, "ACCESS_DENIED")
    assert shop.asked == shop.orders.calls == 0
    status = await health_pb2_grpc.HealthStub(shop.channel()).Check(health_pb2.HealthCheckRequest())
    assert status.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_resource_may_be_in_the_request(shop: Shop) -> None:
    shop.service.granted[shop.alice.der] = {"orders/7"}
    assert await shop.unary("About", b"7") == USER.encode()
    assert type(await refusal(shop.unary("About", b"8"))) is PermissionDenied
    assert [request.resource for request in shop.service.checked] == ["orders/7", "orders/8"]
    # What no grant can reach is not asked about.
    assert type(await refusal(shop.unary("About", b"x" * 300))) is PermissionDenied
    assert shop.asked == 2


async def test_streams_of_requests_have_a_constant_resource(shop: Shop) -> None:
    collect: Any = shop.channel().stream_unary(f"/{SERVICE}/Collect")
    assert await collect(iter([b"a", b"b"])) == b"ab"
    chat: Any = shop.channel().stream_stream(f"/{SERVICE}/Chat")
    assert [part async for part in chat(iter([b"a", b"b"]))] == [b"a", b"b"]
    shop.service.reasons[shop.alice.der] = REVOKED
    await shop.watches.change((USER, WITHDRAWN))
    assert type(await refusal(collect(iter([b"a"]), timeout=10))) is Unauthenticated


async def test_questions_carry_what_is_applied(shop: Shop) -> None:
    await shop.unary()
    revision = await shop.watches.change((PROFILE, ALTERED))
    await shop.unary()
    await shop.unary("Filter", b"orders/1,orders/2")
    assert [request.min_revision for request in shop.service.checked] == [10, revision, revision]
    assert [request.min_revision for request in shop.service.batches] == [revision]


async def test_an_answer_that_a_change_overtook_is_thrown_away_by_all_who_share_it(shop: Shop) -> None:
    shop.service.gate = asyncio.Event()
    calls = [asyncio.ensure_future(shop.unary()) for _ in range(3)]
    await until(lambda: shop.asked == 1)
    # The yes is decided; before it arrives, what it rests on is gone.
    await shop.service.take_away(shop.alice.der)
    shop.service.gate.set()
    for call in calls:
        assert type(await refusal(call)) is Unauthenticated
    assert shop.orders.calls == 0
    assert shop.party.remembered == 0


async def test_what_a_change_did_not_touch_is_not_asked_again(shop: Shop) -> None:
    shop.service.gate = asyncio.Event()
    call = asyncio.ensure_future(shop.unary())
    await until(lambda: shop.asked == 1)
    await shop.watches.change(("users/bob", WITHDRAWN))
    shop.service.gate.set()
    assert await call == b"x"
    assert shop.asked == 1


async def test_callers_share_a_question_and_one_who_leaves_takes_it_from_nobody(shop: Shop) -> None:
    shop.service.gate = asyncio.Event()
    calls = [asyncio.ensure_future(shop.unary()) for _ in range(5)]
    await until(lambda: shop.asked == 1)
    await asyncio.sleep(0.1)
    calls[0].cancel()
    await asyncio.sleep(0.1)
    shop.service.gate.set()
    assert await asyncio.gather(*calls[1:]) == [b"x"] * 4
    assert shop.asked == 1


async def test_answers_that_always_come_too_late_are_unavailable(shop: Shop) -> None:
    # The service says a revision from before each change, however often it is asked.
    shop.service.decided_at = 5
    await shop.watches.change((USER, WITHDRAWN))
    error = await refusal(shop.unary())
    assert (type(error), error.reason) == (Unavailable, "AUTHORIZER_UNAVAILABLE")
    assert shop.asked == 3
    assert shop.party.counters.asked_again == 2
    error = await refusal(shop.unary("Filter", b"orders/1"))
    assert type(error) is Unavailable


async def test_the_certificates_own_end_ends_a_yes(tmp_path: Path) -> None:
    wall = [time.time()]
    async with running_shop(tmp_path, options=Options(wall_clock=lambda: wall[0], renew_identity=False)) as shop:
        shop.service.lifetime = timedelta(days=1)
        await shop.unary()
        wall[0] += 2 * 86400
        error = await refusal(shop.unary())
        assert (type(error), error.reason) == (Unauthenticated, "CERTIFICATE_NOT_ACCEPTED")


async def test_it_ends_by_the_clock_of_the_certificate_service(tmp_path: Path) -> None:
    options = Options(wall_clock=lambda: time.time() - 3600, renew_identity=False)
    async with running_shop(tmp_path, options=options) as shop:
        shop.service.lifetime = timedelta(seconds=1)
        await shop.unary()
        await shop.unary()
        assert shop.asked == 1
        await asyncio.sleep(1.1)
        await shop.unary()
        assert shop.asked == 2, "the service is to say that it has expired"


async def test_pings_have_numbers_of_their_own_on_every_stream(shop: Shop) -> None:
    await until(lambda: shop.party.ready and len(shop.watches.stream.pings) >= 2)
    first = shop.watches.stream
    first.end(grpc.StatusCode.UNAVAILABLE)
    await until(lambda: len(shop.watches.streams) == 2 and len(shop.watches.stream.pings) >= 2)
    numbers = [ping.number for stream in shop.watches.streams for ping in stream.pings]
    assert len(set(numbers)) == len(numbers)
    assert len({stream.start.process_id for stream in shop.watches.streams}) == 1


def lease_ends(shop: Shop) -> Any:
    return lambda: not shop.party.ready


@pytest.fixture
def short() -> ScriptedWatches:
    """Leases that a test can wait for."""
    return ScriptedWatches(lease=0.6, ping_interval=0.05)


async def test_a_pong_that_comes_before_its_change_extends_nothing(tmp_path: Path, short: ScriptedWatches) -> None:
    async with running_shop(tmp_path, watches=short) as shop:
        await shop.unary()
        short.silent = True
        # The service knows a revision that the stream has not said yet.
        short.push((USER, WITHDRAWN))
        await until(lease_ends(shop))
        error = await refusal(shop.unary())
        assert (type(error), error.reason) == (Unavailable, "AUTHORIZER_UNAVAILABLE")


async def test_a_pong_to_a_ping_of_an_earlier_stream_extends_nothing(tmp_path: Path, short: ScriptedWatches) -> None:
    kept: list[int] = []

    def keep(_stream: ScriptedStream, ping: Ping) -> bool:
        kept.append(ping.number)
        return False

    def answer_old_ones(stream: ScriptedStream, ping: Ping) -> bool:
        if len(short.streams) == 1:
            return True
        for number in kept:
            stream.pong(number, short.revision, 60)
        return False

    async with running_shop(tmp_path, watches=short) as shop:
        await shop.unary()
        short.answers = keep
        await until(lambda: len(kept) >= 3)
        short.answers = answer_old_ones
        short.stream.end(grpc.StatusCode.UNAVAILABLE)
        await until(lease_ends(shop))
        assert type(await refusal(shop.unary())) is Unavailable


async def test_a_pong_to_no_ping_extends_nothing(tmp_path: Path, short: ScriptedWatches) -> None:
    def answer_another(stream: ScriptedStream, ping: Ping) -> bool:
        stream.pong(ping.number + 1000, short.revision, 60)
        return False

    async with running_shop(tmp_path, watches=short) as shop:
        short.answers = answer_another
        await until(lease_ends(shop))


async def test_a_lease_counts_from_when_its_ping_was_sent(tmp_path: Path) -> None:
    clock = [1000.0]
    # No timer of the event loop plays along: the clock alone says whether the lease runs.
    watches = ScriptedWatches(lease=60, ping_interval=30)
    options = Options(lease_clock=lambda: clock[0], lease_wait=0.2)

    def late(stream: ScriptedStream, ping: Ping) -> bool:
        clock[0] += 40
        return True

    watches.answers = late
    async with running_shop(tmp_path, watches=watches, options=options) as shop:
        await until(lambda: shop.party.ready)
        await shop.unary()
        clock[0] += 19
        await shop.unary()
        clock[0] += 2
        assert type(await refusal(shop.unary())) is Unavailable


async def test_after_the_clock_jumped_nothing_is_allowed_until_there_is_a_lease(tmp_path: Path) -> None:
    clock = [1000.0]
    watches = ScriptedWatches(lease=60, ping_interval=0.2)
    options = Options(lease_clock=lambda: clock[0], lease_wait=0.1)
    async with running_shop(tmp_path, watches=watches, options=options) as shop:
        await shop.unary()
        watches.answers = lambda *_: False
        # What is taken away meanwhile does not reach the frozen process.
        watches.silent = True
        shop.service.reasons[shop.alice.der] = REVOKED
        revision = watches.push((certificate_name(shop.alice.der), WITHDRAWN))
        clock[0] += 3600
        assert type(await refusal(shop.unary())) is Unavailable
        assert shop.orders.calls == 1
        # It gets a lease again only with what it missed.
        watches.silent, watches.answers = False, None
        watches.stream.send(watches.as_message(revision, watches.changes[-1][1]))
        await until(lambda: shop.party.ready)
        assert type(await refusal(shop.unary())) is Unauthenticated


async def test_not_even_a_fresh_yes_is_used_without_a_lease(tmp_path: Path, short: ScriptedWatches) -> None:
    async with running_shop(tmp_path, watches=short) as shop:
        shop.service.gate = asyncio.Event()
        call = asyncio.ensure_future(shop.unary())
        await until(lambda: shop.asked == 1)
        short.answers = lambda *_: False
        await until(lease_ends(shop))
        shop.service.gate.set()
        assert type(await refusal(call)) is Unavailable
        assert shop.orders.calls == 0


async def test_a_caller_waits_for_a_lease(tmp_path: Path) -> None:
    watches = ScriptedWatches()
    watches.answers = lambda *_: False
    async with running_shop(tmp_path, watches=watches, options=Options(lease_wait=10)) as shop:
        call = asyncio.ensure_future(shop.unary())
        await asyncio.sleep(0.3)
        assert not shop.asked
        watches.answers = None
        assert await call == b"x"


async def test_a_quiet_link_is_given_up_for_another(tmp_path: Path, short: ScriptedWatches) -> None:
    async with running_shop(tmp_path, watches=short) as shop:
        await shop.unary()
        short.answers = lambda *_: False
        await until(lambda: len(short.streams) >= 2)
        short.answers = None
        await until(lambda: shop.party.ready)
        assert short.streams[0].ended
        # Where it was is known, so nothing is asked again.
        await shop.unary()
        assert shop.asked == 1


async def test_a_stream_that_breaks_resumes_and_nothing_fails(shop: Shop) -> None:
    await shop.unary()
    revision = await shop.watches.change(("users/bob", WITHDRAWN))
    shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
    for _ in range(20):
        await shop.unary()
    await until(lambda: len(shop.watches.streams) == 2)
    assert shop.watches.stream.start.applied == shop.watches.position(revision)
    await shop.unary()
    assert shop.asked == 1


async def test_what_was_missed_while_the_stream_was_down_is_applied(shop: Shop) -> None:
    await shop.unary()
    shop.watches.silent = True
    shop.service.reasons[shop.alice.der] = REVOKED
    revision = shop.watches.push((USER, WITHDRAWN))
    shop.watches.silent = False
    shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
    await shop.watches.acknowledgement(revision)
    assert type(await refusal(shop.unary())) is Unauthenticated


async def test_a_reset_forgets_everything(shop: Shop) -> None:
    await shop.unary()
    shop.watches.remembers = 100
    shop.watches.revision = 100
    shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
    await until(lambda: len(shop.watches.streams) == 2 and shop.watches.stream.acknowledged == 100)
    assert shop.party.remembered == 0
    await shop.unary()
    assert shop.asked == 2
    assert shop.service.checked[-1].min_revision == 100


async def test_a_restored_backup_makes_another_process_of_it(shop: Shop) -> None:
    await shop.unary()
    shop.watches.revision, shop.watches.history = 4, "restored"
    shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
    await until(lambda: len(shop.watches.streams) == 3 and shop.watches.stream.acknowledged == 4)
    old, told, new = (stream.start for stream in shop.watches.streams)
    assert old.process_id == told.process_id != new.process_id
    assert not new.HasField("applied")
    await until(lambda: shop.party.ready)
    await shop.unary()
    assert shop.asked == 2


async def test_an_answer_from_before_a_reset_is_thrown_away(shop: Shop) -> None:
    shop.service.gate = asyncio.Event()
    shop.service.decided_at = 1000  # so that its revision alone would let it pass
    call = asyncio.ensure_future(shop.unary())
    await until(lambda: shop.asked == 1)
    shop.service.reasons[shop.alice.der] = REVOKED
    shop.watches.stream.send(Response(reset=Response.Reset(position=shop.watches.position(11))))
    await until(lambda: shop.watches.stream.acknowledged == 11)
    shop.service.gate.set()
    assert type(await refusal(call)) is Unauthenticated


async def test_an_answer_from_an_earlier_stream_is_thrown_away(shop: Shop) -> None:
    shop.service.gate = asyncio.Event()
    call = asyncio.ensure_future(shop.unary())
    await until(lambda: shop.asked == 1)
    shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
    await until(lambda: len(shop.watches.streams) == 2 and bool(shop.watches.stream.pings))
    shop.service.gate.set()
    assert await call == b"x"
    assert shop.asked == 2


async def test_pings_acknowledge_too(shop: Shop) -> None:
    revision = await shop.watches.change((USER, GIVEN))
    await until(lambda: shop.watches.stream.pings[-1].acknowledged_revision == revision)


async def test_who_is_refused_has_no_lease_from_then_on(tmp_path: Path) -> None:
    # It would run for an hour.
    async with running_shop(tmp_path, watches=ScriptedWatches(lease=3600)) as shop:
        await shop.unary()
        shop.watches.refusal = grpc.StatusCode.PERMISSION_DENIED
        shop.watches.stream.end(grpc.StatusCode.PERMISSION_DENIED)
        await until(lease_ends(shop))
        assert type(await refusal(shop.unary())) is Unavailable
        shop.watches.refusal = None
        await until(lambda: shop.party.ready)
        await shop.unary()


async def test_a_connection_that_died_without_a_word_is_replaced(tmp_path: Path, short: ScriptedWatches) -> None:
    async with running_shop(tmp_path, watches=short, cuttable=True) as shop:
        link = shop.link
        assert link is not None
        await shop.unary()
        assert link.opened == 1
        await link.lose_open_connections()
        since = time.monotonic()
        await until(lambda: link.opened == 2 and len(short.streams) == 2 and shop.party.ready)
        # gRPC itself would have taken ten seconds with this server, and minutes with others.
        assert time.monotonic() - since < 6
        assert await shop.unary("About", b"7")


async def test_lists_are_filtered_from_memory_where_that_is_safe(shop: Shop) -> None:
    shop.service.granted[shop.alice.der] = {"orders/filter", "orders/1", "orders/3"}
    assert await shop.unary("Filter", b"orders/1,orders/2,orders/3") == b"orders/1,orders/3"
    assert await shop.unary("Filter", b"orders/1,orders/3") == b"orders/1,orders/3"
    assert len(shop.service.batches) == 1
    assert await shop.unary("Filter", b"orders/2,orders/3") == b"orders/3"
    assert [list(batch.resources) for batch in shop.service.batches] == [
        ["orders/1", "orders/2", "orders/3"],
        ["orders/2"],
    ]
    await shop.service.grant(shop.alice.der, "orders/filter", "orders/2")
    assert await shop.unary("Filter", b"orders/1,orders/2") == b"orders/2"


async def test_a_yes_that_does_not_say_what_it_rests_on_is_none(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    decide = shop.service._decide

    def without(request: Any, resource: str) -> decision_pb2.Decision:
        decision = decide(request, resource)
        del decision.rests_on[:]
        return decision

    monkeypatch.setattr(shop.service, "_decide", without)
    assert type(await refusal(shop.unary())) is Unavailable


async def test_leases_that_are_short_for_a_while_break_no_stream(tmp_path: Path) -> None:
    watches = ScriptedWatches(lease=2.0, ping_interval=0.3)

    def shorter(stream: ScriptedStream, ping: Ping) -> bool:
        stream.pong(ping.number, watches.revision, 0.1)
        return False

    watches.answers = shorter
    async with running_shop(tmp_path, watches=watches) as shop:
        await until(lambda: bool(watches.streams) and len(watches.stream.pings) >= 4)
        assert len(watches.streams) == 1
        await shop.unary()


async def test_an_outage_is_logged_once_and_not_each_second(shop: Shop) -> None:
    await until(lambda: shop.party.ready)
    with structlog.testing.capture_logs() as lines:
        shop.watches.refusal = grpc.StatusCode.UNAVAILABLE
        shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: not shop.party.ready)
        shop.watches.refusal = None
        await until(lambda: shop.party.ready)
    events = [line["event"] for line in lines if line["event"].startswith(("watch", "lease", "knowledge"))]
    assert 1 <= events.count("watch_ended") <= 2
    assert events[-3:] == ["lease_lost", "watch_welcomed", "lease_held"]
