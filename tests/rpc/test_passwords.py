"""Passwords: which ones fit, who may set them, and how guessing is slowed down."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta

import pytest

from handclasp.certificate_service.storage.database import open_database
from handclasp.certificate_service.storage.users import find_password_hash
from handclasp.client.client import HandclaspClient
from handclasp.errors import (
    HandclaspError,
    InvalidArgument,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    Unauthenticated,
)
from tests.rpc.account_calls import (
    OTHER_ADDRESS,
    PASSWORD,
    WRONG_PASSWORD,
    acting_as,
    calling_from,
    client_at,
    create_user,
    disable,
    get_user,
    outcome,
    question,
    reason_of,
    refused,
    set_password,
)
from tests.support.installation import Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Of `ThrottleLimits`, as it is by default.
FREE_ATTEMPTS = 5


async def log_in(installation: Installation, user_id: str, password: str) -> str:
    """`OK`, or the reason of the refusal."""
    async with installation.client(user=user_id, password=password) as client:
        return await outcome(client.accounts.GetUser(get_user(user_id)))


async def use_up_free_attempts(installation: Installation, user_id: str) -> None:
    for number in range(FREE_ATTEMPTS):
        assert await log_in(installation, user_id, f"wrong {number}") == "CREDENTIALS_INVALID"


class TestWhichFit:
    @pytest.mark.parametrize(
        "password",
        [
            "x" * 12,
            "x" * 1024,
            "pass:word:with:colons",
            "пароль-парол",
            "🔑" * 12,
            " leading and trailing ",
            "ﬀ" * 1024,
        ],
        ids=["shortest", "longest", "colons", "cyrillic", "emoji", "spaces", "longest-in-bytes"],
    )
    async def test_these_log_in(self, installation: Installation, password: str) -> None:
        user = await installation.new_user(password=password)
        assert await log_in(installation, user, password) == "OK"
        assert await log_in(installation, user, password[:-1]) == "CREDENTIALS_INVALID"

    @pytest.mark.parametrize("password", ["x" * 11, "x" * 1025, "twelve chars\x00", "twelve chars\n", "e\u0301" * 11])
    async def test_these_do_not_fit(self, installation: Installation, password: str) -> None:
        error = await refused(
            installation.admin.accounts.CreateUser(create_user("bad-password", password=password)),
            InvalidArgument,
            Reason.PASSWORD_NOT_ACCEPTED,
        )
        assert [violation.field for violation in error.violations] == ["password"]
        assert password not in error.message
        user = await installation.new_user(password=PASSWORD)
        error = await refused(
            installation.admin.accounts.SetPassword(set_password(user, password)),
            InvalidArgument,
            Reason.PASSWORD_NOT_ACCEPTED,
        )
        assert [violation.field for violation in error.violations] == ["new_password"]
        assert await log_in(installation, user, PASSWORD) == "OK"

    async def test_an_empty_one_is_none(self, installation: Installation) -> None:
        user = await installation.new_user()
        assert not (await installation.admin.accounts.GetUser(get_user(user))).has_password
        assert await log_in(installation, user, "") == "CREDENTIALS_INVALID"
        await refused(
            installation.admin.accounts.SetPassword(set_password(user, "")),
            InvalidArgument,
            Reason.PASSWORD_NOT_ACCEPTED,
        )

    async def test_composed_and_decomposed_are_the_same(self, installation: Installation) -> None:
        user = await installation.new_user(password="r\u00e9sum\u00e9 r\u00e9sum\u00e9")
        assert await log_in(installation, user, "re\u0301sume\u0301 re\u0301sume\u0301") == "OK"

    async def test_stored_is_argon2id_as_owasp_has_it(self, installation: Installation) -> None:
        first, second = [await installation.new_user(password=PASSWORD) for _ in range(2)]
        database = open_database(installation.settings.url())
        try:
            hashes = [
                await database.read(lambda snapshot, user=user: find_password_hash(snapshot, user))  # type: ignore[misc]
                for user in (first, second)
            ]
        finally:
            await database.close()
        assert all(str(item).startswith("$argon2id$v=19$m=19456,t=2,p=1$") for item in hashes)
        assert hashes[0] != hashes[1]


class TestChangingOnesOwn:
    @pytest.mark.parametrize("way", ["password", "certificate", "both"])
    async def test_needs_the_old_one(self, installation: Installation, way: str) -> None:
        # User Management makes no difference to that: a session left open must not be enough.
        user = await installation.new_user(grants={"USER_MANAGEMENT": "*"}, password=PASSWORD)
        async with acting_as(installation, user, way) as client:
            for old in ("", WRONG_PASSWORD):
                await refused(
                    client.accounts.SetPassword(set_password(user, "a wholly new password", old)),
                    PermissionDenied,
                    Reason.OLD_PASSWORD_WRONG,
                )
            assert (
                await client.accounts.SetPassword(set_password(user, "a wholly new password", PASSWORD))
            ).has_password
        assert await log_in(installation, user, PASSWORD) == "CREDENTIALS_INVALID"
        assert await log_in(installation, user, "a wholly new password") == "OK"

    async def test_a_first_one_needs_none(self, installation: Installation) -> None:
        user = await installation.new_user()
        async with acting_as(installation, user, "certificate") as client:
            await client.accounts.SetPassword(set_password(user, PASSWORD))
            await refused(
                client.accounts.SetPassword(set_password(user, PASSWORD)), PermissionDenied, Reason.OLD_PASSWORD_WRONG
            )
        assert await log_in(installation, user, PASSWORD) == "OK"

    async def test_is_no_way_to_guess_it(self, installation: Installation) -> None:
        user = await installation.new_user(password=PASSWORD)
        async with acting_as(installation, user, "certificate") as client:

            def guess(old: str) -> Awaitable[object]:
                return client.accounts.SetPassword(set_password(user, "a wholly new password", old))

            for number in range(FREE_ATTEMPTS):
                await refused(guess(f"wrong {number}"), PermissionDenied, Reason.OLD_PASSWORD_WRONG)
            error = await refused(guess(PASSWORD), ResourceExhausted, Reason.CREDENTIALS_THROTTLED)
            assert error.retry_after is not None
        # What was wrong there counts elsewhere, too.
        assert await log_in(installation, user, PASSWORD) == "CREDENTIALS_THROTTLED"

    async def test_does_not_undo_a_reset_that_came_in_between(self, installation: Installation) -> None:
        # Whoever knows the old password must not win against the administrator who takes it away.
        user = await installation.new_user(password=PASSWORD)
        async with acting_as(installation, user, "certificate") as client:
            for number, delay in enumerate((0.0, 0.01, 0.02, 0.04, 0.06)):
                given = f"given by the admin {number}"

                async def reset(given: str = given, delay: float = delay) -> None:
                    await asyncio.sleep(delay)
                    await installation.admin.accounts.SetPassword(set_password(user, given))

                own = outcome(client.accounts.SetPassword(set_password(user, "chosen by the user", PASSWORD)))
                changed, _ = await asyncio.gather(own, reset())
                assert changed in {"OK", "OLD_PASSWORD_WRONG"}
                assert await log_in(installation, user, given) == "OK"
                await installation.admin.accounts.SetPassword(set_password(user, PASSWORD))

    async def test_somebody_elses_needs_user_management_and_no_old_one(self, installation: Installation) -> None:
        user = await installation.new_user(password=PASSWORD)
        await installation.admin.accounts.SetPassword(set_password(user, "given by the admin"))
        assert await log_in(installation, user, PASSWORD) == "CREDENTIALS_INVALID"
        assert await log_in(installation, user, "given by the admin") == "OK"


class TestNothingIsSaidOfWhoExists:
    async def test_all_refusals_read_the_same(self, installation: Installation) -> None:
        known = await installation.new_user(password=PASSWORD)
        disabled = await installation.new_user(password=PASSWORD)
        await installation.admin.accounts.DisableUser(disable(disabled))
        without = await installation.new_user()
        answers = set()
        for user, password in (
            (known, WRONG_PASSWORD),
            (disabled, WRONG_PASSWORD),
            (disabled, PASSWORD),
            (without, WRONG_PASSWORD),
            ("never-heard-of", WRONG_PASSWORD),
            ("NOT AN ID", WRONG_PASSWORD),
            ("x" * 300, WRONG_PASSWORD),
        ):
            async with installation.client(user=user, password=password) as client:
                error = await refused(
                    client.accounts.GetUser(get_user(known)), Unauthenticated, Reason.CREDENTIALS_INVALID
                )
            answers.add((error.message, tuple(error.metadata), error.violations))
        assert len(answers) == 1

    async def test_an_unknown_user_takes_as_long_as_a_known_one(self, installation: Installation) -> None:
        """Without the decoy it takes a tenth, or less: the bounds leave room for a busy machine, and not for that."""
        users = {
            "known": [await installation.new_user(password=PASSWORD) for _ in range(3)],
            "without": [await installation.new_user() for _ in range(3)],
            "unknown": [f"unknown-{number}" for number in range(3)],
        }
        spent: dict[str, list[float]] = {kind: [] for kind in users}
        for turn in range(3):
            for kind in users:
                async with installation.client(user=users[kind][turn], password=WRONG_PASSWORD) as client:
                    # The first one connects; all together are as many as are not slowed down.
                    for attempt in range(FREE_ATTEMPTS):
                        begin = time.perf_counter()
                        await refused(
                            client.accounts.GetUser(get_user("admin")), Unauthenticated, Reason.CREDENTIALS_INVALID
                        )
                        if attempt:
                            spent[kind].append(time.perf_counter() - begin)
        medians = {kind: statistics.median(values) for kind, values in spent.items()}
        for kind in ("without", "unknown"):
            assert 1 / 3 < medians[kind] / medians["known"] < 3, medians


class TestGuessing:
    async def test_is_slowed_down_and_says_for_how_long(self, installation: Installation) -> None:
        user = await installation.new_user(password=PASSWORD)
        await use_up_free_attempts(installation, user)
        async with installation.client(user=user, password=PASSWORD) as client:
            # Not even the right one is looked at, or guessing would go on.
            error = await refused(
                client.accounts.GetUser(get_user(user)), ResourceExhausted, Reason.CREDENTIALS_THROTTLED
            )
            assert error.retry_after is not None
            assert timedelta() < error.retry_after <= timedelta(seconds=1)
            with installation.clock.ahead(error.retry_after):
                assert await outcome(client.accounts.GetUser(get_user(user))) == "OK"
            # The right one cleared the record.
        await use_up_free_attempts(installation, user)

    async def test_names_that_are_too_long_for_a_user_count_as_one(self, installation: Installation) -> None:
        # What is remembered of guesses is bounded, and so must be the names that it is remembered by.
        outcomes = [
            await log_in(installation, "a" * 64 + str(number), WRONG_PASSWORD) for number in range(FREE_ATTEMPTS + 1)
        ]
        assert outcomes == ["CREDENTIALS_INVALID"] * FREE_ATTEMPTS + ["CREDENTIALS_THROTTLED"]

    async def test_the_wait_grows(self, installation: Installation) -> None:
        user = await installation.new_user(password=PASSWORD)
        await use_up_free_attempts(installation, user)
        waits = []
        later = timedelta()
        for number in range(4):
            with installation.clock.ahead(later):
                wait = await self._wait(installation, user)
            waits.append(wait)
            later += wait
            with installation.clock.ahead(later):
                assert await log_in(installation, user, f"still wrong {number}") == "CREDENTIALS_INVALID"
        for shorter, longer in itertools.pairwise(waits):
            assert longer > shorter

    async def test_of_one_user_slows_down_no_other(self, installation: Installation) -> None:
        user, other = [await installation.new_user(password=PASSWORD) for _ in range(2)]
        await use_up_free_attempts(installation, user)
        assert await log_in(installation, user, PASSWORD) == "CREDENTIALS_THROTTLED"
        assert await log_in(installation, other, PASSWORD) == "OK"

    async def test_from_one_address_slows_down_no_other(self, installation: Installation) -> None:
        user = await installation.new_user(password=PASSWORD)
        async with calling_from(OTHER_ADDRESS, installation.ports) as port:
            await use_up_free_attempts(installation, user)
            assert await log_in(installation, user, PASSWORD) == "CREDENTIALS_THROTTLED"
            async with client_at(installation, port, user, PASSWORD) as client:
                assert await outcome(client.accounts.GetUser(get_user(user))) == "OK"
            # The right one from there does not help the one who guesses here.
            assert await log_in(installation, user, PASSWORD) == "CREDENTIALS_THROTTLED"

    async def test_does_not_lock_out_certificates(self, installation: Installation) -> None:
        user = await installation.new_user(password=PASSWORD)
        await use_up_free_attempts(installation, user)
        async with acting_as(installation, user, "certificate") as client:
            assert await outcome(client.accounts.GetUser(get_user(user))) == "OK"

    async def test_many_at_once_gain_nothing(self, installation: Installation) -> None:
        user = await installation.new_user(password=PASSWORD)
        other = await installation.new_user(password=PASSWORD)
        guesses = [f"guess {number}" for number in range(30)]
        clients = [installation.client(user=user, password=guess) for guess in [*guesses, PASSWORD]]
        try:
            # Connected first, so that what follows comes in at once.
            await asyncio.gather(*(self._connect(client) for client in clients))
            started = installation.clock()
            outcomes = Counter(
                await asyncio.gather(*(outcome(client.accounts.GetUser(get_user(user))) for client in clients))
            )
            # On a slow machine the first waits (1 s, 2 s, ...) pass meanwhile, and one more is looked at after each.
            passed = int(math.log2((installation.clock() - started).total_seconds() + 1))
            # Whichever arrives first is first. If the right one is among those, it clears the record, once.
            free = FREE_ATTEMPTS * (1 + outcomes["OK"])
            assert outcomes["CREDENTIALS_INVALID"] + outcomes["OK"] <= free + passed
            assert set(outcomes) <= {"CREDENTIALS_INVALID", "CREDENTIALS_THROTTLED", "PASSWORD_CHECKS_BUSY", "OK"}
            assert await log_in(installation, other, PASSWORD) == "OK"
        finally:
            for client in clients:
                await client.close()

    async def test_one_wrong_password_sent_many_times_at_once_counts_once(self, installation: Installation) -> None:
        """A program that was given an old password must not lock itself out by calling in parallel."""
        user = await installation.new_user(password=PASSWORD)
        async with installation.client(user=user, password=WRONG_PASSWORD) as client:
            await self._connect(client)
            calls = (outcome(client.accounts.GetUser(get_user(user))) for _ in range(40))
            assert Counter(await asyncio.gather(*calls))["CREDENTIALS_INVALID"] >= 20
        assert await log_in(installation, user, PASSWORD) == "OK"

    async def test_through_a_relying_party_counts_by_the_peers_address(self, installation: Installation) -> None:
        user = await installation.new_user("regular-user", password=PASSWORD)
        identity = await installation.issue(user)

        async def ask(password: str, address: str) -> str:
            asked = question(identity, credentials=(user, password), address=address)
            return reason_of(await installation.relying_party.certificates.CheckPermission(asked))

        for number in range(FREE_ATTEMPTS):
            assert await ask(f"wrong {number}", "192.0.2.7") == "CREDENTIALS_INVALID"
        assert await ask(PASSWORD, "192.0.2.7") == "CREDENTIALS_THROTTLED"
        assert await ask(PASSWORD, "192.0.2.8") == "ALLOWED"
        assert await ask(PASSWORD, "2001:db8::7") == "ALLOWED"
        assert await ask(PASSWORD, "") == "ALLOWED"
        throttled = await installation.relying_party.certificates.CheckPermission(
            question(identity, credentials=(user, PASSWORD), address="192.0.2.7")
        )
        assert throttled.retry_time.ToNanoseconds() > throttled.decide_time.ToNanoseconds()
        with installation.clock.ahead(timedelta(seconds=2)):
            assert await ask(PASSWORD, "192.0.2.7") == "ALLOWED"

    async def test_addresses_that_a_relying_party_invents_gain_nothing(self, installation: Installation) -> None:
        """Nor do they lock out the user: neither at this service's own doors nor at another relying party."""
        boss = await installation.new_user("administrator", password=PASSWORD)
        identity = await installation.issue(boss)
        narrow = await installation.new_user(grants={"AUTHORIZE_PEERS": "integrations/nothing"})

        async def ask(client: HandclaspClient, password: str, address: str) -> str:
            asked = question(identity, "integrations/nothing", credentials=(boss, password), address=address)
            return reason_of(await client.certificates.CheckPermission(asked))

        async with installation.client(await installation.issue(narrow)) as client:
            guesses = [await ask(client, f"wrong {number}", f"10.{number}.0.1") for number in range(60)]
            most = installation.settings.throttle.guesses_through_relying_party
            assert Counter(guesses) == {"CREDENTIALS_INVALID": most, "CREDENTIALS_THROTTLED": 60 - most}
            assert await ask(client, PASSWORD, "10.99.0.1") == "CREDENTIALS_THROTTLED"
            for number in range(6):
                await ask(client, f"more {number}", "127.0.0.1")
            assert await log_in(installation, boss, PASSWORD) == "OK"
            assert await ask(installation.relying_party, PASSWORD, "127.0.0.1") == "ALLOWED"
            with installation.clock.ahead(timedelta(minutes=2)):
                assert await ask(client, PASSWORD, "10.99.0.1") == "ALLOWED"

    @pytest.mark.parametrize("by", [timedelta(hours=2), timedelta(hours=-2)])
    async def test_setting_the_clock_neither_shortens_nor_prolongs_a_wait(
        self, installation: Installation, by: timedelta
    ) -> None:
        user = await installation.new_user(password=PASSWORD)
        for number in range(FREE_ATTEMPTS):
            await log_in(installation, user, f"wrong {number}")
        with installation.clock.set_by(by):
            wait = await self._wait(installation, user)
            assert timedelta() < wait <= timedelta(seconds=1)
        with installation.clock.ahead(wait), installation.clock.set_by(-by):
            assert await log_in(installation, user, PASSWORD) == "OK"

    @pytest.mark.parametrize("address", ["\x00", "192.0.2.7\n", "x" * 65])
    async def test_the_peers_address_must_be_one(self, installation: Installation, address: str) -> None:
        identity = await installation.issue(await installation.new_user())
        error = await refused(
            installation.relying_party.certificates.CheckPermission(question(identity, address=address)),
            InvalidArgument,
            Reason.FIELD_INVALID,
        )
        assert [violation.field for violation in error.violations] == ["peer_address"]

    async def _wait(self, installation: Installation, user: str) -> timedelta:
        async with installation.client(user=user, password=PASSWORD) as client:
            error: HandclaspError = await refused(
                client.accounts.GetUser(get_user(user)), ResourceExhausted, Reason.CREDENTIALS_THROTTLED
            )
        assert error.retry_after is not None
        return error.retry_after

    async def _connect(self, client: HandclaspClient) -> None:
        channel = client._to_certificates()
        channel.get_state(try_to_connect=True)
        await channel.channel_ready()
