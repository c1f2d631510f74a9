"""What commands that take something away say of the relying parties, and what stands there while they wait."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from handclasp.cli import progress as showing
from handclasp.cli.progress import progress
from tests.support.outside_ca import OutsideCA
from tests.unit.cli.conftest import Handclasp
from tests.unit.client.small_service import Small

COMMANDS: list[tuple[str, ...]] = [
    ("cert", "revoke", "c1"),
    ("cert", "revoke", "--user", "alice", "--all"),
    ("cert", "hold", "c1"),
    ("cert", "reinstate", "c1"),
    ("user", "disable", "bob"),
    ("user", "update", "bob", "--profile", "clerk"),
    ("user", "update", "bob", "--no-profiles"),
    ("user", "set-password", "bob", "--password-file", "PASSWORD"),
    ("profile", "update", "clerk", "--no-grants"),
    ("trust", "add", "CA"),
    ("trust", "remove", "t1"),
]
commands = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


@pytest.fixture
def files(tmp_path: Path, password_file: Path) -> dict[str, Path]:
    """What stands for file names in the commands."""
    ca_file = tmp_path / "outside.pem"
    ca_file.write_text(OutsideCA().pem)
    return {"PASSWORD": password_file, "CA": ca_file}


@commands
def test_people_see_one_line(handclasp: Handclasp, files: dict[str, Path], command: tuple[str, ...]) -> None:
    ran = handclasp(*(files.get(word, word) for word in command))
    assert (ran.status, ran.err) == (0, "")
    *before, last = ran.out.splitlines()
    assert last == "In force: 2 relying parties acknowledged."
    assert before
    assert "In force" not in "".join(before)


@commands
def test_programs_see_numbers(
    handclasp: Handclasp, small: Small, files: dict[str, Path], command: tuple[str, ...]
) -> None:
    small.in_force = (41, 3, 2, 1)
    ran = handclasp(*(files.get(word, word) for word in command), "-o", "json")
    assert ran.json["in_force"] == {"revision": 41, "acknowledged": 3, "leases_ended": 2, "rights_lost": 1}


@commands
def test_a_service_that_says_nothing_of_it(
    handclasp: Handclasp, small: Small, files: dict[str, Path], command: tuple[str, ...]
) -> None:
    small.in_force = None
    words = [files.get(word, word) for word in command]
    assert "In force" not in handclasp(*words).out
    assert handclasp(*words, "-o", "json").json["in_force"] is None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((0, 0, 0), "no relying party is connected."),
        ((1, 0, 0), "1 relying party acknowledged."),
        ((2, 0, 0), "2 relying parties acknowledged."),
        ((0, 1, 0), "1 relying party did not answer, and its lease has run out."),
        ((0, 2, 0), "2 relying parties did not answer, and their leases have run out."),
        ((1, 1, 0), "1 relying party acknowledged; 1 did not answer, and its lease has run out."),
        ((3, 2, 0), "3 relying parties acknowledged; 2 did not answer, and their leases have run out."),
        ((0, 1, 1), "1 relying party lost its own right to ask, and its lease has run out."),
        ((0, 2, 2), "2 relying parties lost their own right to ask, and their leases have run out."),
        ((0, 3, 1), "2 relying parties did not answer, 1 lost its own right to ask, and their leases have run out."),
        ((1, 1, 1), "1 relying party acknowledged; 1 lost its own right to ask, and its lease has run out."),
        ((1, 3, 2), "1 relying party acknowledged; 1 did not answer, 2 lost their own right to ask, and their leases"),
    ],
)
def test_the_sentence(handclasp: Handclasp, small: Small, counts: tuple[int, int, int], said: str) -> None:
    small.in_force = (7, *counts)
    assert handclasp("cert", "revoke", "c1").out.splitlines()[-1].startswith(f"In force: {said}")


@pytest.mark.parametrize(
    "command",
    [
        ("user", "update", "bob", "--display-name", "Bob"),
        ("profile", "update", "clerk", "--description", "Clerks"),
        ("user", "enable", "bob"),
        ("cert", "update", "c1", "--description", "laptop"),
    ],
    ids=" ".join,
)
def test_what_takes_nothing_away_says_nothing(handclasp: Handclasp, command: tuple[str, ...]) -> None:
    assert "In force" not in handclasp(*command).out


def test_without_a_terminal_nothing_is_shown_meanwhile(
    handclasp: Handclasp, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "_UNNOTICED_SECONDS", 0.0)
    small.seconds_in_force = 0.2
    assert handclasp("cert", "revoke", "c1").err == ""


class Noticed(io.StringIO):
    """Says when the text was written."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def write(self, text: str) -> int:
        if "Waiting" in text:
            # Rich writes in a thread of its own, too.
            self._loop.call_soon_threadsafe(self.noticed.set)
        return super().write(text)


async def test_on_a_terminal_the_text_stands_while_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "_UNNOTICED_SECONDS", 0.01)
    shown = Noticed()
    async with progress("Waiting", Console(file=shown, force_terminal=True)):
        await asyncio.wait_for(shown.noticed.wait(), 20)
    # The cursor is there again, and the line is gone.
    assert shown.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


async def test_what_is_quick_shows_nothing() -> None:
    shown = io.StringIO()
    async with progress("Waiting", Console(file=shown, force_terminal=True)):
        await asyncio.sleep(0)
    assert shown.getvalue() == ""
