"""Searches the model of histories that part: within its limits the protocol is sound, and faults in it are found."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from tests.model import test_barrier_model
from tests.model.test_barrier_model import number_of

MODEL = Path(__file__).with_name("parted.pml")

# `parted.pml` says what the constants are, and has the searches by the same names. In ALONE, or IN_FEW_STEPS if it
# takes two replicas, every fault has to be found.
HEARD = {"HEARD": 1}
AWAY = {"AWAY": 1}
ALONE = {"HOME": 0, "LAST": 3}
ALONE_FOR_LONGER = {"HOME": 0, "LAST": 3, "LEASE": 2}
ALONE_WITH_MORE = {"HOME": 0, "LAST": 4}
IN_FEW_STEPS = {"LAST": 2, "STEPS": 0}
PAIR = {"LAST": 2}
TAKEN_FIRST = {"LAST": 2, "TAKEN_FIRST": 1}
MORE = {"LAST": 3, "STEPS": 0, "OTHERS": 0}
ROAMING = {"LAST": 2, "STEPS": 0, "TAKEN_FIRST": 1, "ROAMS": 1}

FAULTS = [
    ("RESUMES_BY_NUMBER", HEARD | ALONE),
    ("RENEWED_UNKNOWN", HEARD | IN_FEW_STEPS),
    ("WAITS_NO_LONGER", HEARD | IN_FEW_STEPS),
    ("STREAMS_GO_ON", HEARD | ALONE),
    ("YES_KEPT", HEARD | ALONE),
    ("LOOKS_NOT_AGAIN", HEARD | ALONE),
    ("ANSWERS_BY_NUMBER", HEARD | IN_FEW_STEPS),
    ("HEAD_BELOW_IS_KNOWN", HEARD | IN_FEW_STEPS | {"TAKEN_FIRST": 1}),
    ("REPEAT_LOOKS_NOT_BACK", HEARD | ALONE),
    ("AHEAD_REMEMBERED", HEARD | ALONE),
    ("AHEAD_OVER_LEASES", AWAY | ALONE),
]
# Who has noticed the parting waits a lease longer, in each barrier: for this long, these do no harm.
HIDDEN_BY_THE_WAIT = ["KEEPS_ACKNOWLEDGEMENTS", "LEASE_KEPT"]
REACHED = [
    ("PARTED_BY_COMMIT", ALONE),
    ("PARTED_BY_RENEWAL", IN_FEW_STEPS),
    ("PARTED_BY_READING", ALONE),
    ("RESUMED", ALONE),
    ("RESET_IN_LEASE", ALONE),
    ("HISTORY_LOST", ALONE),
    ("LEASE_IN_NEW_HISTORY", IN_FEW_STEPS),
    ("WAITED_LONGER", IN_FEW_STEPS),
    ("TOLD_THAT_IT_IS_LOST", ALONE),
    ("BY_NOTIFICATION", IN_FEW_STEPS),
    ("BY_ROW", IN_FEW_STEPS),
    ("SAME_NUMBER_TAKES_AWAY", IN_FEW_STEPS),
    ("GONE_IN_NEW_HISTORY", IN_FEW_STEPS),
    ("REMEMBERED_IN_NEW_HISTORY", IN_FEW_STEPS),
    ("SURVIVES", ALONE),
    ("REPEATED_AFTER_LOSS", ALONE),
]

search = partial(test_barrier_model.search, model=MODEL)


@pytest.mark.parametrize(
    ("constants", "at_least"),
    [
        pytest.param(HEARD | ALONE, 200_000, id="alone"),
        pytest.param(AWAY | ALONE, 200_000, id="alone-away"),
        pytest.param(HEARD | IN_FEW_STEPS, 1_000_000, id="in-few-steps"),
        pytest.param(AWAY | IN_FEW_STEPS, 1_000_000, id="in-few-steps-away"),
        pytest.param(HEARD | ALONE_FOR_LONGER, 500_000, id="alone-for-longer", marks=pytest.mark.campaign),
        pytest.param(AWAY | ALONE_FOR_LONGER, 500_000, id="alone-for-longer-away", marks=pytest.mark.campaign),
        pytest.param(HEARD | ALONE_WITH_MORE, 1_000_000, id="alone-with-more", marks=pytest.mark.campaign),
        pytest.param(AWAY | ALONE_WITH_MORE, 1_000_000, id="alone-with-more-away", marks=pytest.mark.campaign),
        pytest.param(HEARD | PAIR, 3_000_000, id="pair", marks=pytest.mark.campaign),
        pytest.param(AWAY | PAIR, 3_000_000, id="pair-away", marks=pytest.mark.campaign),
        pytest.param(HEARD | TAKEN_FIRST, 2_000_000, id="taken-first", marks=pytest.mark.campaign),
        pytest.param(AWAY | TAKEN_FIRST, 2_000_000, id="taken-first-away", marks=pytest.mark.campaign),
        pytest.param(HEARD | MORE, 5_000_000, id="more", marks=pytest.mark.campaign),
        pytest.param(AWAY | MORE, 5_000_000, id="more-away", marks=pytest.mark.campaign),
        pytest.param(HEARD | ROAMING, 5_000_000, id="roaming", marks=pytest.mark.campaign),
        pytest.param(AWAY | ROAMING, 5_000_000, id="roaming-away", marks=pytest.mark.campaign),
    ],
)
def test_the_protocol_keeps_the_law(constants: dict[str, int], at_least: int, tmp_path: Path) -> None:
    result = search(tmp_path, constants, "INVARIANT")
    assert result.errors == 0, result.output
    assert result.complete, result.output
    # A model that had come to a standstill would be sound, too.
    assert result.states >= at_least


@pytest.mark.parametrize("lost", [{}, {"ROWS_ONLY": 1}], ids=["not heard of", "only of rows"])
def test_the_law_is_not_promised_if_not_all_heard_of_what_is_lost(lost: dict[str, int], tmp_path: Path) -> None:
    """docs/revocation.md, 'What is not promised'."""
    result = search(tmp_path, IN_FEW_STEPS | lost, optimize="-O1")
    assert result.errors > 0, result.output
    assert result.violated, result.output


@pytest.mark.parametrize(("fault", "constants"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_a_fault_is_found(fault: str, constants: dict[str, int], tmp_path: Path) -> None:
    # Without the invariant: it is the law that each of them breaks; or, of LOOKS_NOT_AGAIN, that a call does not return
    # OK for a change that its replica knows to be lost.
    result = search(tmp_path, constants, f"FAULT_{fault}", optimize="-O1")
    assert result.errors > 0, result.output
    assert result.violated, result.output


@pytest.mark.parametrize("fault", HIDDEN_BY_THE_WAIT)
def test_a_fault_that_the_longer_wait_hides_is_found_without_it(fault: str, tmp_path: Path) -> None:
    result = search(tmp_path, HEARD | ALONE, f"FAULT_{fault}", "FAULT_WAITS_NO_LONGER", optimize="-O1")
    assert result.errors > 0, result.output
    assert result.violated, result.output


@pytest.mark.campaign
@pytest.mark.parametrize("fault", [*HIDDEN_BY_THE_WAIT, "WAITS_NO_LONGER"])
def test_one_process_keeps_the_law_without_one_of_them(fault: str, tmp_path: Path) -> None:
    result = search(tmp_path, HEARD | ALONE, f"FAULT_{fault}")
    assert result.errors == 0, result.output
    assert result.complete, result.output


@pytest.mark.parametrize(("name", "constants"), REACHED, ids=[name for name, _ in REACHED])
def test_what_should_be_able_to_happen_happens(name: str, constants: dict[str, int], tmp_path: Path) -> None:
    number = number_of(name, MODEL)
    result = search(tmp_path, HEARD | constants, f"REACH={number}", optimize="-O1")
    assert result.violated == f"({number}!={number})", result.output


def test_every_fault_of_the_model_is_tried() -> None:
    macros = set(re.findall(r"\bFAULT_([A-Z_]+)", MODEL.read_text(encoding="utf-8")))
    assert macros == {fault for fault, _ in FAULTS} | set(HIDDEN_BY_THE_WAIT)
