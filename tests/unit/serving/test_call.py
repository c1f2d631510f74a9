"""What stays of a call."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import grpc

from handclasp.serving.interceptor import CallInterceptor, current_call
from handclasp.serving.peer import Peer


class Context:
    """As much of gRPC's as reading the peer takes."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4711"

    async def read(self) -> bytes:
        return b"request"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


async def admit(_method: str, _peer: Peer) -> None:
    return None


async def answer(request: bytes, _context: Any) -> bytes:
    assert current_call() is not None
    return request


async def test_a_call_that_has_ended_leaves_no_garbage() -> None:
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)

    async def find(_details: Any) -> Any:
        return handler

    details: Any = type("Details", (), {"method": "/package.Service/Method"})
    wrapped: Any = await CallInterceptor(admit).intercept_service(find, details)
    context = Context()
    kept = weakref.ref(context)
    gc.collect()
    gc.disable()
    try:
        task = asyncio.create_task(wrapped.stream_unary(None, context))
        assert await task == b"request"
        del task, context
        assert kept() is None
    finally:
        gc.enable()
