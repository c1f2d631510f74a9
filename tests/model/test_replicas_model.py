"""Searches the model of the barrier over two replicas: it is sound, and faults that are put into it are found."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from tests.model import test_barrier_model
from tests.model.test_barrier_model import number_of

MODEL = Path(__file__).with_name("replicas.pml")

# `replicas.pml` says what the constants are, and has the searches by the same names. In SMALL, a relying party of the
# replica that only answers, every fault has to be found that restarts or longer leases do not take.
SMALL = {"ROAMS": 0, "LEASE": 1}
# A grant outlasts the replica's own lease by less than a lease. Others wait a tick longer than that, so it takes three
# ticks for this to show.
ANSWERING = {"ROAMS": 0, "LEASE": 3}
ANSWERING_RESTARTS = {"ROAMS": 0, "LEASE": 1, "CRASHES": 2}
ROAMING = {"ROAMS": 1, "LEASE": 1}
ROAMING_FOR_LONGER = {"ROAMS": 1, "LEASE": 2}
ROAMING_AND_RESTARTS = {"ROAMS": 1, "LEASE": 1, "CRASHES": 2}
CALLER_RESTARTS = {"ROAMS": 0, "HOME": 0, "LEASE": 1, "CRASHES": 1}
PINNED = {"ROAMS": 0, "PARTIES": 2, "LEASE": 1}
TAKEN_TWICE = {"ROAMS": 0, "LEASE": 1, "CHANGES": 3}
BOTH_TAKE_AWAY = {"CALLERS": 2, "ROAMS": 0, "HOME": 0, "LEASE": 1}

FAULTS = [
    ("OUTLASTS", ANSWERING),
    ("COUNTED_LATE", SMALL),
    ("HEAD_UNREAD", SMALL),
    ("HEAD_EARLY", SMALL),
    ("CERTAIN_LATE", ANSWERING),
    ("ROWS_EARLY", SMALL),
    ("OTHERS_NOT_AWAITED", SMALL),
    ("OLDER_ACK", SMALL),
    ("ANSWER_UNPUBLISHED", SMALL),
    ("OLD_ID", ANSWERING_RESTARTS),
    ("CLEANS_UP", ANSWERING_RESTARTS),
    ("ROWLESS", SMALL),
    ("SEEN_EARLY", SMALL),
    ("ONE_SIGHT", SMALL),
    ("DELETES_RENEWED", SMALL),
]
REACHED = [
    ("REMEMBERED", SMALL),
    ("BY_ACKNOWLEDGEMENT", SMALL),
    ("BY_LEASE_OF_REPLICA", SMALL),
    ("ROAMED_WITH_LEASE", ROAMING),
    ("LEASE_AFTER_THAW", SMALL),
    ("LEASE_WHILE_GONE", SMALL),
    ("BEHIND", ROAMING),
    ("CAUGHT_UP", SMALL),
    ("AFTER_RESTART_OF_CALLER", CALLER_RESTARTS),
    ("AFTER_RESTART_OF_OTHER", ANSWERING_RESTARTS),
    ("SHORTENED", ANSWERING),
    ("TAKEN_TWICE", TAKEN_TWICE),
    ("RENEWED_WHILE_AWAITED", SMALL),
]


search = partial(test_barrier_model.search, model=MODEL, depth=3_000_000)


@pytest.mark.parametrize(
    ("constants", "at_least"),
    [
        pytest.param(ROAMING, 500_000, id="roaming"),
        pytest.param(ROAMING_FOR_LONGER, 4_000_000, id="roaming-for-longer", marks=pytest.mark.campaign),
        pytest.param(ANSWERING, 500_000, id="answering", marks=pytest.mark.campaign),
        pytest.param(ROAMING_AND_RESTARTS, 3_000_000, id="roaming-and-restarts", marks=pytest.mark.campaign),
        pytest.param(CALLER_RESTARTS, 4_000_000, id="caller-restarts", marks=pytest.mark.campaign),
        pytest.param(PINNED, 3_000_000, id="pinned", marks=pytest.mark.campaign),
        pytest.param(TAKEN_TWICE, 2_000_000, id="taken-twice", marks=pytest.mark.campaign),
        pytest.param(BOTH_TAKE_AWAY, 10_000_000, id="both-take-away", marks=pytest.mark.campaign),
    ],
)
def test_the_protocol_keeps_the_law(constants: dict[str, int], at_least: int, tmp_path: Path) -> None:
    result = search(tmp_path, constants, "INVARIANT")
    assert result.errors == 0, result.output
    assert result.complete, result.output
    # A model that had come to a standstill would be sound, too.
    assert result.states >= at_least


@pytest.mark.parametrize(("fault", "constants"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_a_fault_is_found(fault: str, constants: dict[str, int], tmp_path: Path) -> None:
    # Without the invariant: it is the law that each of them breaks.
    result = search(tmp_path, constants, f"FAULT_{fault}", optimize="-O1")
    assert result.errors > 0, result.output
    assert result.violated, result.output


@pytest.mark.parametrize(("name", "constants"), REACHED, ids=[name for name, _ in REACHED])
def test_what_should_be_able_to_happen_happens(name: str, constants: dict[str, int], tmp_path: Path) -> None:
    number = number_of(name, MODEL)
    result = search(tmp_path, constants, f"REACH={number}", optimize="-O1")
    assert result.violated == f"({number}!={number})", result.output


def test_every_fault_of_the_model_is_tried() -> None:
    macros = set(re.findall(r"\bFAULT_([A-Z_]+)", MODEL.read_text(encoding="utf-8")))
    assert macros == {fault for fault, _ in FAULTS}
