"""The one place where calls are admitted and errors become statuses.

gRPC hands an interceptor no context, so it wraps the handlers. It starts a unary handler only once the request is
there, and so it gets handlers of streams from here, which are the same on the wire: a call is admitted by its headers,
and only then is its request read. Methods that the server does not have are answered with UNIMPLEMENTED by gRPC itself,
before anything here runs.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import AbortError

from handclasp.errors import HandclaspError, InvalidArgument, Reason, Unimplemented
from handclasp.errors.status import DETAILS_KEY, status_code
from handclasp.serving.answer_gate import SAYS_NOTHING, GatedContext, pass_gate
from handclasp.serving.call import Call, Context
from handclasp.serving.call_budgets import DEFAULT_LIMITS, CallBudgets, CallKind, CallLimits, OpenCall
from handclasp.serving.call_figures import UNKNOWN_METHOD, CallObserver, aborted_with
from handclasp.serving.draining import Draining, stopping
from handclasp.serving.incidents import unforeseen
from handclasp.serving.peer import Peer, read_address, read_peer
from handclasp.serving.refusal_log import refusal_log
from handclasp.serving.trailers import fitting_details, fitting_message

Admit = Callable[[str, Peer], Awaitable[object]]
"""Takes the full method name (`/package.Service/Method`) and the peer; raises a typed error, or returns the caller.

The caller may be of any type. If it has a `user`, refusals are logged with it."""

Authorize = Callable[[str, Peer, Any], Awaitable[None]]
"""Takes the full method name, the peer and the request, which is None if requests are streamed; raises a typed error if
the call is not allowed. Asked after `Admit`, once the request is parsed."""

Translate = Callable[[Exception], HandclaspError | None]
"""Turns an exception that a service foresees, a database that is down for example, into a typed error."""

Parse = Callable[[bytes], Any]
Respond = Callable[[Any, Context], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

OPEN_PREFIXES = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Methods about the server itself. They need no grant; on a listener with mutual TLS, a certificate in force."""

_OBSERVING_PREFIXES = ("/grpc.health.v1.Health/Watch", "/grpc.reflection.")

KindOf = Callable[[str, object], CallKind]
"""Takes the full method name and what `Admit` returned; says by what the call is counted. Not asked about
`OPEN_PREFIXES`."""

# gRPC runs each call in a task of its own, and so in a context of its own: what is set here ends with the call.
_current: ContextVar[Call] = ContextVar("handclasp_call")


def current_call() -> Call | None:
    """The call that is being handled; None outside of one."""
    return _current.get(None)


def current_peer() -> Peer:
    """The peer of the call that is being handled. LookupError outside of one."""
    return _current.get().peer


def current_caller() -> object:
    """What `admit` returned for the call that is being handled. LookupError outside of one."""
    return _current.get().caller


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Admits each call, runs its handler, and answers with a status that holds no more than it should.

    Requests are logged neither here nor elsewhere. Refusals are logged as `refusal_log.py` says.

    Args:
        admit: decides who may call which method; its caller object is there for the handler as `current_caller()`.
        authorize: decides about a call by what it asks for; None if `admit` and the handlers see to that.
        translate: asked about each exception that is no typed error; None from it means that it was not foreseen.
        limits: of the calls; an interceptor is for one server.
        kind_of: by what a call is counted; all are ordinary if it is None.
        observer: told of each call once its handler has ended.

    Attributes:
        budgets: what calls take up of `limits`.
        draining: has all calls end, when the server is to stop.
    """

    def __init__(
        self,
        admit: Admit,
        translate: Translate | None = None,
        *,
        authorize: Authorize | None = None,
        limits: CallLimits = DEFAULT_LIMITS,
        kind_of: KindOf | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        self.budgets = CallBudgets(limits, _log_ended)
        self.draining = Draining(self.budgets, _log_ended)
        self._kind_of = kind_of
        self._admit = admit
        self._authorize = authorize
        self._translate = translate
        self._observer = observer
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            if self._observer is not None:
                # By one name: anybody can make up others.
                self._observer.finished(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name, "", 0.0)
            return None
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        prepare = self._preparation(method, handler)
        respond: Respond = (_write_responses if handler.response_streaming else _respond)(behaviour, prepare)

        kind = _kind_of_open(method)
        unary_request = not handler.request_streaming

        async def unary(requests: Any, context: Context) -> Any:
            return await self._guard(method, context, respond, None if unary_request else requests, kind)

        async def stream(requests: Any, context: Context) -> None:
            await self._guard(method, context, respond, None if unary_request else requests, kind)

        # A unary request is read and parsed only after its sender is admitted, and parsed here rather than in gRPC,
        # which answers bytes that do not parse with INTERNAL. Requests of a stream are parsed by gRPC, for handlers
        # that read them from the context; what does not parse becomes the refusal raised when it is their turn.
        parse = None
        if handler.request_streaming:
            parse = _lenient(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, parse, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(unary, parse, handler.response_serializer)

    async def _guard(
        self, method: str, context: Context, respond: Respond, requests: Any, kind: CallKind | None
    ) -> Any:
        """
        Args:
            requests: of a stream; None if the request is unary.
            kind: what the call is counted by, if that is known by its method.
        """
        began = time.perf_counter()
        call: Call | None = None
        opened: OpenCall | None = None
        refusal: HandclaspError | None = None
        cause: Exception | None = None
        # What it is if the client leaves, its deadline passes, or the server stops.
        code = grpc.StatusCode.CANCELLED.name
        try:
            call = Call(method, read_peer(context), context)
            _current.set(call)
            opened = self.budgets.arrive(call)
            self.draining.add(opened)
            request = await self._admitted_request(opened, context, requests, kind)
            response = await _answered(call, respond, request, context)
        except AbortError:
            code = aborted_with(context)
            raise
        except asyncio.CancelledError as error:
            if _cancelled_from_outside():
                raise
            # A handler that ends like this by itself would leave the client waiting until its deadline.
            refusal = unforeseen(method, error)
        except HandclaspError as error:
            refusal = error
        except Exception as error:  # noqa: BLE001 the last line before the wire: nothing may pass it with its text
            foreseen = self._translate(error) if self._translate else None
            refusal, cause = (foreseen, error) if foreseen else (unforeseen(method, error), None)
        else:
            code = grpc.StatusCode.OK.name
            return response
        finally:
            if opened is not None:
                self.budgets.leave(opened)
                self.draining.discard(opened)
            if call is not None:
                call.finish()
            self._tell_observer(method, code, (call.ended_by or refusal) if call is not None else refusal, began)
        if refusal is None or (call is not None and call.ended):
            # The client has its status already; what the handler made of being cut off is of no interest.
            raise asyncio.CancelledError
        _log_refusal(method, refusal, call, cause)
        if delay := self.budgets.refusal_delay(call.peer if call is not None else read_address(context)):
            await self.draining.hold_back(delay)
        trailer = ((DETAILS_KEY, fitting_details(refusal)),)
        return await context.abort(status_code(refusal), fitting_message(refusal), trailing_metadata=trailer)

    def _tell_observer(self, method: str, code: str, error: HandclaspError | None, began: float) -> None:
        if self._observer is None:
            return
        seconds = time.perf_counter() - began
        if error is None:
            self._observer.finished(method, code, "", seconds)
        else:
            self._observer.finished(method, status_code(error).name, error.reason, seconds)

    async def _admitted_request(self, opened: OpenCall, context: Context, requests: Any, kind: CallKind | None) -> Any:
        """The request, or `requests`, of a call that is admitted and may run; arguments as of `_guard`."""
        call = opened.call
        if self.draining.refusing and kind is None:
            raise stopping()
        call.caller = await self._admit(call.method, call.peer)
        if kind is None:
            kind = CallKind.ORDINARY if self._kind_of is None else self._kind_of(call.method, call.caller)
        if requests is not None:
            self.budgets.run(opened, kind)
            return requests
        request = await self.budgets.read(opened, context)
        if request is None:
            raise await _no_request()
        self.budgets.run(opened, kind, len(request))
        return request

    def _preparation(self, method: str, handler: Handler) -> Callable[[Any], Awaitable[Any]] | None:
        """What becomes of a request before the handler gets it; None for nothing."""
        parse = None if handler.request_streaming else handler.request_deserializer
        authorize = self._authorize
        streaming = handler.request_streaming
        if parse is None and authorize is None and not streaming:
            return None

        async def prepare(request: Any) -> Any:
            if parse is not None:
                request = _parsed(parse, request)
            elif streaming:
                request = _each(request)
            if authorize is not None:
                await authorize(method, current_peer(), None if streaming else request)
            return request

        return prepare


def _kind_of_open(method: str) -> CallKind | None:
    """By what a method of `OPEN_PREFIXES` is counted; None for any other."""
    if method.startswith(_OBSERVING_PREFIXES):
        return CallKind.OBSERVING
    return CallKind.UNCOUNTED if method.startswith(OPEN_PREFIXES) else None


async def _no_request() -> InvalidArgument:
    # A client that has gone, or whose request gRPC has refused for its length, looks the same at first; gRPC ends the
    # handler in the next step then.
    await asyncio.sleep(0)
    return InvalidArgument(
        Reason.REQUEST_MALFORMED, "the call was made without a request; send one message of its type"
    )


def _cancelled_from_outside() -> bool:
    """Whether somebody asked for this call to be cancelled: the client, a deadline, a server that stops."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _answered(call: Call, respond: Respond, request: Any, context: Context) -> Any:
    """The handler's response, at a moment at which it may be given; so with its errors, if they say something of it."""
    gated: Any = GatedContext(context, call)
    try:
        response = await respond(request, gated)
    except SAYS_NOTHING:
        raise
    except HandclaspError:
        await pass_gate(call)
        raise
    await pass_gate(call)
    return response


def _respond(behaviour: Any, prepare: Callable[[Any], Awaitable[Any]] | None) -> Respond:
    implemented = inspect.iscoroutinefunction(behaviour)

    async def respond(request: Any, context: Context) -> Any:
        if not implemented:
            raise _not_implemented()
        if prepare is not None:
            request = await prepare(request)
        return await behaviour(request, context)

    return respond


def _write_responses(behaviour: Any, prepare: Callable[[Any], Awaitable[Any]] | None) -> Respond:
    # Responses are written by a coroutine even if the handler is a generator: gRPC hangs the client when a generator
    # that is blocked in a write is cancelled.
    generates, writes = inspect.isasyncgenfunction(behaviour), inspect.iscoroutinefunction(behaviour)

    async def write_responses(request: Any, context: Context) -> None:
        if not generates and not writes:
            raise _not_implemented()
        if prepare is not None:
            request = await prepare(request)
        if generates:
            # Closed when the call ends, and not when somebody collects garbage: what it holds is let go of at once.
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    await context.write(response)
        else:
            await behaviour(request, context)

    return write_responses


def _parsed(parse: Parse, request: bytes) -> Any:
    try:
        return parse(request)
    except DecodeError:
        raise InvalidArgument(
            Reason.REQUEST_MALFORMED,
            "the request is not a protobuf message of this method's type; generate the client from the same protos",
        ) from None


def _lenient(parse: Parse | None) -> Parse | None:
    """Parses a request of a stream, or returns the refusal of it."""
    if parse is None:
        return None

    def lenient(request: bytes) -> Any:
        try:
            return _parsed(parse, request)
        except InvalidArgument as refusal:
            return refusal

    return lenient


async def _each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream. Raises the refusal of one that cannot be parsed."""
    async for request in requests:
        if isinstance(request, InvalidArgument):
            raise request
        yield request


def _not_implemented() -> Unimplemented:
    """Handlers are coroutines; what is not one is the generated base class's, which implements nothing."""
    return Unimplemented(Reason.METHOD_UNKNOWN, "this server does not implement the method; call another version of it")


def _log_ended(call: Call, refusal: HandclaspError) -> None:
    _log_refusal(call.method, refusal, call, None)


def _log_refusal(method: str, refusal: HandclaspError, call: Call | None, cause: Exception | None) -> None:
    fields = {"method": method, "status": status_code(refusal).name, "reason": str(refusal.reason)}
    if call is not None:
        fields |= {
            "user": getattr(call.caller, "user", call.user) or "",
            "peer": call.peer.address,
            "fingerprint": call.peer.fingerprint or "",
        }
    more: dict[str, str] = {
        name: refusal.metadata[name] for name in ("decision", "incident") if name in refusal.metadata
    }
    if cause is not None:
        # The caller is told to have somebody look at the log, so it is here. Its first line; the rest may be long.
        more["cause"] = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
    refusal_log().record("refused", fields, more)
