"""Searches the model of the revocation barrier: the protocol is sound, and faults that are put into it are found."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tools import require_tool

MODEL = Path(__file__).with_name("barrier.pml")

# `barrier.pml` says what the constants are. Every fault has to be found in SMALL, or in ANSWERING if it is one of calls
# in progress, or in PAIR if it takes two.
SMALL = {"PARTIES": 1, "LEASE": 1, "CHANGES": 1, "OTHERS": 1, "PINGS": 2, "UPWARD": 1}
ANSWERING = {"PARTIES": 1, "LEASE": 1, "CHANGES": 1, "OTHERS": 1, "PINGS": 1, "UPWARD": 1, "ANSWERS": 1}
ANSWERING_FOR_LONGER = {"PARTIES": 1, "LEASE": 2, "CHANGES": 2, "PINGS": 2, "UPWARD": 1, "ANSWERS": 1}
PAIR = {"PARTIES": 2, "ASKING": 2, "REMAINS": 0, "LEASE": 1, "CHANGES": 1, "PINGS": 1, "UPWARD": 1}
ONE_IN_FULL = {"PARTIES": 1, "LEASE": 2, "CHANGES": 2, "PINGS": 2, "UPWARD": 2}
ONE_TAKEN_TWICE = {"PARTIES": 1, "LEASE": 1, "CHANGES": 3, "PINGS": 1, "UPWARD": 1, "ANSWERS": 1}
ONE_AMONG_OTHERS = {"PARTIES": 1, "LEASE": 1, "CHANGES": 2, "OTHERS": 1, "PINGS": 1, "UPWARD": 1, "ANSWERS": 1}
PAIR_FOR_LONGER = {"PARTIES": 2, "REMAINS": 0, "LEASE": 2, "CHANGES": 1, "PINGS": 1, "UPWARD": 1}

FAULTS = [
    "FROM_RECEIPT",
    "ACK_FIRST",
    "LATE_ANSWER",
    "JOINS_OLD",
    "NO_WAIT",
    "NO_NUMBER",
    "PONG_EARLY",
    "PONG_EARLY_UNCHECKED",
    "LIST_BEFORE_COMMIT",
    "LIST_BEFORE_PUBLICATION",
    "CLOSED_IS_FREE",
    "HEAD_FIRST",
    "LEASE_BEFORE_AWAIT",
    "LEASE_FLAG",
    "DATA_FIRST",
    "REPEAT_RETURNS",
    "RESET_ONLY_FORGETS",
    "GAP",
]
FAULTS_OF_ANSWERS = [
    "ANSWER_UNGATED",
    "ANSWER_LATER",
    "ANSWER_FLAG",
    "CALL_GOES_ON",
    "CALL_ENDED_LATER",
    "RESET_LEAVES_CALLS",
]
# Parts of rules that the law would hold without, as long as the rest is kept.
SPARE = ["PONG_EARLY", "PONG_UNCHECKED", "OLD_ANSWER", "REMEMBER"]
REACHED = [
    ("REMEMBERED", SMALL),
    ("REMEMBERED_WHILE_TAKEN", SMALL),
    ("REMEMBERED_AFTER_RESTART", SMALL),
    ("AFTER_REINSTATEMENT", ONE_AMONG_OTHERS | {"ANSWERS": 0}),
    ("LEASE_WHILE_GONE", SMALL),
    ("ALL_ACKNOWLEDGED", SMALL),
    ("ALL_RAN_OUT", SMALL),
    ("BOTH_WAYS", PAIR),
    ("AFTER_RESTART", SMALL),
    ("TAKEN_TWICE", ONE_TAKEN_TWICE | {"ANSWERS": 0}),
    ("RESUMED", SMALL),
    ("RESET_IN_LEASE", SMALL),
    ("LATE_PING", SMALL),
    ("THROWN_AWAY", SMALL),
    ("LATE_CALL_WAKES", SMALL),
    ("TWO_PINGS", ONE_IN_FULL),
    ("ANSWER_AMONG_OTHERS", ANSWERING),
    ("ANSWER_AFTER_RENEWAL", ANSWERING_FOR_LONGER),
    ("ANSWER_AFTER_LAPSE", ANSWERING),
    ("CALL_OUTLIVES_CHANGE", ONE_TAKEN_TWICE),
]


@dataclass(frozen=True)
class Search:
    """What the verifier says of its search."""

    errors: int
    states: int
    complete: bool
    violated: str
    output: str


def search(
    folder: Path,
    constants: dict[str, int],
    *macros: str,
    optimize: str = "-O2",
    model: Path = MODEL,
    depth: int = 1_000_000,
) -> Search:
    """Runs the verifier over a model with these constants. It stops at the first error."""
    spin, cc = require_tool("spin"), require_tool("cc")
    defined = [f"-D{name}={value}" for name, value in constants.items()] + [f"-D{macro}" for macro in macros]
    run(folder, spin, "-a", *defined, str(model))
    # Partial-order reduction finds nothing to leave out here: all steps touch what others look at.
    options = ["-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE", "-DMEMLIM=4000"]
    run(folder, cc, "-w", optimize, *options, "-o", "pan", "pan.c")
    return parse(run(folder, str(folder / "pan"), f"-m{depth}"))


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def parse(output: str) -> Search:
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"([\d.e+]+) states, stored", output)
    assert errors, output
    assert states, output
    violated = re.search(r"assertion violated (.*) \(at depth", output)
    truncated = ("Search not completed", "max search depth too small", "out of memory", "memory bound", "pan: reached")
    return Search(
        errors=int(errors[1]),
        states=int(float(states[1])),
        complete=not any(sign in output for sign in truncated),
        violated=violated[1] if violated else "",
        output=output,
    )


def number_of(name: str, model: Path = MODEL) -> int:
    (found,) = re.findall(rf"^#define {name} (\d+)$", model.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found)


@pytest.mark.parametrize(
    ("constants", "at_least"),
    [
        pytest.param(SMALL, 1_000_000, id="small"),
        pytest.param(ANSWERING, 1_000_000, id="answering"),
        pytest.param(ANSWERING_FOR_LONGER, 5_000_000, id="answering-for-longer", marks=pytest.mark.campaign),
        pytest.param(ONE_IN_FULL, 10_000_000, id="one-in-full", marks=pytest.mark.campaign),
        pytest.param(ONE_TAKEN_TWICE, 1_000_000, id="one-taken-twice", marks=pytest.mark.campaign),
        pytest.param(ONE_AMONG_OTHERS, 1_000_000, id="one-among-others", marks=pytest.mark.campaign),
        pytest.param(PAIR, 5_000_000, id="pair", marks=pytest.mark.campaign),
        pytest.param(PAIR_FOR_LONGER, 5_000_000, id="pair-for-longer", marks=pytest.mark.campaign),
    ],
)
def test_the_protocol_keeps_the_law(constants: dict[str, int], at_least: int, tmp_path: Path) -> None:
    result = search(tmp_path, constants, "INVARIANT")
    assert result.errors == 0, result.output
    assert result.complete, result.output
    # A model that had come to a standstill would be sound, too.
    assert result.states >= at_least


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, tmp_path: Path) -> None:
    # Without the invariant: it is the law that each of them breaks.
    result = search(tmp_path, SMALL, f"FAULT_{fault}", optimize="-O1")
    assert result.errors > 0, result.output
    assert result.violated, result.output


@pytest.mark.parametrize("fault", FAULTS_OF_ANSWERS)
def test_a_fault_of_answers_is_found(fault: str, tmp_path: Path) -> None:
    result = search(tmp_path, ANSWERING, f"FAULT_{fault}", optimize="-O1")
    assert result.violated == "(permit[i]>=returned)", result.output


def test_a_record_that_two_processes_share_is_found(tmp_path: Path) -> None:
    result = search(tmp_path, PAIR, "FAULT_SHARED_RECORD", optimize="-O1")
    assert result.errors > 0, result.output
    assert result.violated, result.output


@pytest.mark.parametrize(("name", "constants"), REACHED, ids=[name for name, _ in REACHED])
def test_what_should_be_able_to_happen_happens(name: str, constants: dict[str, int], tmp_path: Path) -> None:
    number = number_of(name)
    result = search(tmp_path, constants, f"REACH={number}", optimize="-O1")
    assert result.violated == f"({number}!={number})", result.output


@pytest.mark.campaign
@pytest.mark.parametrize("part", SPARE)
def test_the_law_holds_without_what_is_there_to_spare(part: str, tmp_path: Path) -> None:
    result = search(tmp_path, SMALL | {"PINGS": 1}, f"SPARE_{part}")
    assert result.errors == 0, result.output
    assert result.complete, result.output


def test_every_fault_of_the_model_is_tried() -> None:
    macros = set(re.findall(r"\b(FAULT|SPARE)_([A-Z_]+)", MODEL.read_text(encoding="utf-8")))
    faults = [*FAULTS, *FAULTS_OF_ANSWERS, "SHARED_RECORD"]
    tried = {("FAULT", name) for name in faults} | {("SPARE", name) for name in SPARE}
    assert macros == tried


def test_a_search_that_was_cut_short_is_not_complete() -> None:
    end = "State-vector 108 byte, depth reached 9, errors: 0\n   103007 states, stored\n"
    assert parse(end).complete
    assert not parse("error: max search depth too small\n" + end).complete
    assert not parse("Warning: Search not completed\n" + end).complete
