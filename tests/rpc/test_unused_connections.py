"""Connections that are opened and not used do not stay, and leave room for others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from handclasp.transport.server import ServerLimits
from tests.rpc.transport_lab import SERVICE, Lab, running_lab
from tests.support.installation import running_installation
from tests.support.raw_http2 import PREFACE, Connection, Target, connected, grpc_message

HANDSHAKE = 1.0  # seconds
IDLE = 2.0
# It is only asked whether a connection is closed, and not how soon: cores may be busy.
PATIENCE = 30.0


def target(lab: Lab) -> Target:
    leaf = lab.ca.issue("mallory")
    return Target(lab.port, lab.ca.pem.encode(), leaf.pem.encode(), leaf.key_pem.encode())


async def wait_for_the_end(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(PATIENCE):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass


async def wait_for_the_loss(connection: Connection) -> None:
    async with asyncio.timeout(PATIENCE):
        await connection.wait_until_lost()


async def call_on_new_connection(lab: Lab) -> None:
    async with connected(target(lab)) as connection:
        call = connection.open_call(f"/{SERVICE}/Unary")
        await call.send(grpc_message(b""), end=True)
        assert (await call.outcome()).status is grpc.StatusCode.OK


@pytest.mark.parametrize("says", [b"", bytes.fromhex("1603010200010001fc0303")], ids=["nothing", "part of a hello"])
async def test_a_connection_without_a_handshake_is_closed(says: bytes) -> None:
    async with running_lab(ServerLimits(handshake_timeout=HANDSHAKE)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(says)
        await wait_for_the_end(reader)
        writer.close()


@pytest.mark.parametrize("says", [b"", PREFACE[:10], PREFACE], ids=["nothing", "part of the preface", "the preface"])
async def test_tls_without_http2_is_closed(says: bytes) -> None:
    """The time for the handshake includes the first frame."""
    async with running_lab(ServerLimits(handshake_timeout=HANDSHAKE)) as lab:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", lab.port, ssl=target(lab).tls(), server_hostname="localhost"
        )
        writer.write(says)
        await wait_for_the_end(reader)
        writer.close()


@pytest.mark.parametrize("calls", [0, 1])
async def test_http2_without_calls_is_closed(calls: int) -> None:
    """Whether or not there ever was one."""
    async with running_lab(ServerLimits(connection_idle=IDLE)) as lab, connected(target(lab)) as connection:
        for _ in range(calls):
            call = connection.open_call(f"/{SERVICE}/Unary")
            await call.send(grpc_message(b""), end=True)
            await call.outcome()
        await wait_for_the_loss(connection)
        assert connection.goaway == (2, "connection idle")


async def test_a_connection_with_a_call_is_not_idle() -> None:
    async with running_lab(ServerLimits(connection_idle=0.2)) as lab, connected(target(lab)) as connection:
        call = connection.open_call(f"/{SERVICE}/Echoed")
        await call.send(grpc_message(b"one"))
        await asyncio.sleep(1.0)
        assert not connection.lost
        await call.send(grpc_message(b"two"), end=True)
        assert (await call.outcome()).data == grpc_message(b"one") + grpc_message(b"two")


async def test_beyond_the_limit_connections_are_closed_at_once_and_room_comes_back() -> None:
    limits = ServerLimits(max_connections=5, handshake_timeout=HANDSHAKE)
    async with running_lab(limits) as lab:
        silent = [await asyncio.open_connection("127.0.0.1", lab.port) for _ in range(5)]
        with pytest.raises(ConnectionError):
            await call_on_new_connection(lab)
        for reader, writer in silent:
            await wait_for_the_end(reader)
            writer.close()
        await call_on_new_connection(lab)


async def test_idle_connections_stay_longer_where_a_certificate_is_asked_for(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'database.sqlite'}"
    async with running_installation(tmp_path, url, limits={"anonymous_idle": 0.5}) as installation:
        identity = installation.admin_identity
        anonymous = Target(installation.ports["tls_port"], installation.ca_pem)
        holder = Target(
            installation.ports["mtls_port"], installation.ca_pem, identity.certificate_pem, identity.key_pem
        )
        async with connected(anonymous) as one, connected(holder) as other:
            await wait_for_the_loss(one)
            assert not other.lost
