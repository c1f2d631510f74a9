"""A relying party of two certificate services, of which one is not as it should be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from handclasp.relying_party import EXECUTE_INTEGRATIONS, RelyingParty
from handclasp.serving.files import write_secret
from handclasp.serving.peer import Peer
from tests.rpc.execution_harness import ALLOWED, certificate_service, server_leaf, until
from tests.rpc.scripted_watch import ScriptedWatches
from tests.support.outside_ca import OutsideCA

BAD = ["silent", "another CA", "nobody", "unavailable", "unauthenticated"]


@asynccontextmanager
async def bad_service(kind: str, ca: OutsideCA) -> AsyncIterator[int]:
    """The port of one that is of no use. Those that answer refuse the watch in that way, and cannot decide."""
    if kind in {"silent", "nobody"}:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            if kind == "silent":
                yield port
        if kind == "nobody":
            yield port
        return
    own = OutsideCA("Another CA") if kind == "another CA" else ca
    watches = ScriptedWatches()
    if kind != "another CA":
        watches.refusal = grpc.StatusCode[kind.upper()]
    async with certificate_service(own, watches=watches) as (service, port):
        service.failure = grpc.StatusCode.UNAVAILABLE
        yield port


@pytest.mark.parametrize("first", ["bad", "good"])
@pytest.mark.parametrize("kind", BAD)
async def test_the_other_one_is_enough(kind: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the lease, whichever it comes to first, and for questions."""
    ca = OutsideCA("Test CA")
    alice, own = ca.issue("alice"), server_leaf(ca, "orders")
    (tmp_path / "ca.pem").write_text(ca.pem)
    (tmp_path / "cert.pem").write_text(own.pem)
    write_secret(tmp_path / "key.pem", own.key_pem.encode())
    # Which one it begins with is left to chance otherwise.
    monkeypatch.setattr("random.sample", lambda found, _count: list(found))
    async with AsyncExitStack() as stack:
        bad = await stack.enter_async_context(bad_service(kind, ca))
        service, good = await stack.enter_async_context(certificate_service(ca))
        service.reasons[alice.der] = service.reasons[own.der] = ALLOWED
        ports = (bad, good) if first == "bad" else (good, bad)
        party = RelyingParty(
            ",".join(f"localhost:{port}" for port in ports),
            ca_file=tmp_path / "ca.pem",
            certificate=tmp_path / "cert.pem",
            key=tmp_path / "key.pem",
        )
        async with asyncio.timeout(20), party:
            await until(lambda: party.ready)
            assert party.watched == f"localhost:{good}"
            peer = Peer("127.0.0.1", alice.der, None)
            for number in range(4):
                await party.authorizer.require(peer, EXECUTE_INTEGRATIONS, f"orders/{number}")


async def test_an_answer_that_is_older_than_what_was_applied_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both answer, and one of them does not know yet of all that the other has said: it is asked again."""
    ca = OutsideCA("Test CA")
    alice, own = ca.issue("alice"), server_leaf(ca, "orders")
    (tmp_path / "ca.pem").write_text(ca.pem)
    (tmp_path / "cert.pem").write_text(own.pem)
    write_secret(tmp_path / "key.pem", own.key_pem.encode())
    monkeypatch.setattr("random.sample", lambda found, _count: list(found))
    async with AsyncExitStack() as stack:
        service, good = await stack.enter_async_context(certificate_service(ca))
        behind, old = await stack.enter_async_context(certificate_service(ca))
        for each in (service, behind):
            each.reasons[alice.der] = each.reasons[own.der] = ALLOWED
        behind.decided_at = 3
        party = RelyingParty(
            f"localhost:{good},localhost:{old}",
            ca_file=tmp_path / "ca.pem",
            certificate=tmp_path / "cert.pem",
            key=tmp_path / "key.pem",
        )
        async with asyncio.timeout(20), party:
            await until(lambda: party.ready)
            assert party.watched == f"localhost:{good}"
            peer = Peer("127.0.0.1", alice.der, None)
            for number in range(6):
                await party.authorizer.require(peer, EXECUTE_INTEGRATIONS, f"orders/{number}")
            assert behind.checked, "it was asked, too"
