"""Seeing that something is refused, and for which reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from handclasp.errors import HandclaspError, InvalidArgument, Reason

# The clock of these tests: nothing here may depend on the real one.
NOW = datetime(2030, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)


@contextmanager
def refused(reason: Reason, *words: str, kind: type[HandclaspError] = InvalidArgument) -> Iterator[None]:
    """The block must raise that kind of error with that reason, and all the words in its message."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.reason == reason, caught.value
    for word in words:
        assert word in caught.value.message
