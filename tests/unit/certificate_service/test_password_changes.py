"""A password that is being checked while another one is set."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from handclasp.certificate_service.passwords.checking import PasswordChecker
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.throttle import PasswordThrottle, ThrottleLimits

OLD = "correct horse battery staple"
NEW = "another horse battery staple"


class HeldUp(Argon2):
    """Checks nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__(concurrency=1)
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.checks = 0

    async def verify(self, password_hash: str | None, password: str) -> bool:
        self.checks += 1
        self.begun.set()
        await self.go.wait()
        return await super().verify(password_hash, password)


async def test_whoever_asks_after_a_change_does_not_get_the_answer_of_before() -> None:
    argon2 = HeldUp()
    try:
        stored = await argon2.hash(OLD)

        async def find_hash(_user_id: str) -> str:
            return stored

        checker = PasswordChecker(
            argon2,
            PasswordThrottle(ThrottleLimits()),
            find_hash,
            lambda: datetime.now(UTC),
            waiting_per_address=16,
        )
        before = [asyncio.create_task(checker.check("alice", OLD, "192.0.2.1")) for _ in range(2)]
        await argon2.begun.wait()
        stored = await argon2.hash(NEW)
        after = asyncio.create_task(checker.check("alice", OLD, "192.0.2.1"))
        await asyncio.sleep(0.05)
        argon2.go.set()
        assert [(await check).right for check in before] == [True, True]
        assert not (await after).right
        assert argon2.checks == 2  # equal ones still share a check
    finally:
        argon2.close()
