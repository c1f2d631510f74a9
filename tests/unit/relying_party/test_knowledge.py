"""The core of a relying party, rule by rule (docs/revocation.md), and at random against a naive model."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from handclasp.relying_party.acknowledging import Acknowledgement
from handclasp.relying_party.knowledge import Change, Effect, Knowledge, Position

NAMES = ["certificates/a", "certificates/b", "users/a", "accessProfiles/p"]


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Core:
    """Knowledge that has been reset once, at revision 10, and its clock."""

    clock: Clock = field(default_factory=Clock)
    max_names: int = 100

    def __post_init__(self) -> None:
        self.knowledge = Knowledge(self.clock, max_names=self.max_names)
        self.knowledge.begin_stream()
        self.knowledge.reset(Position(10, 1))


@pytest.fixture
def core() -> Core:
    return Core()


def withdrawn(name: str) -> Change:
    return Change(name, frozenset({Effect.WITHDRAWN}))


def test_a_lease_counts_from_before_the_ping_was_written(core: Core) -> None:
    number = core.knowledge.ping()
    core.clock.now += 1.5  # on the way there and back
    assert core.knowledge.pong(number, 10, 2.0)
    core.clock.now += 0.49
    assert core.knowledge.lease_runs()
    core.clock.now += 0.01
    assert not core.knowledge.lease_runs()


def test_pings_are_never_numbered_alike(core: Core) -> None:
    numbers = [core.knowledge.ping() for _ in range(3)]
    core.knowledge.begin_stream()
    numbers += [core.knowledge.ping() for _ in range(3)]
    core.knowledge.lose_history()
    numbers.append(core.knowledge.ping())
    assert len(set(numbers)) == 7


def test_a_pong_of_an_earlier_stream_is_worth_nothing(core: Core) -> None:
    number = core.knowledge.ping()
    core.knowledge.begin_stream()
    assert not core.knowledge.pong(number, 10, 2.0)
    assert not core.knowledge.lease_runs()


def test_a_pong_is_good_once_and_only_for_a_ping(core: Core) -> None:
    number = core.knowledge.ping()
    assert not core.knowledge.pong(number + 1, 10, 2.0)
    assert core.knowledge.pong(number, 10, 2.0)
    core.clock.now += 3
    assert not core.knowledge.pong(number, 10, 20.0)
    assert not core.knowledge.lease_runs()


def test_a_pong_extends_only_if_its_revision_is_applied(core: Core) -> None:
    first, second = core.knowledge.ping(), core.knowledge.ping()
    assert not core.knowledge.pong(first, 11, 2.0)
    assert not core.knowledge.lease_runs()
    core.knowledge.apply(Position(11, 2), [])
    assert core.knowledge.pong(second, 11, 2.0)


def test_before_the_first_reset_nothing_extends_the_lease() -> None:
    knowledge = Knowledge(Clock())
    knowledge.begin_stream()
    assert not knowledge.pong(knowledge.ping(), 0, 2.0)
    assert not knowledge.lease_runs()


def test_an_earlier_ping_shortens_no_lease(core: Core) -> None:
    early = core.knowledge.ping()
    core.clock.now += 1
    late = core.knowledge.ping()
    assert core.knowledge.pong(late, 10, 2.0)
    core.knowledge.pong(early, 10, 2.0)
    core.clock.now += 1.9
    assert core.knowledge.lease_runs()


def test_what_is_applied_never_goes_back(core: Core) -> None:
    core.knowledge.apply(Position(20, 2), [])
    core.knowledge.apply(Position(15, 3), [withdrawn("users/a")])
    assert core.knowledge.applied == Position(20, 2)
    assert not core.knowledge.stands(14, ["users/a"])
    core.knowledge.reset(Position(12, 4))
    assert core.knowledge.applied == Position(20, 2)
    assert not core.knowledge.stands(19, [])


def test_the_lease_is_read_from_the_clock_at_the_moment_of_use(core: Core) -> None:
    # Nothing runs between the two looks but the clock, as in a process that was frozen.
    assert core.knowledge.pong(core.knowledge.ping(), 10, 2.0)
    assert core.knowledge.lease_runs()
    core.clock.now += 3600
    assert not core.knowledge.lease_runs()
    assert core.knowledge.since_lease_end() == pytest.approx(3598)


def test_a_change_ends_what_rests_on_its_name_and_nothing_else(core: Core) -> None:
    core.knowledge.apply(Position(11, 2), [withdrawn("users/a")])
    assert not core.knowledge.stands(10, ["certificates/a", "users/a"])
    assert core.knowledge.stands(10, ["certificates/a", "users/b"])
    assert core.knowledge.stands(11, ["certificates/a", "users/a"])


@pytest.mark.parametrize(
    ("effects", "stands"),
    [
        ({Effect.GIVEN}, True),
        ({Effect.ALTERED}, False),
        ({Effect.WITHDRAWN}, False),
        ({Effect.CREDENTIALS}, False),
        ({Effect.WITHDRAWN, Effect.GIVEN}, False),
        (set(), False),
    ],
)
def test_joined_effects_all_count(core: Core, effects: set[Effect], stands: bool) -> None:
    core.knowledge.apply(Position(11, 2), [Change("users/a", frozenset(effects))])
    assert core.knowledge.stands(10, ["users/a"]) is stands


def test_a_reset_makes_everything_before_it_worthless(core: Core) -> None:
    generation = core.knowledge.generation
    core.knowledge.apply(Position(11, 2), [withdrawn("users/a")])
    core.knowledge.reset(Position(30, 3))
    assert core.knowledge.generation > generation
    assert not core.knowledge.stands(29, ["users/b"])
    assert core.knowledge.stands(30, ["users/a"])


def test_lost_history_makes_another_process_of_it(core: Core) -> None:
    knowledge = core.knowledge
    process_id = knowledge.process_id
    number = knowledge.ping()
    assert knowledge.pong(knowledge.ping(), 10, 2.0)
    knowledge.lose_history()
    assert knowledge.process_id != process_id
    assert len(knowledge.process_id) == 32
    assert knowledge.applied is None
    assert not knowledge.lease_runs()
    knowledge.reset(Position(3, 9))
    assert not knowledge.pong(number, 3, 2.0)
    assert knowledge.applied == Position(3, 9)


def test_the_service_can_end_the_lease(core: Core) -> None:
    open_ping = core.knowledge.ping()
    assert core.knowledge.pong(core.knowledge.ping(), 10, 2.0)
    core.knowledge.end_lease()
    assert not core.knowledge.lease_runs()
    assert not core.knowledge.pong(open_ping, 10, 2.0)
    assert core.knowledge.since_lease_end() == 0


def test_few_names_are_kept_and_forgetting_is_safe() -> None:
    core = Core(max_names=3)
    for number in range(20):
        core.knowledge.apply(Position(11 + number, 0), [withdrawn(f"certificates/{number}")])
    assert len(core.knowledge._changed) == 3
    # Whatever was decided before a change that is forgotten is worthless, whether it rests on it or not.
    assert not core.knowledge.stands(26, ["certificates/none"])
    assert not core.knowledge.stands(26, ["certificates/0"])
    assert core.knowledge.stands(27, ["certificates/none"])
    assert not core.knowledge.stands(27, ["certificates/19"])


def test_an_acknowledgement_that_is_held_falls_behind_and_catches_up() -> None:
    acknowledgement = Acknowledgement()
    positions = [Position(number, number) for number in range(6)]
    acknowledgement.applied(positions[1], hold=False)
    acknowledgement.applied(positions[2], hold=True)
    acknowledgement.applied(positions[3], hold=False)
    assert acknowledgement.position == positions[1]
    acknowledgement.applied(positions[4], hold=True)
    acknowledgement.covered(positions[3], all_of_it=False)
    assert acknowledgement.held
    assert acknowledgement.position == positions[3]
    acknowledgement.covered(positions[4], all_of_it=True)
    assert acknowledgement.position == positions[4]
    acknowledgement.applied(positions[5], hold=False)
    assert acknowledgement.revision == 5


class AgainstAModel(RuleBasedStateMachine):
    """The model keeps every change there ever was, and every ping with its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.knowledge = Knowledge(self.clock, max_names=2)
        self.head = 1
        self.applied = 0
        self.changes: list[tuple[int, str]] = []
        self.resets: list[int] = []
        self.lease_end = self.clock.now
        self.stream = 0
        self.pings: dict[int, tuple[int, float]] = {}

    @rule()
    def begin_stream(self) -> None:
        self.stream += 1
        self.knowledge.begin_stream()

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def ping(self) -> None:
        number = self.knowledge.ping()
        assert number not in self.pings
        self.pings[number] = (self.stream, self.clock.now)

    @rule(data=st.data(), ahead=st.integers(0, 2), lease=st.floats(0, 4))
    def pong(self, data: st.DataObject, ahead: int, lease: float) -> None:
        number = data.draw(st.sampled_from([*self.pings, 0]))
        stream, sent_at = self.pings.pop(number, (-1, 0.0))
        revision = self.head + ahead
        self.knowledge.pong(number, revision, lease)
        if stream == self.stream and self.applied and revision <= self.applied:
            self.lease_end = max(self.lease_end, sent_at + lease)

    @rule(
        names=st.lists(st.sampled_from(NAMES), unique=True), effect=st.sampled_from(Effect), skipped=st.integers(0, 3)
    )
    def change(self, names: set[str], effect: Effect, skipped: int) -> None:
        self.head += 1 + skipped
        self.knowledge.apply(Position(self.head, 0), [Change(name, frozenset({effect})) for name in names])
        self.applied = self.head
        if effect is not Effect.GIVEN:
            self.changes += [(self.head, name) for name in names]

    @rule(back=st.integers(0, 3))
    def reset(self, back: int) -> None:
        self.knowledge.reset(Position(max(self.head - back, 1), 0))
        self.applied = max(self.applied, self.head - back, 1)
        self.resets.append(self.applied)

    @rule()
    def end_lease(self) -> None:
        self.knowledge.end_lease()
        self.lease_end = min(self.lease_end, self.clock.now)
        self.pings.clear()

    @rule(revision_back=st.integers(0, 6), rests_on=st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    def look(self, revision_back: int, rests_on: list[str]) -> None:
        revision = self.applied - revision_back
        good = all(revision >= reset for reset in self.resets) and not any(
            changed > revision and name in rests_on for changed, name in self.changes
        )
        stands = self.knowledge.stands(revision, rests_on)
        # It may forget, and then takes less for good than it is; never more.
        assert good or not stands
        if revision == self.applied:
            assert stands

    @invariant()
    def the_lease_and_what_is_applied_are_as_in_the_model(self) -> None:
        assert self.knowledge.lease_runs() == (self.clock.now < self.lease_end)
        assert self.knowledge.revision == self.applied
        assert len(self.knowledge._changed) <= 2


TestAgainstAModel = AgainstAModel.TestCase
