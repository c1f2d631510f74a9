"""Nothing is answered under what was taken away meanwhile.

Who was allowed to call is one question, and whether the answer may go out another: between the two, a handler may have
held up the event loop for so long that a revocation had returned without this server. So each answer is a use of what
the call was allowed by (docs/revocation.md, rule 8b).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from handclasp.errors import InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from handclasp.serving.call import Call, Context

SAYS_NOTHING = (Unauthenticated, PermissionDenied, ResourceExhausted, Unavailable)
"""Errors that tell nothing of what a handler found out. They may be told at any time."""


class AnswerGate(Protocol):
    """Whoever knows what a call is allowed by."""

    def is_open(self, call: Call) -> bool:
        """Whether an answer may be handed to gRPC at this very moment: not to be remembered over an `await`."""

    async def wait(self, call: Call) -> None:
        """Returns at a moment at which `is_open` holds.

        Raises:
            HandclaspError: it will not come; the call ends with that.
        """


async def pass_gate(call: Call) -> None:
    """Returns once an answer of the call may be handed to gRPC, which is to be done before anything is awaited.

    Raises:
        HandclaspError: none may.
    """
    gate = call.gate
    if gate is not None and not gate.is_open(call):
        await gate.wait(call)


class GatedContext:
    """A call's context whose messages and statuses pass the gate.

    The refusal of a request that cannot be parsed is raised when it is read, and not returned.
    """

    def __init__(self, context: Context, call: Call) -> None:
        self._context = context
        self._call = call

    async def read(self) -> Any:
        request = await self._context.read()
        if isinstance(request, InvalidArgument):
            raise request
        return request

    async def write(self, message: Any) -> None:
        await pass_gate(self._call)
        await self._context.write(message)

    async def abort(self, *status: Any, **more: Any) -> None:
        await pass_gate(self._call)
        await self._context.abort(*status, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
