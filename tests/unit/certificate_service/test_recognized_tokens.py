"""Enrollment tokens that somebody sends: wrong ones are counted, and nothing else is."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from handclasp.certificate_service.domain.enrollment_tokens import Purpose, new_token
from handclasp.certificate_service.passwords.throttle import PasswordThrottle, ThrottleLimits
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.use_cases.denial_log import DenialLimits, DenialLog
from handclasp.certificate_service.use_cases.recognized_tokens import RecognizedTokens, Sender
from handclasp.errors import ResourceExhausted, Unauthenticated
from handclasp.serving.clock import lease_clock
from tests.unit.x509.refusals import NOW

SENDER = Sender("192.0.2.1", "/a/method")
FREE = ThrottleLimits().free_attempts


def recognized(database: Database) -> RecognizedTokens:
    denials = DenialLog(database, DenialLimits(), lambda: NOW)
    return RecognizedTokens(database, PasswordThrottle(ThrottleLimits()), denials, lambda: NOW, lease_clock)


async def test_wrong_ones_are_counted(database: Database) -> None:
    tokens = recognized(database)
    for number in range(FREE):
        with pytest.raises(Unauthenticated):
            await tokens.find(new_token() if number % 2 else "none", Purpose.CERTIFICATE, SENDER)
    with pytest.raises(ResourceExhausted):
        await tokens.find(new_token(), Purpose.CERTIFICATE, SENDER)


async def test_a_database_that_cannot_say_counts_against_nobody(database: Database) -> None:
    tokens = recognized(database)
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE enrollment_tokens RENAME TO elsewhere"))
    for _ in range(FREE + 1):
        with pytest.raises(DBAPIError):
            await tokens.find(new_token(), Purpose.CERTIFICATE, SENDER)
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO enrollment_tokens"))
    with pytest.raises(Unauthenticated):
        await tokens.find(new_token(), Purpose.CERTIFICATE, SENDER)
