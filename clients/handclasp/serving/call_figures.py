"""The calls of a server, counted by how they ended."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import grpc

from handclasp.errors import Reason
from handclasp.serving.call import Context
from handclasp.serving.figures import Distribution

UNKNOWN_METHOD = "unknown"
"""Stands for all methods that a server does not have."""

_OTHER = "OTHER"
_REASONS = frozenset(map(str, Reason))
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallObserver(Protocol):
    """Whoever is told of calls."""

    def finished(self, method: str, code: str, reason: str, seconds: float) -> None:
        """The handler of a call has ended. In the way of every call: it must be quick, and must not raise.

        Args:
            method: `/package.Service/Method`, or `UNKNOWN_METHOD`.
            code: the name of its gRPC status; CANCELLED also if the client has left, or its deadline has passed.
            reason: of the error; empty if there is none, and if the status is one that gRPC's own services gave.
            seconds: from its headers on.
        """


class CallFigures:
    """A `CallObserver` that counts.

    Attributes:
        ended: how many calls there were by method, code and reason.
        seconds: how long they took, by method.
    """

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.seconds: dict[str, Distribution] = {}

    def finished(self, method: str, code: str, reason: str, seconds: float) -> None:
        # An error that another server sent has a reason of that one's choice.
        if reason and reason not in _REASONS:
            reason = _OTHER
        self.ended[method, code, reason] += 1
        distribution = self.seconds.get(method)
        if distribution is None:
            distribution = self.seconds[method] = Distribution()
        distribution.observe(seconds)


def aborted_with(context: Context) -> str:
    """The name of the status that a handler has ended its call with by itself."""
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN.name)
