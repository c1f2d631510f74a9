"""What is remembered of decisions, and when it may be used."""

from __future__ import annotations

import pytest

from handclasp.relying_party.decisions import Allowed, CredentialsHash, Decisions, Subject, Yes
from handclasp.relying_party.knowledge import Change, Effect, Knowledge, Position
from handclasp.serving.peer import BasicCredentials
from tests.unit.relying_party.test_knowledge import Clock

ALICE = Allowed("users/alice", "certificates/a", "decisions/d1")
RESTS_ON = ("certificates/a", "users/alice", "accessProfiles/p")
FINGERPRINT = "ab" * 32


class Memory:
    """Decisions with a lease of two seconds, at revision 10."""

    def __init__(self, size: int = 100) -> None:
        self.clock, self.wall = Clock(), Clock(1000.0)
        self.knowledge = Knowledge(self.clock)
        self.knowledge.begin_stream()
        self.knowledge.reset(Position(10, 1))
        self.knowledge.pong(self.knowledge.ping(), 10, 2.0)
        self.decisions = Decisions(self.knowledge, self.wall, size=size)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def subject(resource: str = "orders/get", credentials: bytes | None = None) -> Subject:
    return Subject(FINGERPRINT, 5, resource, credentials)


def yes(revision: int = 10, expires: float | None = 2000.0) -> Yes:
    return Yes(ALICE, revision, RESTS_ON, expires)


def test_a_yes_is_found_for_its_subject_only(memory: Memory) -> None:
    memory.decisions.keep(subject(), yes())
    found = memory.decisions.find(subject())
    assert found is not None
    assert found.allowed == ALICE
    others = [
        subject("orders/list"),
        subject(credentials=b"x"),
        subject()._replace(fingerprint="cd" * 32),
        subject()._replace(permission=6),
    ]
    assert [memory.decisions.find(other) for other in others] == [None] * 4


@pytest.mark.parametrize("name", RESTS_ON)
def test_a_change_of_anything_that_it_rests_on_ends_it(memory: Memory, name: str) -> None:
    memory.decisions.keep(subject(), yes())
    memory.knowledge.apply(Position(11, 2), [Change(name, frozenset({Effect.ALTERED}))])
    assert memory.decisions.find(subject()) is None
    assert len(memory.decisions) == 0


def test_it_ends_with_its_certificate(memory: Memory) -> None:
    memory.decisions.keep(subject(), yes())
    memory.wall.now = 2000.0
    assert memory.decisions.find(subject()) is None
    assert not memory.decisions.usable(yes())
    assert memory.decisions.expired(yes())


def test_without_a_lease_it_is_not_used_and_not_forgotten(memory: Memory) -> None:
    memory.decisions.keep(subject(), yes())
    memory.clock.now += 2
    assert memory.decisions.find(subject()) is None
    assert not memory.decisions.usable(yes())
    memory.knowledge.pong(memory.knowledge.ping(), 10, 2.0)
    assert memory.decisions.find(subject()) is not None


def test_a_revision_from_beyond_what_is_applied_is_not_remembered(memory: Memory) -> None:
    memory.decisions.keep(subject(), yes(revision=50))
    memory.knowledge.apply(Position(40, 2), [Change("users/alice", frozenset({Effect.WITHDRAWN}))])
    assert memory.decisions.find(subject()) is None


def test_one_that_does_not_say_when_it_ends_is_not_remembered(memory: Memory) -> None:
    memory.decisions.keep(subject(), yes(expires=None))
    assert memory.decisions.find(subject()) is None
    assert memory.decisions.usable(yes(expires=None))


def test_the_longest_unused_goes_first() -> None:
    memory = Memory(size=2)
    memory.decisions.keep(subject("a"), yes())
    memory.decisions.keep(subject("b"), yes())
    assert memory.decisions.find(subject("a")) is not None
    memory.decisions.keep(subject("c"), yes())
    assert [memory.decisions.find(subject(name)) is not None for name in "abc"] == [True, False, True]


def test_nothing_is_remembered_if_told_so() -> None:
    memory = Memory(size=0)
    memory.decisions.keep(subject(), yes())
    assert len(memory.decisions) == 0


def test_credentials_are_told_apart_and_not_kept() -> None:
    one, other = CredentialsHash(), CredentialsHash()
    given = BasicCredentials("alice", "correct horse")
    assert one(None) is None
    assert one(given) == one(BasicCredentials("alice", "correct horse"))
    assert len({one(given), one(BasicCredentials("alicec", "orrect horse")), other(given)}) == 3
    assert b"horse" not in (one(given) or b"")


def test_a_yes_that_was_ahead_when_its_stream_ended_is_forgotten(memory: Memory) -> None:
    """The database may have gone back to what is applied: then no change ever takes back what was given and lost."""
    memory.decisions.keep(subject(), yes(12))
    assert memory.decisions.find(subject()) is not None
    memory.knowledge.apply(Position(11, 2), [])
    memory.knowledge.begin_stream()
    memory.knowledge.apply(Position(12, 3), [])
    assert memory.decisions.find(subject()) is None


def test_a_yes_that_was_reached_on_the_same_stream_outlasts_it(memory: Memory) -> None:
    memory.decisions.keep(subject(), yes(12))
    memory.knowledge.apply(Position(12, 2), [])
    for _ in range(3):
        memory.knowledge.begin_stream()
        assert memory.decisions.find(subject()) is not None


@pytest.mark.parametrize("next_message", ["pong", "changes"])
def test_a_yes_that_was_ahead_when_the_lease_ended_is_forgotten(memory: Memory, next_message: str) -> None:
    """The database may have been away, and have come back as it was before: the stream would not notice."""
    memory.decisions.keep(subject(), yes(12))
    memory.clock.now += 2.5
    if next_message == "changes":
        memory.knowledge.apply(Position(12, 3), [])
    assert memory.knowledge.pong(memory.knowledge.ping(), memory.knowledge.revision, 2.0)
    assert memory.decisions.find(subject()) is None


def test_a_yes_that_was_not_ahead_outlasts_a_lease(memory: Memory) -> None:
    memory.decisions.keep(subject(), yes(10))
    memory.clock.now += 2.5
    assert memory.knowledge.pong(memory.knowledge.ping(), 10, 2.0)
    assert memory.decisions.find(subject()) is not None
