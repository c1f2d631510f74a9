"""Runs the server that docs/relying-parties.md shows, as it stands there."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import grpc

from handclasp.errors import PermissionDenied, Unauthenticated
from handclasp.serving.files import write_secret
from tests.rpc.execution_harness import ALLOWED, certificate_service, server_leaf
from tests.rpc.party_lab import refusal
from tests.support.markdown import ROOT, fenced
from tests.support.outside_ca import OutsideCA

(EXAMPLE,) = fenced((ROOT / "docs/relying-parties.md").read_text(encoding="utf-8"), "python")


async def test_the_example_serves_and_stops_serving(tmp_path: Path) -> None:
    ca = OutsideCA("Test CA")
    alice, own = ca.issue("alice"), server_leaf(ca, "orders-server")
    for name, text in (("ca.pem", ca.pem), ("cert.pem", own.pem)):
        (tmp_path / name).write_text(text)
    write_secret(tmp_path / "key.pem", own.key_pem.encode())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with certificate_service(ca) as (service, service_port):
        service.reasons[alice.der] = ALLOWED
        service.granted[alice.der] = {"orders/get"}
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", EXAMPLE, f"localhost:{service_port}"),
            *(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem", str(port)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert running.stdout is not None
            assert running.stderr is not None
            while (line := await running.stdout.readline()) != b"serving\n":
                assert line, "it ended"
            credentials = grpc.ssl_channel_credentials(ca.pem.encode(), alice.key_pem.encode(), alice.pem.encode())
            async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
                get: Any = channel.unary_unary("/shop.v1.Orders/Get")
                for _ in range(3):
                    assert await get(b"", timeout=10) == b"hello, users/alice"
                assert len(service.checked) == 1
                await service.grant(alice.der, "orders/list")
                assert type(await refusal(get(b"", timeout=10))) is PermissionDenied
                await service.take_away(alice.der)
                assert type(await refusal(get(b"", timeout=10))) is Unauthenticated
                running.terminate()
                assert await asyncio.wait_for(running.wait(), 30) == 0
                assert await running.stderr.read() == b""
        finally:
            if running.returncode is None:
                running.kill()
            await running.wait()
