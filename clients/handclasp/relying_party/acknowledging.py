"""Which changes a relying party says it has heeded. docs/revocation.md has the rules."""

from __future__ import annotations

from handclasp.relying_party.knowledge import Position


class Acknowledgement:
    """The position that may be acknowledged: what is applied, or less while something else has yet to follow it.

    Never more than what is applied (rule 4).

    Attributes:
        position: None before anything may be acknowledged.
        held: whether something has yet to follow. No stream is begun meanwhile: its start says what is applied, and
            acknowledges that (rule 16).
    """

    def __init__(self) -> None:
        self.position: Position | None = None
        self._applied: Position | None = None
        self.held = False

    @property
    def revision(self) -> int:
        """Of the position; 0 if there is none."""
        return 0 if self.position is None else self.position.revision

    def applied(self, position: Position, *, hold: bool) -> None:
        """A position is applied. With `hold`, it and what follows is not acknowledged until it is `covered`."""
        self._applied = position
        self.held = self.held or hold
        if not self.held:
            self.position = position

    def covered(self, position: Position | None, *, all_of_it: bool) -> None:
        """What was waited for has followed up to a position; with `all_of_it`, nothing is waited for any more."""
        if all_of_it:
            self.held = False
            self.position = self._applied
        elif position is not None and position.revision > self.revision:
            self.position = position
