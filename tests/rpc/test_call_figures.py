"""What is counted of calls, however they end."""

from __future__ import annotations

import asyncio

import grpc

from handclasp.errors import PermissionDenied
from handclasp.serving.call import Call
from handclasp.serving.call_figures import CallFigures
from handclasp.serving.interceptor import current_call
from handclasp.serving.peer import Peer
from tests.rpc.execution_harness import until
from tests.rpc.transport_lab import SERVICE, admit, running_lab, translate_storage


async def test_each_call_is_counted_once_by_how_it_ended() -> None:
    figures = CallFigures()
    ways = [b"", b"typed", b"unforeseen", b"storage", b"cancelled", b"abort"]
    async with running_lab(translate=translate_storage, observer=figures) as lab:
        for way in ways:
            await asyncio.gather(lab.unary("Unary", way), return_exceptions=True)
        for method in ("Forbidden", "Nowhere", "Invented", "Synchronous"):
            await asyncio.gather(lab.unary(method), return_exceptions=True)
        assert len([part async for part in lab.stream("Generated")]) == 2
        patient = lab.unary("Patient")
        await asyncio.sleep(0.1)
        patient.cancel()
        await lab.unary("Patient")
        await until(lambda: figures.ended.total() == 13)
    unary = f"/{SERVICE}/Unary"
    assert figures.ended == {
        (unary, "OK", ""): 1,
        (unary, "PERMISSION_DENIED", "ACCESS_DENIED"): 1,
        (unary, "INTERNAL", "INTERNAL"): 2,
        (unary, "UNAVAILABLE", "STORAGE_UNAVAILABLE"): 1,
        (unary, "OUT_OF_RANGE", ""): 1,
        (f"/{SERVICE}/Forbidden", "PERMISSION_DENIED", "ACCESS_DENIED"): 1,
        # Whatever a caller names, it is one value.
        ("unknown", "UNIMPLEMENTED", ""): 2,
        (f"/{SERVICE}/Synchronous", "UNIMPLEMENTED", "METHOD_UNKNOWN"): 1,
        (f"/{SERVICE}/Generated", "OK", ""): 1,
        (f"/{SERVICE}/Patient", "CANCELLED", ""): 1,
        (f"/{SERVICE}/Patient", "OK", ""): 1,
    }
    assert figures.seconds[unary].count == 6
    # The handler's own sleep.
    assert figures.seconds[f"/{SERVICE}/Patient"].sum >= 0.3


async def test_a_call_that_is_ended_from_elsewhere_is_counted_by_why() -> None:
    figures = CallFigures()
    calls: list[Call] = []

    async def admitting(method: str, peer: Peer) -> object:
        call = current_call()
        assert call is not None
        calls.append(call)
        return await admit(method, peer)

    async with running_lab(admitting=admitting, observer=figures) as lab:
        waiting = lab.unary("Patient")
        await until(lambda: bool(calls))
        assert not figures.ended
        await calls[0].end(PermissionDenied("ACCESS_DENIED", "taken away"))
        assert await waiting.code() is grpc.StatusCode.PERMISSION_DENIED
        await until(lambda: bool(figures.ended))
    assert figures.ended == {(f"/{SERVICE}/Patient", "PERMISSION_DENIED", "ACCESS_DENIED"): 1}


def test_a_reason_that_another_server_invented_is_no_value_of_its_own() -> None:
    figures = CallFigures()
    for number in range(1000):
        figures.finished("/a.B/C", "UNAVAILABLE", f"INVENTED_{number}", 0.1)
    assert figures.ended == {("/a.B/C", "UNAVAILABLE", "OTHER"): 1000}
