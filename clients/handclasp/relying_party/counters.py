"""What a relying party counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Since the start.

    Attributes:
        hits: questions that a remembered yes answered.
        asked: questions to the certificate service; a batch counts as one.
        asked_again: of those, the ones that followed an answer that had been overtaken.
        refused: questions about a call that were answered with a no, or with a yes that had expired here.
        unanswered: questions about a call without an answer that could be used, for want of a lease, or since the
            certificate service did not answer, or not this.
        aborted: calls that were ended while they ran.
    """

    hits: int = 0
    asked: int = 0
    asked_again: int = 0
    refused: int = 0
    unanswered: int = 0
    aborted: int = 0
