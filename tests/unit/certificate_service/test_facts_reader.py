"""Facts for decisions: whoever asks after a commit sees it, however many ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from handclasp.certificate_service.domain.certificates import Hold, Revocation, RevocationReason
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.identifiers import certificate_name
from handclasp.certificate_service.domain.permissions import Grant, Permission, ProfileGrant
from handclasp.certificate_service.storage.certificates import hold_certificate, revoke_certificate
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.facts import FactsReader, user_facts
from handclasp.certificate_service.watching.feed import ChangeFeed
from tests.unit.certificate_service.records import put_certificate, put_profile, put_user
from tests.unit.x509.refusals import NOW

REVOCATION = Revocation(NOW, RevocationReason.SUPERSEDED, "admin")
EXECUTE = Permission.EXECUTE_INTEGRATIONS


@pytest_asyncio.fixture
async def feed(database: Database) -> AsyncIterator[ChangeFeed]:
    feed = ChangeFeed(database)
    await feed.open()
    database.tell(feed)
    yield feed
    await feed.close()


@pytest_asyncio.fixture
async def facts(database: Database, feed: ChangeFeed) -> AsyncIterator[FactsReader]:
    """As the service has it: with a memory on SQLite."""
    reader = FactsReader(database, lambda: None if database.shared else feed.known_head, remembered=100)
    try:
        yield reader
    finally:
        await reader.close()


async def test_what_is_known_of_a_peer(database: Database, facts: FactsReader) -> None:
    await put_profile(database, "narrow", Grant(EXECUTE, "integrations/a*"), Grant(Permission.VIEW_EXECUTIONS))
    await put_profile(database, "other", Grant(EXECUTE))
    await put_profile(database, "empty")
    await put_user(database, "alice", "narrow", "empty", "other")
    record = await put_certificate(database, "alice", "leaf")

    peer = await facts.peer(record.fingerprint)

    assert peer is not None
    assert (peer.certificate.id, peer.certificate.fingerprint) == (record.id, record.fingerprint)
    assert (peer.certificate.not_before, peer.certificate.trusted_until) == (record.not_before, record.trusted_until)
    assert peer.certificate.revocation is None
    assert peer.certificate.hold is None
    assert not peer.certificate.anchor_removed
    assert peer.user == await facts.user("alice")
    assert peer.user.active
    assert peer.user.grants == (
        ProfileGrant("narrow", Grant(EXECUTE, "integrations/a*")),
        ProfileGrant("narrow", Grant(Permission.VIEW_EXECUTIONS)),
        ProfileGrant("other", Grant(EXECUTE)),
    )
    assert await database.read(lambda snapshot: user_facts(snapshot, ["alice", "nobody"])) == {"alice": peer.user}


async def test_a_hold_is_known(database: Database, facts: FactsReader) -> None:
    await put_user(database, "alice")
    record = await put_certificate(database, "alice", "leaf")
    hold = Hold(NOW, "admin")
    assert await database.write(lambda transaction: hold_certificate(transaction, record.id, hold))
    peer = await facts.peer(record.fingerprint)
    assert peer is not None
    assert peer.certificate.hold == hold


async def test_a_user_without_profiles_is_known(database: Database, facts: FactsReader) -> None:
    await put_user(database, "alice")
    alice = await facts.user("alice")
    assert alice is not None
    assert alice.grants == ()


@pytest.mark.parametrize("fingerprint", ["", "0" * 64, "' OR 1=1 --"])
async def test_what_is_not_on_file_is_not_known(facts: FactsReader, fingerprint: str) -> None:
    assert await facts.peer(fingerprint) is None
    assert await facts.user(fingerprint) is None


async def test_each_gets_its_own_answer(database: Database, facts: FactsReader) -> None:
    records = []
    for number in range(30):
        await put_user(database, f"user-{number}")
        records.append(await put_certificate(database, f"user-{number}", f"leaf {number}"))
    fingerprints = [record.fingerprint for record in records] * 10 + ["0" * 64] * 5
    answers = await asyncio.gather(*(facts.peer(fingerprint) for fingerprint in fingerprints))
    assert [answer and answer.user.id for answer in answers] == [record.user_id for record in records] * 10 + [None] * 5


async def test_a_question_after_a_commit_sees_it(database: Database, facts: FactsReader) -> None:
    """While others keep asking about the same certificates, each is revoked, and asked about at once."""
    await put_user(database, "alice")
    records = [await put_certificate(database, "alice", f"leaf {number}") for number in range(40)]
    done = False

    async def keep_asking() -> None:
        while not done:
            await asyncio.gather(*(facts.peer(record.fingerprint) for record in records[::4]))

    async def revoke_and_ask(certificate_id: str, fingerprint: str) -> bool:
        async def revoke(transaction: Transaction) -> None:
            await revoke_certificate(transaction, certificate_id, REVOCATION)
            transaction.touch(certificate_name(certificate_id), Effect.WITHDRAWN)

        await database.write(revoke)
        answers = await asyncio.gather(*(facts.peer(fingerprint) for _ in range(3)))
        return all(answer is not None and answer.certificate.revocation == REVOCATION for answer in answers)

    askers = [asyncio.create_task(keep_asking()) for _ in range(3)]
    await asyncio.sleep(0)
    seen = []
    for begin in range(0, len(records), 8):
        wave = records[begin : begin + 8]
        seen += await asyncio.gather(*(revoke_and_ask(record.id, record.fingerprint) for record in wave))
    done = True
    await asyncio.gather(*askers)
    assert seen == [True] * len(records)


async def test_one_who_leaves_takes_nobody_along(database: Database, facts: FactsReader) -> None:
    await put_user(database, "alice")
    record = await put_certificate(database, "alice", "leaf")
    questions = [asyncio.create_task(facts.peer(record.fingerprint)) for _ in range(6)]
    await asyncio.sleep(0)
    for question in questions[::2]:
        question.cancel()
    answers = await asyncio.gather(*questions, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 3
    assert all(answer is not None for answer in answers)


async def test_a_query_that_fails_is_told_and_the_next_one_works(database: Database, facts: FactsReader) -> None:
    await put_user(database, "alice")
    record = await put_certificate(database, "alice", "leaf")
    assert await facts.peer(record.fingerprint) is not None
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE trust_anchors RENAME TO elsewhere"))
    # About one that is not remembered.
    answers = await asyncio.gather(*(facts.peer("0" * 64) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(answer, DBAPIError) for answer in answers), answers
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO trust_anchors"))
    assert await facts.peer(record.fingerprint) is not None


class TestMemory:
    """Of facts that were read. Whether they are read again shows in whether they are the same objects."""

    @pytest_asyncio.fixture
    async def fingerprints(self, database: Database) -> list[str]:
        await put_user(database, "alice")
        return [(await put_certificate(database, "alice", f"leaf {number}")).fingerprint for number in range(3)]

    async def test_on_a_shared_database_there_is_none(
        self, database: Database, facts: FactsReader, fingerprints: list[str]
    ) -> None:
        same = await facts.known(fingerprints[0]) is await facts.known(fingerprints[0])
        assert same is not database.shared

    async def test_it_lasts_until_the_revision_moves(self, database: Database, fingerprints: list[str]) -> None:
        head = (await database.history_head()).revision
        known_head: int | None = head
        facts = FactsReader(database, lambda: known_head, remembered=2)
        try:
            first = await facts.known(fingerprints[0])
            assert await facts.known(fingerprints[0]) is first
            # What was read before a change that is known by now was read too soon, also if it is remembered after it.
            known_head = head + 1
            second = await facts.known(fingerprints[0])
            assert second is not first
            assert await facts.known(fingerprints[0]) is not second
            known_head = head
            second = await facts.known(fingerprints[0])
            facts.forget()
            assert await facts.known(fingerprints[0]) is not second
        finally:
            await facts.close()

    async def test_what_is_being_read_when_all_is_forgotten_is_not_remembered(
        self, database: Database, fingerprints: list[str]
    ) -> None:
        """It may have been read before the database went back."""
        facts = FactsReader(database, lambda: 0, remembered=2)
        try:
            reading = asyncio.create_task(facts.known(fingerprints[0]))
            await asyncio.sleep(0)
            facts.forget()
            first = await reading
            assert await facts.known(fingerprints[0]) is not first
        finally:
            await facts.close()

    async def test_while_a_commit_is_in_doubt_everything_is_read(
        self, database: Database, facts: FactsReader, feed: ChangeFeed, fingerprints: list[str]
    ) -> None:
        before = await facts.known(fingerprints[0])
        feed.in_doubt()
        assert await facts.known(fingerprints[0]) is not before
        async with asyncio.timeout(10):
            while feed.known_head is None:  # noqa: ASYNC110 - it says nothing when it is done
                await asyncio.sleep(0.01)
        after = await facts.known(fingerprints[0])
        assert (await facts.known(fingerprints[0]) is after) is not database.shared

    async def test_it_is_bounded(self, database: Database, fingerprints: list[str]) -> None:
        facts = FactsReader(database, lambda: 0, remembered=2)
        try:
            one, two, three = fingerprints
            first, second = await facts.known(one), await facts.known(two)
            assert await facts.known(one) is first
            await facts.known(three)
            # The one that was unused for longest has gone.
            assert await facts.known(one) is first
            assert await facts.known(two) is not second
        finally:
            await facts.close()

    async def test_what_is_not_on_file_takes_no_place(self, facts: FactsReader, fingerprints: list[str]) -> None:
        first = await facts.known(fingerprints[0])
        for number in range(3):
            unknown = await facts.known(f"{number:064}")
            assert unknown.facts is None
            assert await facts.known(f"{number:064}") is not unknown
        assert (await facts.known(fingerprints[0])).facts == first.facts
