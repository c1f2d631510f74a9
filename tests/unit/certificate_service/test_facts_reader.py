"""Facts for decisions: whoever asks after a commit sees it, however many ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from handclasp.certificate_service.domain.certificates import Hold, Revocation, RevocationReason
from handclasp.certificate_service.domain.permissions import Grant, Permission, ProfileGrant
from handclasp.certificate_service.storage.certificates import hold_certificate, revoke_certificate
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.facts import FactsReader, user_facts
from tests.unit.certificate_service.records import put_certificate, put_profile, put_user
from tests.unit.x509.refusals import NOW

REVOCATION = Revocation(NOW, RevocationReason.SUPERSEDED, "admin")
EXECUTE = Permission.EXECUTE_INTEGRATIONS


@pytest_asyncio.fixture
async def facts(database: Database) -> AsyncIterator[FactsReader]:
    reader = FactsReader(database)
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
        await database.write(lambda transaction: revoke_certificate(transaction, certificate_id, REVOCATION))
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
    answers = await asyncio.gather(*(facts.peer(record.fingerprint) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(answer, DBAPIError) for answer in answers), answers
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO trust_anchors"))
    assert await facts.peer(record.fingerprint) is not None
